"""A channel's record as rows: round trips, differences, and commitments rebuilt from history."""

from __future__ import annotations

import dataclasses
import random
import tempfile
import time
import timeit
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_samples import channel_id, full_record, htlc, of, record

from salama.base.ids import Preimage, Side
from salama.channel.spec import SpecHtlc
from salama.channel.state import ChannelRecord, Failure, Fulfilment, Htlc, Phase
from salama.storage import queries
from salama.storage.errors import CorruptRecord
from salama.storage.journal import Journal
from salama.storage.records import ChannelRows, HtlcRow, decode_channel, decode_htlc, encode_channel, encode_htlc
from salama.storage.writes import DECIDE_HTLC, MOVE_HTLC, RESOLVE_HTLC, UPDATE_CHANNEL, PutChannel, statements_of


def stored(journal: Journal, number: int = 1) -> ChannelRecord | None:
    return journal.read_now(lambda connection: queries.channel(connection, channel_id(number)))


@pytest.mark.parametrize("one", [record(), record(of(htlc(1), htlc(2, Side.INCOMING))), full_record()])
def test_a_record_comes_back_equal(one: ChannelRecord) -> None:
    found = decode_channel(encode_channel(one))
    assert found == one
    for of_field in dataclasses.fields(one):
        assert getattr(found, of_field.name) == getattr(one, of_field.name), of_field.name
    # Equality of mappings does not look at their order, commitments are built in it.
    assert list(found.htlcs) == list(one.htlcs)
    for before, after in zip(one.active + one.inactive, found.active + found.inactive, strict=True):
        assert list(before.local.spec.htlcs) == list(after.local.spec.htlcs)
        assert list(before.remote.spec.htlcs) == list(after.remote.spec.htlcs)
        assert before.next_remote is not None and after.next_remote is not None
        assert list(before.next_remote.spec.htlcs) == list(after.next_remote.spec.htlcs)


def test_a_record_is_encoded_and_decoded_in_well_under_a_millisecond() -> None:
    one = record(of(*[htlc(n) for n in range(3)]))
    rows = encode_channel(one)
    # The least of short runs, in time of this thread: other work on the machine tells nothing about the code.
    encoding = min(timeit.repeat(lambda: encode_channel(one), timer=time.thread_time, number=10, repeat=50)) / 10
    decoding = min(timeit.repeat(lambda: decode_channel(rows), timer=time.thread_time, number=10, repeat=50)) / 10
    print(f"encode {encoding * 1e6:.0f} us, decode {decoding * 1e6:.0f} us, {len(rows.record)} bytes")
    assert encoding < 300e-6 and decoding < 300e-6


def test_only_what_changed_is_written() -> None:
    old = record(of(*[htlc(n) for n in range(6)]))
    kept = dict(old.htlcs)
    moved = replace(kept[htlc(1).key], last_remote=6)
    decided = replace(kept[htlc(2).key], removal=Fulfilment(Preimage(b"\x09" * 32)))
    kept[moved.key], kept[decided.key] = moved, decided
    del kept[htlc(3).key]
    added = htlc(77, first_local=None)
    kept[added.key] = added
    statements = statements_of(PutChannel(old, replace(old, htlcs=kept)), 0)
    kinds = [sql for sql, _ in statements]
    assert sorted(kinds[1:]) == sorted([MOVE_HTLC, DECIDE_HTLC, RESOLVE_HTLC, kinds[-2]]) and kinds[0] == UPDATE_CHANNEL
    assert "INSERT INTO htlcs" in kinds[-2]
    assert sum(len(v) for _, values in statements for v in values if isinstance(v, bytes) and len(v) == 1366) == 1366

    slim_only = statements_of(PutChannel(old, replace(old, owes_signature=False)), 0)
    assert [sql for sql, _ in slim_only] == [UPDATE_CHANNEL]
    assert statements_of(PutChannel(old, old), 0) == []


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_whatever_changes_the_database_holds_the_newest_record(seed: int) -> None:
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory, Journal.open(Path(directory)) as journal:
        old: ChannelRecord | None = None
        next_id = 0
        for _ in range(12):
            htlcs: dict[int, Htlc] = {} if old is None else dict(old.htlcs)
            for key in list(htlcs):
                what = dice.randrange(5)
                if what == 0:
                    del htlcs[key]
                elif what == 1:
                    htlcs[key] = replace(htlcs[key], last_remote=dice.randrange(9), last_local=None)
                elif what == 2:
                    htlcs[key] = replace(htlcs[key], removal=Failure(dice.randbytes(dice.randrange(300))))
                elif what == 3:
                    htlcs[key] = replace(htlcs[key], first_local=dice.choice((None, 5, 6)), removal=None)
            for _ in range(dice.randrange(4)):
                one = htlc(next_id, dice.choice(tuple(Side)), first_remote=dice.choice((None, 4, 5)))
                htlcs[one.key] = one
                next_id += 1
            new = record(htlcs, phase=dice.choice(tuple(Phase)), next_outgoing_id=next_id)
            journal.commit_now([PutChannel(old, new)])
            found = stored(journal)
            assert found == new and found is not None and list(found.htlcs) == list(new.htlcs)
            is_loaded = journal.read_now(queries.open_channels) == [new]
            assert is_loaded == (new.phase is not Phase.CLOSED)
            old = dice.choice((new, found))


