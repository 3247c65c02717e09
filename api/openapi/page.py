"""The OpenAPI document as a page for people: plain HTML, one inline style sheet, no script, nothing from elsewhere.

Every text of the document is escaped; of its Markdown `code` and **bold** are shown.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

from api.openapi.problems import ProblemKind
from api.openapi.style import STYLE
from api.problems import PROBLEM_JSON

_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of these pages."""
METHODS: Final = ("get", "post")
_MARKS: Final = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*")


def docs_page(document: Mapping[str, Any], kinds: Iterable[ProblemKind]) -> str:
    """The whole documentation."""
    operations = [
        (path, method, item[method]) for path, item in document["paths"].items() for method in METHODS if method in item
    ]
    info, schemas = document["info"], document["components"]["schemas"]
    parts = [
        f"<h1>{escape(info['title'])} <small>API {escape(info['version'])}</small></h1>",
        *(f"<p>{_marked(part)}</p>" for part in info["description"].strip().split("\n\n")),
        '<p>For programs: <a href="/openapi.json">openapi.json</a></p>',
        _contents(document["tags"], operations),
        _keys(document["components"].get("securitySchemes", {})),
    ]
    for tag in document["tags"]:
        parts.append(f'<h2 id="{escape(tag["name"])}">{escape(tag["name"])}</h2><p>{_marked(tag["description"])}</p>')
        parts += [_operation(*each) for each in operations if each[2]["tags"] == [tag["name"]]]
    parts.append(f'<h2 id="events">Types of events</h2>{_event_types(schemas)}')
    parts.append(f'<h2 id="problems">Problems</h2>{_problems(kinds)}')
    parts.append('<h2 id="schemas">Schemas</h2>')
    parts += [_schema(name, schemas[name]) for name in sorted(schemas)]
    return page("Headway API", "".join(parts))


def problem_page(kind: ProblemKind) -> str:
    """What one code means."""
    again = f"<p>It may work after {kind.retry_after} s.</p>" if kind.retry_after is not None else ""
    return page(
        kind.code,
        f"<h1><code>{escape(kind.code)}</code> <small>{kind.status}</small></h1><p>{escape(kind.title)}.</p>"
        f'<p>{_marked(kind.meaning)}</p>{again}<p><a href="/docs#problems">All problems</a></p>',
    )


def index_page(version: str) -> str:
    """Where to begin."""
    return page(
        "Headway",
        f"<h1>Headway <small>{escape(version)}</small></h1><p>Append-only history of jobs, their steps and their"
        ' progress, with live streams.</p><ul><li><a href="/docs">Documentation of the API</a></li><li>'
        '<a href="/openapi.json">OpenAPI document</a></li><li><a href="/v1/jobs">Jobs</a> (JSON)</li></ul>',
    )


