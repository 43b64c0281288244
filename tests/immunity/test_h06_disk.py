"""H6 a full disk, a disk that lies, two processes on one database (warned of by ldk-server and others)

What failed: a node went on signing after a write had failed, or two processes signed different states of one channel.

Defence: storage/directory.py locks the data directory for one process; storage/journal.py is poisoned by the first
failed commit, so that node/actor.py:Actor.run performs no effect after it and the node stops
(node/node.py:Node._fail). Whoever names a second disk has everything on both before it is said
(storage/second_copy.py:SecondCopy), and an older database is refused.

A kill in the middle of a commit and a disk with quota are in tests/storage/test_journal_crash.py, a node's process
with a full disk in tests/node.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from immunity_world import Registry, Stranger, outpoint

from salama.storage.database import DATABASE_NAME
from salama.storage.errors import DataDirectoryInUse, JournalFailed, StorageFault
from salama.storage.journal import Journal
from salama.storage.queries import key_value
from salama.storage.writes import PutKeyValue
from salama.wire.opening import AcceptChannel, FundingSigned


def fill(journal: Journal) -> None:
    """No further page fits: what a full disk answers."""
    pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
    journal._connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from salama.storage.journal import Journal;"
        " Journal.open(Path(sys.argv[1])).close()"
    )
    with Journal.open(tmp_path):
        with pytest.raises(DataDirectoryInUse):
            Journal.open(tmp_path)
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
        assert done.returncode and "DataDirectoryInUse" in done.stderr
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


@pytest.mark.parametrize("size", [100, 10_000, 1_000_000])
def test_after_a_failed_write_nothing_is_taken_any_more(tmp_path: Path, size: int) -> None:
    with Journal.open(tmp_path) as journal:
        journal.commit_now([PutKeyValue("before", b"1")])
        fill(journal)
        failed = False
        for n in range(3000):
            try:
                journal.commit_now([PutKeyValue(f"k{n}", bytes(size))])
            except JournalFailed:
                failed = True
                break
        assert failed
        with pytest.raises(JournalFailed):
            journal.commit_now([PutKeyValue("after", b"")])


def test_no_signature_leaves_a_node_whose_disk_is_full(tmp_path: Path) -> None:
    """The channel's first record does not fit: funding_signed must not be sent."""
    seen: list[Any] = []

    async def story(node: Registry) -> None:
        stranger = Stranger("one")
        peer = node.meets(stranger)
        seen.append(peer)
        await node.channels.open_received(stranger.node_id, stranger.offers(node.channels.signer.node_id))
        created = stranger.names_funding(peer.last(AcceptChannel), outpoint(1))
        fill(node.journal)
        for n in range(3000):  # until the last free place in its pages is taken
            try:
                node.journal.commit_now([PutKeyValue(f"k{n}", bytes(500))])
            except JournalFailed:
                break
        node.channels.message(stranger.node_id, created.temporary_channel_id, created)
        await asyncio.sleep(1)

    with pytest.raises(BaseExceptionGroup) as stopped:
        Registry.run(tmp_path, story)
    assert stopped.group_contains(StorageFault)
    assert seen and not any(isinstance(m, FundingSigned) for m in seen[0].sent)


def test_a_full_disk_under_the_copy_stops_the_node_as_well(tmp_path: Path) -> None:
    """Nothing that is on one disk alone is said; the next start makes both equal again."""
    node, copy = tmp_path / "node", tmp_path / "copy.sqlite3"
    with Journal.open(node, copy=copy) as journal:
        journal.commit_now([PutKeyValue("word", b"said")])
        assert journal._copy is not None
        pages = journal._copy._connection.execute("PRAGMA page_count").fetchone()[0]
        journal._copy._connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        with pytest.raises(JournalFailed, match="full"):
            journal.commit_now([PutKeyValue("word", bytes(100_000))])
        with pytest.raises(JournalFailed):
            journal.commit_now([PutKeyValue("word", b"on")])
    with Journal.open(node, copy=copy) as journal:
        assert journal.read_now(lambda db: key_value(db, "word")) == b"said"
        journal.commit_now([PutKeyValue("word", b"goes on")])
    copy.rename(node / DATABASE_NAME)
    with Journal.open(node) as journal:
        assert journal.read_now(lambda db: key_value(db, "word")) == b"goes on"