def test_a_revoked_commitment_is_rebuilt_from_the_rows() -> None:
    """Against a plain memory of every remote commitment of a life of 60 of them."""
    dice = random.Random(3)
    memory: dict[int, dict[tuple[Side, int], SpecHtlc]] = {}
    with tempfile.TemporaryDirectory() as directory, Journal.open(Path(directory)) as journal:
        old = record({})
        journal.commit_now([PutChannel(None, old), PutChannel(None, record(of(htlc(5)), number=2))])
        live: dict[int, Htlc] = {}
        for number in range(60):
            for one in list(live.values()):
                if one.last_remote is not None and one.last_remote < number - 1:
                    del live[one.key]  # its removal is irrevocable
                elif one.last_remote is None and dice.random() < 0.4:
                    live[one.key] = replace(one, last_remote=number - 1)
            for n in range(dice.randrange(3)):
                one = htlc(number * 10 + n, dice.choice(tuple(Side)), first_remote=number, first_local=None)
                live[one.key] = one
            held = [one for one in live.values() if one.is_in_remote(number)]
            memory[number] = {(one.side, one.id): one.terms for one in held}
            new = record(dict(live))
            journal.commit_now([PutChannel(old, new)])
            old = new
        assert sum(map(len, memory.values())) > 60
        for number, expected in memory.items():
            rows = journal.read_now(lambda connection, n=number: queries.htlcs_at(connection, channel_id(1), n))
            assert {(terms.side, terms.id): terms for terms in rows} == expected
            assert len(rows) == len(expected)
        # After the channel is gone its last commitments are still told.
        journal.commit_now([PutChannel(old, record({}, phase=Phase.CLOSED))])
        rows = journal.read_now(lambda connection: queries.htlcs_at(connection, channel_id(1), 59))
        assert {(terms.side, terms.id) for terms in rows} == set(memory[59])


def test_what_only_a_living_htlc_needs_is_cleared(tmp_path: Path) -> None:
    old = record(of(htlc(1, removal=Failure(b"x" * 32_768)), htlc(2)))
    with Journal.open(tmp_path) as journal:
        journal.commit_now([PutChannel(None, old)])
        journal.commit_now([PutChannel(old, record(of(htlc(2)), owes_signature=False))])
        rows = journal.read_now(
            lambda c: c.execute("SELECT id, live, payload, state, payment_hash FROM htlcs ORDER BY id").fetchall()
        )
        assert rows[0] == (1, 0, None, None, b"\x01" * 32)
        assert rows[1][:2] == (2, 1) and len(rows[1][2]) == 1366


def test_htlcs_of_the_past_leave_no_room_empty(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        old = record({})
        journal.commit_now([PutChannel(None, old)])
        for start in range(0, 600, 30):
            busy = record(of(*[htlc(n) for n in range(start + 1, start + 31)]))
            journal.commit_now([PutChannel(old, busy)])
            old = record({})
            journal.commit_now([PutChannel(busy, old)])
        pages = journal.read_now(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
        free = journal.read_now(lambda c: c.execute("PRAGMA freelist_count").fetchone()[0])
        assert journal.read_now(lambda c: c.execute("SELECT count(*) FROM htlcs WHERE live = 0").fetchone()[0]) == 600
        assert (pages - free) * 4096 / 600 < 700


# --- rows that are wrong --------------------------------------------------------------------------------------------


def test_rows_that_contradict_each_other_are_corrupt() -> None:
    rows = encode_channel(record(of(htlc(1), htlc(2))))
    wrong: list[ChannelRows] = [
        replace(rows, channel_id=channel_id(9)),
        replace(rows, phase="closed"),
        replace(rows, is_open=False),
        replace(rows, params=rows.record),
        replace(rows, record=rows.params),
        replace(rows, htlcs=rows.htlcs[:1] * 2),
    ]
    for one in wrong:
        with pytest.raises(CorruptRecord):
            decode_channel(one)


@pytest.mark.parametrize(
    "change",
    [
        {"side": 2},
        {"id": None},
        {"amount_msat": -1},
        {"amount_msat": None},
        {"amount_msat": "1"},
        {"payment_hash": b"short"},
        {"payment_hash": None},
        {"cltv_expiry": 1 << 40},
        {"payload": None},
        {"live": 0},
        {"state": b""},
        {"state": b"\x01garbage"},
    ],
)
def test_a_damaged_htlc_is_corrupt_and_never_a_crash(change: dict[str, object]) -> None:
    row: HtlcRow = encode_htlc(htlc(1))._replace(**change)
    with pytest.raises(CorruptRecord):
        decode_htlc(row)


@given(st.binary(max_size=100), st.binary(max_size=100))
@settings(max_examples=100)
def test_garbage_in_any_blob_is_corrupt(params: bytes, slim: bytes) -> None:
    rows = encode_channel(record())
    for one in (replace(rows, params=params), replace(rows, record=slim)):
        with pytest.raises(CorruptRecord):
            decode_channel(one)
