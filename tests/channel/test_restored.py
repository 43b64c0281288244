"""A channel made from its backup: it asks the peer to publish and never publishes itself (B2.66, B5.12)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from salama.base.ids import ShortChannelId
from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight
from salama.channel.backup import LOST, backup_of, restored_channel
from salama.channel.commitments import remote_commitment_tx
from salama.channel.events import BlockArrived, ForceClose, FundingConfirmed, FundingSpent
from salama.channel.state import Channel, ChannelRecord, Phase
from salama.channel.step import resume, step
from salama.onchain.identify import CloseKind, identify
from salama.onchain.outputs import Role
from salama.testing.pair import CHAIN, End, Pair, through_disk
from salama.wire.setup import Error
from salama.wire.updates import ChannelReestablish


def restored(end: End) -> ChannelRecord:
    kept = backup_of(end.record, ())
    keys = end.signer.channel_keys(kept.key_index)
    made = restored_channel(kept, keys, end.signer.node_id, CHAIN, ShortChannelId(0x0A11))
    return through_disk(made)


def lose(pair: Pair, end: End) -> ChannelRecord:
    """Everything of one side is gone but its words and its backup; what it had last."""
    pair.cut()
    last = end.record
    end.state = Channel(restored(end))
    end.effects.clear()
    pair.connect()
    return last


@pytest.mark.parametrize("payments", [0, 3])
@pytest.mark.parametrize("who", ["alice", "bob"])
def test_the_peer_publishes_and_we_never(payments: int, who: str) -> None:
    pair = Pair.opened()
    for _ in range(payments):
        pair.alice.adds(20_000_000)
        pair.settle()
        pair.bob.settles_all()
        pair.settle()
    end = getattr(pair, who)
    peer = pair.other(end)
    last = lose(pair, end)
    said = end.sent()
    assert [type(one) for one in said] == [ChannelReestablish, Error]
    assert (said[0].next_commitment_number, said[0].next_revocation_number) == (0, 0)
    pair.settle()
    assert peer.record.phase is Phase.ON_CHAIN and len(peer.broadcasts) == 1 + (peer is pair.alice)
    pair.mines(3000)
    assert not end.broadcasts and end.record.stale

    theirs = remote_commitment_tx(last, last.funding, last.funding.remote).tx
    assert theirs.txid == peer.broadcasts[-1].txid
    found = identify(end.record, theirs, lambda number: [])
    assert found is not None and found.kind is CloseKind.FUTURE
    (ours,) = found.outputs
    assert ours.role is Role.TO_REMOTE and int(ours.amount) > 300_000


def test_nothing_makes_it_publish() -> None:
    pair = Pair.opened()
    alice = pair.alice
    lose(pair, alice)
    alice.hears(Error(channel_id=alice.record.channel_id, data=b"no, you"))
    with pytest.raises(CommandRefused, match="old"):
        step(alice.channel, ForceClose("a user in a hurry"), alice.env)
    assert not resume(alice.record, alice.env).owed
    pair.restarts(alice)
    assert not alice.broadcasts and alice.record.error == LOST


def test_a_funding_that_was_never_published_is_forgotten() -> None:
    pair = Pair.opened()
    alice = pair.alice
    alice.state = Channel(restored(alice))
    timeout = alice.env.policy.funding_timeout
    alice.env = replace(alice.env, height=BlockHeight(int(alice.record.opened_at) + timeout))
    alice.does(BlockArrived())
    assert alice.record.phase is Phase.AWAITING_FUNDING
    alice.env = replace(alice.env, height=BlockHeight(int(alice.record.opened_at) + timeout + 1))
    alice.does(BlockArrived())
    assert alice.record.phase is Phase.CLOSED


def test_what_the_chain_shows_again_is_followed() -> None:
    pair = Pair.opened()
    alice = pair.alice
    assert pair.funding_tx is not None
    alice.state = Channel(restored(alice))
    alice.effects.clear()
    alice.does(FundingConfirmed(pair.funding_tx, BlockHeight(800_001), 3))
    assert alice.record.funding.confirmation is not None and alice.record.phase is Phase.AWAITING_FUNDING
    bob = pair.bob.record
    tx = remote_commitment_tx(bob, bob.funding, bob.funding.remote).tx
    alice.does(FundingSpent(tx, BlockHeight(800_002)))
    assert alice.record.phase is Phase.ON_CHAIN and not alice.broadcasts
