"""C3 preimages sought in one commitment only (eclair 0.11)

What failed: the peer failed an HTLC, published an older commitment that was not revoked yet and still had it, and
claimed it with the preimage; who looked only for HTLCs of the newest commitment did not see the preimage.

Defence: onchain/resolve.py:preimages_in looks into every witness of every transaction that spends the channel's
outputs, for every HTLC that anybody upstream still waits for; each is hashed before it is believed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from onchain_relay import Chain, Relay, World, kind_of, open_chain

from salama.channel.events import SettleHtlc
from salama.onchain.identify import CloseKind
from salama.testing.pair import preimage_of


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


@pytest.mark.parametrize("delivered", range(6))
def test_the_older_valid_commitment_is_claimed_with_the_preimage(chain: Chain, delivered: int) -> None:
    """C3: the peer fails the HTLC, publishes a commitment that still has it, and claims with the preimage."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    alice.end.adds(50_000_000, expiry=chain.height + 40)
    world.pair.settle()
    cheater = world.twin(bob)
    bob.end.fails_all()
    for _ in range(delivered):
        world.pair.deliver(bob.end if bob.end.outbox else alice.end)
    # Up to here what the twin has is not revoked yet, or else the penalty takes it.
    is_revoked = alice.end.record.funding.remote.number > cheater.end.record.funding.local.number
    world.pair.cut()
    bob.is_offline = True
    cheater.does(SettleHtlc(0, preimage_of(0)))
    world.force_close(cheater)
    for _ in range(12):
        chain.mine()
        cheater.follows()
        world.follow()
    assert (kind_of(alice) is CloseKind.REVOKED) == is_revoked
    if not is_revoked:
        assert alice.learned() == {0} and not alice.failed()


@pytest.mark.parametrize("restarts", [False, True])
def test_the_payer_upstream_pays(chain: Chain, restarts: bool) -> None:
    """The failure is on its way, the preimage comes on the chain: the relay is paid."""
    relay = Relay.between(chain)
    (up,), down = relay.ups, relay.down
    before = up.alice.end.balance
    relay.passes_on(0, 3, 50_000_000, chain.height + 40)
    cheater = down.twin(down.bob)
    down.bob.end.fails_all()
    for _ in range(2):
        down.pair.deliver(down.bob.end)
    down.pair.cut()
    down.bob.is_offline = True
    cheater.does(SettleHtlc(0, preimage_of(3)))
    down.force_close(cheater)
    for _ in range(8):
        relay.mine(restarts=restarts)
        cheater.follows()
    assert {kind for _, _, kind in relay.told} == {"PreimageLearned"}
    assert up.alice.end.balance == before + 50_000_000
