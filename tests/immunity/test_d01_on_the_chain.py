"""D1 a preimage pulled out of the payee, on the chain (CVE-2020-26896, lnd)

What failed: an HTLC that was to be passed on, with the hash of an invoice of the relaying node, was claimed on the
chain with that invoice's preimage: whoever had sent it could pull the preimage out and take the real payment elsewhere.

Defence: onchain/resolve.py:_decided_preimage claims an incoming HTLC only with the preimage that was decided for that
very HTLC; the machine on the chain knows no invoices, and no preimages by hash.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from onchain_relay import Chain, World, alike, balance_of, open_chain

from salama.channel.events import FailHtlc, SettleHtlc
from salama.testing.pair import preimage_of


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


def test_nothing_is_claimed_that_was_failed_or_is_of_another_htlc(chain: Chain) -> None:
    """D1: the preimage of one HTLC is of no use for another of the same hash."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    alike(world, bob, 2, 30_000_000, [chain.height + 30] * 2)
    world.pair.cut()
    alice.does(SettleHtlc(0, preimage_of(7)), FailHtlc(1, b"no"))
    world.force_close(alice)
    world.run_until_over(alice, bob)
    net, fees = world.gained(alice)
    to_local = balance_of(alice)
    assert net + fees in (to_local + 30_000, to_local + 30_330)


@pytest.mark.parametrize("by_bob", [True, False])
def test_an_htlc_that_is_passed_on_is_not_claimed_for_our_own_invoice(chain: Chain, by_bob: bool) -> None:
    """The second HTLC of the hash waits for what happens downstream, whatever we know by heart."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    expiry = chain.height + 30
    alike(world, bob, 2, 30_000_000, [expiry] * 2)
    world.pair.cut()
    alice.does(SettleHtlc(0, preimage_of(7)))
    world.force_close(bob if by_bob else alice)
    while chain.height < expiry + 2:
        world.mine()
        alice.restarts()
    claimed = {o for tx in alice.sent.values() for o in (i.outpoint for i in tx.inputs)}
    assert alice.state is not None
    shown = [i for tx in alice.sent.values() for i in tx.inputs if bytes(preimage_of(7)) in i.witness]
    assert len({i.outpoint for i in shown}) == 1 and claimed
    world.run_until_over(alice, bob)
