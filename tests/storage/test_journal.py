"""Group commit, refusals, and what a disk that fails leaves behind."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from storage_samples import htlc, of, record

from salama.base.machine import Row
from salama.channel.events import Origin, PublicEvent
from salama.storage import journal as journal_module
from salama.storage import queries
from salama.storage.errors import JournalClosed, JournalFailed, WriteRefused
from salama.storage.journal import CHECKPOINT_COMMITS, SMALL_GROUP, Journal
from salama.storage.tables import KEY_VALUES
from salama.storage.transaction import MAX_GROUP_ROWS
from salama.storage.writes import DeleteRecord, NoStatement, PutChannel, PutKeyValue, PutRecord


def value(journal: Journal, key: str) -> bytes | None:
    return journal.read_now(lambda connection: queries.key_value(connection, key))


@pytest.fixture(params=["thread", "loop"], autouse=True)
def who_waits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything holds whoever waits for the disk."""
    monkeypatch.setattr(journal_module, "QUICK_SYNCS", 0 if request.param == "loop" else 1 << 30)
    return str(request.param)


def handed_over(journal: Journal) -> list[object]:
    """The transactions that the journal's thread will have been given."""
    given: list[object] = []
    commit = journal._commit_in_thread

    def watched(*transaction: Any) -> None:
        given.append(transaction)
        commit(*transaction)

    journal._commit_in_thread = watched  # type: ignore[method-assign]
    return given


def test_the_loop_waits_itself_once_the_disk_has_proved_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def commit(journal: Journal, times: int, rows: int = 1) -> int:
        before = len(given)
        for n in range(times):
            await journal.commit([PutKeyValue(f"{n} {row}", b"1") for row in range(rows)])
        return len(given) - before

    async def main(journal: Journal) -> None:
        monkeypatch.setattr(journal_module, "QUICK_SYNCS", 10)
        monkeypatch.setattr(journal_module, "QUICK_SECONDS", 60.0)
        assert await commit(journal, 10) == 10
        assert await commit(journal, 20) == 0
        assert await commit(journal, 1, SMALL_GROUP + 1) == 1, "a large one may take long"
        monkeypatch.setattr(journal_module, "QUICK_SECONDS", 0.0)
        assert await commit(journal, 1) == 0
        monkeypatch.setattr(journal_module, "QUICK_SECONDS", 60.0)
        assert await commit(journal, 1) == 0, "one slow one is forgiven"
        monkeypatch.setattr(journal_module, "QUICK_SECONDS", 0.0)
        assert await commit(journal, 2) == 1, "two are not"
        monkeypatch.setattr(journal_module, "QUICK_SECONDS", 60.0)
        assert await commit(journal, 20) == 10, "the disk must prove itself again"
        assert await commit(journal, 1) == 0

    with Journal.open(tmp_path) as journal:
        given = handed_over(journal)
        asyncio.run(main(journal))


