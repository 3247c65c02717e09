"""What the log has already, asked before it is sent again: a second import then costs a look, not a refused append."""

from __future__ import annotations

from collections.abc import Sequence

from eventstore import pgarray, statements
from eventstore.batch import Known, compare
from eventstore.codec import Prepared
from eventstore.store import EventStore


class Lookup:
    """Asks as long as there is something to find. The known events of an import that stopped come first; an answer of
    the store that one was known after all (`found`) starts it again."""

    def __init__(self, store: object) -> None:
        self._store = store if isinstance(store, EventStore) else None
        self._ask = True

    def found(self) -> None:
        self._ask = True

    def known(self, prepared: Sequence[Prepared]) -> dict[bytes, Known]:
        """Those of the events that the log has, by id. Raises `EventIdConflict` if one says something else there."""
        if not self._ask or self._store is None:
            return {}
        log_id = self._store.log_id()
        ids = pgarray.uuid([event.event_id for event in prepared])
        with self._store.database.session() as conn:
            rows = conn.execute(statements.FIND_IDS, (log_id, ids), binary=True).fetchall()
        known = {row[0]: Known(*row) for row in rows}
        for event in prepared:
            if first := known.get(event.event_id):
                compare(event, first)
        self._ask = bool(known)
        return known
