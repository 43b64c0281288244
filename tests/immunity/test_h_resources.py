"""H2 floods of pings (Electrum limits their rate, lnd 0.21 the size that is not answered)

What failed: every ping was answered, however many and however large the answer they asked for.

Defence: transport/session.py:_answer spends an allowance and answers none that wants 65,532 bytes or more.

H3 logs that strangers fill (lnd writes some warnings once)

What failed: each word of a peer became a line of the log, with whatever was in it.

Defence: node/quiet_log.py:QuietLog bounds the lines about peers' words; transport/session.py:printable shortens them
and leaves only printable ASCII.

Not covered: lines about connections that come and go, of which each costs its maker a handshake.
"""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from salama.base.ids import BlockHash, ChannelId
from salama.node.quiet_log import LINES_PER_MINUTE
from salama.node.switchboard import Switchboard
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
