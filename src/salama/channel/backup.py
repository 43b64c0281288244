"""What must survive the loss of all but the words, and the channel that is made of it again (B5.12, B2.65, B2.66).

A backup never changes while a channel lives: it holds terms and no state, so that an old one is as good as a new one
and none can lead to the publication of a revoked commitment. The channel made of it can do one thing: ask the peer to
publish. Our balance in the peer's commitment waits for our static key alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from salama.base.ids import BlockHash, ChannelId, NodeId, OutPoint, ShortChannelId
from salama.base.units import BlockHeight, FeeratePerKw, Msat, Sat
from salama.channel.keys import Basepoints
from salama.channel.params import ChannelParams, PartyParams
from salama.channel.spec import CommitmentSpec
from salama.channel.state import (
    ActiveFunding,
    ChannelRecord,
    LocalCommitment,
    OurKeys,
    Phase,
    PointWindow,
    RemoteCommitment,
)
from salama.wire.features import Features

LOST = "we lost data and ask you to publish your commitment transaction"
"""Told to the peer of a channel that was made from a backup, again at every connection."""


@dataclass(frozen=True, slots=True)
class ChannelBackup:
    """One channel, from the moment in which its funding may be published."""

    channel_id: ChannelId
    outpoint: OutPoint
    capacity: Sat
    peer: NodeId
    addresses: tuple[str, ...]
    """``host:port``, where the peer was reached."""
    is_opener: bool
    channel_type: Features
    key_index: int
    """Names our keys of this channel to the signer."""
    their_basepoints: Basepoints
    our_delay: int
    """Blocks for which our own commitment locks our own money."""
    their_delay: int
    closing_script: bytes
    opened_at: BlockHeight
    """No transaction of the channel is in a block below."""


def backup_of(record: ChannelRecord, addresses: tuple[str, ...]) -> ChannelBackup:
    """The backup of one channel."""
    params, funding = record.params, record.funding
    return ChannelBackup(
        channel_id=record.channel_id,
        outpoint=funding.outpoint,
        capacity=funding.capacity,
        peer=params.their_node_id,
        addresses=addresses,
        is_opener=params.is_opener,
        channel_type=params.channel_type,
        key_index=params.key_index,
        their_basepoints=params.theirs.basepoints,
        our_delay=params.theirs.to_self_delay,
        their_delay=params.ours.to_self_delay,
        closing_script=params.closing_script,
        opened_at=record.opened_at,
    )


def restored_channel(
    kept: ChannelBackup, keys: OurKeys, our_node_id: NodeId, chain_hash: BlockHash, alias: ShortChannelId
) -> ChannelRecord:
    """A channel of which only the terms are left: durably stale, so that nothing of it is ever published.

    ``keys`` are those of ``kept.key_index``. What the commitments hold is not known: all of it counts as the peer's
    until the chain shows our share.
    """
    balance = CommitmentSpec(True, FeeratePerKw(253), Msat(0), kept.capacity.msat)
    return ChannelRecord(
        channel_id=kept.channel_id,
        params=ChannelParams(
            our_node_id=our_node_id,
            their_node_id=kept.peer,
            chain_hash=chain_hash,
            is_opener=kept.is_opener,
            announce=False,
            channel_type=kept.channel_type,
            key_index=kept.key_index,
            minimum_depth=1,
            closing_script=kept.closing_script,
            ours=_party(keys.basepoints, kept.their_delay),
            theirs=_party(kept.their_basepoints, kept.our_delay),
        ),
        phase=Phase.AWAITING_FUNDING,
        active=(
            ActiveFunding(
                outpoint=kept.outpoint,
                capacity=kept.capacity,
                our_funding_pubkey=keys.basepoints.funding_pubkey,
                their_funding_pubkey=kept.their_basepoints.funding_pubkey,
                local=LocalCommitment(0, balance, bytes(64)),
                remote=RemoteCommitment(0, balance.seen_by_other(), kept.their_basepoints.payment),
            ),
        ),
        opened_at=kept.opened_at,
        our_points=PointWindow(0, (keys.first_point, keys.second_point)),
        their_next_point=None,
        our_alias=alias,
        error=LOST,
        stale=True,
        restored=True,
    )


def _party(basepoints: Basepoints, to_self_delay: int) -> PartyParams:
    """Terms of which only keys and delay still matter."""
    return PartyParams(basepoints, Sat(354), Sat(0), Msat(0), 0, Msat(0), to_self_delay)
