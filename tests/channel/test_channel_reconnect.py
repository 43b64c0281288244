"""The connection breaks after every single message; nothing is lost, doubled or forced onto the chain."""

from __future__ import annotations

import pytest

from salama.channel.state import Phase
from salama.testing.pair import Pair


def play(pair: Pair) -> None:
    """Both sides add at once, then each resolves; messages cross as they may."""
    pair.alice.adds(30_000_000, 20_000_000, 300_000)
    pair.bob.adds(40_000_000)


def resolve(pair: Pair) -> None:
    pair.bob.settles_all()
    pair.alice.fails_all()


def test_an_uncut_exchange_for_comparison() -> None:
    pair = Pair.opened()
    play(pair)
    deliveries = pair.settle()
    assert deliveries == 12
    resolve(pair)
    pair.settle()
    assert (pair.alice.balance, pair.bob.balance) == (549_700_000, 450_300_000)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("alice_first", [False, True])
@pytest.mark.parametrize("cut_at", range(24))
def test_cut_after_every_message(cut_at: int, alice_first: bool, restart: bool) -> None:
    """``cut_at`` counts deliveries over adding and resolving; HTLCs that were never signed are offered again."""
    pair = Pair.opened()
    ends = (pair.alice, pair.bob) if alice_first else (pair.bob, pair.alice)
    delivered = 0

    def deliver_all() -> None:
        nonlocal delivered
        while not pair.is_quiet():
            for end in ends:
                if not end.outbox:
                    continue
                if delivered == cut_at:
                    pair.cut()
                    if restart:
                        pair.restarts(pair.alice)
                        pair.restarts(pair.bob)
                    pair.connect()
                    delivered += 1
                    break
                pair.deliver(end)
                pair.check()
                delivered += 1

    play(pair)
    deliver_all()
    resolve(pair)
    deliver_all()
    pair.settle()
    assert pair.alice.record.phase is Phase.NORMAL and pair.bob.record.phase is Phase.NORMAL
    assert pair.alice.record.htlcs == {} and pair.bob.record.htlcs == {}
    assert (pair.alice.balance, pair.bob.balance) == (549_700_000, 450_300_000)
    assert len({row.key for row in pair.alice.learned}) == 3
    assert [row.key.htlc_id for row in pair.bob.failed] == [0]
    pair.alice.adds(1_000_000)
    pair.settle()
    assert len(pair.bob.pending) == 1, "the channel still works"
