"""The OpenAPI document: complete, valid, and of one mind with the code."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from api.openapi import document
from api.openapi.curl import content
from api.openapi.events import members_of
from api.openapi.operations import OPERATIONS
from api.openapi.page import POLICY, docs_page, page, problem_page
from api.openapi.problems import ProblemKind, kinds
from api.problems import TABLE, problem_of
from api.routes import ROUTES
from api.streams.frames import Control
from eventstore.errors import StoreUnavailable
from projections.check import _REQUIRED, _RULES

KEYED = document()
KEYLESS = document(keyless=True)


def operations(of: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, one) for path, item in of["paths"].items() for method, one in item.items()]


def test_the_document_has_every_route_and_nothing_else() -> None:
    assert {(method.upper(), path) for path, method, _ in operations(KEYED)} == {(r.method, r.path) for r in ROUTES}
    assert set(OPERATIONS) == {(route.method, route.path) for route in ROUTES}


def test_operations_have_names_of_their_own_and_a_tag_that_is_explained() -> None:
    names = [one["operationId"] for _, _, one in operations(KEYED)]
    assert len(set(names)) == len(names)
    tags = {tag["name"] for tag in KEYED["tags"]}
    assert all(set(one["tags"]) <= tags and one["summary"] and one["description"] for _, _, one in operations(KEYED))


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for each in value.values() for found in references(each)]
    return [found for each in value for found in references(each)] if isinstance(value, list) else []


@pytest.mark.parametrize("of", [KEYED, KEYLESS], ids=["keyed", "keyless"])
def test_every_reference_leads_somewhere_and_every_schema_is_one(of: dict[str, Any]) -> None:
    schemas = of["components"]["schemas"]
    assert {name.removeprefix("#/components/schemas/") for name in references(of)} <= set(schemas)
    for schema in schemas.values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
    for _, _, one in operations(of):
        for parameter in one["parameters"]:
            jsonschema_rs.meta.validate(
                {"$schema": "https://json-schema.org/draft/2020-12/schema", **parameter["schema"]}
            )


def test_a_route_with_scopes_names_them_and_an_open_one_has_none() -> None:
    for route in ROUTES:
        one = KEYED["paths"][route.path][route.method.lower()]
        given = [way["key"][0] for way in one.get("security", ()) if "key" in way]
        assert sorted(given) == sorted(route.scopes or ())
        assert ({"token": []} in one.get("security", ())) == route.stream
        assert ("401" in one["responses"]) == (route.scopes is not None)
    assert not any("security" in one for _, _, one in operations(KEYLESS))


def test_problem_codes_are_those_of_the_table() -> None:
    listed = {error.code for error in TABLE} | {"internal_error"}  # type: ignore[attr-defined]
    assert {kind.code for kind in kinds()} == listed
    enum = KEYED["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert set(enum) == {f"/problems/{code}" for code in listed}


def test_the_members_of_each_types_data_are_those_that_are_checked() -> None:
    for kind, rules in _RULES.items():
        if kind == "step.progressed":
            continue
        members = members_of(kind)
        assert set(members) == set(rules)
        assert {name for name, must in members.items() if must} == set(_REQUIRED.get(kind, ()))


def test_every_example_of_a_body_fits_its_schema() -> None:
    for (method, path), operation in OPERATIONS.items():
        for example in operation.examples:
            if example.body is None or example.kind != "application/json":
                continue
            schema = KEYED["paths"][path][method.lower()]["requestBody"]["content"][example.kind]["schema"]
            validator = jsonschema_rs.validator_for({**schema, "components": KEYED["components"]})
            validator.validate(json.loads(content(example)))


def test_what_strangers_wrote_is_text_on_every_page() -> None:
    evil = "<img src=x onerror=alert(1)>"
    kind = ProblemKind(code="a", status=400, title=evil, meaning=f"`{evil}` **{evil}**", retry_after=None)
    of = {
        **KEYED, "info": {"title": evil, "version": evil, "description": evil},
        "tags": [{"name": "append", "description": evil}],
    }  # fmt: skip
    for made in (problem_page(kind), docs_page(of, [kind]), page(evil, "")):
        assert "<img" not in made and "&lt;img" in made


def test_pages_load_nothing_and_run_nothing() -> None:
    made = docs_page(KEYED, kinds())
    assert "<script" not in made and " src=" not in made and "style=" not in made and "url(" not in made
    assert "unsafe" not in POLICY and POLICY.startswith("default-src 'none'")


def test_a_pair_is_shown_with_both_of_its_kinds_and_a_member_with_its_purpose() -> None:
    pair = {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "integer"}], "items": False}
    of = KEYED | {"components": KEYED["components"] | {"schemas": KEYED["components"]["schemas"] | {
        "Pair": {"type": "object", "properties": {"both": pair, "told": {"type": "string", "description": "what for"}}}
    }}}  # fmt: skip
    made = docs_page(of, kinds())
    assert "array of integer and integer" in made and "not here" not in made
    assert "string<br>what for" in made


def test_what_a_driver_says_of_an_address_is_not_told_to_clients() -> None:
    error = StoreUnavailable('PostgreSQL can\'t be reached: connection to server at "10.1.2.3" failed for user "app"')
    detail = json.loads(problem_of(error, "r-1").body)["detail"]
    assert detail == "PostgreSQL can't be reached: the server's log has the reason under the request id"
    ours = StoreUnavailable("all 10 connections are in use: try again in a moment")
    assert json.loads(problem_of(ours, "r-1").body)["detail"] == str(ours)


@pytest.mark.parametrize("path", ["/v1/jobs/{job}/stream", "/v1/stream"])
def test_a_streams_frames_are_shown_and_their_data_is_what_the_schema_says(path: str) -> None:
    content = KEYED["paths"][path]["get"]["responses"]["200"]["content"]["text/event-stream"]
    bodies = "".join(example["value"] for example in content["examples"].values())
    found = [
        dict(line.split(": ", 1) for line in frame.splitlines()) for frame in bodies.split("\n\n") if frame != ": "
    ]
    names = {frame.get("event") for frame in found if frame}
    assert names == {None, *(str(control) for control in Control)} and "retry: 2000\n" in bodies
    (event,) = [frame for frame in found if "id" in frame]
    validator = jsonschema_rs.validator_for(KEYED["components"]["schemas"]["StreamEvent"])
    told = json.loads(event["data"])
    validator.validate(told)
    assert event["id"] == told["cursor"] and not validator.is_valid({k: v for k, v in told.items() if k != "prev"})
    assert "event: caught_up" in docs_page(KEYED, kinds())
