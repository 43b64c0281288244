"""C4 HTLCs of the same hash and amount confused (LDK 0.2.4 #4854)

What failed: several HTLCs with the same hash and amount, of different payers, were told apart by hash and amount; what
became of one was told to another, and money was stolen.

Defence: an HTLC is its channel, side and id, and on the chain the index of its output (onchain/outputs.py:outputs_of,
outputs_of_revoked): equal scripts and amounts are sorted by expiry and id as the commitment has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pytest
from onchain_relay import Chain, Relay, World, alike, balance_of, kind_of, open_chain

from salama.bitcoin.script import p2wsh
from salama.channel.events import SettleHtlc
from salama.onchain.identify import CloseKind, identify
from salama.onchain.outputs import Role
from salama.testing.pair import preimage_of

SUBSETS = [subset for size in range(4) for subset in combinations(range(3), size)]


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


@pytest.mark.parametrize("revoked", [False, True])
def test_equal_htlcs_are_told_apart(chain: Chain, revoked: bool) -> None:
    """C4: same hash and amount, other expiries; received ones differ in script, offered ones only in their place."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    first = chain.height + 30
    expiries = [first + 3, first + 1, first + 2, first + 1]
    alike(world, alice, 4, 20_000_000, expiries)
    alike(world, bob, 4, 20_000_000, expiries)
    publisher = bob
    if revoked:
        publisher = world.twin(bob)
        alice.end.adds(1_000_000)
        world.pair.settle()
    tx = world.force_close(publisher)
    close = identify(alice.end.record, tx, alice.htlcs_at)
    assert close is not None and close.kind is (CloseKind.REVOKED if revoked else CloseKind.REMOTE)
    htlcs = [output for output in close.outputs if output.role is Role.HTLC]
    assert len({output.htlc.key for output in htlcs if output.htlc}) == 8 == len(htlcs)
    for output in htlcs:
        assert output.htlc is not None and tx.outputs[output.outpoint.vout].script == p2wsh(output.script)
    in_order = [(o.offered, int(o.htlc.cltv_expiry), o.htlc.id) for o in htlcs if o.htlc and o.offered]
    assert in_order == sorted(in_order), "alike but for expiry and id, by which the commitment sorted them"
    chain.core.pool.entries.clear()


@pytest.mark.parametrize("paid", SUBSETS)
def test_every_subset_of_equal_htlcs_that_is_claimed(chain: Chain, paid: tuple[int, ...]) -> None:
    """C4: whichever of them the payee claims, each is paid upstream for; what nobody claims comes back."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    alike(world, alice, 3, 20_000_000, [chain.height + 12] * 3)
    world.pair.cut()
    bob.does(*(SettleHtlc(one, preimage_of(7)) for one in paid))
    world.force_close(alice)
    world.run_until_over(alice, bob)
    if paid:
        assert set(paid) <= alice.learned() and not alice.failed()
    else:
        assert alice.failed() == {0, 1, 2}
    net, fees = world.gained(alice)
    to_local = balance_of(alice)
    assert net + fees in (to_local + (3 - len(paid)) * 20_000, to_local + (3 - len(paid)) * 20_000 + 330)


@pytest.mark.parametrize("revoked", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("paid", SUBSETS)
def test_each_payer_is_told_of_its_own(chain: Chain, paid: tuple[int, ...], revoked: bool) -> None:
    """Three payers, one hash, three expiries: once the preimage is out every payer owes, for none can get it back."""
    relay = Relay.between(chain, 3)
    down = relay.down
    before = [up.alice.end.balance for up in relay.ups]
    publisher = down.bob
    for payer in range(3):
        relay.passes_on(payer, 7, 20_000_000, chain.height + 12 + payer)
    if revoked:
        publisher = down.twin(down.bob)
        down.alice.end.adds(1_000_000, expiry=chain.height + 90)
        down.pair.settle()
        down.bob.is_offline = True
    down.pair.cut()
    publisher.does(*(SettleHtlc(one, preimage_of(7)) for one in paid))
    down.force_close(publisher)
    if revoked:
        # The cheater's second stages confirm before anybody looks.
        down.alice.is_offline = True
        for _ in range(4):
            chain.mine()
            publisher.follows()
        down.alice.is_offline = False
    relay.mine(30)
    assert kind_of(down.alice) is (CloseKind.REVOKED if revoked else CloseKind.REMOTE)
    outcomes = {(payer, kind) for payer, _, kind in relay.told}
    if paid:
        assert {payer for payer, kind in outcomes if kind == "PreimageLearned"} == {0, 1, 2}
        assert [up.alice.end.balance for up in relay.ups] == [one + 20_000_000 for one in before]
    else:
        assert outcomes == {(0, "HtlcFailed"), (1, "HtlcFailed"), (2, "HtlcFailed")}
        assert [up.alice.end.balance for up in relay.ups] == before
    net, fees = down.gained(down.alice)
    close_takes = [] if revoked else paid
    assert net + fees >= sum(20_000 for one in range(3) if one not in close_takes)
