"""Making our own announcements: unsigned messages, the digests owed a signature, the signed results (B7.02-B7.05).

Nothing here holds a key. ``digest`` of an unsigned message goes to the signer; ``signed`` and ``assemble`` put the
answers in place.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from typing import Final, TypeVar

from salama.base.ids import BlockHash, NodeId, ShortChannelId
from salama.base.units import Msat
from salama.crypto import secp256k1
from salama.crypto.hashes import sha256d
from salama.wire.addresses import NodeAddress, encode_addresses
from salama.wire.features import Features
from salama.wire.gossip import (
    DISABLE,
    DONT_FORWARD,
    MUST_BE_ONE,
    AnnouncementSignatures,
    ChannelAnnouncement,
    ChannelUpdate,
    NodeAnnouncement,
)

UNSIGNED: Final = bytes(64)
ALIAS_SIZE: Final = 32

Signed = TypeVar("Signed", ChannelUpdate, NodeAnnouncement)


def digest(message: ChannelAnnouncement | ChannelUpdate | NodeAnnouncement) -> bytes:
    """The 32 bytes that its signatures sign; the signatures that it carries by now make no difference."""
    return sha256d(message.signed_part)


def signed(message: Signed, signature: bytes) -> Signed:
    """``message`` with its one signature (64 bytes, compact)."""
    return replace(message, signature=signature)


def next_timestamp(now: float, last: int) -> int:
    """A timestamp for a new message: our clock, but always greater than that of the ``last`` one (0 for none)."""
    return max(int(now), last + 1, 1)


def direction_of(our_node_id: NodeId, their_node_id: NodeId) -> int:
    """The direction bit of our updates: 0 if we are ``node_id_1``."""
    return int(our_node_id > their_node_id)


# --- channels -------------------------------------------------------------------------------------------------------


def make_channel_announcement(
    *,
    chain_hash: BlockHash,
    short_channel_id: ShortChannelId,
    our_node_id: NodeId,
    our_funding_key: bytes,
    their_node_id: NodeId,
    their_funding_key: bytes,
    features: bytes = b"",
) -> ChannelAnnouncement:
    """The announcement without signatures: both sides make the same one, whoever asks."""
    ends = sorted([(our_node_id, our_funding_key), (their_node_id, their_funding_key)])
    return ChannelAnnouncement(
        node_signature_1=UNSIGNED,
        node_signature_2=UNSIGNED,
        bitcoin_signature_1=UNSIGNED,
        bitcoin_signature_2=UNSIGNED,
        features=features,
        chain_hash=chain_hash,
        short_channel_id=short_channel_id,
        node_id_1=ends[0][0],
        node_id_2=ends[1][0],
        bitcoin_key_1=ends[0][1],
        bitcoin_key_2=ends[1][1],
    )


def are_their_signatures(
    announcement: ChannelAnnouncement, their_node_id: NodeId, signatures: AnnouncementSignatures
) -> bool:
    """Whether the peer's ``announcement_signatures`` are for this announcement and by its keys (B7.02)."""
    if signatures.short_channel_id != announcement.short_channel_id:
        return False
    first = their_node_id == announcement.node_id_1
    bitcoin_key = announcement.bitcoin_key_1 if first else announcement.bitcoin_key_2
    ours = digest(announcement)
    return secp256k1.verify(their_node_id, ours, signatures.node_signature) and secp256k1.verify(
        bitcoin_key, ours, signatures.bitcoin_signature
    )


def assemble(
    announcement: ChannelAnnouncement,
    our_node_id: NodeId,
    ours: AnnouncementSignatures,
    theirs: AnnouncementSignatures,
) -> ChannelAnnouncement:
    """The announcement with both sides' signatures, each in its place."""
    first, second = (ours, theirs) if our_node_id == announcement.node_id_1 else (theirs, ours)
    return replace(
        announcement,
        node_signature_1=first.node_signature,
        node_signature_2=second.node_signature,
        bitcoin_signature_1=first.bitcoin_signature,
        bitcoin_signature_2=second.bitcoin_signature,
    )


def make_channel_update(
    *,
    chain_hash: BlockHash,
    short_channel_id: ShortChannelId,
    our_node_id: NodeId,
    their_node_id: NodeId,
    timestamp: int,
    cltv_expiry_delta: int,
    htlc_minimum: Msat,
    htlc_maximum: Msat,
    fee_base_msat: int,
    fee_proportional_millionths: int,
    disable: bool = False,
    private: bool = False,
) -> ChannelUpdate:
    """Our terms for relaying into this channel, without signature.

    A ``private`` one is for the peer alone: it carries the alias that the peer knows and asks not to be forwarded.
    ValueError if ``htlc_maximum`` is below ``htlc_minimum`` or the timestamp is not positive.
    """
    if htlc_maximum < htlc_minimum:
        raise ValueError("htlc_maximum below htlc_minimum")
    if not 0 < timestamp < 1 << 32:
        raise ValueError("a timestamp that cannot be announced")
    return ChannelUpdate(
        signature=UNSIGNED,
        chain_hash=chain_hash,
        short_channel_id=short_channel_id,
        timestamp=timestamp,
        message_flags=MUST_BE_ONE | (DONT_FORWARD if private else 0),
        channel_flags=direction_of(our_node_id, their_node_id) | (DISABLE if disable else 0),
        cltv_expiry_delta=cltv_expiry_delta,
        htlc_minimum_msat=int(htlc_minimum),
        fee_base_msat=fee_base_msat,
        fee_proportional_millionths=fee_proportional_millionths,
        htlc_maximum_msat=int(htlc_maximum),
    )


def says_the_same(one: ChannelUpdate, other: ChannelUpdate) -> bool:
    """Whether two updates differ in nothing but time and signature: the second would be redundant (B7.06)."""
    return one.checksum_part == other.checksum_part


# --- nodes ----------------------------------------------------------------------------------------------------------


def make_node_announcement(
    *,
    node_id: NodeId,
    timestamp: int,
    alias: str,
    rgb_color: bytes,
    features: Features,
    addresses: Iterable[NodeAddress] = (),
) -> NodeAnnouncement:
    """What we say about ourselves, without signature; an alias of more than 32 bytes is cut between characters."""
    return NodeAnnouncement(
        signature=UNSIGNED,
        features=features.encode(),
        timestamp=timestamp,
        node_id=node_id,
        rgb_color=rgb_color,
        alias=encode_alias(alias),
        addresses=encode_addresses(addresses),
    )


def encode_alias(text: str) -> bytes:
    """32 bytes of UTF-8, filled with zeros."""
    return text.encode("utf-8", "replace")[:ALIAS_SIZE].decode("utf-8", "ignore").encode().ljust(ALIAS_SIZE, b"\0")


def alias_text(alias: bytes) -> str:
    """A stranger's alias as text that is safe in a terminal: no control or formatting characters (B7.04)."""
    text = alias.rstrip(b"\0").decode("utf-8", "replace")
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c)[0] == "C" else c for c in text)
