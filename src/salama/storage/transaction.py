"""One transaction of the journal: what was handed in, how much of it goes together, and the running of its statements.

Nothing here commits, waits or tells anybody: that is the journal's.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from salama.storage.errors import WriteRefused
from salama.storage.ledger import MOVE, READ_LINES
from salama.storage.tables import SqlValue, Statement
from salama.storage.writes import ADD_EVENT, MUST_FIND_ITS_ROW

# One transaction holds at most this much, so that neither the loop nor the other waiters stand still for long.
MAX_GROUP_ROWS: Final = 4_000
MAX_GROUP_BYTES: Final = 8_000_000


class _RowMissing(Exception):
    """A statement that changes one row found none: the old record given is not the one on disk."""


_REFUSALS: Final = (
    _RowMissing,
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    OverflowError,
    UnicodeEncodeError,
)


@dataclass(slots=True, eq=False)
class Submission:
    """What one caller handed in, and who waits for it."""

    statements: list[Statement]
    size: int
    """Bytes of its blobs."""
    future: asyncio.Future[None] | None
    refusal: WriteRefused | None = None
    is_built_on: bool = False
    """Others may have handed in what stands on it: it cannot be left out any more."""

    def settle(self, fault: Exception | None) -> None:
        # A caller that was cancelled has left; its writes are on disk all the same.
        if self.future is not None and not self.future.done():
            if fault is None:
                self.future.set_result(None)
            else:
                self.future.set_exception(fault)


@dataclass(frozen=True, slots=True)
class Ran:
    """What ``run_group`` has done."""

    written: list[Submission]
    """Those that are in the transaction now; if none is, there is no transaction."""
    statements: int
    last_event: int
    """Id of their newest row of the event feed, 0 if they have none."""


def take_group(waiting: deque[Submission]) -> list[Submission]:
    """Those first in ``waiting``, at least one, that may go together; they wait no longer."""
    group, rows, size = [waiting.popleft()], 0, 0
    while waiting:
        rows, size = rows + len(group[-1].statements), size + group[-1].size
        following = waiting[0]
        if rows + len(following.statements) > MAX_GROUP_ROWS or size + following.size > MAX_GROUP_BYTES:
            break
        group.append(waiting.popleft())
    return group


def size_of(group: list[Submission]) -> tuple[int, int]:
    """Rows and bytes."""
    return sum([len(one.statements) for one in group]), sum([one.size for one in group])


def run_group(cursor: sqlite3.Cursor, group: list[Submission]) -> Ran:
    """Run the statements of ``group`` in a new transaction. Raises what sqlite3 raises when the database is at fault.

    A submission that the database refuses spoils the transaction for all, so that the others are run again without it:
    a refusal is a programming fault and rare, a savepoint for each submission would be paid always.
    """
    execute = cursor.execute
    while group:
        execute("BEGIN IMMEDIATE")
        ran, last_event, moves = 0, 0, list[Sequence[SqlValue]]()
        for submission in group:
            try:
                for sql, values in submission.statements:
                    if sql is MOVE:
                        moves.append(values)
                        continue
                    if moves and sql in READ_LINES:
                        ran += _book(cursor, moves)
                    execute(sql, values)
                    ran += 1
                    if sql in MUST_FIND_ITS_ROW:
                        if cursor.rowcount != 1:
                            raise _RowMissing(sql.partition(" SET ")[0] + " found nothing to change")
                    elif sql is ADD_EVENT:
                        last_event = cursor.lastrowid or 0
            except _REFUSALS as fault:
                if submission.is_built_on:
                    raise
                submission.refusal = WriteRefused(str(fault))
                execute("ROLLBACK")
                group = [other for other in group if other is not submission]
                break
        else:
            return Ran(group, ran + _book(cursor, moves), last_event)
    return Ran([], 0, 0)


def _book(cursor: sqlite3.Cursor, moves: list[Sequence[SqlValue]]) -> int:
    """Run the ledger's ``moves`` as one statement; how many that were.

    Nobody can refuse them: they name two accounts and a positive amount.
    """
    if not moves:
        return 0
    cursor.executemany(MOVE, moves)
    moves.clear()
    return 1
