"""A second database, on another disk, that every transaction reaches before anything is said (immunity H6, J1).

Whoever loses the first disk puts this file in its place and goes on, with every channel as it is. And since both count
their transactions, a database that was put back from an old copy is found out before it says a word.

The copy keeps no log beside it, so that between two transactions it is one whole file. It is filled anew whenever it is
behind: after a crash between the two, and after the node ran without it.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from salama.storage.database import DATABASE_NAME, damage_named
from salama.storage.directory import replacing
from salama.storage.errors import CopyAhead, CopyUnusable, CorruptDatabase
from salama.storage.schema import APPLICATION_ID
from salama.storage.tables import KEY_VALUES, Statement

IDENTITY: Final = "copy.identity"
"""16 random bytes that a database shares with its copy alone."""
COUNT: Final = "copy.count"
"""Transactions since there is a copy, 8 bytes."""
APART: Final = "copy.apart"
"""Set while the database goes on without its copy."""

_READ: Final = "SELECT value FROM key_values WHERE key = ?"
_PRAGMAS: Final = (
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA journal_mode = TRUNCATE",
    "PRAGMA synchronous = EXTRA",
    "PRAGMA fullfsync = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cell_size_check = ON",
    "PRAGMA trusted_schema = OFF",
)


class SecondCopy:
    """The copy of one database. Its transactions are the journal's, one after the other."""

    def __init__(self, path: Path, connection: sqlite3.Connection, count: int) -> None:
        self.path, self.count = path, count
        self._connection = connection

    @classmethod
    def open(cls, place: Path, database: sqlite3.Connection, original: Path) -> Self:
        """The copy at ``place`` (a file, or a directory for it) of ``database``, the file ``original``: made or filled
        anew if it is behind.

        Raises CopyAhead if the database is the older one, CopyUnusable for a place that cannot hold a copy or holds
        something else.
        """
        path = place / DATABASE_NAME if place.is_dir() else place
        try:
            if path.exists() and path.samefile(original):
                raise CopyUnusable(path, "it is the database itself")
            count, is_current = _compare(path, database)
            if not is_current:
                count += 1
                _fill(path, database, count)
            return cls(path, _connect(path), count)
        except OSError as fault:
            raise CopyUnusable(path, fault.strerror or str(fault)) from None
        except (sqlite3.Error, CorruptDatabase) as fault:
            raise CopyUnusable(path, str(fault)) from None

    def apply(self, groups: Iterable[list[Statement]]) -> Statement:
        """Run what the database has run, in a transaction of its own; the statement that the database runs as well."""
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        for statements in groups:
            for sql, values in statements:
                execute(sql, values)
        counted: Statement = (KEY_VALUES.put, (COUNT, (self.count + 1).to_bytes(8, "big")))
        execute(*counted)
        return counted

    def commit(self) -> None:
        """After the database's own COMMIT: what it has and the copy lacks is found by the count."""
        self._connection.execute("COMMIT")
        self.count += 1

    def rollback(self) -> None:
        """Nothing of the transaction happened."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()


def leave_alone(database: sqlite3.Connection) -> None:
    """The node goes on without the copy that there was: from now on it is behind, whatever its count says."""
    if _value(database, IDENTITY) and not _value(database, APART):
        database.execute(KEY_VALUES.put, (APART, b"1"))


def _compare(path: Path, database: sqlite3.Connection) -> tuple[int, bool]:
    """The count of ``database``, and whether the file at ``path`` has all of it. Raises CopyAhead, CopyUnusable."""
    count = int.from_bytes(_value(database, COUNT), "big")
    if not path.exists() or path.stat().st_size == 0:
        return count, False
    with damage_named(path):
        copy = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
        try:
            if copy.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise CopyUnusable(path, "it is something else")
            identity, copied = _value(copy, IDENTITY), int.from_bytes(_value(copy, COUNT), "big")
            version = copy.execute("PRAGMA user_version").fetchone()
        finally:
            copy.close()
    if not identity or identity != _value(database, IDENTITY):
        raise CopyUnusable(path, "it is a copy of another database")
    if copied > count:
        raise CopyAhead(path, copied, count)
    is_same_schema = version == database.execute("PRAGMA user_version").fetchone()
    return count, copied == count and is_same_schema and not _value(database, APART)


def _fill(path: Path, database: sqlite3.Connection, count: int) -> None:
    """Copy everything; after a crash the old file is there, or the new one."""
    database.execute("BEGIN IMMEDIATE")
    identity = _value(database, IDENTITY) or secrets.token_bytes(16)
    for name, value in ((IDENTITY, identity), (COUNT, count.to_bytes(8, "big")), (APART, b"")):
        database.execute(KEY_VALUES.put, (name, value))
    database.execute("COMMIT")
    with replacing(path) as fresh:
        copy = sqlite3.connect(fresh, isolation_level=None)
        try:
            database.backup(copy)
            for pragma in _PRAGMAS:
                copy.execute(pragma).fetchall()
            # One more write, which is synced with all that came before it.
            copy.execute(KEY_VALUES.put, (COUNT, count.to_bytes(8, "big")))
        finally:
            copy.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    for pragma in _PRAGMAS:
        connection.execute(pragma).fetchall()
    return connection


def _value(database: sqlite3.Connection, name: str) -> bytes:
    row = database.execute(_READ, (name,)).fetchone()
    return b"" if row is None else bytes(row[0])
