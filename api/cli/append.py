"""`append`: one report from a shell."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click
import msgspec

from api.cli.output import percent_text, print_json
from api.cli.session import Session, json_option, log_option, pass_session
from api.cli.text import visible

if TYPE_CHECKING:
    from eventstore.events import Appended, Expected

TRIES = 3


@click.command()
@click.argument("job")
@click.argument("type", metavar="TYPE")
@click.option("--step", help="The step that it is about.")
@click.option("--percent", type=float, metavar="P", help="How far the step is, 0 to 100.")
@click.option("--done", type=int, metavar="N", help="How many are done …")
@click.option("--total", type=int, metavar="M", help="… of how many.")
@click.option("--unit", help="What is counted: files, rows, bytes.")
@click.option("--message", metavar="M", help="What is going on, for people.")
@click.option("--error", metavar="TEXT", help="What went wrong (for step.failed and job.failed).")
@click.option("--data", metavar="JSON", help="The event's data as a JSON object; @FILE or - (standard input) reads it.")
@click.option("--attempt", type=int, metavar="N", help="Which try at the step this is, from 1.")
@click.option("--seq", type=int, metavar="N", help="The report's number within its attempt.")
@click.option("--event-id", type=click.UUID, metavar="U", help="Its id: sent again it changes nothing.")
@click.option("--expected", metavar="V", help="Append only at this version of the job; `no-job`: only as its first.")
@log_option
@json_option
@pass_session
def append(
    session: Session,
    /,
    job: str,
    type: str,
    step: str | None,
    data: str | None,
    attempt: int | None,
    seq: int | None,
    event_id: UUID | None,
    expected: str | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Append one event to JOB: headway append build:7 step.progressed --step compile --percent 40

    \b
    TYPE is job. or step. and what happened:
      job:   planned started progressed waiting resumed noted completed failed cancelled reopened
      step:  added started progressed waiting resumed noted completed failed skipped cancelled reset removed

    Prints the position in the log and whether the report counted. One that must not count (a regression, one after the
    end) is kept with its reason, and is no failure.
    """
    from eventstore.codec import check_job_id, uuid7
    from eventstore.events import NewEvent

    check_job_id(job)
    wanted = _expected(expected)
    event = NewEvent(
        type=type,
        step=step,
        attempt=attempt,
        seq=seq,
        event_id=event_id or UUID(bytes=uuid7()),
        data=_data(data, fields),
    )
    with session.store() as store:
        answer = _append(store, job, event, wanted)
    if as_json:
        print_json(
            {
                "event_id": str(answer.event_id),
                "position": answer.position,
                "version": answer.version,
                "applied": answer.applied,
                "reason": answer.reason,
                "percent": answer.percent,
                "duplicate": answer.duplicate,
                "cursor": answer.cursor,
            }
        )
    else:
        click.echo(_told(answer))


def _told(answer: Appended) -> str:
    verdict = "applied" if answer.applied else f"not applied ({answer.reason})"
    again = ", was there already" if answer.duplicate else ""
    return f"position {answer.position}, {verdict}{again}, job at {percent_text(answer.ppm)}"


def _append(store: Any, job: str, event: Any, expected: Expected | int) -> Appended:
    from eventstore.errors import InvalidEvent, OutcomeUnknown, Shown

    for left in reversed(range(TRIES)):
        try:
            (answer,) = store.append(job, [event], expected=expected)
        except InvalidEvent as error:
            field = error.field.removeprefix("events[0].")
            raise InvalidEvent(field, Shown(error.given), error.rule, error.rule_code) from None
        except OutcomeUnknown as error:
            if not left:
                raise OutcomeUnknown(f"{error.args[0].partition(':')[0]} (--event-id {event.event_id})") from error
        else:
            return answer  # type: ignore[no-any-return]
    raise AssertionError("unreachable")


def _expected(text: str | None) -> Expected | int:
    from eventstore.events import ANY, NO_JOB

    match text:
        case None | "any":
            return ANY
        case "no-job":
            return NO_JOB
        case _ if text.isascii() and text.isdigit():
            return int(text)
        case _:
            raise click.BadParameter(f"{visible(text)!r}: a version from 0, `no-job` or `any`", param_hint="--expected")


def _data(text: str | None, fields: dict[str, Any]) -> dict[str, Any]:
    """The data of the event: what --data says and the single options; both for one field is a mistake."""
    data = {} if text is None else _decoded(_read(text))
    for name, value in fields.items():
        if value is None:
            continue
        if name in data:
            raise click.UsageError(f"--{name} and the data's {name!r} were both given: give one")
        data[name] = {"message": value} if name == "error" else value
    return data


def _read(text: str) -> str | bytes:
    if text == "-":
        return sys.stdin.buffer.read()
    if text.startswith("@"):
        try:
            with open(text[1:], "rb") as file:
                return file.read()
        except OSError as error:
            raise click.BadParameter(f"{visible(text[1:])}: {error.strerror}", param_hint="--data") from None
    return text.encode("utf-8", "surrogateescape")


def _decoded(text: str | bytes) -> dict[str, Any]:
    try:
        data = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"not JSON: {visible(str(error))}", param_hint="--data") from None
    if not isinstance(data, dict):
        raise click.BadParameter('a JSON object is needed, for example \'{"level": "info"}\'', param_hint="--data")
    return data
