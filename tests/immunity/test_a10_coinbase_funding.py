"""A10 a channel funded by a coinbase (LDK 0.0.117 #1924, Electrum 4.8 #10681)

What failed: a miner who funds a channel with the coinbase output itself had it used at the usual depth, although for a
hundred blocks nothing that spends the output may be in a block: neither our commitment nor a penalty.

Defence: channel/confirming.py:needed_depth asks for a hundred confirmations of a funding that stands first in its
block.
"""

from __future__ import annotations

import pytest

from salama.base.units import BlockHeight
from salama.channel.events import FundingConfirmed
from salama.channel.state import Phase
from salama.testing.pair import Pair
from salama.wire.opening import ChannelReady


@pytest.mark.parametrize(("index", "needed"), [(0, 100), (1, 3)])
def test_channel_ready_comes_when_the_funding_can_be_spent(index: int, needed: int) -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    pair.settle()
    assert pair.funding_tx is not None
    height = BlockHeight(int(pair.bob.env.height) + 1)
    pair.mines(1)
    for end in (pair.alice, pair.bob):
        end.does(FundingConfirmed(pair.funding_tx, height, index))
    for depth in range(1, needed + 1):
        sent = [m for end in (pair.alice, pair.bob) for m in end.sent() if isinstance(m, ChannelReady)]
        assert bool(sent) == (depth == needed), depth
        if depth < needed:
            assert pair.bob.record.phase is Phase.AWAITING_FUNDING
            pair.mines(1)
    pair.settle()
    assert pair.bob.record.phase is Phase.NORMAL
