from tests.support.stores import shared_database

__all__ = ["shared_database"]
