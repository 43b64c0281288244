"""B9 publishing an old state by mistake (any node restored from an old copy)

What failed: a node that comes back with an old database and publishes what it believes to be its latest commitment is
punished with the loss of everything.

Defence: channel/reestablish.py:receive_reestablish has the secret that the peer claims checked by the signer; if it is
ours the record is stale for good (channel/signing.py) and channel/failing.py:fail_channel publishes nothing.

Not covered: a peer that says nothing, or an HTLC deadline that comes before any peer does.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from salama.base.machine import Event
from salama.base.units import BlockHeight
from salama.channel.events import BlockArrived, ForceClose, MessageReceived
from salama.channel.state import ChannelRecord, Phase
from salama.testing.pair import Pair, through_disk
from salama.wire.setup import Error


def history() -> tuple[Pair, list[ChannelRecord]]:
    """A pair with a past, and Alice's record at each of its moments."""
    pair = Pair.opened()
    records = [pair.alice.record]
    for _ in range(3):
        pair.alice.adds(20_000_000)
        pair.settle()
        records.append(pair.alice.record)
        pair.bob.settles_all()
        pair.settle()
        records.append(pair.alice.record)
    return pair, records


@pytest.mark.parametrize("moment", range(6))
def test_an_old_database_publishes_nothing(moment: int) -> None:
    pair, records = history()
    pair.cut()
    alice = pair.alice
    alice.state = type(alice.channel)(through_disk(records[moment]))
    alice.effects.clear()
    pair.connect()
    pair.deliver(pair.bob)
    assert alice.record.stale
    assert any(isinstance(m, Error) for m in alice.sent()), "the peer is asked to close"
    alice.hears(Error(channel_id=alice.record.channel_id, data=b"no, you"))
    alice.does(ForceClose("a user in a hurry"))
    pair.cut()
    pair.restarts(alice)
    pair.mines(2000)
    assert not alice.broadcasts
    assert alice.record.stale and alice.record.phase is not Phase.ON_CHAIN


def test_the_peer_closes_and_its_commitment_is_the_newest() -> None:
    pair, records = history()
    pair.cut()
    alice, bob = pair.alice, pair.bob
    alice.state = type(alice.channel)(through_disk(records[0]))
    pair.connect()
    pair.deliver(bob)
    pair.settle()
    assert bob.record.phase is Phase.ON_CHAIN and len(bob.broadcasts) == 1
    assert not [tx for tx in alice.broadcasts if tx != pair.funding_tx]


@pytest.mark.parametrize("moment", range(6))
def test_a_peer_that_has_published_already_proves_it_all_the_same(moment: int) -> None:
    """Its error alone would make us publish, and what it published first may not be in a block yet."""
    pair, records = history()
    pair.cut()
    alice, bob = pair.alice, pair.bob
    bob.does(ForceClose("a user who has waited for long"))
    alice.state = type(alice.channel)(through_disk(records[moment]))
    alice.effects.clear()
    pair.connect()
    pair.settle()
    assert alice.record.stale and not alice.broadcasts
    assert len(bob.broadcasts) == 1


@pytest.mark.parametrize("moment", range(6))
@pytest.mark.parametrize("then", ["error", "user", "deadline"])
def test_the_proof_counts_before_whatever_comes_with_it(moment: int, then: str) -> None:
    """The peer's proof and its error, or a user's impatience, are handled in one turn."""
    pair, records = history()
    pair.cut()
    alice, bob = pair.alice, pair.bob
    alice.state = type(alice.channel)(through_disk(records[moment]))
    alice.effects.clear()
    pair.connect()
    (proof,) = bob.sent()
    second: Event = ForceClose("a user in a hurry")
    if then == "error":
        second = MessageReceived(Error(channel_id=bob.record.channel_id, data=b"you are behind"))
    elif then == "deadline":
        alice.env = replace(alice.env, height=BlockHeight(int(alice.env.height) + 5000))
        second = BlockArrived()
    alice.does(MessageReceived(proof), second)
    assert alice.record.stale and alice.record.phase is not Phase.ON_CHAIN and not alice.broadcasts
    pair.restarts(alice)
    assert not alice.broadcasts


def test_a_bluff_is_not_believed() -> None:
    """The peer says that we have revoked more than we remember, but cannot prove it."""
    from salama.wire.updates import ChannelReestablish

    pair, _ = history()
    pair.cut()
    pair.connect()
    (said,) = pair.bob.sent()
    assert isinstance(said, ChannelReestablish)
    lie = replace(
        said,
        next_revocation_number=said.next_revocation_number + 2,
        your_last_per_commitment_secret=b"\x01" * 32,
    )
    pair.alice.hears(lie)
    assert not pair.alice.record.stale and pair.alice.record.phase is Phase.NORMAL
