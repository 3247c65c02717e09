"""A project that is initialised: where its parts lie, and the work of each step. Progress is told to a callback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from api.demo import manifests, template
from api.demo.git import Git

OnPercent = Callable[[float, str], None]

# A push as one way: how far it is when a phase of git begins, and how much of it the phase is.
PUSH: Final = {
    "Counting objects": (0, 5),
    "Compressing objects": (5, 45),
    "Writing objects": (50, 45),
    "Resolving deltas": (95, 5),
}


class Project:
    """A project of this name in `folder`: a bare repository, and a working copy of it."""

    def __init__(self, name: str, folder: Path, git: Git) -> None:
        self.name, self.folder, self.git = name, folder, git
        self.origin = folder / f"{name}.git"
        self.copy = folder / name

    def create_repository(self, on_percent: OnPercent) -> None:
        """A bare repository that is the project's origin, and a working copy."""
        on_percent(0, "git init --bare")
        self.git.run(self.folder, "init", "--quiet", "--bare", str(self.origin))
        (self.origin / "description").write_text(f"{self.name}, made by headway demo\n", encoding="utf-8")
        on_percent(50, "git init")
        self.git.run(self.folder, "init", "--quiet", str(self.copy))
        self.git.run(self.copy, "remote", "add", "origin", str(self.origin))
        self.git.run(self.origin, "fsck", "--strict")
        on_percent(100, str(self.origin.name))

    def write_template(self, on_percent: OnPercent) -> int:
        """Write and commit the template; returns the number of files."""
        commits = [(commit.message, list(commit.files)) for commit in template.commits(self.name)]
        total = sum(len(files) for _, files in commits)
        count = 0
        for message, files in commits:
            for _ in template.write(self.copy, files):
                count += 1
                on_percent(100 * count / total, message)
            self.git.run(self.copy, "add", "--all")
            self.git.run(self.copy, "commit", "--quiet", "--message", message)
        return count

    def push(self, on_percent: OnPercent) -> None:
        """Push main to the origin; percentages are git's own. Raises `GitFailed`.

        Both ends write to one stderr, each at its own pace: what the other end has passed already is left out.
        """
        reached = 0.0

        def on_phase(phase: str, percent: int) -> None:
            nonlocal reached
            if phase in PUSH:
                start, share = PUSH[phase]
                overall = start + share * percent / 100
                if overall >= reached:
                    reached = overall
                    on_percent(overall, f"{phase}: {percent} %")

        self.git.run(self.copy, "push", "--progress", "origin", "HEAD:main", on_phase=on_phase)

    def write_manifests(self, on_percent: OnPercent) -> int:
        """Write, check and commit what shall run where; returns the number of manifests."""
        names = list(template.write(self.copy, manifests.manifests(self.name)))
        for done, name in enumerate(manifests.validate(self.copy / "deploy"), 1):
            on_percent(100 * done / len(names), name)
        self.git.run(self.copy, "add", "deploy")
        if self.git.run(self.copy, "status", "--porcelain", "--", "deploy"):
            self.git.run(self.copy, "commit", "--quiet", "--message", "Say what shall run where")
        return len(names)

    def catch_up(self) -> None:
        """Put our commits on top of what others have pushed."""
        self.git.run(self.copy, "pull", "--quiet", "--rebase", "origin", "main")

    def colleague_pushes(self) -> None:
        """Somebody else pushes a commit from a clone of their own, as it happens."""
        clone = self.folder / "colleague"
        self.git.run(
            self.folder, "clone", "--quiet", "--no-checkout", "--depth", "1", "--no-local", str(self.origin), str(clone)
        )
        (clone / "NOTES.md").write_text("Remember to tell the others.\n", encoding="utf-8")
        self.git.run(clone, "read-tree", "HEAD")
        self.git.run(clone, "update-index", "--add", "NOTES.md")
        self.git.run(clone, "commit", "--quiet", "--message", "Add notes")
        self.git.run(clone, "push", "--quiet", "origin", "HEAD:main")

    def history(self) -> list[str]:
        """Subjects of the commits at the origin, newest first."""
        return self.git.run(self.origin, "log", "--format=%s", "main").splitlines()
