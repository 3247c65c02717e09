"""The worker of the demonstration: what a user's own code looks like when it reports through the package `headway`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import msgspec

import headway
from api.demo import records
from api.demo.git import Git, Stopped
from api.demo.project import Project
from eventstore.store import EventStore

LATE_PERCENT = 12.5
REGRESSING_PERCENT = 40
CONNECTED = 10.0  # seconds to wait for the log at the very end, which the demo wants to look at


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What was really made: commits at the origin (newest first), files, rows, manifests.

    `reported`: all that was reported is in the log.
    """

    commits: list[str]
    files: int
    rows: int
    manifests: int
    reported: bool


def plan() -> list[headway.StepDef]:
    """The steps with the part of the bar that each fills."""
    return [
        headway.step_def("create_repository", label="Create the repository", range=(0, 10)),
        headway.step_def("push_template", label="推送模板代码", range=(10, 50)),
        headway.step_def("create_database_records", label="Create database records", range=(50, 80)),
        headway.step_def("setup_gitops", label="Set up GitOps", range=(80, 100)),
    ]


def initialise(
    job_id: str,
    name: str,
    folder: Path,
    store: EventStore,
    *,
    stop: Event,
    send_late: Callable[[], None],
) -> Result:
    """Initialise a project, report it to `store`, and make its records in the same database.

    `send_late` is called when push_template has ended long since.
    `stop` ends it early: the job is reported as cancelled, and `Stopped` raised.
    """
    headway.connect(store)
    project = Project(name, folder, Git(folder, stop))
    with (
        ExitStack() as kept,
        headway.job(job_id, title=f"Initialise {name}", kind="project.initialise", plan=plan()) as job,
    ):
        with job.step("create_repository") as step:
            project.create_repository(lambda percent, message: step.progress(percent, message=message))

        with job.step("push_template") as step:
            files = project.write_template(
                lambda percent, message: step.progress(round(0.3 * percent, 1), message=f"正在写入模板代码… {message}")
            )
            project.push(
                lambda percent, what: step.progress(round(30 + 0.7 * percent, 1), message=f"正在推送代码… {what}")
            )
            # On purpose: an old counter reports again. The log keeps it, and the bar doesn't go back.
            step.progress(REGRESSING_PERCENT, message="正在推送代码… (an old counter reports again)")

        with job.step("create_database_records") as step:
            conn = kept.enter_context(records.own_schema(store.database.url, schema_of(name)))
            records.create_tables(conn, name)
            late = iter([send_late])

            def on_rows(done: int, total: int) -> None:
                if stop.is_set():
                    raise Stopped
                step.progress(done=done, total=total, unit="rows", message="inserting settings")
                if done * 2 >= total:
                    for send in late:
                        send()

            rows = records.fill_settings(conn, on_rows)

        for attempt in job.attempts("setup_gitops", 2, wait=0.5):
            with attempt as step:
                count = set_up_gitops(project, step)

    return Result(commits=project.history(), files=files, rows=rows, manifests=count, reported=headway.close(CONNECTED))


def set_up_gitops(project: Project, step: headway.Step) -> int:
    """Write the manifests and push them. The first time a colleague is faster, and git refuses."""
    if step.attempt > 1:
        step.progress(message="catching up with the others")
        project.catch_up()
    count = project.write_manifests(
        lambda percent, name: step.progress(round(0.7 * percent, 1), message=f"checked {name}")
    )
    if step.attempt == 1:
        project.colleague_pushes()
    project.push(lambda percent, what: step.progress(round(70 + 0.3 * percent, 1), message=what))
    return count


def schema_of(name: str) -> str:
    """The name of the project's schema."""
    return name.replace("-", "_")
