"""C21 transactions that do not propagate (Riard 2024, transaction-relay throughput overflow)

What failed: an attacker kept the queues of relays full, so that penalties and timeouts were offered once, and never
reached a miner.

Defence: onchain/machine.py:_carry_out and node/chain.py:Broadcaster offer everything again at every block until it is
in one, with a fee that rises as the deadline nears.

Not covered: a back-end that takes everything and passes nothing on; see G3 for one that hides blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from adversaries import account, lose_broadcasts, offer_htlcs, open_to_theft
from onchain_relay import Chain, World, kind_of, open_chain

from salama.onchain.bump import BUDGET_PERCENT
from salama.onchain.identify import CloseKind

DELTA = 80
"""Blocks between the deadline downstream and the one upstream."""


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


def test_nine_broadcasts_of_ten_are_lost(chain: Chain) -> None:
    """Everything is offered again at every block, until it is there."""
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
    assert not open_to_theft(world, alice, amounts), "given up upstream, but not home"
    world.run_until_over(alice)
    outcome = account(world, alice, amounts)
    outcome.told("9 of 10 broadcasts are lost", f"{lost()} lost, all back {chain.height - at} blocks later")
    assert lost() > 20
    assert outcome.is_within(lost=0, fee_percent=BUDGET_PERCENT), outcome


@pytest.mark.parametrize("seed", range(4))
def test_a_penalty_wins_though_half_of_its_broadcasts_are_lost(chain: Chain, seed: int) -> None:
    """The cheater may take its balance after 8 blocks, here; 144 at least elsewhere."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    cheater = world.twin(bob)
    bob.end.adds(30_000_000)
    world.pair.settle()
    alice.end.settles_all()
    world.pair.settle()
    world.pair.cut()
    bob.is_offline = True
    lose_broadcasts(alice, 0.5, Random(seed))
    world.force_close(cheater)
    for _ in range(30):
        world.mine()
        cheater.follows()
    assert kind_of(alice) is CloseKind.REVOKED and alice.is_over
    net, fees = world.gained(alice)
    assert net + fees > 990_000