def test_the_log_is_never_folded_in_the_loop(tmp_path: Path, who_waits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(journal: Journal) -> None:
        for n in range(2 * 20):
            await journal.commit([PutKeyValue("k", b"%d" % n)])

    monkeypatch.setattr(journal_module, "CHECKPOINT_COMMITS", 20)
    with Journal.open(tmp_path) as journal:
        given = handed_over(journal)
        asyncio.run(main(journal))
        assert len(given) == (2 if who_waits == "loop" else 2 * 20)
    assert journal.counters.checkpoints == 2


def test_commits_of_one_turn_share_one_sync(tmp_path: Path) -> None:
    async def main(journal: Journal) -> None:
        await asyncio.gather(*[journal.commit([PutKeyValue(f"k{n}", b"v%d" % n)]) for n in range(500)])

    with Journal.open(tmp_path) as journal:
        asyncio.run(main(journal))
        assert (journal.counters.commits, journal.counters.rows) == (500, 500)
        assert journal.counters.syncs == 1
        assert [value(journal, f"k{n}") for n in (0, 250, 499)] == [b"v0", b"v250", b"v499"]


def test_commits_made_during_a_transaction_go_together_in_the_next(tmp_path: Path) -> None:
    async def actor(journal: Journal, name: int) -> None:
        for n in range(20):
            await journal.commit([PutKeyValue(f"{name}", b"%d" % n)])
            assert value(journal, f"{name}") == b"%d" % n  # on disk when commit returns, visible to every reader

    async def main(journal: Journal) -> None:
        await asyncio.gather(*[actor(journal, name) for name in range(40)])

    with Journal.open(tmp_path) as journal:
        asyncio.run(main(journal))
        assert journal.counters.commits == 800
        assert journal.counters.syncs <= 100


def test_more_than_five_thousand_grouped_commits_a_second(tmp_path: Path) -> None:
    async def actor(journal: Journal, name: int) -> None:
        for _ in range(50):
            await journal.commit([PutKeyValue(f"{name}", b"x" * 200)])

    async def main(journal: Journal) -> float:
        started = time.perf_counter()
        await asyncio.gather(*[actor(journal, name) for name in range(200)])
        return 10_000 / (time.perf_counter() - started)

    with Journal.open(tmp_path) as journal:
        rate = max(asyncio.run(main(journal)) for _ in range(2))
        print(f"{rate:,.0f} commits/s, {journal.counters}")
        assert journal.counters.syncs < journal.counters.commits / 20
        assert rate > 5_000


def test_nothing_to_write_returns_at_once(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        asyncio.run(journal.commit([]))
        one = record()
        asyncio.run(journal.commit([PutChannel(one, one)]))
        assert journal.counters.syncs == 0


def test_writes_of_one_commit_keep_their_order(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        journal.commit_now([PutKeyValue("k", b"1"), DeleteRecord(KEY_VALUES, ("k",)), PutKeyValue("k", b"2")])
        assert value(journal, "k") == b"2"
        journal.commit_now([PutKeyValue("k", b"3"), DeleteRecord(KEY_VALUES, ("k",))])
        assert value(journal, "k") is None


def test_a_refused_commit_takes_nobody_with_it_and_leaves_nothing(tmp_path: Path) -> None:
    async def main(journal: Journal) -> list[BaseException | None]:
        wrong_type = PutRecord(KEY_VALUES, ("bad", 7))
        too_large = PutRecord(KEY_VALUES, (1 << 64, b""))
        return await asyncio.gather(
            journal.commit([PutKeyValue("a", b"1")]),
            journal.commit([PutKeyValue("half", b"!"), wrong_type]),
            journal.commit([PutKeyValue("half", b"!"), too_large]),
            journal.commit([PutKeyValue("half", b"!"), PutRecord(KEY_VALUES, ("too few",))]),
            journal.commit([PutKeyValue("b", b"2")]),
            return_exceptions=True,
        )

    with Journal.open(tmp_path) as journal:
        results = asyncio.run(main(journal))
        assert results[0] is None and results[4] is None
        assert all(isinstance(result, WriteRefused) for result in results[1:4])
        assert (value(journal, "a"), value(journal, "b"), value(journal, "half")) == (b"1", b"2", None)
        assert journal.counters.refused == 3 and journal.counters.syncs == 1
        journal.commit_now([PutKeyValue("after", b"3")])
        with pytest.raises(WriteRefused):
            journal.commit_now([PutKeyValue("half", b"!"), PutRecord(KEY_VALUES, ("bad", 7))])
        assert value(journal, "half") is None and journal.failure is None


def test_a_second_living_htlc_of_one_origin_is_refused(tmp_path: Path) -> None:
    first, second = record(number=1), record(number=2)
    twice = Origin(b"the same")
    with Journal.open(tmp_path) as journal:
        journal.commit_now([PutChannel(None, first), PutChannel(None, second)])
        with_one = record(of(htlc(1, origin=twice)), number=1)
        journal.commit_now([PutChannel(first, with_one)])
        with pytest.raises(WriteRefused):
            journal.commit_now([PutChannel(second, record(of(htlc(1, origin=twice)), number=2))])
        journal.commit_now([PutChannel(with_one, first)])
        journal.commit_now([PutChannel(second, record(of(htlc(1, origin=twice)), number=2))])


def test_a_change_of_what_is_not_on_disk_is_refused(tmp_path: Path) -> None:
    old, new = record(of(htlc(1)), owes_signature=False), record(of(htlc(1)))
    with Journal.open(tmp_path) as journal:
        with pytest.raises(WriteRefused, match="found nothing to change"):
            journal.commit_now([PutChannel(old, new)])
        journal.commit_now([PutChannel(None, record())])
        with pytest.raises(WriteRefused, match="htlcs"):
            journal.commit_now([PutChannel(record(of(htlc(1, first_local=4))), new)])


def test_an_unknown_kind_of_write_is_refused_before_anything_is_queued(tmp_path: Path) -> None:
    class Strange(Row):
        __slots__ = ()

    with Journal.open(tmp_path) as journal:
        with pytest.raises(NoStatement, match="Strange"):
            asyncio.run(journal.commit([PutKeyValue("k", b"1"), Strange()]))
        assert value(journal, "k") is None


def test_groups_are_bounded(tmp_path: Path) -> None:
    rows = MAX_GROUP_ROWS // 2 + 1

    async def main(journal: Journal) -> None:
        await asyncio.gather(*[journal.commit([PutKeyValue(f"{m}.{n}", b"") for n in range(rows)]) for m in range(3)])

    with Journal.open(tmp_path) as journal:
        asyncio.run(main(journal))
        assert journal.counters.syncs == 3 and journal.counters.rows == 3 * rows


def test_a_cancelled_caller_does_not_disturb_the_others(tmp_path: Path) -> None:
    async def main(journal: Journal) -> None:
        leaver = asyncio.create_task(journal.commit([PutKeyValue("leaver", b"1")]))
        stayer = asyncio.create_task(journal.commit([PutKeyValue("stayer", b"2")]))
        await asyncio.sleep(0)
        leaver.cancel()
        await stayer
        assert leaver.cancelled() or leaver.cancelling()

    with Journal.open(tmp_path) as journal:
        asyncio.run(main(journal))
        assert (value(journal, "leaver"), value(journal, "stayer")) == (b"1", b"2")


def test_a_loop_that_ended_in_the_middle_leaves_the_journal_usable(tmp_path: Path) -> None:
    async def leave(journal: Journal) -> None:
        asyncio.get_running_loop().create_task(journal.commit([PutKeyValue("abandoned", b"1")]))
        await asyncio.sleep(0)

    with Journal.open(tmp_path) as journal:
        for n in range(20):
            asyncio.run(leave(journal))
            asyncio.run(journal.commit([PutKeyValue(f"{n}", b"2")]))
            assert value(journal, f"{n}") == b"2"


def test_blocking_and_waiting_commits_mix(tmp_path: Path) -> None:
    async def main(journal: Journal) -> None:
        tasks = [asyncio.create_task(journal.commit([PutKeyValue(f"a{n}", b"")])) for n in range(50)]
        for n in range(50):
            await asyncio.to_thread(journal.commit_now, [PutKeyValue(f"b{n}", b"")])
            journal.commit_now([PutKeyValue(f"c{n}", b"")])
        await asyncio.gather(*tasks)

    with Journal.open(tmp_path) as journal:
        asyncio.run(main(journal))
        assert journal.counters.commits == 150


def test_the_log_is_folded_into_the_database_without_losing_anything(tmp_path: Path) -> None:
    async def main(journal: Journal) -> None:
        for n in range(CHECKPOINT_COMMITS + 100):
            await journal.commit([PutKeyValue(f"{n % 50}", b"%d" % n)])

    with Journal.open(tmp_path) as journal:
        asyncio.run(main(journal))
        assert journal.counters.checkpoints == 1
        assert value(journal, f"{(CHECKPOINT_COMMITS + 99) % 50}") == b"%d" % (CHECKPOINT_COMMITS + 99)
        assert journal.check() == []


def test_listeners_hear_of_new_events_after_they_are_on_disk(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []

    async def main(journal: Journal) -> None:
        journal.on_events(lambda last: heard.append((last, journal.read_now(queries.last_event))))
        await journal.commit([PublicEvent("one"), PublicEvent("two", (("n", 2), ("up", True), ("why", "x")))])
        await journal.commit([PutKeyValue("k", b"")])
        await asyncio.gather(journal.commit([PublicEvent("three")]), journal.commit([PublicEvent("four")]))

    with Journal.open(tmp_path, clock=lambda: 1_700_000_000) as journal:
        asyncio.run(main(journal))
        assert heard == [(2, 2), (4, 4)]
        two = journal.read_now(lambda connection: queries.events_after(connection, 1, 1))[0]
        assert (two.id, two.at, two.name) == (2, 1_700_000_000, "two")
        assert two.fields == {"n": 2, "up": True, "why": "x"}


def test_listeners_do_not_hear_of_events_that_were_refused(tmp_path: Path) -> None:
    heard: list[int] = []
    with Journal.open(tmp_path) as journal:
        journal.on_events(heard.append)
        journal.commit_now([PublicEvent("one")])
        with pytest.raises(WriteRefused):
            journal.commit_now([PublicEvent("never"), PutRecord(KEY_VALUES, ("bad", 7))])
        journal.commit_now([PutKeyValue("k", b"")])
        assert heard == [1]
        journal.commit_now([PublicEvent("two")])
        assert heard == [1, 2]


# --- a disk that fails ----------------------------------------------------------------------------------------------


def fill(journal: Journal) -> None:
    """No further page fits: what a full disk answers."""
    pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
    journal._connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()


def test_a_full_disk_poisons_the_journal_and_nothing_is_half_said(tmp_path: Path) -> None:
    told: list[JournalFailed] = []

    async def main(journal: Journal) -> list[BaseException | None]:
        journal.on_failure(told.append)
        await journal.commit([PutKeyValue("before", b"1")])
        fill(journal)
        results = await asyncio.gather(
            journal.commit([PutKeyValue("small", b"1")]),
            journal.commit([PutKeyValue("half", b"1"), PutKeyValue("large", b"x" * 100_000)]),
            journal.commit([PutKeyValue("other", b"1")]),
            return_exceptions=True,
        )
        for writes in ([], [PutKeyValue("later", b"1")]):
            with pytest.raises(JournalFailed, match="full"):
                await journal.commit(writes)
        with pytest.raises(JournalFailed):
            journal.commit_now([PutKeyValue("later", b"1")])
        await asyncio.sleep(0)
        return results

    with Journal.open(tmp_path) as journal:
        results = asyncio.run(main(journal))
        assert all(isinstance(result, JournalFailed) for result in results)
        assert len(told) == 1 and journal.failure is not None
    with Journal.open(tmp_path) as journal:
        assert value(journal, "before") == b"1"
        assert [value(journal, key) for key in ("small", "half", "large", "other", "later")] == [None] * 5
        assert journal.check() == []


class FailingConnection:
    """Fails the statements that a test names, as SQLite would report an unreadable disk."""

    def __init__(self, connection: object, fails: str) -> None:
        self._connection, self._fails = connection, fails

    def execute(self, sql: str) -> object:
        if sql.startswith(self._fails):
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(sql)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)


def test_a_failed_sync_reaches_every_waiting_caller(tmp_path: Path) -> None:
    told: list[JournalFailed] = []

    async def late(journal: Journal) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await journal.commit([PutKeyValue("queued behind it", b"1")])

    async def main(journal: Journal) -> list[BaseException | None]:
        journal.on_failure(told.append)
        journal._connection = FailingConnection(journal._connection, "COMMIT")  # type: ignore[assignment]
        calls = [journal.commit([PutKeyValue(f"{n}", b"1")]) for n in range(10)]
        return await asyncio.gather(*calls, late(journal), return_exceptions=True)

    with Journal.open(tmp_path) as journal:
        results = asyncio.run(main(journal))
        assert len(results) == 11 and all(isinstance(result, JournalFailed) for result in results)
        assert "disk I/O error" in str(told[0]) and len(told) == 1
    with Journal.open(tmp_path) as journal:
        assert value(journal, "0") is None


def test_a_failed_checkpoint_stops_the_node_but_keeps_what_was_committed(tmp_path: Path) -> None:
    async def main(journal: Journal) -> int:
        journal._connection = FailingConnection(journal._connection, "PRAGMA wal_checkpoint")  # type: ignore[assignment]
        committed = 0
        with pytest.raises(JournalFailed):
            for n in range(CHECKPOINT_COMMITS + 10):
                await journal.commit([PutKeyValue(f"{n}", b"1")])
                committed += 1
        return committed

    with Journal.open(tmp_path) as journal:
        committed = asyncio.run(main(journal))
        assert committed >= CHECKPOINT_COMMITS - 1
    with Journal.open(tmp_path) as journal:
        assert value(journal, f"{committed - 1}") == b"1"


def test_whoever_hears_of_a_failure_may_close_the_journal(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    told: list[JournalFailed] = []
    journal.on_failure(told.append)
    journal.on_failure(lambda failure: journal.close())
    journal._connection = FailingConnection(journal._connection, "COMMIT")  # type: ignore[assignment]
    with pytest.raises(JournalFailed, match="disk I/O error"):
        journal.commit_now([PutKeyValue("k", b"1")])
    with pytest.raises(JournalFailed):
        journal.commit_now([PutKeyValue("k", b"1")])
    assert len(told) == 1
    Journal.open(tmp_path).close()


# --- closing --------------------------------------------------------------------------------------------------------


def test_close_finishes_what_is_on_its_way_and_refuses_the_rest(tmp_path: Path) -> None:
    async def main(journal: Journal) -> tuple[BaseException | None, BaseException | None]:
        first = asyncio.create_task(journal.commit([PutKeyValue("first", b"1")]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # its transaction is on the way
        second = asyncio.create_task(journal.commit([PutKeyValue("second", b"2")]))
        await asyncio.sleep(0)
        journal.close()
        journal.close()
        results = await asyncio.gather(first, second, return_exceptions=True)
        with pytest.raises(JournalClosed):
            await journal.commit([PutKeyValue("third", b"3")])
        with pytest.raises(JournalClosed):
            await journal.read(queries.last_event)
        return results[0], results[1]

    first, second = asyncio.run(main(Journal.open(tmp_path)))
    assert first is None and isinstance(second, JournalClosed)
    with Journal.open(tmp_path) as journal:
        assert (value(journal, "first"), value(journal, "second")) == (b"1", None)
