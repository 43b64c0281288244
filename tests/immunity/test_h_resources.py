"""H2 floods of pings (Electrum limits their rate, lnd 0.21 the size that is not answered)

What failed: every ping was answered, however many and however large the answer they asked for.

Defence: transport/session.py:_answer spends an allowance and answers none that wants 65,532 bytes or more.

H3 logs that strangers fill (lnd writes some warnings once)

What failed: each word of a peer became a line of the log, with whatever was in it.

Defence: node/quiet_log.py:QuietLog bounds the lines about peers' words; transport/session.py:printable shortens them
and leaves only printable ASCII.

Not covered: lines about connections that come and go, of which each costs its maker a handshake.

H4 huge allocations from a damaged file of one's own (LDK #4712)

What failed: a length in a damaged file was believed.

Defence: storage/layouts.py and storage/schema.py raise typed errors for whatever they read; the rows carry checksums.
"""

from __future__ import annotations

import logging
import random
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "payments"))

from payment_world import invoice

from salama.base.ids import BlockHash, ChannelId
from salama.node.quiet_log import LINES_PER_MINUTE
from salama.node.switchboard import Switchboard
from salama.storage.errors import StorageFault
from salama.storage.journal import Journal
from salama.storage.writes import INVOICE
from salama.testing.pair import Pair
from salama.transport import session
from salama.wire import Init, Ping, Pong
from salama.wire.features import Features
from salama.wire.setup import Warning

INIT = Init(globalfeatures=Features(), features=Features(), networks=(BlockHash(b"\x01" * 32),))


def heard(pings: list[Ping], seconds: float = 0.0) -> tuple[session.Session, list[Pong]]:
    now = 1000.0
    state = session.start(session.Terms(INIT), now).state
    state = session.step(state, session.MessagesReceived((INIT.encode(),)), now).state
    pongs: list[Pong] = []
    for ping in pings:
        now += seconds
        done = session.step(state, session.MessagesReceived((ping.encode(),)), now)
        state = done.state
        pongs += [e.message for e in done.effects if isinstance(e, session.Send) and isinstance(e.message, Pong)]
    return state, pongs


def test_h2_a_flood_of_pings_ends_the_connection() -> None:
    state, pongs = heard([Ping(num_pong_bytes=65_531, ignored=b"")] * 1000)
    assert state.is_closed and len(pongs) <= session.PONGS_AT_ONCE


def test_h2_an_ordinary_number_is_answered() -> None:
    state, pongs = heard([Ping(num_pong_bytes=10, ignored=b"")] * 500, seconds=1.0)
    assert not state.is_closed and len(pongs) == 500 and {len(p.ignored) for p in pongs} == {10}


@pytest.mark.parametrize(("wanted", "answered"), [(0, 1), (65_531, 1), (65_532, 0), (65_535, 0)])
def test_h2_the_largest_that_is_answered(wanted: int, answered: int) -> None:
    state, pongs = heard([Ping(num_pong_bytes=wanted, ignored=b"")])
    assert len(pongs) == answered and not state.is_closed


def test_h3_a_peers_words_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    clock = [0.0]
    parts: Any = SimpleNamespace(message=lambda *_: True)
    board = Switchboard(parts, lambda: clock[0])
    board.join(parts, parts, parts, parts, parts)
    peer: Any = SimpleNamespace(node_id=b"\x02" * 33)
    for minute in range(3):
        clock[0] = 60.0 * minute
        for n in range(2000):
            board.message(
                peer, Warning(channel_id=ChannelId(b"\x01" * 32), data=b"\n\x1b[2J" + bytes([n % 256]) * 5000)
            )
    assert 2 * LINES_PER_MINUTE < len(caplog.records) <= 3 * (LINES_PER_MINUTE + 1)
    lines = [record.getMessage() for record in caplog.records]
    assert sum(map(len, lines)) < 300 * len(lines)
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert any("1940 lines" in line for line in lines)


@pytest.mark.parametrize("seed", [0, 2, 5, 14])
def test_h4_a_damaged_database_is_a_clean_error(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    pair = Pair.opened()
    from salama.storage.writes import PutChannel

    with Journal.open(tmp_path) as journal:
        journal.commit_now([PutChannel(None, pair.alice.record)])
        path = journal.path
    data = bytearray(path.read_bytes())
    for _ in range(40):
        data[dice.randrange(len(data))] = dice.randrange(256)
    path.write_bytes(bytes(data))
    try:
        with Journal.open(tmp_path) as journal:
            from salama.storage import queries

            journal.read_now(queries.open_channels)
    except StorageFault as fault:
        assert str(fault)


def test_h4_lengths_that_lie_allocate_nothing() -> None:
    """Every field of a record claims to be enormous, one after the other."""
    good = INVOICE.encode(invoice())
    dice = random.Random(4)
    tracemalloc.start()
    refused = 0
    for _ in range(300):
        bad = bytearray(good)
        at = dice.randrange(len(bad) - 8)
        bad[at : at + 5] = dice.choice([b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff"])
        try:
            INVOICE.decode(bytes(bad))
        except StorageFault:
            refused += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused == 300 and peak < 20_000_000
