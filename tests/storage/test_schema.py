"""Migrations, strange files, and that no statement ever walks a table."""

from __future__ import annotations

import random
import re
import sqlite3
from pathlib import Path

import pytest
from storage_samples import channel_id, htlc, of, record

from salama.storage import ledger, ledger_check, queries, tables, writes
from salama.storage.database import DATABASE_NAME
from salama.storage.errors import CorruptDatabase, NewerDatabase
from salama.storage.journal import Journal
from salama.storage.schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION, migrate
from salama.storage.writes import PutChannel, PutKeyValue


@pytest.fixture
def connection() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", isolation_level=None)
    migrate(database, Path("memory"))
    return database


def test_a_new_database_is_ours_and_up_to_date(connection: sqlite3.Connection) -> None:
    assert connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    assert connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION == len(MIGRATIONS)
    assert migrate(connection, Path("memory")) == 0
    connection.close()


def test_every_table_has_the_declared_columns_and_is_strict(connection: sqlite3.Connection) -> None:
    found = {row[1]: row[5] for row in connection.execute("PRAGMA table_list") if not row[1].startswith("sqlite_")}
    assert set(found) == {table.name for table in tables.TABLES}
    assert all(found.values())
    for table in tables.TABLES:
        rows = connection.execute(f"PRAGMA table_info({table.name})").fetchall()
        assert tuple(row[1] for row in rows) == table.columns
        assert tuple(row[1] for row in sorted(rows, key=lambda row: row[5]) if row[5]) == table.key
    connection.close()


def hot_statements() -> dict[str, str]:
    """Every statement that a running node uses."""
    found = {
        name: text
        for module in (queries, writes, ledger, ledger_check)
        for name, text in vars(module).items()
        if isinstance(text, str) and text.startswith(("SELECT", "INSERT", "UPDATE", "DELETE")) and " " in text
        if not name.startswith("_") and name != "SUMS"  # a deep check reads everything
    }
    for table in tables.TABLES:
        found[f"{table.name}.put"], found[f"{table.name}.delete"] = table.put, table.delete
    return found


def plan_of(connection: sqlite3.Connection, sql: str) -> list[str]:
    values = [1] * (int(max(numbered)) if (numbered := re.findall(r"\?(\d)", sql)) else sql.count("?"))
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]


WHOLE_BY_PURPOSE = {"HANDOFFS", "PEERS", "BALANCES", "KEPT_BLOBS", "GIVEN_BACKUPS"}
"""Tables that hold nothing but what is pending or known and are read whole at start-up; and a line per account."""


def test_no_hot_statement_walks_a_table(connection: sqlite3.Connection) -> None:
    statements = hot_statements()
    assert len(statements) > 45
    for name, sql in statements.items():
        plan = plan_of(connection, sql)
        for line in plan:
            assert "TEMP B-TREE" not in line, (name, plan)
            if name not in WHOLE_BY_PURPOSE:
                # A scan of a partial index reads only what the index holds.
                scans = line.startswith("SCAN") and not line.startswith("SCAN (subquery")
                assert not scans or "unfinished_payments" in line, (name, plan)
    connection.close()


def test_each_index_serves_what_it_was_made_for(connection: sqlite3.Connection) -> None:
    for name, index in {
        "OPEN_CHANNELS": "open_channels",
        "LIVE_HTLCS": "live_htlcs",
        "HTLCS_AT": "htlcs_by_last_remote",
        "UNFINISHED_PAYMENTS": "unfinished_payments",
        "FORWARDED": "forwards_by_time",
        "FORGET_ONIONS": "onion_secrets_by_expiry",
        "NEWEST_FIRST": "ledger_by_time",
        "OLDEST_FIRST": "ledger_by_time",
        "REVERSE": "ledger_keys",
    }.items():
        plan = plan_of(connection, hot_statements()[name])
        assert any(index in line for line in plan), (name, plan)
    connection.close()


def test_a_failed_migration_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "d.sqlite3"
    database = sqlite3.connect(path, isolation_level=None)
    migrate(database, path)
    broken = (*MIGRATIONS, ("CREATE TABLE extra (a INTEGER)", "CREATE TABLE extra (b INTEGER)"))
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        migrate(database, path, broken)
    assert not database.in_transaction
    assert database.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    assert database.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'extra'").fetchone()[0] == 0
    mended = (*MIGRATIONS, ("CREATE TABLE extra (a INTEGER)",))
    assert migrate(database, path, mended) == 1
    with pytest.raises(NewerDatabase):
        migrate(database, path)
    database.close()


def test_a_database_of_a_newer_version_is_refused_and_untouched(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        journal.commit_now([PutKeyValue("k", b"1")])
    path = tmp_path / DATABASE_NAME
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()
    before = path.read_bytes()
    with pytest.raises(NewerDatabase, match=rf"schema {SCHEMA_VERSION + 1}, this one knows up to {SCHEMA_VERSION}"):
        Journal.open(tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("size", [1, 15, 99, 100, 511, 512, 4096, 50_000])
def test_random_bytes_are_no_database_and_are_not_overwritten(tmp_path: Path, size: int) -> None:
    path = tmp_path / DATABASE_NAME
    path.write_bytes(random.Random(size).randbytes(size))
    before = path.read_bytes()
    with pytest.raises(CorruptDatabase, match="cannot be read as a Salama database"):
        Journal.open(tmp_path)
    assert path.read_bytes() == before


def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).touch()
    with Journal.open(tmp_path) as journal:
        journal.commit_now([PutKeyValue("k", b"1")])


def test_a_good_header_over_garbage_is_corrupt(tmp_path: Path) -> None:
    Journal.open(tmp_path).close()
    path = tmp_path / DATABASE_NAME
    good = path.read_bytes()
    dice = random.Random(5)
    for keep in (100, 4096):
        path.write_bytes(good[:keep] + dice.randbytes(len(good) - keep))
        with pytest.raises(CorruptDatabase), Journal.open(tmp_path) as journal:
            assert journal.check() == []
            journal.read_now(queries.open_channels)


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / DATABASE_NAME)
    database.execute("CREATE TABLE theirs (a)")
    database.commit()
    database.close()
    with pytest.raises(CorruptDatabase, match="another program"):
        Journal.open(tmp_path)


def test_a_damaged_page_is_named_when_it_is_read(tmp_path: Path) -> None:
    one = record(of(*[htlc(n) for n in range(50)]))
    with Journal.open(tmp_path) as journal:
        journal.commit_now([PutChannel(None, one)])
    path = tmp_path / DATABASE_NAME
    pages = bytearray(path.read_bytes())
    for page in range(1, len(pages) // 4096):
        pages[page * 4096 : page * 4096 + 200] = b"\xa5" * 200
    path.write_bytes(pages)
    with pytest.raises(CorruptDatabase, match="do not delete it"), Journal.open(tmp_path) as journal:
        journal.read_now(lambda connection: queries.channel(connection, channel_id(1)))
