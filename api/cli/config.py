"""`config`: the settings as they are, and where each comes from."""

from __future__ import annotations

from typing import Any

import click

from api.cli.output import columns, console, print_json
from api.cli.session import Session, json_option, log_option, pass_session, say
from api.cli.text import visible
from api.settings import suggestion, unknown_variables
from api.variables import BY_FIELD, VARIABLES


@click.command()
@json_option
@log_option
@pass_session
def config(session: Session, as_json: bool) -> None:
    """Show the effective settings and where each comes from: the environment, the file, or the default.

    The environment wins over the file (HEADWAY_CONFIG, else ./headway.toml), which goes by the names shown here.
    Passwords are hidden.
    """
    shown, origins = session.settings.shown(), session.origins
    found: list[dict[str, Any]] = [
        {
            "name": name,
            "value": value,
            "from": "--log" if name == "log" and session.log is not None else origins.get(name, "default"),
            "variable": BY_FIELD[name],
            "purpose": VARIABLES[BY_FIELD[name]].purpose,
        }
        for name, value in shown.items()
    ]
    unknown = [{"name": name, "hint": suggestion(name, VARIABLES)} for name in unknown_variables()]
    if as_json:
        print_json({"settings": found, "unknown_variables": unknown})
        return
    table = columns("setting", "value", "from", "what for", fold=("value", "what for"))
    for setting in found:
        table.add_row(
            setting["name"], visible(_told(setting["value"])), visible(setting["from"]), setting["purpose"],
            style=None if setting["from"] != "default" else "dim",
        )  # fmt: skip
    console().print(table)
    for slip in unknown:
        say(f"{slip['name']} is set and means nothing to this version{slip['hint']}")


def _told(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case tuple():
            return ", ".join(value) or "–"
        case _:
            return str(value) or "–"
