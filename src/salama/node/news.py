"""The event feed for those who wait for it: what happened after the last event that they know."""

from __future__ import annotations

import asyncio

from salama.storage import queries
from salama.storage.journal import Journal
from salama.storage.queries import StoredEvent


class News:
    """Wakes its readers when the journal has new events on disk."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._arrived = asyncio.Event()
        journal.on_events(self._tell)

    def _tell(self, _: int) -> None:
        self._arrived.set()
        self._arrived = asyncio.Event()

    async def after(self, event_id: int, limit: int, wait: float) -> list[StoredEvent]:
        """The next events, oldest first; without any, the first that come within ``wait`` seconds."""
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            arrived = self._arrived
            rows = await self._journal.read(lambda db: queries.events_after(db, event_id, limit))
            if rows:
                return rows
            try:
                async with asyncio.timeout_at(deadline):
                    await arrived.wait()
            except TimeoutError:
                return []
