"""The disk of a simulated machine: the real journal and database, whose commits take virtual time and can fail.

The files lie in memory where the system has such a place. Of the transaction that is on its way when the power goes,
luck decides what reaches the log: nothing, all of it without anybody's hearing so, or a torn part of its pages.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from salama.storage.database import open_writer
from salama.storage.directory import DirectoryLock
from salama.storage.journal import Journal
from salama.testing.volatile_disk import VolatileFile

if TYPE_CHECKING:
    from salama.sim.machine import Machine


LOG_HEADER, PAGE = 32, 24 + 4096
"""Bytes of the head of SQLite's log, which is synced before any page, and of a page in it."""


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
            self._journal.is_writing = True
            takes = machine.disk_latency()
            machine.writes(takes)
            machine.loop.call_later(takes, self.do)

    def do(self) -> None:
        job, self.waiting = self.waiting, None
        if job is not None:
            job()


class SimJournal(Journal):
    """A journal without a thread."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.is_writing = False
        """A whole transaction is on its way to the disk."""
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

    def _take_group(self) -> list[Any]:
        """Any beginning of what waits may be a transaction, so that a crash may fall between any two writers."""
        group = super()._take_group()
        taken = self.machine.writes_together(len(group))
        self._waiting.extendleft(reversed(group[taken:]))
        return group[:taken]

    def _apply(self, group: list[Any]) -> list[Any]:
        if self.machine.disk_fault == "write":
            self.machine.fault_happened("disk write failed")
            raise sqlite3.OperationalError("database or disk is full")
        return super()._apply(group)

    def _is_worth_waiting_for(self, written: list[Any]) -> bool:
        return False  # the disk takes its virtual time

    def _commit_in_thread(self, loop: Any, written: list[Any], started: float) -> None:
        if self.machine.disk_fault == "commit":
            self.machine.fault_happened("disk commit failed")
            self._connection.execute("ROLLBACK")  # so that the COMMIT that follows is refused
        super()._commit_in_thread(loop, written, started)
        self.is_writing = False

    def close(self) -> None:
        self._jobs.do()  # a transaction on its way gets there first
        super().close()

    def power_cut(self) -> None:
        """What was not committed is gone, and nobody hears of it."""
        self._writing = threading.Lock()  # whoever held it is gone too
        self._closed = True
        self._jobs.waiting = None
        left: dict[Path, bytes] = {}
        if self._connection.in_transaction:
            if self.is_writing:
                left = self._leave_in_the_middle()
            else:
                self._connection.execute("ROLLBACK")
        self._readers.close()
        self._cursor.close()
        self._connection.close()
        for path, content in left.items():
            path.write_bytes(content)
        self._directory_lock.release()

    def _leave_in_the_middle(self) -> dict[Path, bytes]:
        """The files as the next start finds them: the transaction that was on its way is there, or not, or torn."""
        log = self.path.with_name(self.path.name + "-wal")
        before = log.read_bytes() if log.exists() else b""
        self._connection.execute("COMMIT")
        after = log.read_bytes()
        found, luck = torn(before, after, self.machine.dice)
        self.machine.fault_happened(luck)
        return {self.path: self.path.read_bytes(), log: found}


def torn(before: bytes, after: bytes, dice: Random) -> tuple[bytes, str]:
    """What a power cut leaves of a log that a transaction changed from ``before`` to ``after``, and how to call it."""
    file = VolatileFile(bytearray(after[:LOG_HEADER] + before[LOG_HEADER:]))
    safe = bytes(file.durable)
    for at in range(LOG_HEADER, len(after), PAGE):
        page = after[at : at + PAGE]
        if page != before[at : at + PAGE]:
            file.write(at, page)
    found = file.after_power_cut(dice)
    if found == after:
        return found, "write that nobody heard of"
    return found, "write lost" if found == safe else "torn write"
