"""The disk of a simulated machine: the real journal and database, whose commits take virtual time and can fail.

The files lie in memory where the system has such a place. A power cut loses the transaction that is on its way, whole.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from salama.storage.database import open_writer
from salama.storage.directory import DirectoryLock
from salama.storage.journal import Journal

if TYPE_CHECKING:
    from salama.sim.machine import Machine


class _Jobs:
    """What the journal's thread does, done by the machine's loop after the time that the disk takes."""

    def __init__(self, journal: SimJournal) -> None:
        self._journal = journal
        self.waiting: Callable[[], None] | None = None

    def put(self, job: Callable[[], None] | None) -> None:
        if job is not None:
            machine = self._journal.machine
            assert machine.loop is not None
            self.waiting = job
            machine.loop.call_later(machine.disk_latency(), self.do)

    def do(self) -> None:
        job, self.waiting = self.waiting, None
        if job is not None:
            job()


class SimJournal(Journal):
    """A journal without a thread."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        lock = DirectoryLock(machine.directory)
        try:
            connection = open_writer(machine.directory)
            connection.execute("PRAGMA synchronous = OFF").close()
            super().__init__(lock, connection, lambda: int(machine.outside.now()))
        except BaseException:
            lock.release()
            raise

    def _start(self) -> None:
        self._jobs: Any = _Jobs(self)

    def _join(self) -> None:
        pass

    def _apply(self, group: list[Any]) -> list[Any]:
        if self.machine.disk_fault == "write":
            self.machine.fault_happened("disk write failed")
            raise sqlite3.OperationalError("database or disk is full")
        return super()._apply(group)

    def _commit_in_thread(self, loop: Any, written: list[Any], started: float) -> None:
        if self.machine.disk_fault == "commit":
            self.machine.fault_happened("disk commit failed")
            self._connection.execute("ROLLBACK")  # so that the COMMIT that follows is refused
        super()._commit_in_thread(loop, written, started)

    def close(self) -> None:
        self._jobs.do()  # a transaction on its way gets there first
        super().close()

    def power_cut(self) -> None:
        """What was not committed is gone, and nobody hears of it."""
        self._writing = threading.Lock()  # whoever held it is gone too
        self._closed = True
        self._jobs.waiting = None
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._readers.close()
        self._cursor.close()
        self._connection.close()
        self._directory_lock.release()
