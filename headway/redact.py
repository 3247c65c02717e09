"""Take secrets out of texts before they leave the process: a log that is never rewritten can't be cleaned later.

    redact("postgresql://app:hunter2@db/shop")          # 'postgresql://app:[redacted]@db/shop'
    redact_data({"metadata": {"api_key": "k-1", "rows": 7}})

Stands alone; used by the client before sending and by the server before storing. Applying it twice changes nothing
more. Names of steps and jobs, numbers and structure are never touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from headway.redact_rules import CALL, HARMLESS, KEYS, PAIR, PAIR_ANCHORS, PLACES, REST, STRONG, TOKENS, Rule

MARK: Final = "[redacted]"
DEPTH: Final = 32

_ANCHORED: Final = [(rule, anchor) for rule in (*TOKENS, *PLACES) for anchor in rule.anchors]
_FOLDED: Final = [(rule, anchor) for rule, anchor in _ANCHORED if rule.folded]
_EXACT: Final = [(rule, anchor) for rule, anchor in _ANCHORED if not rule.folded]


def _any_of(texts: set[str]) -> str:
    """A pattern for these texts that looks at each place of a text once: common beginnings are written once."""
    if "" in texts:
        return ""
    rests: dict[str, set[str]] = {}
    for text in texts:
        rests.setdefault(text[0], set()).add(text[1:])
    parts = [re.escape(first) + _any_of(rest) for first, rest in sorted(rests.items())]
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"


_ANY: Final = re.compile(_any_of({anchor.lower() for _, anchor in _ANCHORED} | set(PAIR_ANCHORS)))
"""Found in the small letters of every text that holds an anchor; most texts hold none."""
_ASCII_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_CLOSERS: Final = ")]}>"
_PLAIN: Final = frozenset((int, float, bool, type(None)))
_NAMES_OF_STEPS: Final = ("step", "parent", "after", "continues", "kind", "unit")


def redact(text: str) -> str:
    """The text with `[redacted]` in place of each secret. Time grows with the length only, whatever the text is."""
    spans = sorted(_spans(text))
    if not spans:
        return text
    pieces: list[str] = []
    end = 0
    for start, stop in spans:
        if start >= end:
            pieces += text[end:start], MARK
        end = max(end, stop)
    pieces.append(text[end:])
    return "".join(pieces)


def redact_data(data: dict[str, Any]) -> dict[str, Any]:
    """The data of an event without secrets; the same object if there were none. Names of steps stay as they are."""
    changed: dict[str, Any] = {}
    for key, value in data.items():
        if key in _NAMES_OF_STEPS:
            continue
        if key == "steps" and type(value) is list:
            kept: Any = [_step(item) for item in value]
            kept = value if all(a is b for a, b in zip(kept, value, strict=True)) else kept
        else:
            kept = _value(value, is_secret_name(key), 1)
        if kept is not value:
            changed[key] = kept
    return {**data, **changed} if changed else data


@lru_cache(maxsize=1_000)
def is_secret_name(name: object) -> bool:
    """Whether a member or variable of this name holds a secret: `dbPassword`, `X-Api-Key`, `GITHUB_TOKEN`."""
    if type(name) is not str or len(name) > 200:
        return False
    snake = _CAMEL.sub("_", name).lower().replace("-", "_").replace(".", "_").replace(" ", "_")
    if snake.endswith(STRONG):
        return True
    words = snake.split("_")
    return any("_".join(words[-count:]) in KEYS for count in (1, 2) if count <= len(words))


def _step(item: Any) -> Any:
    return redact_data(item) if type(item) is dict else _value(item, False, 2)


def _value(value: Any, secret: bool, depth: int) -> Any:
    if isinstance(value, str):
        if secret:
            return value if not value or HARMLESS.fullmatch(value) else MARK
        kept = redact(value)
        return value if kept == value else kept
    if depth > DEPTH or type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        items = {key: _value(item, secret or is_secret_name(key), depth + 1) for key, item in value.items()}
        return items if any(items[key] is not item for key, item in value.items()) else value
    if isinstance(value, list | tuple):
        parts = [_value(item, secret, depth + 1) for item in value]
        return parts if any(a is not b for a, b in zip(parts, value, strict=True)) else value
    return value


def _spans(text: str) -> Iterator[tuple[int, int]]:
    if len(text) < 6:
        return
    lower = text.lower()
    if len(lower) != len(text):  # a letter like İ became two: positions would not agree
        lower = text.translate(_ASCII_LOWER)
    if _ANY.search(lower) is None:
        return
    hits = [(rule, anchor) for rule, anchor in _FOLDED if anchor in lower]
    hits += [(rule, anchor) for rule, anchor in _EXACT if anchor in text]
    for rule, anchor in hits:
        yield from _of_rule(rule, anchor, text, lower)
    for anchor in [anchor for anchor in PAIR_ANCHORS if anchor in lower]:
        at = lower.find(anchor)
        while at >= 0:
            after = at + len(anchor)
            if (found := PAIR.match(text, at)) and (span := _judge(found)):
                yield span
                after = max(after, span[1])
            at = lower.find(anchor, after)


def _of_rule(rule: Rule, anchor: str, text: str, lower: str) -> Iterator[tuple[int, int]]:
    where = lower if rule.folded else text
    group = "v" if "v" in rule.pattern.groupindex else 0
    at = where.find(anchor)
    while at >= 0:
        after = at + len(anchor)
        found = rule.pattern.match(text, at - rule.back) if at >= rule.back else None
        if found and "[redacted" not in found[group][:10] and (rule.check is None or rule.check(found[group])):
            yield found.span(group)
            after = max(after, found.end())
        at = where.find(anchor, after)


def _judge(found: re.Match[str]) -> tuple[int, int] | None:
    """Where the secret of a name-value pair stands; None if the value is none."""
    name, sign = found["name"].lower(), found["sign"]
    quoted = found["quoted"] is not None
    start, stop = found.span("quoted" if quoted else "plain")
    value = found.string[start:stop]
    if not quoted and CALL.fullmatch(value):
        return None
    if not value.strip(_CLOSERS) or HARMLESS.fullmatch(value.rstrip(_CLOSERS)) or value.lower() == name:
        return None
    if name == "pwd" and value[0] == "/":
        return None
    member = found["close"] is not None
    if name == "pass" and not member and sign == ":":
        return None
    prose = sign in (":", "==", "=>") and not member
    if name in STRONG:
        if prose and not quoted and _reads_as_prose(found, value, stop):
            return None
    elif value.rstrip(_CLOSERS).isdecimal() or (prose and not looks_random(value)):
        return None
    rest = REST[found["open"]].match(found.string, stop)
    stop = rest.end() if rest else stop
    while not quoted and found.string[stop - 1] in _CLOSERS and stop - 1 > start:
        stop -= 1
    return start, stop


def _reads_as_prose(found: re.Match[str], value: str, stop: int) -> bool:
    """`password: must be longer`: a word of small letters, and another word after it."""
    if len(value) < 4 and value.isdecimal():
        return True
    after = found.string[stop : stop + 2]
    return value.isalpha() and value[1:].islower() and len(after) == 2 and after[0] == " " and after[1].isalpha()


def looks_random(value: str) -> bool:
    """Whether a word looks drawn and not written: letters with digits, or long without being words."""
    if len(value) < 6:
        return False
    if any(c.isdigit() for c in value) and any(c.isalpha() for c in value):
        return True
    return len(value) >= 20 and not any(c in " ._/" for c in value)
