"""Adversaries of a channel on the chain: what they can take, and what resisting them costs, against stated bounds.

Immunity C6, C12, C13, C14, C15, C16; B5.08 to B5.11.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from adversaries import (
    Outcome,
    Thief,
    account,
    heavy_child,
    lose_broadcasts,
    market,
    mine_dear,
    mine_only,
    offer_htlcs,
    pays_itself,
)
from onchain_world import Chain, World, open_chain

from salama.onchain.bump import BUDGET_PERCENT

DELTA = 80
"""Blocks between the deadline downstream and the one upstream."""


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


# --- replacement cycling ----------------------------------------------------------------------------------------------


def cycle(world: World, thief: Thief, rounds: int, *, peeks: bool) -> None:
    """Each block, what Alice has in the mempool is replaced by a claim with the preimage, and that by nothing."""
    chain = world.chain
    coin = chain.coins.pop()
    (claim,) = thief.claims
    for _ in range(rounds):
        if claim.outpoint in chain.core.pool.spends:
            shown = thief.claim(claim, thief.outbids(claim.outpoint), coin)
            chain.core.submit_tx(shown)
            if peeks:
                world.alice.peeks()
            fee = thief.outbids(coin[0]) + 200
            hidden = pays_itself(coin, fee)
            chain.core.submit_tx(hidden)
            thief.paid += fee
            coin = (hidden.outpoint(0), hidden.outputs[0])
            assert claim.outpoint not in chain.core.pool.spends
        world.mine()
    chain.coins.append(coin)


@pytest.mark.parametrize("peeks", [True, False])
def test_replacement_cycling_over_eighty_blocks(chain: Chain, peeks: bool) -> None:
    """C14: who sees the mempool is paid upstream at once; who does not makes the thief pay more than it can win."""
    world = World.open(chain)
    amounts = {0: 300_000}
    expiry = chain.height + 20
    offer_htlcs(world, amounts, expiry, DELTA)
    thief = Thief(world, amounts)
    world.force_close(world.alice)
    world.mine(20)
    cycle(world, thief, 80, peeks=peeks)
    if peeks:
        assert world.alice.learned() == {0} and not world.alice.failed()
    else:
        assert thief.paid > sum(amounts.values())
    world.mine(15)
    outcome = account(world, world.alice, amounts)
    assert outcome.is_within(lost=0, fee_percent=BUDGET_PERCENT), outcome
    print(f"{outcome}, the thief paid {thief.paid}")
    assert outcome.fees > 0, "the claim confirmed as soon as the thief let it"


# --- one at a time ----------------------------------------------------------------------------------------------------


def test_forty_htlcs_double_spent_one_at_a_time(chain: Chain) -> None:
    """C12, C13: one input after another of what we claim together is taken away; the others are offered on."""
    world = World.open(chain, capacity=3_000_000, push=0, coins=22, slots=60)
    amounts = {n: 20_000 + n for n in range(40)}
    offer_htlcs(world, amounts, chain.height + 15, DELTA)
    alice, pool = world.alice, chain.core.pool
    thief = Thief(world, amounts)
    world.force_close(alice)
    world.mine(15)
    for stolen in range(30):
        left = {one.outpoint for one in thief.claims[stolen:]}
        assert len(left) == 40 - stolen
        assert left <= pool.spends.keys(), "what is still there is claimed in every block"
        mine_only(chain, thief.claim(thief.claims[stolen], 1000))
        world.follow()
    world.run_until_over(alice)
    outcome = account(world, alice, amounts)
    print(outcome)
    assert len(alice.learned()) == 30
    assert outcome.is_within(lost=0, fee_percent=BUDGET_PERCENT), outcome


# --- pinning ----------------------------------------------------------------------------------------------------------


def test_a_low_fee_child_of_the_peers_pins_nothing_past_its_deadline(chain: Chain) -> None:
    """C15: Bob fills the family of our commitment with a heavy, cheap child of his anchor before ours has one."""
    world = World.open(chain)
    amounts = {0: 150_000, 1: 60_000}
    expiry = chain.height + 40
    offer_htlcs(world, amounts, expiry, DELTA)
    alice, pool = world.alice, chain.core.pool
    world.bob.is_offline = True
    market(world, 10_000)
    is_heard = lose_broadcasts(alice, 1.0, Random(1))
    commitment = world.force_close(alice)
    assert is_heard() > 0
    del alice.offer
    chain.core.submit_tx(commitment)
    pin = heavy_child(world, commitment)
    chain.core.submit_tx(pin)
    assert pool.entries[pin.txid].vsize > 90_000
    confirmed = 0
    while not confirmed:
        assert chain.height < expiry
        mine_dear(chain, 10_000)
        world.follow()
        confirmed = chain.height if commitment.txid in chain.core.chain.places else 0
    while alice.failed() != set(amounts):
        assert chain.height < expiry + DELTA, "upstream would close"
        mine_dear(chain, 10_000)
        world.follow()
    market(world, 1_000)
    world.run_until_over(alice)
    outcome = account(world, alice, amounts)
    print(outcome, f"commitment confirmed {expiry - confirmed} blocks before the expiry")
    assert outcome.is_within(lost=0, fee_percent=BUDGET_PERCENT), outcome


# --- the market -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [10, 60])
def test_a_fee_spike_of_fifty_times(chain: Chain, blocks: int) -> None:
    """C16: at a price at which most claims are dear, half of their value is the most that any of them costs."""
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
    world.run_until_over(alice)
    outcome = account(world, alice, amounts)
    print(outcome)
    assert outcome.is_within(lost=0, fee_percent=BUDGET_PERCENT), outcome


def test_nine_broadcasts_of_ten_are_lost(chain: Chain) -> None:
    """C14: everything is offered again at every block, until it is there."""
    world = World.open(chain, push=0)
    amounts = {n: 40_000 + n for n in range(10)}
    expiry = chain.height + 20
    offer_htlcs(world, amounts, expiry, DELTA)
    alice = world.alice
    world.bob.is_offline = True
    lost = lose_broadcasts(alice, 0.9, Random(1))
    world.force_close(alice)
    at = chain.height
    while alice.failed() != set(amounts):
        assert chain.height < expiry + DELTA, "upstream would close"
        world.mine()
    world.run_until_over(alice)
    outcome = account(world, alice, amounts)
    print(outcome, f"{lost()} broadcasts lost, all back {chain.height - at} blocks later")
    assert lost() > 20
    assert outcome.is_within(lost=0, fee_percent=BUDGET_PERCENT), outcome


# --- everybody at once ------------------------------------------------------------------------------------------------


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
        market(world, 1_000)
    for world in worlds:
        world.run_until_over(world.alice)
    assert late > 5, "blocks were full"
    return [account(world, world.alice, amounts) for world in worlds]


def check_congestion(outcomes: list[Outcome]) -> None:
    print(f"{len(outcomes)} channels: lost {sum(o.lost for o in outcomes)}, fees {sum(o.fees for o in outcomes)} sat")
    assert all(one.is_within(lost=0, fee_percent=BUDGET_PERCENT) for one in outcomes), outcomes


def test_congestion_while_ten_channels_expire(chain: Chain) -> None:
    check_congestion(congestion(chain, 10, 3))


@pytest.mark.slow
def test_congestion_while_three_hundred_channels_expire() -> None:
    with open_chain() as chain:
        check_congestion(congestion(chain, 300, 60))
