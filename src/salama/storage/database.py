"""Opening the database file: who may write, what SQLite is told, and what a damaged file turns into.

One connection writes, checkpoints and backs up; every other is read-only. SQLite before 3.51.3 can corrupt a
write-ahead log that two connections reset at once, so that only the writer may ever do it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from salama.storage.directory import make_private_file, sync_directory
from salama.storage.errors import CorruptDatabase, DataDirectoryUnusable
from salama.storage.schema import migrate

DATABASE_NAME: Final = "salama.sqlite3"

_MAGIC: Final = b"SQLite format 3\x00"
_HEADER_SIZE: Final = 100
_DAMAGED: Final = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT))
_CACHED_STATEMENTS: Final = 256

_WRITER_PRAGMAS: Final = (
    "PRAGMA synchronous = FULL",  # one fsync of the log for each commit
    "PRAGMA fullfsync = ON",  # macOS: fsync alone does not reach the platter; elsewhere without effect
    "PRAGMA checkpoint_fullfsync = ON",
    "PRAGMA wal_autocheckpoint = 0",  # the journal checkpoints after it has answered its callers
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA cache_size = -32768",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cell_size_check = ON",
    "PRAGMA trusted_schema = OFF",
)
_READER_PRAGMAS: Final = (
    "PRAGMA query_only = ON",
    "PRAGMA wal_autocheckpoint = 0",
    "PRAGMA cache_size = -8192",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cell_size_check = ON",
    "PRAGMA trusted_schema = OFF",
)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn SQLite's report of a damaged file into CorruptDatabase; other errors pass."""
    try:
        yield
    except sqlite3.DatabaseError as fault:
        # The low byte is the kind, the rest says more exactly where.
        # Our statements are fixed: a table or column that is missing was lost with the schema.
        if getattr(fault, "sqlite_errorcode", 0) & 0xFF in _DAMAGED or str(fault).startswith("no such "):
            raise CorruptDatabase(path, str(fault)) from None
        raise
    except UnicodeDecodeError:
        # SQLite quotes the damaged schema in its message, and the module cannot read that.
        raise CorruptDatabase(path, "its schema is not readable") from None


def open_writer(directory: Path) -> sqlite3.Connection:
    """The writing connection to the database of ``directory``, created or migrated if needed; autocommit, any thread.

    The caller holds the DirectoryLock. Raises CorruptDatabase, NewerDatabase or DataDirectoryUnusable.
    """
    path = directory / DATABASE_NAME
    try:
        with damage_named(path):
            fresh = not path.exists()
            make_private_file(path)
            if fresh:
                sync_directory(directory)
            _check_header(path)
            connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, cached_statements=_CACHED_STATEMENTS
            )
            try:
                _prepare_writer(connection, path)
            except BaseException:
                connection.close()
                raise
            # The log is a new name in the directory: without this a power cut could lose it after the first commits.
            sync_directory(directory)
            return connection
    except sqlite3.DatabaseError as fault:
        raise DataDirectoryUnusable(directory, str(fault)) from None
    except OSError as fault:
        raise DataDirectoryUnusable(directory, fault.strerror or str(fault)) from None


def _prepare_writer(connection: sqlite3.Connection, path: Path) -> None:
    for pragma in _WRITER_PRAGMAS:
        connection.execute(pragma).close()
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise DataDirectoryUnusable(
            path.parent, "its file system cannot hold a write-ahead log (is it a network share?)"
        )
    migrate(connection, path)


def _check_header(path: Path) -> None:
    # SQLite takes a file of less than one page for an empty database and would overwrite it.
    with path.open("rb") as file:
        header = file.read(_HEADER_SIZE)
        size = os.fstat(file.fileno()).st_size
    if size and (len(header) < _HEADER_SIZE or not header.startswith(_MAGIC)):
        raise CorruptDatabase(path, "it does not begin like a database")


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that can never write or checkpoint; autocommit, any thread (one at a time)."""
    with damage_named(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_CACHED_STATEMENTS,
        )
        try:
            for pragma in _READER_PRAGMAS:
                connection.execute(pragma).close()
        except BaseException:
            connection.close()
            raise
        return connection
