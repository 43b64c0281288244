"""Reading beside the writer: connections that see one consistent snapshot each and can neither write nor checkpoint."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from salama.storage.database import damage_named, open_reader
from salama.storage.errors import JournalClosed, StorageFault

T = TypeVar("T")
Query = Callable[[sqlite3.Connection], T]
"""Reads with statements of ``queries`` and returns plain values, never a cursor: the snapshot ends when it returns."""

READ_SECONDS: Final = 30.0
_OPCODES_BETWEEN_CHECKS: Final = 50_000


class ReadTookTooLong(StorageFault):
    """A read was stopped: while it runs, the log behind it cannot be emptied."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"a read of the database was stopped after {seconds:g} seconds: ask for less at a time")


class Readers:
    """At most ``connections`` read-only connections, each made when first needed."""

    def __init__(self, path: Path, connections: int = 2, limit: float = READ_SECONDS) -> None:
        self._path, self._limit = path, limit
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="salama-read")
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._all: list[sqlite3.Connection] = []
        self._closed = False

    async def read(self, query: Query[T]) -> T:
        """Run ``query`` in a thread: for whatever may read more than a few pages.

        Every row that a thread fetches costs it a turn at the interpreter lock, so short look-ups are quicker with
        ``read_now``. Raises CorruptDatabase, CorruptRecord, ReadTookTooLong or JournalClosed.
        """
        if self._closed:
            raise JournalClosed
        return await asyncio.get_running_loop().run_in_executor(self._pool, self.read_now, query)

    def read_now(self, query: Query[T]) -> T:
        """Run ``query`` in the calling thread: for look-ups by key and short pages. Raises as ``read``."""
        connection = self._take()
        stop_at = time.monotonic() + self._limit
        connection.set_progress_handler(lambda: time.monotonic() > stop_at, _OPCODES_BETWEEN_CHECKS)
        try:
            with damage_named(self._path):
                connection.execute("BEGIN")
                return query(connection)
        except sqlite3.OperationalError as fault:
            if fault.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                raise (JournalClosed() if self._closed else ReadTookTooLong(self._limit)) from None
            raise
        finally:
            connection.set_progress_handler(None, 0)
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            with self._lock:
                self._idle.append(connection)

    def look_up(self, query: Query[T]) -> T:
        """Run ``query``, *one* statement by key, in the calling thread: no transaction around it, no limit of time.
        Raises as ``read``.
        """
        connection = self._take()
        try:
            with damage_named(self._path):
                return query(connection)
        except sqlite3.OperationalError as fault:
            if fault.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                raise JournalClosed from None
            raise
        finally:
            with self._lock:
                self._idle.append(connection)

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise JournalClosed
            if self._idle:
                return self._idle.pop()
            connection = open_reader(self._path)
            self._all.append(connection)
            return connection

    def close(self) -> None:
        """Stop reads under way and close every connection; must come before the writer closes."""
        with self._lock:
            self._closed = True
            for connection in self._all:
                connection.interrupt()
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            for connection in self._all:
                connection.close()
            self._all.clear()
            self._idle.clear()
