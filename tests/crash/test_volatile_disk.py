"""The disk that loses power keeps what was synced, always, and of the rest anything."""

import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.testing import sqlite_vfs
from salama.testing.volatile_disk import VolatileFile

changes = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3000), st.binary(min_size=1, max_size=2000)),
        st.tuples(st.just("truncate"), st.integers(0, 3000), st.just(b"")),
        st.tuples(st.just("sync"), st.just(0), st.just(b"")),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(changes, st.integers(0, 1000))
def test_synced_bytes_stay_where_nothing_was_written_since(steps: list[tuple[str, int, bytes]], seed: int) -> None:
    file, plain, safe, open_since = VolatileFile(bytearray(b"old")), bytearray(b"old"), b"old", set[int]()
    shortest = len(safe)
    for what, where, data in steps:
        if what == "write":
            file.write(where, data)
            plain.extend(bytes(max(0, where - len(plain))))
            plain[where : where + len(data)] = data
            open_since.update(range(where, where + len(data)))
        elif what == "truncate":
            file.truncate(where)
            del plain[where:]
            plain.extend(bytes(where - len(plain)))
            shortest = min(shortest, where)
        else:
            file.sync()
            safe, open_since, shortest = bytes(plain), set(), len(plain)
    found = file.after_power_cut(random.Random(seed))
    assert len(found) >= min(shortest, len(safe))
    assert all(found[i] == safe[i] for i in range(min(shortest, len(safe))) if i not in open_since)


def test_luck_has_many_faces() -> None:
    file = VolatileFile(bytearray(4096))
    file.write(0, b"a" * 4096)
    found = {file.after_power_cut(random.Random(seed)) for seed in range(200)}
    assert bytes(4096) in found and b"a" * 4096 in found
    assert any(0 < one.count(b"a") < 4096 and one.count(b"a") % 512 for one in found), "a torn page"
    assert any(one.startswith(bytes(512)) and b"a" in one for one in found), "a later sector without an earlier one"


# A database in a process of its own, because the watch is for good: rows, a checkpoint, rows that no sync made safe.
PROGRAM = """
import random, sqlite3, sys
from pathlib import Path
from salama.testing import sqlite_vfs
from salama.testing.doomed_disk import DoomedDisk

disk = DoomedDisk(random.Random(int(sys.argv[2])))
sqlite_vfs.watch(disk)
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute(f"PRAGMA synchronous = {sys.argv[3]}")
db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, x BLOB)")
for n in range(40):
    db.execute("INSERT INTO t VALUES (?, zeroblob(6000))", (n,))
    if n == 20:
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
db.execute("BEGIN")
db.execute("UPDATE t SET x = zeroblob(9000)")
disk.end("here")
"""


def rows_after(directory: Path, seed: int, synchronous: str) -> int:
    path = directory / "some.sqlite3"
    ended = subprocess.run([sys.executable, "-c", PROGRAM, str(path), str(seed), synchronous], timeout=60)
    assert ended.returncode == -9
    database = sqlite3.connect(path)
    try:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return int(database.execute("SELECT count(*) FROM t WHERE length(x) = 6000").fetchone()[0])
    finally:
        database.close()


@pytest.mark.skipif(not sqlite_vfs.is_reachable(), reason="this Python keeps its SQLite to itself")
@pytest.mark.parametrize("seed", range(3))
def test_sqlite_finds_what_it_synced_and_nothing_unfinished(tmp_path: Path, seed: int) -> None:
    assert rows_after(tmp_path, seed, "FULL") == 40


@pytest.mark.skipif(not sqlite_vfs.is_reachable(), reason="this Python keeps its SQLite to itself")
def test_without_a_sync_of_each_commit_some_are_gone(tmp_path: Path) -> None:
    for seed in range(8):
        directory = tmp_path / str(seed)
        directory.mkdir()
        if rows_after(directory, seed, "NORMAL") < 40:
            return
    pytest.fail("nothing was lost")
