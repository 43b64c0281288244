"""Reading beside the writer."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from salama.storage import queries
from salama.storage.errors import JournalClosed
from salama.storage.journal import Journal
from salama.storage.readers import Readers, ReadTookTooLong
from salama.storage.writes import PutKeyValue

FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


def test_a_reader_can_neither_write_nor_checkpoint(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        journal.commit_now([PutKeyValue("k", b"1")])
        for sql in ("DELETE FROM key_values", "CREATE TABLE t (a)", "PRAGMA user_version = 9"):
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                journal.read_now(lambda connection, sql=sql: connection.execute(sql))
        log = journal.path.with_name(journal.path.name + "-wal")
        size = log.stat().st_size
        folded = journal._readers._idle[0]
        with pytest.raises(sqlite3.OperationalError):
            folded.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert log.stat().st_size == size > 0
        assert journal.read_now(lambda c: queries.key_value(c, "k")) == b"1"


def test_a_read_sees_one_moment_whatever_is_written_meanwhile(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        journal.commit_now([PutKeyValue("a", b"1"), PutKeyValue("b", b"1")])

        def both(connection: sqlite3.Connection) -> tuple[bytes | None, bytes | None]:
            first = queries.key_value(connection, "a")
            journal.commit_now([PutKeyValue("a", b"2"), PutKeyValue("b", b"2")])
            return first, queries.key_value(connection, "b")

        assert journal.read_now(both) == (b"1", b"1")
        assert journal.read_now(lambda c: queries.key_value(c, "b")) == b"2"


def test_many_reads_at_once_share_few_connections(tmp_path: Path) -> None:
    async def main(journal: Journal) -> None:
        found = await asyncio.gather(*[journal.read(lambda c: queries.key_value(c, "k")) for _ in range(50)])
        assert found == [b"1"] * 50

    with Journal.open(tmp_path) as journal:
        journal.commit_now([PutKeyValue("k", b"1")])
        asyncio.run(main(journal))
        assert 1 <= len(journal._readers._all) <= 2


def test_a_read_that_fails_gives_its_connection_back(tmp_path: Path) -> None:
    def failing(connection: sqlite3.Connection) -> None:
        raise ZeroDivisionError

    with Journal.open(tmp_path) as journal:
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                journal.read_now(failing)
        assert len(journal._readers._all) == len(journal._readers._idle) == 1
        assert not journal._readers._idle[0].in_transaction


def test_an_endless_read_is_stopped(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        readers = Readers(journal.path, limit=0.05)
        with pytest.raises(ReadTookTooLong, match=r"0\.05 seconds"):
            readers.read_now(lambda connection: connection.execute(FOREVER).fetchone())
        assert readers.read_now(queries.last_event) == 0
        readers.close()
        with pytest.raises(JournalClosed):
            readers.read_now(queries.last_event)


def test_closing_stops_a_read_under_way(tmp_path: Path) -> None:
    async def main(journal: Journal) -> None:
        reading = asyncio.create_task(journal.read(lambda connection: connection.execute(FOREVER).fetchone()))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(journal.close)
        with pytest.raises(JournalClosed):
            await reading

    asyncio.run(main(Journal.open(tmp_path)))


def test_a_look_up_leaves_nothing_behind(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        journal.commit_now([PutKeyValue("name", b"old")])
        assert journal.look_up(lambda db: queries.key_value(db, "name")) == b"old"
        # No snapshot stays open: the next look sees what was written since.
        assert not journal._readers._idle[0].in_transaction
        journal.commit_now([PutKeyValue("name", b"new")])
        assert journal.look_up(lambda db: queries.key_value(db, "name")) == b"new"
        with pytest.raises(ZeroDivisionError):
            journal.look_up(lambda _: 1 / 0)
        assert len(journal._readers._all) == len(journal._readers._idle) == 1
    with pytest.raises(JournalClosed):
        journal.look_up(lambda db: queries.key_value(db, "name"))
