"""C16 many channels expire together while blocks are full (flood and loot, Harris and Zohar 2020)

What failed: an attacker let HTLCs of many channels expire at once; not all timeouts found room in the blocks before the
deadlines upstream, and what did not was taken with the preimages.

Defence: the value and the number of HTLCs in flight are bounded for each channel (channel/policy.py), deadlines
upstream are 80 blocks away (cltv_expiry_delta), and onchain/bump.py:scheduled_feerate pays up to half of a claim as its
own deadline nears, whatever is believed of the market.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from adversaries import Outcome, account, market, mine_dear, mine_only, offer_htlcs, open_to_theft, together
from onchain_relay import Chain, World, open_chain

from salama.onchain.bump import BUDGET_PERCENT

DELTA = 80
"""Blocks between the deadline downstream and the one upstream."""


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


@pytest.mark.parametrize("blocks", [10, 60])
def test_a_fee_spike_of_fifty_times(chain: Chain, blocks: int) -> None:
    """At a price at which most claims are dear, half of their value is the most that any of them costs."""
    world = World.open(chain, push=0)
    amounts = {0: 300_000, 1: 120_000, 2: 40_000}
    expiry = chain.height + 20
    offer_htlcs(world, amounts, expiry, DELTA)
    alice = world.alice
    world.bob.is_offline = True
    world.force_close(alice)
    world.mine(19)
    market(world, 50_000)
    for _ in range(blocks):
        mine_dear(chain, 50_000)
        world.follow()
    market(world, 1_000)
    while alice.failed() != set(amounts):
        assert chain.height < expiry + DELTA, "upstream would close"
        world.mine()
    assert not open_to_theft(world, alice, amounts), "given up upstream, but not home"
    world.run_until_over(alice)
    outcome = account(world, alice, amounts)
    outcome.told(f"a fee spike of 50 times for {blocks} blocks")
    assert outcome.is_within(lost=0, fee_percent=BUDGET_PERCENT), outcome


def test_blocks_are_dearer_than_the_estimate_says(chain: Chain) -> None:
    """An estimate looks back: what it has not noticed yet the deadline makes up for, late and dearly."""
    world = World.open(chain, push=0)
    amounts = {0: 120_000, 1: 60_000}
    expiry = chain.height + 20
    offer_htlcs(world, amounts, expiry, DELTA)
    alice = world.alice
    world.bob.is_offline = True
    world.force_close(alice)
    while alice.failed() != set(amounts):
        assert chain.height < expiry + DELTA, "upstream would close"
        assert alice.feerate <= 1_000
        mine_dear(chain, 12_000)
        world.follow()
    assert not open_to_theft(world, alice, amounts), "given up upstream, but not home"
    world.run_until_over(alice)
    outcome = account(world, alice, amounts)
    outcome.told("blocks 12 times dearer than the estimate")
    # The child of the commitment has a budget of its own: half of what depends on it.
    assert outcome.is_within(lost=0, fee_percent=2 * BUDGET_PERCENT), outcome


def congestion(chain: Chain, channels: int, room: int) -> list[Outcome]:
    """``channels`` go to the chain with HTLCs of the same expiry, and ``room`` transactions fit into a block."""
    worlds = [World.open(chain, push=0, coins=6) for _ in range(channels)]
    amounts = {0: 90_000, 1: 30_000}
    expiry = chain.height + 30
    for world in worlds:
        world.strict = False
        offer_htlcs(world, amounts, expiry, DELTA)
        world.bob.is_offline = True
    mine_only(chain)
    for world in worlds:
        world.force_close(world.alice)
    rate, late = 1_000, 0
    while not all(world.alice.failed() == set(amounts) for world in worlds):
        assert chain.height < expiry + DELTA, "upstream would close"
        waiting = len(chain.core.pool.entries)
        # The market follows: each full block makes the next one dearer, each free one cheaper.
        rate = min(50_000, rate * 9 // 8) if waiting > room else max(1_000, rate * 3 // 4)
        for world in worlds:
            market(world, rate)
        mine_dear(chain, 253, room)
        late += waiting > room
        for world in worlds:
            world.follow()
    for world in worlds:
        assert not open_to_theft(world, world.alice, amounts), "given up upstream, but not home"
        market(world, 1_000)
    for world in worlds:
        world.run_until_over(world.alice)
    assert late > 5, "blocks were full"
    return [account(world, world.alice, amounts) for world in worlds]


def check_congestion(outcomes: list[Outcome]) -> None:
    together(outcomes).told(f"{len(outcomes)} channels expire at once, blocks are full")
    assert all(one.is_within(lost=0, fee_percent=BUDGET_PERCENT) for one in outcomes), outcomes


def test_congestion_while_ten_channels_expire(chain: Chain) -> None:
    check_congestion(congestion(chain, 10, 3))


@pytest.mark.slow
def test_congestion_while_three_hundred_channels_expire() -> None:
    with open_chain() as chain:
        check_congestion(congestion(chain, 300, 60))
