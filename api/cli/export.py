"""`export`: the log as NDJSON, CSV or XES."""

from __future__ import annotations

import gzip
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import click

from api.cli.output import on_terminal
from api.cli.session import Session, log_option, pass_session

if TYPE_CHECKING:
    from projections.exporting import Form

FORMS = ("ndjson", "csv", "xes")


@click.command()
@click.option("-o", "--output", metavar="FILE", help="Where to (default: standard output); packed if it ends in .gz.")
@click.option("--format", "form", type=click.Choice(FORMS), help="Default: what the file's name says, else ndjson.")
@click.option("--job", "jobs", multiple=True, metavar="JOB", help="Only this job; may be given several times.")
@click.option("--prefix", metavar="TEXT", default="", help="Only jobs whose id begins so.")
@click.option("--after", metavar="CURSOR", default="", help="Only what follows this cursor or position …")
@click.option("--upto", metavar="CURSOR", help="… and only up to this one.")
@click.option("--full", is_flag=True, help="NDJSON: also position, cursor, time of recording, hash.")
@click.option("--fill-times", is_flag=True, help="NDJSON: events without a time of their own get that of recording.")
@click.option("--formulas", is_flag=True, help="CSV: leave texts as they are that a spreadsheet takes for formulas.")
@click.option("--no-bom", is_flag=True, help="CSV: without the byte order mark by which Excel knows UTF-8.")
@log_option
@pass_session
def export(
    session: Session,
    output: str | None,
    form: Form | None,
    jobs: tuple[str, ...],
    prefix: str,
    after: str,
    upto: str | None,
    full: bool,
    fill_times: bool,
    formulas: bool,
    no_bom: bool,
) -> None:
    """Write the events of the log to a file, in its order.

    \b
    ndjson  for programs; `headway import` puts it into an empty log again, the same events with the same verdicts
    csv     for Excel and LibreOffice
    xes     for process mining (IEEE 1849): a trace per job
    """
    from api.cli.advance import advance
    from projections.exporting import Selection
    from projections.exporting import export as write

    chosen = form or _form_of(output)
    for given, name, wanted in ((full, "--full", "ndjson"), (fill_times, "--fill-times", "ndjson"),
                                (formulas, "--formulas", "csv"), (no_bom, "--no-bom", "csv")):  # fmt: skip
        if given and chosen != wanted:
            raise click.UsageError(f"{name} is for {wanted}; this is {chosen}")
    if output is None and chosen != "ndjson" and on_terminal():
        raise click.UsageError(f"{chosen} is not for a terminal: give -o FILE, or redirect the output")
    with session.store() as store:
        head, start = store.resolve(after)
        end = head.position if upto is None else store.resolve(upto)[1]
        selection = Selection(jobs=jobs or None, prefix=prefix, after=start, upto=end)
        with _opened(output) as out, advance() as show:
            count = write(
                store,
                out,
                form=chosen,
                selection=selection,
                full=full,
                fill_times=fill_times,
                formulas=formulas,
                bom=not no_bom,
                progress=None if output is None else lambda done, total: show("exporting", "events", done, total),
            )
    click.echo(f"{count:,} events", err=True)


def _form_of(output: str | None) -> Form:
    name = "" if output is None else output.lower().removesuffix(".gz")
    if name.endswith(".csv"):
        return "csv"
    return "xes" if name.endswith(".xes") else "ndjson"


@contextmanager
def _opened(output: str | None) -> Iterator[IO[bytes]]:
    """Standard output, or a file that appears under its name when it is complete."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(output)
    if path.exists() and not path.is_file():
        with path.open("wb") as special:
            yield special
        return
    try:
        descriptor, unfinished = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    except OSError as error:
        raise click.FileError(output, error.strerror) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            if path.name.lower().endswith(".gz"):
                with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                    yield cast(IO[bytes], packed)
            else:
                yield file
        os.chmod(unfinished, 0o666 & ~_umask())
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
