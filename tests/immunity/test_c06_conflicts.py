"""C6 claims that are never made again after a conflict (LDK 0.0.125)

What failed: one confirmed transaction of the peer conflicted with several of the node's claims, each of several HTLCs;
the first of them was made anew without the lost input, the others stayed invalid and were never claimed.

Defence: onchain/bump.py:plan is worked out from the whole chain at every block: any transaction in flight that has lost
an input frees all its others at once, however many such there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest
from adversaries import Thief, mine_only
from onchain_relay import Chain, World, open_chain

EXPIRIES = (12, 13, 14)
PER_EXPIRY = 3


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


def three_aggregates(chain: Chain) -> tuple[World, Thief, dict[int, int]]:
    """Alice claims nine expired HTLCs by three transactions, one an expiry; Bob has every preimage. Expiries by id."""
    world = World.open(chain, capacity=2_000_000, push=0, coins=20)
    alice, first = world.alice, chain.height
    expiries: dict[int, int] = {}
    for after in EXPIRIES:
        for _ in range(PER_EXPIRY):
            number = len(expiries)
            expiries[number] = first + after
            event = alice.end.add_event(number, (30_000 + number) * 1000, first + after)
            alice.upstream[bytes(event.origin)] = first + after + 80
            alice.end.does(event)
    world.pair.settle()
    world.pair.cut()
    thief = Thief(world, dict.fromkeys(expiries, 0))
    world.force_close(alice)
    for _ in range(first + EXPIRIES[-1] - chain.height):
        # Blocks without any claim: all three groups wait together in the mempool.
        waiting = () if is_closed(world) else [entry.tx for entry in chain.core.pool.entries.values()]
        mine_only(chain, *waiting)
        world.follow()
    assert alice.state is not None
    assert sorted(len(s.claims) for s in alice.state.record.sweeps if s.deadline) == [PER_EXPIRY] * len(EXPIRIES)
    return world, thief, expiries


def is_closed(world: World) -> bool:
    return world.alice.end.record.funding.outpoint in world.chain.core.chain.spenders


TAKEN = [*combinations(EXPIRIES, 1), *combinations(EXPIRIES, 2), EXPIRIES]


@pytest.mark.parametrize("taken", TAKEN, ids=str)
@pytest.mark.parametrize("reorganised", [False, True])
def test_one_confirmed_transaction_conflicts_with_several_of_ours(
    chain: Chain, taken: tuple[int, ...], reorganised: bool
) -> None:
    """All that is left is claimed again in the same block; and what a reorganisation gives back, too (LDK #4849)."""
    world, thief, expiries = three_aggregates(chain)
    alice, pool = world.alice, chain.core.pool
    start = min(expiries.values()) - EXPIRIES[0]
    chosen = [
        next(c for c in thief.claims if c.htlc is not None and int(c.htlc.cltv_expiry) == start + after)
        for after in taken
    ]
    mine_only(chain, thief.takes(chosen, 3_000))
    world.follow()
    left = {c.outpoint for c in thief.claims} - {c.outpoint for c in chosen}
    assert len(left) == len(expiries) - len(taken)
    assert left <= pool.spends.keys(), "claimed again in the very block that took the others"
    stolen = {c.htlc.id for c in chosen if c.htlc is not None}
    assert alice.learned() == stolen
    if reorganised:
        chain.reorganise(1)
        pool.clear()
        world.follow()
        stolen = set()
        assert {c.outpoint for c in thief.claims} <= pool.spends.keys(), "everything is claimed once more"
    world.run_until_over(alice)
    # What was seen in a block that is undone was seen all the same: upstream pays for it.
    assert alice.learned() >= stolen and alice.failed() | alice.learned() == set(expiries)
