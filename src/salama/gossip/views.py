"""What the graph says about one channel and one update, for people, tests and whoever does not search (BOLT 7)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from salama.base.ids import NodeId, ShortChannelId, Txid
from salama.base.units import Msat, Sat


class UpdateResult(Enum):
    """What became of a ``channel_update``."""

    APPLIED = "applied"
    UNKNOWN_CHANNEL = "no such channel"
    STALE = "not newer than the one we have"
    CONFLICT = "another update with the same timestamp"
    SPENT = "the channel is closing and the update does not disable it"
    INVALID = "a timestamp of zero"


@dataclass(frozen=True, slots=True)
class Policy:
    """One direction of a channel as its sender announced it."""

    timestamp: int
    disabled: bool
    cltv_expiry_delta: int
    htlc_minimum_msat: Msat
    htlc_maximum_msat: Msat
    fee_base_msat: int
    fee_proportional_millionths: int


@dataclass(frozen=True, slots=True)
class ChannelInfo:
    """An announced channel, for people and for tests; searching uses the ``Snapshot``."""

    short_channel_id: ShortChannelId
    node_1: NodeId
    node_2: NodeId
    capacity: Sat
    txid: Txid | None
    policies: tuple[Policy | None, Policy | None]
    """By ``node_1`` and by ``node_2``."""
    spent_height: int | None
    """Height of the block that spent the funding output; the channel is forgotten 72 blocks later."""
