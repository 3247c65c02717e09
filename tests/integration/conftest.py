from tests.support.cli import cli, log, own, report, store
from tests.support.stores import shared_database

__all__ = ["cli", "log", "own", "report", "shared_database", "store"]
