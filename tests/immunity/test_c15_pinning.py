"""C15 a cheap child or rival keeps a transaction from its block (Corallo 2020, Riard; Optech)

What failed: the peer attached a large child of low fee rate to a commitment, or published its own, so that the
commitment could be neither replaced nor bumped, and an HTLC ran out.

Defence: a commitment has an anchor for each side alone, and one block of delay on everything else (channel/formats.py);
onchain/machine.py:_child pays for it through ours, at a rate that rises towards the deadline, as a package
(node/onchain.py:Onchain._publish); onchain/machine.py:_to_confirm helps the peer's when that is in our way.

In tests/interop the same packages meet a real bitcoind.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from adversaries import account, heavy_child, lose_broadcasts, market, mine_dear, offer_htlcs, open_to_theft
from onchain_relay import Chain, World, children, kind_of, open_chain

from salama.bitcoin.script import p2wpkh
from salama.onchain.bump import BUDGET_PERCENT
from salama.onchain.identify import CloseKind

DELTA = 80
"""Blocks between the deadline downstream and the one upstream."""


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


def test_a_low_fee_child_of_the_peers_pins_nothing_past_its_deadline(chain: Chain) -> None:
    """Bob fills the family of our commitment with a heavy, cheap child of his anchor before ours has one."""
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
    assert not open_to_theft(world, alice, amounts), "given up upstream, but not home"
    market(world, 1_000)
    world.run_until_over(alice)
    outcome = account(world, alice, amounts)
    outcome.told("a heavy, cheap child pins our commitment", f"confirmed {expiry - confirmed} blocks before the expiry")
    assert outcome.is_within(lost=0, fee_percent=BUDGET_PERCENT), outcome


def test_the_peers_commitment_gets_a_child_when_it_is_in_our_way(chain: Chain) -> None:
    """B5.03: ours cannot enter the mempool beside it, so theirs must confirm in time."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    alice.end.adds(50_000_000, expiry=chain.height + 40)
    world.pair.settle()
    world.pair.cut()
    alice.feerate = 12_000
    theirs = world.force_close(bob)
    alice.is_offline = True
    world.strict = False
    world.force_close(alice)
    world.strict = True
    pool = chain.core.pool.entries
    assert not children(pool, theirs)
    alice.peeks()
    (child,) = children(pool, theirs)
    parent = pool[theirs.txid]
    assert (child.fee + parent.fee) * 1000 / (child.weight + parent.weight) >= 12_000 * 0.97
    assert alice.state is not None
    sweeps = alice.state.record.sweeps
    alice.peeks()
    assert alice.state.record.sweeps == sweeps, "once"
    alice.is_offline = False
    world.mine(1)
    assert kind_of(alice) is CloseKind.REMOTE
    world.run_until_over(alice)


def test_a_rival_that_vanished_is_forgotten(chain: Chain) -> None:
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    alice.feerate = 12_000
    world.strict = False
    world.pair.cut()
    bob.is_offline = True
    theirs = world.force_close(world.twin(bob))
    ours = world.force_close(alice)
    alice.peeks()
    chain.core.pool.clear()
    core = chain.core
    for _ in range(3):
        core.generate_with(p2wpkh(b"\x02" + bytes(31) + b"\x63"), [], 0)
        alice.follows()
    assert ours.txid in core.pool.entries and theirs.txid not in core.pool.entries
    assert children(core.pool.entries, ours)
    world.mine(1)
    assert kind_of(alice) is CloseKind.LOCAL
