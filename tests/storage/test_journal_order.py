"""The order of what is handed in: what was set off meanwhile comes behind, and nothing is said before it is on disk."""

import asyncio
from pathlib import Path

import pytest

from salama.storage import queries
from salama.storage.errors import JournalFailed
from salama.storage.journal import Journal
from salama.storage.tables import KEY_VALUES
from salama.storage.writes import PutKeyValue, PutRecord


def value(journal: Journal, key: str) -> bytes | None:
    return journal.read_now(lambda db: queries.key_value(db, key))


def test_what_is_set_off_meanwhile_shares_the_sync_and_is_not_on_disk_yet(tmp_path: Path) -> None:
    async def main() -> None:
        with Journal.open(tmp_path) as journal:
            seen: list[tuple[str, bytes | None]] = []

            async def second() -> None:
                await journal.commit([PutKeyValue("second", b"2")])
                seen.append(("second", value(journal, "first")))

            tasks: list[asyncio.Task[None]] = []

            def meanwhile() -> None:
                seen.append(("meanwhile", value(journal, "first")))
                tasks.append(asyncio.create_task(second()))

            await journal.commit([PutKeyValue("first", b"1")], meanwhile=meanwhile)
            await asyncio.gather(*tasks)
            assert seen == [("meanwhile", None), ("second", b"1")]
            assert journal.counters.syncs == 1

    asyncio.run(main())


def test_a_commit_of_nothing_waits_for_what_was_before_it(tmp_path: Path) -> None:
    async def main() -> None:
        with Journal.open(tmp_path) as journal:
            writing = asyncio.create_task(journal.commit([PutKeyValue("first", b"1")]))
            await asyncio.sleep(0)
            assert value(journal, "first") is None
            await journal.commit([])
            assert value(journal, "first") == b"1"
            await writing
            # Nothing on its way: at once, and no transaction is made for it.
            await journal.commit([])
            assert journal.counters.syncs == 1

    asyncio.run(main())


def test_commits_of_nothing_alone_make_no_transaction_behind_one(tmp_path: Path) -> None:
    async def main() -> None:
        with Journal.open(tmp_path) as journal:
            first = asyncio.create_task(journal.commit([PutKeyValue("first", b"1")]))
            while not journal._in_flight:
                await asyncio.sleep(0)
            await asyncio.gather(*(journal.commit([]) for _ in range(3)))
            await first
            assert journal.counters.syncs == 1

    asyncio.run(main())


def test_refused_writes_that_others_build_on_stop_the_journal(tmp_path: Path) -> None:
    async def main() -> None:
        with Journal.open(tmp_path) as journal:
            told: list[JournalFailed] = []
            journal.on_failure(told.append)
            bad = PutRecord(KEY_VALUES, ("too few",))
            built: list[asyncio.Task[None]] = []

            def meanwhile() -> None:
                built.append(asyncio.create_task(journal.commit([PutKeyValue("built", b"on sand")])))

            with pytest.raises(JournalFailed):
                await journal.commit([bad], meanwhile=meanwhile)
            with pytest.raises(JournalFailed):
                await built[0]
            await asyncio.sleep(0)
            assert len(told) == 1
            assert value(journal, "built") is None

    asyncio.run(main())
