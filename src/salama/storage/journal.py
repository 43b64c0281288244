"""The journal: the one writer of a node's database, and the moment before which nothing is said to the world.

Whatever was handed to ``commit`` while a transaction was on its way to the disk goes there together in the next
one: many actors, one fsync. The statements run in the event loop's thread and only COMMIT, which waits for the
disk, runs in a thread of its own. That is not the obvious split. Python's sqlite3 gives up the interpreter lock at
every row and must win it back; beside a busy event loop 100 rows took 370 ms in a thread and 0.3 ms in the loop.
And where the disk has proved to answer sooner than the way to the thread and back takes, the loop waits for small
transactions itself, until the first that is slow.

If the disk refuses, the journal is poisoned: that commit and all later ones raise JournalFailed, so that nobody
says what may not be on disk. The same is done when a checkpoint fails, because a failed fsync must not be tried
again and believed.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Final, Self, TypeVar

from salama.storage.database import DATABASE_NAME, damage_named, open_writer
from salama.storage.directory import DirectoryLock
from salama.storage.errors import JournalClosed, JournalFailed
from salama.storage.readers import Query, Readers
from salama.storage.second_copy import SecondCopy, leave_alone
from salama.storage.tables import Statement
from salama.storage.transaction import Submission, run_group, size_of, take_group
from salama.storage.writes import AnyWrite, statements_of

T = TypeVar("T")

# The log is folded into the database after about this much.
CHECKPOINT_ROWS: Final = 8_000
CHECKPOINT_BYTES: Final = 16_000_000
CHECKPOINT_COMMITS: Final = 1_000
# After so many quick syncs of transactions of at most so many rows, the loop waits for such itself. A slow one takes so
# many quick ones away: one is forgiven, since any disk has one now and then, several near each other are not.
QUICK_SECONDS: Final = 0.001
QUICK_SYNCS: Final = 64
SLOW_COUNTS: Final = 8
SMALL_GROUP: Final = 64
# A transaction begins once nobody has handed in anything for so many rounds of the loop, or after the most of them:
# machines that tell each other of what they hand in answer from round to round, and so share one sync.
QUIET_ROUNDS: Final = 2
MOST_ROUNDS: Final = 8


@dataclass(slots=True)
class Counters:
    """What the journal has done since it was opened; seconds are wall time from the first statement to the disk."""

    commits: int = 0
    syncs: int = 0
    rows: int = 0
    statements: int = 0
    """What the database was asked to run: fewer than rows, for the ledger's lines of one transaction go in together."""
    bytes: int = 0
    refused: int = 0
    checkpoints: int = 0
    longest_write: float = 0.0


@dataclass(slots=True)
class _SinceCheckpoint:
    rows: int = 0
    bytes: int = 0
    commits: int = 0
    last_event: int = 0

    @property
    def is_due(self) -> bool:
        return self.rows >= CHECKPOINT_ROWS or self.bytes >= CHECKPOINT_BYTES or self.commits >= CHECKPOINT_COMMITS

    def is_due_after(self, rows: int, size: int) -> bool:
        """Whether one more transaction makes it due."""
        return _SinceCheckpoint(self.rows + rows, self.bytes + size, self.commits + 1).is_due


@dataclass(slots=True)
class _Listeners:
    failure: list[Callable[[JournalFailed], None]] = field(default_factory=list)
    events: list[Callable[[int], None]] = field(default_factory=list)


