"""When an outgoing HTLC is lost, and when it is paid for after all (B5.04, B5.06; immunity C1, C4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from onchain_world import Chain, World, open_chain

from salama.channel.deadlines import EARLY_FAIL_BACK
from salama.channel.events import Origin, SettleHtlc
from salama.onchain.resolve import FAIL_BACK_DEPTH
from salama.testing.pair import preimage_of


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


def test_a_preimage_in_the_block_of_the_deadline_upstream_beats_the_loss(chain: Chain) -> None:
    """In that block we would give it up for the sake of the channel upstream: the peer has claimed it just then."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    alice.end.adds(50_000_000, expiry=chain.height + 60)
    world.pair.settle()
    deadline = chain.height + 12
    alice.upstream[b"alice 0"] = deadline + EARLY_FAIL_BACK
    world.pair.cut()
    world.force_close(alice)
    world.mine(deadline - 1 - chain.height)
    assert not alice.failed() and not alice.learned()
    bob.does(SettleHtlc(0, preimage_of(0)))
    world.mine()
    assert chain.height == deadline
    assert alice.learned() == {0} and not alice.failed()


def test_of_two_alike_only_the_one_that_is_lost_is_given_up(chain: Chain) -> None:
    """Same hash, same amount: the payer of the later one could be paid for yet."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    adds = [alice.end.add_event(7, 20_000_000, chain.height + blocks) for blocks in (10, 60)]
    alice.end.does(*(replace(one, origin=Origin(b"alice %d" % at)) for at, one in enumerate(adds)))
    world.pair.settle()
    world.pair.cut()
    world.force_close(alice)
    world.mine(25)
    assert alice.failed() == {0}
    bob.does(SettleHtlc(1, preimage_of(7)))
    world.mine(2)
    assert 1 in alice.learned() and alice.failed() == {0}


def test_a_loss_that_a_reorganisation_takes_back_is_no_loss(chain: Chain) -> None:
    """Our claim after the timeout was one block short of deep, and then the chain is another one without it."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    expiry = chain.height + 10
    alice.end.adds(50_000_000, expiry=expiry)
    world.pair.settle()
    world.pair.cut()
    world.force_close(alice)
    world.mine(expiry + FAIL_BACK_DEPTH - 1 - chain.height)
    assert alice.state is not None and not alice.failed()
    claimed = max(int(one.height) for one in alice.state.record.confirmed)
    assert chain.height - claimed + 1 == FAIL_BACK_DEPTH - 1
    chain.core.pool.entries.clear()
    bob.is_offline = alice.is_offline = True
    chain.reorganise(chain.height - claimed + 1)
    alice.is_offline = False
    alice.follows()
    assert not alice.failed()
    world.mine(FAIL_BACK_DEPTH)
    assert alice.failed() == {0}
