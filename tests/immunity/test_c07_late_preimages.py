"""C7 a preimage that comes late spoils the claims (LDK 0.1.5 #4154)

What failed: after some HTLCs of a commitment had been claimed, the preimage of another one was learned; the claims were
patched instead of worked out again, and became invalid.

Defence: onchain/machine.py:_settle works everything out from the facts whenever the channel decides an HTLC
(RecordChanged), and onchain/bump.py:plan leaves what is in flight alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from onchain_relay import Chain, World, open_chain

from salama.channel.events import SettleHtlc
from salama.testing.pair import preimage_of


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


@pytest.mark.parametrize("by_bob", [True, False])
def test_a_preimage_that_comes_late_is_still_used(chain: Chain, by_bob: bool) -> None:
    """C7: one HTLC is claimed, then the preimage of another becomes known."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    bob.end.adds(50_000_000, 40_000_000, expiry=chain.height + 40)
    world.pair.settle()
    world.pair.cut()
    alice.does(SettleHtlc(0, preimage_of(0)))
    world.force_close(bob if by_bob else alice)
    world.mine(5)
    alice.restarts()
    alice.does(SettleHtlc(1, preimage_of(1)))
    world.mine(2)
    assert bob.learned() == {0, 1}
    world.run_until_over(alice, bob)


@pytest.mark.parametrize("by_bob", [True, False])
@pytest.mark.parametrize("known", range(1, 8))
def test_some_are_claimed_then_the_rest(chain: Chain, known: int, by_bob: bool) -> None:
    """Each bit of ``known``: the preimage is there before the close; the others come two blocks after, one by one."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    bob.end.adds(50_000_000, 40_000_000, 30_000_000, expiry=chain.height + 40)
    world.pair.settle()
    world.pair.cut()
    early = [n for n in range(3) if known >> n & 1]
    alice.does(*(SettleHtlc(n, preimage_of(n)) for n in early))
    world.force_close(bob if by_bob else alice)
    world.mine(2)
    for n in sorted(set(range(3)) - set(early)):
        alice.does(SettleHtlc(n, preimage_of(n)))
        world.mine(1)
    world.mine(1)
    assert bob.learned() == {0, 1, 2}
    world.run_until_over(alice, bob)
    assert not bob.failed()
