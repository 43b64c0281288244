"""C5 duplicates left waiting after a revoked commitment (LDK 0.1)

What failed: the same HTLC came in over N channels and went out over one; after the peer's revoked commitment one of
the N was failed upstream and the others were forgotten, until each of their channels was closed at the deadline.

Defence: onchain/resolve.py:_outcomes decides about every outgoing HTLC by itself: one without an output is given up
when the commitment is deep enough, one with an output when that is spent, any when its upstream deadline nears.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from onchain_relay import Chain, Relay, World, alike, kind_of, open_chain

from salama.channel.state import Phase
from salama.onchain.identify import CloseKind


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


def test_after_a_revoked_commitment_everything_outstanding_is_failed(chain: Chain) -> None:
    """C5: HTLCs that are not in the revoked commitment do not wait for ever."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    cheater = world.twin(bob)
    alike(world, alice, 4, 20_000_000, [chain.height + 60] * 4)
    bob.is_offline = True
    world.force_close(cheater)
    world.run_until_over(alice)
    assert kind_of(alice) is CloseKind.REVOKED
    assert alice.failed() == {0, 1, 2, 3}


@pytest.mark.parametrize("in_the_revoked_one", [0, 1, 4])
def test_no_channel_upstream_is_closed(chain: Chain, in_the_revoked_one: int) -> None:
    """Four payers, one hash: the revoked commitment has none, one or all of the four HTLCs."""
    relay = Relay.between(chain, 4)
    down, expiry = relay.down, chain.height + 30
    cheater = down.twin(down.bob)
    for payer in range(4):
        if payer == in_the_revoked_one:
            cheater = down.twin(down.bob)
        relay.passes_on(payer, 7, 20_000_000, expiry)
    if in_the_revoked_one == 4:
        cheater = down.twin(down.bob)
        down.alice.end.adds(1_000_000, expiry=expiry)
        down.pair.settle()
    down.pair.cut()
    down.bob.is_offline = True
    down.force_close(cheater)
    relay.mine(12)
    assert kind_of(down.alice) is CloseKind.REVOKED
    assert {(payer, kind) for payer, _, kind in relay.told} == {(payer, "HtlcFailed") for payer in range(4)}
    relay.mine(expiry + 40 - chain.height)
    for up in relay.ups:
        assert up.alice.end.record.phase is up.bob.end.record.phase is Phase.NORMAL
        assert not up.alice.end.record.htlcs
