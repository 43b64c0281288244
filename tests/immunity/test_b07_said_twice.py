"""B7 a message that comes twice (eclair #3336, August 2026)

What failed: a second settlement of the same HTLC was carried out again.

Defence: channel/normal.py removes an HTLC once (_ours_to_remove, receive_add counts ids, receive_revocation wants a
signature to acknowledge); a repeated message is a violation that leaves the record as it was.
"""

from __future__ import annotations

import pytest

from salama.channel.state import Phase
from salama.codec.message import Message
from salama.testing.pair import Pair
from salama.wire.opening import ChannelReady
from salama.wire.updates import ChannelReestablish


def live(until: int, *, repeat: bool) -> tuple[Pair, Message | None]:
    """A life up to message number ``until``, which comes twice if told so."""
    pair = Pair.opened()
    orders = [
        lambda: pair.alice.adds(40_000_000, 50_000_000, 60_000_000),
        lambda: pair.bob.adds(30_000_000),
        pair.bob.settles_all,
        pair.alice.fails_all,
    ]
    said = 0
    for order in orders:
        order()
        while not pair.is_quiet():
            for end in (pair.alice, pair.bob):
                if not end.outbox:
                    continue
                message = end.sent()[0]
                pair.deliver(end)
                said += 1
                if said == until:
                    if repeat:
                        hearer = pair.other(end)
                        before = hearer.record
                        hearer.hears(message)
                        assert hearer.record == before, f"a second {message.NAME} changed the record"
                        assert len(hearer.broadcasts) == len([b for b in hearer.broadcasts if b == pair.funding_tx])
                    return pair, message
    return pair, None


COUNT = 25


@pytest.mark.parametrize("number", range(1, COUNT))
def test_the_second_time_changes_nothing(number: int) -> None:
    pair, message = live(number, repeat=True)
    if message is None:
        pytest.fail("the life is shorter than that")
    if pair.alice.is_connected and pair.bob.is_connected:
        assert isinstance(message, ChannelReady)
    pair.cut()
    pair.connect()
    pair.settle()
    pair.check()
    assert pair.alice.record.phase is pair.bob.record.phase is Phase.NORMAL


def test_a_settlement_repeated_is_handed_over_once() -> None:
    pair = Pair.opened()
    pair.alice.adds(40_000_000)
    pair.settle()
    pair.bob.settles_all()
    (fulfil, _) = pair.bob.sent()
    pair.deliver(pair.bob)
    assert len(pair.alice.learned) == 1
    pair.alice.hears(fulfil)
    assert len(pair.alice.learned) == 1 and not pair.alice.is_connected


def test_reestablish_twice() -> None:
    pair = Pair.opened()
    pair.alice.adds(40_000_000)
    pair.settle()
    pair.cut()
    pair.connect()
    (said,) = pair.bob.sent()
    assert isinstance(said, ChannelReestablish)
    pair.deliver(pair.bob)
    before = pair.alice.record
    pair.alice.hears(said)
    assert pair.alice.record == before and before.phase is Phase.NORMAL
