"""PostgreSQL and Redis over TLS, with certificates of a CA made for the test. Needs a PostgreSQL and a Redis that were
built with TLS, as distributions' are (Debian: postgresql, redis-server); those from wheels are not.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
import redis
import trustme

from tests.support.sessions import wait_until

PASSWORD = "s3cret-of-the-test"


class Certificates(NamedTuple):
    """Files in PEM: the CA that signed, another CA, and certificates with their keys for localhost and elsewhere."""

    ca: Path
    other_ca: Path
    here: tuple[Path, Path]
    elsewhere: tuple[Path, Path]


def certificates(folder: Path) -> Certificates:
    ca, other = trustme.CA(), trustme.CA()
    for name, authority in (("ca", ca), ("other-ca", other)):
        authority.cert_pem.write_to_path(str(folder / f"{name}.pem"))
    pairs = []
    for name, host in (("here", "localhost"), ("elsewhere", "db.example.org")):
        issued = ca.issue_cert(host)
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        pairs.append((folder / f"{name}.pem", folder / f"{name}.key"))
    return Certificates(folder / "ca.pem", folder / "other-ca.pem", pairs[0], pairs[1])


def needs(path: str | Path | None, what: str) -> Path:
    """The program; without it the test is skipped at a desk, and fails in CI."""
    if path is not None:
        return Path(path)
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing: .ci/run must install it")
    pytest.skip(f"{what} is not installed")


def postgres_with_tls() -> Path | None:
    """The folder with the programs of a PostgreSQL that can TLS."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda f: int(f.parent.name), reverse=True):
        config = folder / "pg_config"
        if int(folder.parent.name) >= 15 and (folder / "initdb").exists() and config.exists():
            built = subprocess.run([config, "--configure"], capture_output=True, text=True, check=True).stdout
            if "openssl" in built:
                return folder
    return None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def folder_for(account: str | None) -> Iterator[Path]:
    """A new folder that belongs to the account (None: to us), away from pytest's, which root closes to others."""
    folder = Path(tempfile.mkdtemp(prefix="headway-tls-"))
    try:
        if account is not None:
            shutil.chown(folder, account)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(command: list[str | Path], account: str | None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=account)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def tls_postgres(pair: tuple[Path, Path]) -> Iterator[int]:
    """A PostgreSQL on localhost that takes TLS connections only, from `postgres` with PASSWORD; its port."""
    programs = needs(postgres_with_tls(), "a PostgreSQL with TLS (Debian: postgresql)")
    account = None
    if os.getuid() == 0:
        account = next(name for name in ("postgres", "nobody") if any(p.pw_name == name for p in pwd.getpwall()))
    with folder_for(account) as folder:
        for source, name in zip(pair, ("server.pem", "server.key"), strict=True):
            shutil.copyfile(source, folder / name)
            (folder / name).chmod(0o600)
        (folder / "password").write_text(PASSWORD)
        if account is not None:
            for file in folder.iterdir():
                shutil.chown(file, account)
        data, port = folder / "data", free_port()
        initdb = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256", "--encoding=UTF8",
                  "--locale=C.UTF-8", "--no-sync", f"--pwfile={folder / 'password'}"]  # fmt: skip
        subprocess.run(initdb, check=True, capture_output=True, user=account, cwd=folder)
        with (data / "pg_hba.conf").open("w") as rules:
            rules.write("hostssl all all 127.0.0.1/32 scram-sha-256\nhostssl all all ::1/128 scram-sha-256\n")
        options = {
            "listen_addresses": "localhost", "port": str(port), "unix_socket_directories": "", "ssl": "on",
            "ssl_cert_file": str(folder / "server.pem"), "ssl_key_file": str(folder / "server.key"),
        }  # fmt: skip
        command = [programs / "postgres", "-D", data]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]  # type: ignore[list-item]
        with running(list(command), account) as process:

            def up() -> bool:
                assert process.poll() is None, "PostgreSQL ended"
                try:
                    psycopg.connect(f"host=localhost port={port} user=postgres password={PASSWORD}").close()
                except psycopg.OperationalError:
                    return False
                return True

            wait_until(up, "PostgreSQL answers")
            yield port


@contextmanager
def tls_redis(pair: tuple[Path, Path], ca: Path) -> Iterator[int]:
    """A Redis on localhost that takes TLS connections only, with PASSWORD; its port."""
    program = needs(shutil.which("redis-server"), "a Redis with TLS (Debian: redis-server)")
    port = free_port()
    options = {
        "--port": "0", "--tls-port": str(port), "--bind": "127.0.0.1", "--save": "", "--tls-auth-clients": "no",
        "--tls-cert-file": str(pair[0]), "--tls-key-file": str(pair[1]), "--tls-ca-cert-file": str(ca),
        "--requirepass": PASSWORD,
    }  # fmt: skip
    command: list[str | Path] = [program]
    for name, value in options.items():
        command += [name, value]
    with running(command, None) as process:

        def up() -> bool:
            assert process.poll() is None, "Redis ended: was it built with TLS?"
            try:
                with redis.Redis(port=port, password=PASSWORD, ssl=True, ssl_cert_reqs="none") as client:
                    return bool(client.ping())
            except redis.ConnectionError:
                return False

        wait_until(up, "Redis answers")
        yield port
