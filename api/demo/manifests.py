"""The GitOps part of a project: what shall run where, written as manifests, and checked before anybody applies them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from api.demo.template import ENVIRONMENTS, SERVICES

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_IMAGE: Final = re.compile(r"[a-z0-9./-]+:[A-Za-z0-9._-]+")
REPLICAS: Final = {"staging": 1, "preview": 1, "production": 3}


class InvalidManifest(Exception):
    """A manifest breaks a rule: the text names file, field and rule."""


def manifests(project: str) -> Iterator[tuple[str, bytes]]:
    """Path and content of each manifest: a deployment, a service and a config map per service and environment."""
    for environment in ENVIRONMENTS:
        for number, name in enumerate(SERVICES):
            labels = {"app": name, "project": project}
            port = 8_000 + number
            image = f"registry.invalid/{project}/{name}:1.0.{number}"
            kinds = {
                "deployment": {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "metadata": {"name": name, "namespace": environment, "labels": labels},
                    "spec": {
                        "replicas": REPLICAS[environment],
                        "containers": [{"name": name, "image": image, "port": port, "memory": "256Mi"}],
                    },
                },
                "service": {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": name, "namespace": environment, "labels": labels},
                    "spec": {"selector": labels, "port": port},
                },
                "configmap": {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": f"{name}-config", "namespace": environment, "labels": labels},
                    "data": {"ENVIRONMENT": environment, "语言": "zh-CN"},
                },
            }
            for kind, content in kinds.items():
                text = json.dumps(content, ensure_ascii=False, indent=2)
                yield f"deploy/{environment}/{name}/{kind}.json", text.encode()


def validate(folder: Path) -> Iterator[str]:
    """Check every manifest below a folder as it stands on disk; gives each file's name. Raises `InvalidManifest`."""
    seen: dict[tuple[str, str, str], str] = {}
    ports: dict[tuple[str, str], int] = {}
    for path in sorted(folder.rglob("*.json")):
        name = str(path.relative_to(folder))
        try:
            manifest = json.loads(path.read_bytes())
        except ValueError as error:
            raise InvalidManifest(f"{name}: not JSON: {error}") from error
        kind, label, namespace = _identity(name, manifest)
        if other := seen.get((kind, namespace, label)):
            raise InvalidManifest(f"{name}: {kind} {namespace}/{label} is in {other} already")
        seen[kind, namespace, label] = name
        port = _port(name, kind, manifest)
        if port is not None and ports.setdefault((namespace, label), port) != port:
            raise InvalidManifest(f"{name}: port {port} is not the one of its deployment")
        yield name


def _identity(name: str, manifest: Any) -> tuple[str, str, str]:
    if not isinstance(manifest, dict) or not isinstance(manifest.get("metadata"), dict):
        raise InvalidManifest(f"{name}: metadata: an object with name and namespace")
    kind, label, namespace = (
        manifest.get("kind"),
        manifest["metadata"].get("name"),
        manifest["metadata"].get("namespace"),
    )
    if kind not in ("Deployment", "Service", "ConfigMap"):
        raise InvalidManifest(f"{name}: kind: Deployment, Service or ConfigMap; given {kind!r}")
    if not isinstance(label, str) or _NAME.fullmatch(label) is None:
        raise InvalidManifest(f"{name}: metadata.name: small letters, digits and '-'; given {label!r}")
    if namespace not in ENVIRONMENTS:
        raise InvalidManifest(f"{name}: metadata.namespace: one of {', '.join(ENVIRONMENTS)}; given {namespace!r}")
    return kind, label, namespace


def _port(name: str, kind: str, manifest: dict[str, Any]) -> int | None:
    if kind == "ConfigMap":
        return None
    spec = manifest.get("spec", {})
    if kind == "Service":
        return int(spec["port"])
    (container,) = spec["containers"]
    if _IMAGE.fullmatch(container["image"]) is None:
        raise InvalidManifest(f"{name}: image: a name with a tag; given {container['image']!r}")
    return int(container["port"])