def page(title: str, body: str) -> str:
    """A page with our style; `title` is escaped, `body` is HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>"
    )


def _marked(text: str) -> str:
    def mark(found: re.Match[str]) -> str:
        return f"<code>{found[1]}</code>" if found[1] is not None else f"<b>{found[2]}</b>"

    return _MARKS.sub(mark, escape(text, quote=False))


def _table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _contents(tags: Iterable[Mapping[str, Any]], operations: list[tuple[str, str, Any]]) -> str:
    parts = []
    for tag in tags:
        rows = "".join(
            f'<li><a href="#{escape(one["operationId"])}"><b class="{method}">{method.upper()}</b>'
            f" {escape(path)}</a></li>"
            for path, method, one in operations
            if one["tags"] == [tag["name"]]
        )
        parts.append(f"<li>{escape(tag['name'])}<ul>{rows}</ul></li>")
    more = '<li><a href="#events">types of events</a></li><li><a href="#problems">problems</a></li>'
    return f'<nav><ul>{"".join(parts)}{more}<li><a href="#schemas">schemas</a></li></ul></nav>'


def _keys(schemes: Mapping[str, Any]) -> str:
    if not schemes:
        return "<h2>Keys</h2><p>This server is for this machine only and asks for no key.</p>"
    rows = []
    for scheme in schemes.values():
        form = "?token=…" if scheme["type"] == "apiKey" else "Authorization: Bearer hw_ID_SECRET"
        rows.append([f"<code>{escape(form)}</code>", _marked(scheme["description"])])
    return "<h2>Keys</h2>" + _table(("Sent as", "What it is"), rows)


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    name = escape(operation["operationId"])
    parts = [
        f'<section id="{name}"><h3><b class="{method}">{method.upper()}</b> <code>{escape(path)}</code></h3>',
        f"<p><b>{escape(operation['summary'])}.</b> {_marked(operation['description'])}</p>",
    ]
    if ways := operation.get("security"):
        parts.append(f"<p>Needs {' or '.join(_way(way) for way in ways)}.</p>")
    for sample in operation["x-codeSamples"]:
        parts.append(f"<p class=label>{escape(sample['label'])}</p><pre>{escape(sample['source'])}</pre>")
    if operation["parameters"]:
        rows = [
            [f"<code>{escape(one['name'])}</code><br><small>{one['in']}</small>", _told(one["schema"]),
             _marked(one["description"])]
            for one in operation["parameters"]
        ]  # fmt: skip
        parts.append(_table(("Parameter", "Value", "Meaning"), rows))
    if body := operation.get("requestBody"):
        rows = [[f"<code>{escape(kind)}</code>", _told(content["schema"])] for kind, content in body["content"].items()]
        parts.append(_table(("Body", "Value"), rows))
    rows = []
    for status, answer in operation["responses"].items():
        content = "<br>".join(
            f"<code>{escape(kind)}</code> {_told(one['schema'])}"
            for kind, one in answer.get("content", {}).items()
            if kind != PROBLEM_JSON
        )
        rows.append([f"<b>{status}</b>", _marked(answer["description"]), content])
    parts.append(_table(("Answer", "Meaning", "Content"), rows))
    for answer in operation["responses"].values():
        for content in answer.get("content", {}).values():
            for shown in content.get("examples", {}).values():
                parts.append(f"<p class=label>{_marked(shown['summary'])}</p><pre>{escape(shown['value'])}</pre>")
    return "".join(parts) + "</section>"


def _way(way: Mapping[str, list[str]]) -> str:
    ((kind, scopes),) = way.items()
    return "a stream token" if kind == "token" else f"a key with the scope <code>{escape(scopes[0])}</code>"


def _told(schema: Any) -> str:
    """A schema in a few words."""
    if not isinstance(schema, dict):
        return "not here" if schema is False else "anything"
    if (name := schema.get("$ref", "").rpartition("/")[2]) != "":
        return f'<a href="#schema-{escape(name)}">{escape(name)}</a>'
    for kind in ("anyOf", "oneOf"):
        if kind in schema and schema.get("type") != "string":
            return " or ".join(dict.fromkeys(_told(each) for each in schema[kind]))
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        shown = ", ".join(f"<code>{escape(str(value))}</code>" for value in values)
        return shown + _default(schema)
    kinds = schema.get("type", "anything")
    words = " or ".join(kinds) if isinstance(kinds, list) else kinds
    if "array" in words and "prefixItems" in schema:
        return f"array of {' and '.join(_told(each) for each in schema['prefixItems'])}" + _or_null(words)
    if "array" in words and "items" in schema:
        words = words.replace("array", f"array of {_told(schema['items'])}")
    if (form := schema.get("format")) is not None:
        words += f", {escape(form)}"
    for low, high, unit in (("minimum", "maximum", ""), ("minLength", "maxLength", " characters"),
                            ("minItems", "maxItems", ""), ("", "maxProperties", " members")):  # fmt: skip
        if high in schema:
            words += f", {schema.get(low, 0):,} to {schema[high]:,}{unit}"
    return words + _default(schema)


def _or_null(words: str) -> str:
    return " or null" if words.endswith(" or null") else ""


def _default(schema: Mapping[str, Any]) -> str:
    if "default" not in schema:
        return ""
    return f" (default <code>{escape(json.dumps(schema['default']).strip(chr(34)))}</code>)"


def _event_types(schemas: Mapping[str, Any]) -> str:
    rows = []
    for variant in schemas["NewEvent"]["oneOf"]:
        data = schemas[variant["properties"]["data"]["$ref"].rpartition("/")[2]]
        variants = data.get("oneOf", [data])
        cells = []
        for each in variants:
            needed = each.get("required", ())
            members = [name for name, rule in each["properties"].items() if rule is not False]
            cells.append(", ".join(f"<b>{escape(n)}</b>" if n in needed else escape(n) for n in members))
        rows.append([f"<code>{escape(variant['title'])}</code>", "<br>or ".join(cells)])
    return "<p>What <code>data</code> may hold; what must be there is bold.</p>" + _table(("Type", "Data"), rows)


def _problems(kinds: Iterable[ProblemKind]) -> str:
    rows = [
        [str(kind.status), f'<a href="/problems/{escape(kind.code)}"><code>{escape(kind.code)}</code></a>',
         escape(kind.title), "" if kind.retry_after is None else f"{kind.retry_after} s"]
        for kind in kinds
    ]  # fmt: skip
    return _table(("Status", "Code", "Meaning", "Try again after"), rows)


def _with_use(rule: Any) -> str:
    purpose = rule.get("description") if isinstance(rule, dict) else None
    return _told(rule) + (f"<br>{_marked(purpose)}" if purpose else "")


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    head = f'<section id="schema-{escape(name)}"><h3>{escape(name)}</h3>'
    about = f"<p>{_marked(schema['description'])}</p>" if schema.get("description") else ""
    if name.startswith("NewEvent"):
        return f'{head}{about}<p>See <a href="#events">types of events</a>.</p></section>'
    variants = schema.get("oneOf", [schema])
    tables = []
    for variant in variants:
        needed = variant.get("required", ())
        rows = [
            [f"<code>{escape(field)}</code>{'' if field in needed else ' <small>optional</small>'}", _with_use(rule)]
            for field, rule in variant.get("properties", {}).items()
            if rule is not False
        ]
        tables.append(_table(("Member", "Value"), rows) if rows else f"<p>{_told(variant)}</p>")
    return head + about + "<p>or</p>".join(tables) + "</section>"
