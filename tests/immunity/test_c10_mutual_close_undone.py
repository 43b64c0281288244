"""C10 an agreed close forgotten after one confirmation (lnd before 0.20, lnd #10331)

What failed: the node stopped watching a channel when its mutual close had one confirmation; a reorganisation took that
back, and a revoked commitment took its place unseen.

Defence: onchain/machine.py:_is_over keeps every channel until its close is ``irrevocable_depth`` (100) blocks deep, and
watches the funding all the time; channel/closing.py takes a spend back when its block is undone.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from onchain_relay import Chain, World, kind_of, open_chain

from salama.bitcoin.script import p2wpkh
from salama.channel.events import CloseChannel
from salama.channel.state import Phase
from salama.onchain.identify import CloseKind


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    with open_chain() as one:
        yield one


@pytest.mark.parametrize("depth", [1, 2, 6, 9])
def test_a_mutual_close_that_is_undone_and_then_cheated(chain: Chain, depth: int) -> None:
    """C10: the agreed close is reorganised away, a revoked commitment comes instead; the penalty wins."""
    world = World.open(chain)
    alice, bob = world.alice, world.bob
    cheater = world.twin(bob)
    bob.end.adds(30_000_000)
    world.pair.settle()
    alice.end.settles_all()
    world.pair.settle()
    alice.end.does(CloseChannel(p2wpkh(b"\x02" + bytes(32))))
    world.pair.settle()
    alice.offer(alice.end.broadcasts[-1])
    world.mine(depth)
    assert kind_of(alice) is CloseKind.MUTUAL and not alice.is_over
    world.strict = False
    bob.is_offline = True
    chain.core.pool.entries.clear()
    height = chain.height
    # Straight into a block of the other branch.
    revoked = world.force_close(cheater)
    chain.reorganise(depth, [revoked])
    assert chain.height == height + 1
    alice.follows()
    world.mine(1)
    world.run_until_over(alice)
    assert kind_of(alice) is CloseKind.REVOKED
    assert alice.end.record.phase is Phase.ON_CHAIN
    net, fees = world.gained(alice)
    assert net + fees > 990_000
