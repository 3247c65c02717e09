"""`import`: real histories, and exports of a log."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from api.cli.failures import INTERRUPTED, USAGE, Ended
from api.cli.output import print_json
from api.cli.session import Session, json_option, log_option, pass_session, say
from api.cli.text import visible

if TYPE_CHECKING:
    from projections.importing import Form, ImportReport

FORMS = ("xes", "ndjson", "csv", "export")


@click.command(name="import")
@click.argument("file")
@click.option("--prefix", metavar="TEXT", help="What job ids begin with (default: the file's name and a colon).")
@click.option("--format", "form", type=click.Choice(FORMS), help="What it is, if its content does not tell.")
@click.option("--case", metavar="COLUMN", help="The column of the case, in CSV and NDJSON …")
@click.option("--activity", metavar="COLUMN", help="… of the activity …")
@click.option("--time", metavar="COLUMN", help="… of the time …")
@click.option("--transition", metavar="COLUMN", help="… of the lifecycle transition …")
@click.option("--resource", metavar="COLUMN", help="… of who did it.")
@click.option("--zone", metavar="ZONE", help="The zone of times that name none: +01:00, UTC, Europe/Berlin.")
@click.option(
    "--duplicates",
    type=click.Choice(["refuse", "skip", "keep"]),
    default="refuse",
    show_default=True,
    help="What to do with a row that stands there twice.",
)
@click.option("--check", is_flag=True, help="Only read and check the file.")
@log_option
@json_option
@pass_session
def import_(
    session: Session,
    /,
    file: str,
    prefix: str | None,
    form: Form | None,
    zone: str | None,
    duplicates: Any,
    check: bool,
    as_json: bool,
    **columns: str | None,
) -> None:
    """Import a history from FILE (- reads standard input): XES, NDJSON or CSV, each also as .gz.

    \b
    Every row is an event:  case → job, activity → step, resource → actor, time → when it occurred
    CSV and NDJSON columns: case, activity, transition, time, resource (the last and transition may be missing)

    The whole file is checked before the first event is appended. The same file again adds nothing, and one that was
    interrupted goes on. An NDJSON file of `headway export` brings its own job ids and comes back as it was.
    """
    from api.cli.advance import advance
    from projections.importing import STDIN, Columns, ImportInterrupted, ImportRefused, import_file, zone_of

    try:
        assumed = None if zone is None else zone_of(zone)
    except ValueError as error:
        raise click.BadParameter(visible(str(error)), param_hint="--zone") from None
    limit = session.settings.max_job_events
    if file != STDIN:
        try:
            open(file, "rb").close()
        except OSError as error:
            raise click.FileError(file, error.strerror) from None
    try:
        with nullcontext() if check else session.store() as store, advance() as show:
            report = import_file(
                store,
                file,
                form=form,
                prefix=prefix,
                columns=Columns(**columns),
                zone=assumed,
                duplicates=duplicates,
                max_job_events=limit,
                progress=lambda phase, done, total: show(
                    phase, "bytes" if phase == "reading" else "events", done, total
                ),
            )
    except ImportRefused as refused:
        say(f"headway: {refused}")
        raise Ended(USAGE) from None
    except ImportInterrupted as stopped:
        counts = stopped.report
        say(f"stopped: {counts.settled:,} of {counts.events:,} events are in the log; the same command again goes on")
        raise Ended(INTERRUPTED) from None
    except KeyboardInterrupt:
        say("stopped: nothing was imported")
        raise Ended(INTERRUPTED) from None
    if as_json:
        print_json(report)
    else:
        _show(report)


def _show(report: ImportReport) -> None:
    rate = report.read / report.seconds if report.seconds else 0.0
    done = "imported" if report.appended else "checked, nothing appended"
    click.echo(
        f"{visible(report.file)} ({report.form}): {report.read:,} events of {report.jobs:,} jobs {done}"
        f" in {report.seconds:,.1f} s ({rate:,.0f} events/s)"
    )
    if report.appended:
        rejected = " · ".join(f"{visible(reason)} {count:,}" for reason, count in sorted(report.rejected.items()))
        _line("applied", report.applied)
        _line("rejected", sum(report.rejected.values()), rejected)
        _line("known", report.known, "in the log already" if report.known else "")
    if report.repeated:
        _line("repeated", report.repeated, "second copies, left out")
    if report.left_out:
        _line("left out", report.left_out, "events of the log itself")
    if report.ignored_columns:
        names = ", ".join(visible(name) for name in report.ignored_columns[:20])
        click.echo(f"columns not looked at: {names}", err=True)
    if report.cases_without_events:
        click.echo(f"cases without events, so without a job: {report.cases_without_events:,}", err=True)
    if report.changed:
        click.echo(
            f"{report.changed:,} events have another verdict or percentage here than in the export, first line"
            f" {report.changed_line}: the log had events of these jobs already, or the export was only a part",
            err=True,
        )
    if report.appended and report.prefix:
        click.echo(f"see them: headway jobs --prefix {report.prefix}", err=True)


def _line(name: str, count: int, note: str = "") -> None:
    click.echo(f"  {name:<9}{count:>12,}   {note}".rstrip())
