"""A second database on another disk: always whole, never behind what was said, and the judge of an old one (H6, J1)."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from salama.channel.events import PublicEvent
from salama.storage import second_copy
from salama.storage.database import DATABASE_NAME
from salama.storage.errors import CopyAhead, CopyUnusable, JournalFailed, WriteRefused
from salama.storage.journal import Journal
from salama.storage.queries import key_value
from salama.storage.tables import PEERS
from salama.storage.writes import PutChannel, PutKeyValue, PutRecord
from salama.testing.pair import Pair


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    (tmp_path / "other disk").mkdir()
    yield tmp_path / "node", tmp_path / "other disk" / "copy.sqlite3"


def put(journal: Journal, value: str, name: str = "word") -> None:
    journal.commit_now([PutKeyValue(name, value.encode())])


def content(path: Path) -> list[str]:
    database = sqlite3.connect(path)
    try:
        return list(database.iterdump())
    finally:
        database.close()


def word(directory: Path) -> bytes | None:
    with Journal.open(directory) as journal:
        return journal.read_now(lambda db: key_value(db, "word"))


def test_it_holds_whatever_was_committed(places: tuple[Path, Path]) -> None:
    node, copy = places
    pair = Pair.opened()

    async def story() -> None:
        with Journal.open(node, copy=copy) as journal:
            await journal.commit([PutChannel(None, pair.alice.record), *_events(5)])
            await asyncio.gather(*(journal.commit([PutKeyValue(f"{n}", b"x"), *_events(1)]) for n in range(50)))

    asyncio.run(story())
    assert content(copy) == content(node / DATABASE_NAME)
    assert not copy.with_name(copy.name + "-wal").exists(), "one whole file"
    assert copy.stat().st_mode & 0o777 == 0o600


def _events(count: int) -> list[PublicEvent]:
    return [PublicEvent("something", (("channel_id", f"{n:064x}"),)) for n in range(count)]


def test_a_lost_disk_costs_nothing(places: tuple[Path, Path]) -> None:
    node, copy = places
    with Journal.open(node, copy=copy) as journal:
        put(journal, "the last word")
    shutil.rmtree(node)
    node.mkdir()
    copy.rename(node / DATABASE_NAME)
    with Journal.open(node, copy=copy) as journal:
        assert journal.read_now(lambda db: key_value(db, "word")) == b"the last word"
        put(journal, "goes on")
    assert content(copy) == content(node / DATABASE_NAME)


def test_an_older_database_is_refused(places: tuple[Path, Path], tmp_path: Path) -> None:
    node, copy = places
    with Journal.open(node, copy=copy) as journal:
        put(journal, "one")
    shutil.copytree(node, tmp_path / "old")
    with Journal.open(node, copy=copy) as journal:
        put(journal, "two")
    with pytest.raises(CopyAhead, match="older than its copy") as refused:
        Journal.open(tmp_path / "old", copy=copy)
    assert "\n" not in str(refused.value)
    assert word(node) == b"two"


def test_a_crash_between_the_two_is_mended(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    node, copy = places
    with Journal.open(node, copy=copy) as journal:
        put(journal, "one")

        def unplugged(self: second_copy.SecondCopy) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr(second_copy.SecondCopy, "commit", unplugged)
            with pytest.raises(JournalFailed):
                put(journal, "two")
            with pytest.raises(JournalFailed):
                put(journal, "three")
    with Journal.open(node, copy=copy) as journal:
        put(journal, "four", "other")
    assert content(copy) == content(node / DATABASE_NAME)


def test_a_node_that_went_on_alone_is_copied_anew(places: tuple[Path, Path]) -> None:
    node, copy = places
    with Journal.open(node, copy=copy) as journal:
        put(journal, "one")
    with Journal.open(node) as journal:
        put(journal, "two")
    with Journal.open(node, copy=copy):
        pass
    assert content(copy) == content(node / DATABASE_NAME)


def test_what_is_no_copy_of_ours_is_left_as_it_is(places: tuple[Path, Path], tmp_path: Path) -> None:
    node, copy = places
    copy.write_bytes(b"somebody's holiday pictures" * 100)
    with pytest.raises(CopyUnusable, match="mend the place"):
        Journal.open(node, copy=copy)
    assert copy.read_bytes().startswith(b"somebody")
    copy.unlink()
    with Journal.open(tmp_path / "other", copy=copy):
        pass
    with pytest.raises(CopyUnusable, match="another database"):
        Journal.open(node, copy=copy)
    with pytest.raises(CopyUnusable, match="itself"):
        Journal.open(node, copy=node)
    with pytest.raises(CopyUnusable):
        Journal.open(node, copy=tmp_path / "not mounted" / "copy")


def test_a_refused_write_reaches_neither(places: tuple[Path, Path]) -> None:
    node, copy = places

    async def story() -> None:
        with Journal.open(node, copy=copy) as journal:
            bad = journal.commit([PutKeyValue("bad", b"x"), PutRecord(PEERS, (b"x", None, 1))])
            good = journal.commit([PutKeyValue("good", b"x")])
            refused, _ = await asyncio.gather(bad, good, return_exceptions=True)
            assert isinstance(refused, WriteRefused)

    asyncio.run(story())
    assert content(copy) == content(node / DATABASE_NAME)
    assert any("good" in line for line in content(copy)) and not any("'bad'" in line for line in content(copy))
