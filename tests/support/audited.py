"""Logs to ask questions of: rows as an append would leave them, put in directly, because only what they say matters."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from eventstore.events import RecordedEvent
from projections.audit import AuditFilter, Clock

BEGAN = datetime(2026, 1, 31, 12, tzinfo=UTC)
JOBS = ("build:1", "build:10", "build:2", "build", "build-1", "Build:1", "b", "test.7", "zz")
STEPS = ("fetch", "push", "推送", "a b", "100%")
ACTORS = ("ci", "anna", "机器人", None)
REASONS = ("regression", "already", "stale_attempt", "step_ended")
WORDS = (
    "正在推送代码", "推送", "disk FULL", "Ärger É", "ПРИВЕТ мир", 'a "quoted" text', "C:\\new\\temp", "line 1\nline 2",
    "100 % of_it", "tab\there", "bell\x07", "message", "error", "n", "\\n", "[x]*", "naïve", "İstanbul", "K",
)  # fmt: skip
NEEDLES = (
    "推送", "送代", "disk full", "DISK", "ärger", "привет", "ПРИВЕТ МИР", '"quoted"', "C:\\NEW", "\\temp", "1\nline",
    "%", "_", "100 % of_", "\t", "\x07", "message", "error", "n", "\\n", "[X]*", ".*", "u0007", "nowhere", "stack",
    "NAÏVE", "ï", "type", "percent", "https",
)  # fmt: skip


def told(rng: random.Random) -> dict[str, Any]:
    """The data of an event: texts where people write them, and the same words where nobody looks for them."""
    data: dict[str, Any] = {"percent": rng.randrange(101), "metadata": {rng.choice(WORDS): rng.choice(WORDS)}}
    for name in ("message", "reason", "title", "label"):
        if rng.random() < 0.25:
            data[name] = " ".join(rng.sample(WORDS, rng.randint(1, 2)))
    if rng.random() < 0.2:
        data["error"] = {"message": rng.choice(WORDS), "type": "OSError", "stack": "File x\n" + rng.choice(WORDS)}
    if rng.random() < 0.1:
        data["steps"] = [{"step": rng.choice(STEPS), "label": rng.choice(WORDS)}, {"step": "n"}]
    return data


def insert(url: str, log: str, seed: int, count: int) -> None:
    """Fill a log with random events. Times rise by seconds or hours, give or take a second, as writers may."""
    rng = random.Random(seed)
    versions: dict[str, int] = {}
    clock = BEGAN
    encode = msgspec.json.Encoder(order="sorted").encode
    with psycopg.connect(url) as conn:
        (log_id,) = conn.execute("UPDATE logs SET head = %s WHERE name = %s RETURNING log_id", (count, log)).fetchone()  # type: ignore[misc]
        rows = []
        for position in range(1, count + 1):
            job = rng.choice(JOBS)
            versions[job] = versions.get(job, 0) + 1
            clock += timedelta(seconds=rng.choice((0, 0, 0.5, 2, 60, 7_200)))
            moment = clock + timedelta(seconds=rng.uniform(-1, 1))
            occurred = moment - timedelta(days=rng.randrange(30)) if rng.random() < 0.7 else None
            applied = rng.random() < 0.7
            rows.append((
                log_id, position, job, versions[job], UUID(int=rng.getrandbits(128) | 1),
                rng.choice(("step.started", "step.progressed", "step.failed", "job.noted", "log.fold_changed")),
                rng.choice(STEPS) if rng.random() < 0.8 else None, rng.choice((None, 1, 2)), None,
                encode(told(rng)).decode(), bytes(16), applied, None if applied else rng.choice(REASONS), 0,
                rng.choice(ACTORS), occurred, moment, bytes(32),
            ))  # fmt: skip
        with conn.cursor() as cursor:
            cursor.executemany(f"INSERT INTO events VALUES ({', '.join(['%s'] * 18)})", rows)  # type: ignore[arg-type]


def random_filter(rng: random.Random, events: list[RecordedEvent]) -> dict[str, Any]:
    """The parameters of `audit_filter` for some question about a log."""
    given: dict[str, Any] = {}
    chance = rng.random()
    if chance < 0.3:
        given["job"] = rng.choice((*JOBS, "nobody"))
    elif chance < 0.6:
        given["prefix"] = rng.choice(("b", "build", "build:", "build:1", "Build", "z", "zz", "zzz", "test.", "c"))
    if rng.random() < 0.4:
        pair = sorted(rng.choice(events).recorded_at + timedelta(seconds=rng.choice((0, 0, 1))) for _ in range(2))
        given["since"], given["until"] = pair[0], pair[1] + timedelta(microseconds=1)
        if rng.random() < 0.5:
            del given[rng.choice(("since", "until"))]
        if rng.random() < 0.4:
            given["clock"] = Clock.OCCURRED
    for name, values in (("types", ("step.*", "step.failed", "job.*", "log.*")), ("steps", STEPS)):
        if rng.random() < 0.2:
            given[name] = rng.sample(values, rng.randint(1, 2))
    if rng.random() < 0.2:
        given["actors"] = rng.sample([name for name in ACTORS if name], rng.randint(1, 2))
    if rng.random() < 0.2:
        given["reasons"] = rng.sample(REASONS, rng.randint(1, 2))
    elif rng.random() < 0.3:
        given["applied"] = rng.random() < 0.5
    if rng.random() < 0.4:
        given["text"] = rng.choice(NEEDLES)
    return given


def passes(event: RecordedEvent, wanted: AuditFilter, given: dict[str, Any]) -> bool:
    """The filter as its description says it, without an index: what the audit is compared with."""
    moment = event.recorded_at
    if wanted.clock is Clock.OCCURRED and event.occurred_at is not None:
        moment = event.occurred_at
    kinds = given.get("types", ["*"])
    return (
        (wanted.job is None or event.job_id == wanted.job)
        and event.job_id.startswith(wanted.prefix or "")
        and (wanted.since is None or moment >= wanted.since)
        and (wanted.until is None or moment < wanted.until)
        and any(re.fullmatch(kind.replace(".", "\\.").replace("*", ".*"), event.type) for kind in kinds)
        and (wanted.steps is None or event.step in wanted.steps)
        and (wanted.actors is None or event.actor in wanted.actors)
        and (wanted.applied is None or event.applied == wanted.applied)
        and (wanted.reasons is None or event.reason in wanted.reasons)
        and (wanted.text is None or any(found(wanted.text, text) for text in texts(event.data)))
    )


def found(needle: str, text: str) -> bool:
    return re.search(re.escape(needle), text, re.IGNORECASE) is not None


def texts(data: dict[str, Any]) -> list[str]:
    error = data.get("error", {})
    spots = [data.get(name) for name in ("message", "reason", "title", "label")]
    spots += [error.get(name) for name in ("type", "message", "stack", "code")]
    spots += [step.get("label") for step in data.get("steps", ())]
    return [spot for spot in spots if isinstance(spot, str)]
