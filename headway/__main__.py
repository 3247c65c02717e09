"""The entry point of the command line: `headway …` and `python -m headway …`.

The command line lives in the package `api`, a name that worker code bases often use too. So before it is imported,
what would be imported under each of our names is compared with what lies beside this package.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("api", "projections", "eventstore")


def home() -> Path:
    """The folder that holds Headway's packages: site-packages for a wheel, the checkout for an editable install."""
    return Path(__file__).resolve().parent.parent


def shadowed() -> str | None:
    """What is wrong with the import path, for people: a foreign module that stands before one of ours; else None."""
    for name in PACKAGES:
        ours = home() / name
        spec = find_spec(name)
        origins = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or [])]
        found = [Path(origin).resolve() for origin in origins if origin]
        if not found:
            return f"Headway's package `{name}` is missing from {ours}: install headway again"
        if not any(place in (ours, ours / "__init__.py") for place in found):
            entry = found[0].parent.parent if found[0].name == "__init__.py" else found[0].parent
            return (
                f"another module is called `{name}` and comes first on the import path: {found[0]}\n"
                f"  Headway's own is {ours}. Take {entry} out of PYTHONPATH, or run the `headway` command of an "
                "environment in which nothing else installs that name."
            )
    return None


def leave_working_folder_out() -> None:
    """As Python's -P does: `python -m` puts the working folder first, and it may have an `api` of its own."""
    if sys.path and not sys.flags.safe_path and Path(sys.path[0] or ".").resolve() != home():
        del sys.path[0]


def fill_closed_streams() -> None:
    """A standard stream that the caller closed (`headway … >&-`) becomes the null device.

    Else the next file or socket that is opened gets its number, and whoever writes to standard output writes there.
    """
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def main() -> int:
    """Run the command line with this process's arguments; returns the exit code."""
    fill_closed_streams()
    if wrong := shadowed():
        print(f"headway: {wrong}", file=sys.stderr)
        return 1
    try:
        from api.cli import run
    except KeyboardInterrupt:
        return 130

    return run()


if __name__ == "__main__":
    leave_working_folder_out()
    sys.exit(main())