class Journal:
    """The writer of one data directory. ``commit`` from one event loop at a time; ``commit_now`` from anywhere."""

    def __init__(
        self,
        lock: DirectoryLock,
        connection: sqlite3.Connection,
        clock: Callable[[], int],
        copy: SecondCopy | None = None,
    ) -> None:
        self.path = lock.directory / DATABASE_NAME
        self.counters = Counters()
        self._directory_lock, self._connection, self._clock = lock, connection, clock
        self._copy = copy
        self._cursor = connection.cursor()
        self._readers = Readers(self.path)
        self._listeners = _Listeners()
        self._since = _SinceCheckpoint()
        self._last_event = 0
        self._failure = ""
        self._closed = False
        # Held from BEGIN to the end of COMMIT and of the checkpoint after it; taken in the loop, let go in the thread.
        self._writing = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[Submission] = deque()
        self._flush_is_near = False
        self._in_flight = False
        self._unsettled = False
        """What was handed in before is on its way to the disk; ``_in_flight`` also while the log is folded after it."""
        self._quick_syncs = 0
        """How well the disk has proved itself quick."""
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run_jobs, name="salama-journal", daemon=True)
        self._start()

    @classmethod
    def open(
        cls, directory: Path, *, clock: Callable[[], int] = lambda: int(time.time()), copy: Path | None = None
    ) -> Self:
        """Lock ``directory``, open or create its database and bring it up to date, and its ``copy`` if one is wanted.

        ``clock`` gives unix seconds for the event feed. Raises DataDirectoryInUse, DataDirectoryUnusable,
        CorruptDatabase, NewerDatabase, CopyAhead or CopyUnusable.
        """
        lock = DirectoryLock(directory)
        try:
            connection = open_writer(directory)
            try:
                if copy is None:
                    leave_alone(connection)
                    return cls(lock, connection, clock)
                second = SecondCopy.open(copy, connection, directory / DATABASE_NAME)
                return cls(lock, connection, clock, second)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            lock.release()
            raise

    # --- writing ----------------------------------------------------------------------------------------------------

    async def commit(self, writes: Sequence[AnyWrite], *, meanwhile: Callable[[], None] | None = None) -> None:
        """Return once ``writes``, and all that was handed in before them, are on disk: all of them or none, in their
        order; at once if there are none and nothing is on its way.

        ``meanwhile`` is called as soon as the writes have their place in the order. Whatever it makes others hand in
        never reaches the disk without them, so it may set off what stays inside this node. Should the database refuse
        them after that, the whole journal fails: what was set off cannot be called back.

        Raises WriteRefused (nothing of these writes is on disk, others are not touched), JournalFailed or
        JournalClosed. A caller that is cancelled while it waits does not take its writes back.
        """
        await self.submit(writes, meanwhile=meanwhile)

    def submit(
        self, writes: Sequence[AnyWrite], *, meanwhile: Callable[[], None] | None = None
    ) -> asyncio.Future[None]:
        """Hand in like ``commit``; what it would wait for. Raises JournalFailed or JournalClosed at once."""
        self._check()
        submission = self._submission(writes)
        loop = asyncio.get_running_loop()
        submission.future = loop.create_future()
        if not submission.statements and not self._waiting and not self._unsettled:
            if meanwhile is not None:
                meanwhile()
            submission.future.set_result(None)
            return submission.future
        if loop is not self._loop:
            self._bind(loop)
        self._waiting.append(submission)
        self._flush_soon(loop)
        if meanwhile is not None:
            submission.is_built_on = True
            meanwhile()
        return submission.future

    def commit_now(self, writes: Sequence[AnyWrite]) -> None:
        """Like ``commit`` but blocking, from any thread: for tools, tests and start-up. Raises as ``commit``."""
        self._check()
        submission = self._submission(writes)
        if not submission.statements:
            return
        try:
            with self._writing:
                self._check()
                self._write_now(submission)
        finally:
            # Not under the lock: who hears of it may well close the journal.
            if self._failure and (self._loop is None or self._loop.is_closed()):
                self._tell_failure()
        self._tell_events()

    def _write_now(self, submission: Submission) -> None:
        started = time.perf_counter()
        try:
            self._apply([submission])
            if submission.refusal is None:
                self._commit()
        except Exception as fault:
            self._poison(fault)
            raise JournalFailed(self._failure) from fault
        if submission.refusal is not None:
            raise submission.refusal
        self._count([submission], time.perf_counter() - started)
        self._checkpoint_if_due()

    def _check(self) -> None:
        """Raise why nothing can be written any more, if so: each time a fresh exception with its own traceback."""
        if self._failure:
            raise JournalFailed(self._failure)
        if self._closed:
            raise JournalClosed

    def _submission(self, writes: Sequence[AnyWrite]) -> Submission:
        now = self._clock()
        statements: list[Statement] = []
        for write in writes:
            statements += statements_of(write, now)
        size = sum([len(value) for _, values in statements for value in values if type(value) is bytes])
        return Submission(statements, size, None)

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        # Another loop than before: what the last one left behind has nobody who waits for it.
        with self._writing:
            self._loop, self._in_flight, self._unsettled, self._flush_is_near = loop, False, False, False
            self._waiting.clear()

    def _flush_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not at once: whoever else commits in these turns of the loop shares the transaction.
        if self._waiting and not self._in_flight and not self._flush_is_near:
            self._flush_is_near = True
            loop.call_soon(self._linger, loop, len(self._waiting), QUIET_ROUNDS, MOST_ROUNDS)

    def _linger(self, loop: asyncio.AbstractEventLoop, seen: int, quiet: int, most: int) -> None:
        if len(self._waiting) != seen:
            quiet = QUIET_ROUNDS
        if quiet > 1 and most > 1:
            loop.call_soon(self._linger, loop, len(self._waiting), quiet - 1, most - 1)
        else:
            self._flush(loop)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._flush_is_near = False
        if self._failure or self._closed or not self._waiting:
            return
        group = self._take_group()
        if not any(submission.statements for submission in group):
            # They only waited for what was before them.
            for submission in group:
                submission.settle(None)
            self._flush_soon(loop)
            return
        self._writing.acquire()
        started = time.perf_counter()
        try:
            written = self._apply(group)
        except Exception as fault:
            self._poison(fault)
            self._writing.release()
            for submission in group:
                submission.settle(JournalFailed(self._failure))
            return
        for submission in group:
            if submission.refusal is not None:
                submission.settle(submission.refusal)
        if not written:
            self._writing.release()
            self._flush_soon(loop)
            return
        self._in_flight = self._unsettled = True
        if self._is_worth_waiting_for(written):
            sound = self._sync(written, started)
            self._writing.release()
            self._settle(loop, written, sound=sound, last=True)
        else:
            self._jobs.put(lambda: self._commit_in_thread(loop, written, started))

    def _is_worth_waiting_for(self, written: list[Submission]) -> bool:
        """Whether the loop waits for this sync itself; never before the log is folded, which takes long."""
        rows, size = size_of(written)
        return self._quick_syncs >= QUICK_SYNCS and rows <= SMALL_GROUP and not self._since.is_due_after(rows, size)

    def _take_group(self) -> list[Submission]:
        return take_group(self._waiting)

    def _apply(self, group: list[Submission]) -> list[Submission]:
        """Run the statements of ``group`` in a new transaction, here and in the copy; those that are now in it."""
        ran = run_group(self._cursor, group)
        self.counters.refused += len(group) - len(ran.written)
        self.counters.statements += ran.statements
        if ran.written and self._copy is not None:
            self._cursor.execute(*self._copy.apply([submission.statements for submission in ran.written]))
        self._since.last_event = max(self._since.last_event, ran.last_event)
        return ran.written

    def _start(self) -> None:
        self._thread.start()

    def _join(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _run_jobs(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _commit_in_thread(self, loop: asyncio.AbstractEventLoop, written: list[Submission], started: float) -> None:
        sound = self._sync(written, started)
        if sound and self._since.is_due:
            # The callers go on while the log is folded; the next group waits for the end of it.
            self._post(loop, lambda: self._settle(loop, written, sound=True, last=False))
            self._checkpoint_if_due()
            self._writing.release()
            self._post(loop, lambda: self._settle(loop, [], sound=True, last=True))
        else:
            self._writing.release()
            self._post(loop, lambda: self._settle(loop, written, sound=sound, last=True))

    def _sync(self, written: list[Submission], started: float) -> bool:
        """Bring the transaction to the disk; False if that failed."""
        begun = time.perf_counter()
        try:
            self._commit()
        except Exception as fault:
            self._poison(fault)
            return False
        done = time.perf_counter()
        if size_of(written)[0] <= SMALL_GROUP:
            counted = self._quick_syncs + (1 if done - begun <= QUICK_SECONDS else -SLOW_COUNTS)
            self._quick_syncs = max(0, min(counted, QUICK_SYNCS + SLOW_COUNTS))
        self._count(written, done - started)
        return True

    def _commit(self) -> None:
        self._connection.execute("COMMIT")
        if self._copy is not None:
            self._copy.commit()

    def _checkpoint_if_due(self) -> None:
        if not self._since.is_due:
            return
        last_event = self._since.last_event
        try:
            # PASSIVE never waits for readers; what they still need is folded the next time.
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except Exception as fault:
            self._poison(fault)
        else:
            self.counters.checkpoints += 1
            self._since = _SinceCheckpoint(last_event=last_event)

    def _count(self, written: list[Submission], took: float) -> None:
        counters, since = self.counters, self._since
        rows, size = size_of(written)
        counters.commits += len(written)
        counters.syncs += 1
        counters.rows += rows
        counters.bytes += size
        counters.longest_write = max(counters.longest_write, took)
        since.rows, since.bytes, since.commits = since.rows + rows, since.bytes + size, since.commits + 1

    def _post(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        try:
            loop.call_soon_threadsafe(call)
        except RuntimeError:
            # That loop is closed and nobody waits; the next one finds the journal free.
            self._in_flight = self._unsettled = False

    # --- telling ----------------------------------------------------------------------------------------------------

    def _settle(self, loop: asyncio.AbstractEventLoop, written: list[Submission], *, sound: bool, last: bool) -> None:
        if written:
            self._unsettled = False
        for submission in written:
            submission.settle(None if sound else JournalFailed(self._failure))
        if sound:
            self._tell_events()
        if last:
            self._in_flight = False
            self._flush_soon(loop)

    def _tell_events(self) -> None:
        if self._since.last_event > self._last_event:
            self._last_event = self._since.last_event
            for listener in self._listeners.events:
                listener(self._last_event)

    def _poison(self, cause: Exception) -> None:
        """Nothing will be written any more. Called with ``_writing`` held, from any thread."""
        self._failure = f"{type(cause).__name__}: {cause}"
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if self._copy is not None:
                self._copy.rollback()
        except sqlite3.Error:
            pass  # it is over either way; what was not committed is not in the log as committed
        if self._loop is not None and not self._loop.is_closed():
            self._post(self._loop, self._tell_failure)

    def _tell_failure(self) -> None:
        while self._waiting:
            self._waiting.popleft().settle(JournalFailed(self._failure) if self._failure else JournalClosed())
        listeners, self._listeners.failure = self._listeners.failure, []
        if self._failure:
            for listener in listeners:
                listener(JournalFailed(self._failure))

    def on_failure(self, listener: Callable[[JournalFailed], None]) -> None:
        """Call ``listener`` once when the journal is poisoned, in the event loop if there is one: the node must
        stop.
        """
        self._listeners.failure.append(listener)

    def on_events(self, listener: Callable[[int], None]) -> None:
        """Call ``listener`` with the id of the newest row of the event feed after each commit that added some.

        In the event loop, or in the thread of ``commit_now``.
        """
        self._listeners.events.append(listener)

    @property
    def failure(self) -> JournalFailed | None:
        """Why the journal is poisoned, or None while it is sound."""
        return JournalFailed(self._failure) if self._failure else None

    # --- reading, checking, closing ---------------------------------------------------------------------------------

    async def read(self, query: Query[T]) -> T:
        """Run ``query`` on a snapshot in a thread (``readers.Readers.read``)."""
        return await self._readers.read(query)

    def read_now(self, query: Query[T]) -> T:
        """Run a short ``query`` on a snapshot in the calling thread (``readers.Readers.read_now``)."""
        return self._readers.read_now(query)

    def look_up(self, query: Query[T]) -> T:
        """Read with one statement by key in the calling thread (``readers.Readers.look_up``)."""
        return self._readers.look_up(query)

    def check(self) -> list[str]:
        """SQLite's own examination of the whole file, slow: what is wrong, nothing if sound. Raises CorruptDatabase."""
        with self._writing, damage_named(self.path):
            found = [str(row[0]) for row in self._connection.execute("PRAGMA integrity_check(100)")]
        return [] if found == ["ok"] else found

    def close(self) -> None:
        """Wait for the transaction on its way, refuse the rest, fold the log, and give the directory back."""
        with self._writing:
            if self._closed:
                return
            self._closed = True
        self._join()
        if self._loop is not None and not self._loop.is_closed():
            self._post(self._loop, self._tell_failure)
        # The last connection to close folds the log into the database: that must be the writer.
        self._readers.close()
        self._cursor.close()
        self._connection.close()
        if self._copy is not None:
            self._copy.close()
        self._directory_lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
