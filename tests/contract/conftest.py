"""The stores that the contract of the log runs over."""

from tests.support.stores import open_store, shared_database, store

__all__ = ["open_store", "shared_database", "store"]
