"""Announcements, and queries for them (BOLT 7, B7.02 to B7.09).

Announcements are signed to their last byte, so what follows the known fields is kept in ``tail`` and signed, stored
and relayed with them. Keys and amounts in them are not judged here: whoever relays an announcement did not write it,
and ``gossip.verify`` drops a bad one without blaming the connection.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from salama.base.ids import BlockHash, ChannelId, NodeId, ShortChannelId
from salama.codec.fields import (
    BIGSIZE,
    BYTE,
    CHAIN_HASH,
    CHANNEL_ID,
    NODE_ID,
    REST,
    SHORT_CHANNEL_ID,
    SIGNATURE,
    U16,
    U32,
    U64,
    UNCHECKED_POINT,
    VARBYTES,
    FieldType,
    Malformed,
    Mapped,
    Unencodable,
    group,
    raw,
    rest_of,
)
from salama.codec.message import Message, field, message, tail, tlv

_TYPE_SIZE: Final = 2
_SIGNATURE_SIZE: Final = 64


@message(259)
class AnnouncementSignatures(Message):
    """Half of the signatures of a ``channel_announcement``, sent by one end of the channel to the other."""

    channel_id: ChannelId = field(CHANNEL_ID)
    short_channel_id: ShortChannelId = field(SHORT_CHANNEL_ID)
    node_signature: bytes = field(SIGNATURE)
    bitcoin_signature: bytes = field(SIGNATURE)


@message(256)
class ChannelAnnouncement(Message):
    """Two nodes own the channel whose funding output is named by ``short_channel_id``."""

    node_signature_1: bytes = field(SIGNATURE)
    node_signature_2: bytes = field(SIGNATURE)
    bitcoin_signature_1: bytes = field(SIGNATURE)
    bitcoin_signature_2: bytes = field(SIGNATURE)
    features: bytes = field(VARBYTES)
    chain_hash: BlockHash = field(CHAIN_HASH)
    short_channel_id: ShortChannelId = field(SHORT_CHANNEL_ID)
    node_id_1: NodeId = field(NODE_ID)
    node_id_2: NodeId = field(NODE_ID)
    bitcoin_key_1: bytes = field(UNCHECKED_POINT)
    bitcoin_key_2: bytes = field(UNCHECKED_POINT)
    tail: bytes = tail()

    @property
    def signed_part(self) -> bytes:
        """What all four signatures cover once hashed twice with SHA-256."""
        return self.encode()[_TYPE_SIZE + 4 * _SIGNATURE_SIZE :]


@message(257)
class NodeAnnouncement(Message):
    """A node's features, addresses (``wire.addresses``), name and colour."""

    signature: bytes = field(SIGNATURE)
    features: bytes = field(VARBYTES)
    timestamp: int = field(U32)
    node_id: NodeId = field(NODE_ID)
    rgb_color: bytes = field(raw(3))
    alias: bytes = field(raw(32))
    addresses: bytes = field(VARBYTES)
    tail: bytes = tail()

    @property
    def signed_part(self) -> bytes:
        """What the signature covers once hashed twice with SHA-256."""
        return self.encode()[_TYPE_SIZE + _SIGNATURE_SIZE :]


MUST_BE_ONE: Final = 1
"""Bit of ``message_flags``; always set, and ignored by readers."""
DONT_FORWARD: Final = 2
"""Bit of ``message_flags``: the update concerns an unannounced channel and goes no further."""
DIRECTION: Final = 1
"""Bit of ``channel_flags``: 0 if the update comes from ``node_id_1``."""
DISABLE: Final = 2
"""Bit of ``channel_flags``: the channel cannot be used in this direction for now."""


@message(258)
class ChannelUpdate(Message):
    """What one end of a channel asks for relaying a payment into it."""

    signature: bytes = field(SIGNATURE)
    chain_hash: BlockHash = field(CHAIN_HASH)
    short_channel_id: ShortChannelId = field(SHORT_CHANNEL_ID)
    timestamp: int = field(U32)
    message_flags: int = field(BYTE)
    channel_flags: int = field(BYTE)
    cltv_expiry_delta: int = field(U16)
    htlc_minimum_msat: int = field(U64)
    fee_base_msat: int = field(U32)
    fee_proportional_millionths: int = field(U32)
    htlc_maximum_msat: int = field(U64)
    tail: bytes = tail()

    @property
    def direction(self) -> int:
        """0 if the update comes from ``node_id_1``, 1 if from ``node_id_2``."""
        return self.channel_flags & DIRECTION

    @property
    def is_disabled(self) -> bool:
        return bool(self.channel_flags & DISABLE)

    @property
    def may_forward(self) -> bool:
        return not self.message_flags & DONT_FORWARD

    @property
    def signed_part(self) -> bytes:
        """What the signature covers once hashed twice with SHA-256."""
        return self.encode()[_TYPE_SIZE + _SIGNATURE_SIZE :]

    @property
    def checksum_part(self) -> bytes:
        """What the CRC32C of extended queries covers: all but signature and timestamp."""
        signed = self.signed_part
        return signed[:40] + signed[44:]


UNCOMPRESSED: Final = 0
"""The only encoding of arrays in queries; 1 was zlib and is refused (B7.09)."""


def _plain(encoding: int) -> None:
    if encoding != UNCOMPRESSED:
        raise Malformed(f"array encoding {encoding}")


def _decode_scids(data: bytes) -> tuple[ShortChannelId, ...]:
    if not data:
        raise Malformed("array without its encoding")
    _plain(data[0])
    if len(data) % 8 != 1:
        raise Malformed("not a whole number of short channel ids")
    return tuple(map(ShortChannelId, struct.unpack(f">{len(data) // 8}Q", data[1:])))


def _encode_scids(scids: tuple[ShortChannelId, ...]) -> bytes:
    try:
        return b"\0" + struct.pack(f">{len(scids)}Q", *scids)
    except struct.error as error:
        raise Unencodable(str(error)) from None


ENCODED_SHORT_IDS: Final = Mapped(VARBYTES, _decode_scids, _encode_scids)
"""Short channel ids behind their encoding byte; 8191 at most, in ascending order unless the sender is careless."""


class _QueryFlags(NamedTuple):
    encoding_type: int
    encoded_query_flags: bytes


def _decode_flags(record: _QueryFlags) -> tuple[int, ...]:
    _plain(record.encoding_type)
    flags, pos, data = [], 0, record.encoded_query_flags
    while pos < len(data):
        flag, pos = BIGSIZE.read(data, pos, len(data))
        flags.append(flag)
    return tuple(flags)


def _encode_flags(flags: tuple[int, ...]) -> _QueryFlags:
    return _QueryFlags(UNCOMPRESSED, b"".join(map(BIGSIZE.write, flags)))


QUERY_FLAGS: Final = Mapped(
    group(_QueryFlags, encoding_type=BYTE, encoded_query_flags=REST), _decode_flags, _encode_flags
)

WANT_ANNOUNCEMENT: Final = 1
"""Query flag; those for the updates and node announcements of node 1 and node 2 follow."""
WANT_UPDATE_1: Final = 2
WANT_UPDATE_2: Final = 4
WANT_NODE_1: Final = 8
WANT_NODE_2: Final = 16


@message(261)
class QueryShortChannelIds(Message):
    """Asks for what is known about these channels; ``query_flags`` says for each what exactly (extended queries)."""

    chain_hash: BlockHash = field(CHAIN_HASH)
    encoded_short_ids: tuple[ShortChannelId, ...] = field(ENCODED_SHORT_IDS)
    query_flags: tuple[int, ...] | None = tlv(1, QUERY_FLAGS)


@message(262)
class ReplyShortChannelIdsEnd(Message):
    """The answers are complete; ``full_information`` is 0 if the sender does not keep up with this chain."""

    chain_hash: BlockHash = field(CHAIN_HASH)
    full_information: int = field(BYTE)


WANT_TIMESTAMPS: Final = 1
WANT_CHECKSUMS: Final = 2


@message(263)
class QueryChannelRange(Message):
    """Asks for the short channel ids of blocks ``first_blocknum`` and the following."""

    chain_hash: BlockHash = field(CHAIN_HASH)
    first_blocknum: int = field(U32)
    number_of_blocks: int = field(U32)
    query_option: int | None = tlv(1, BIGSIZE)


class ChannelUpdateTimestamps(NamedTuple):
    """Timestamps of the updates of both ends, 0 for none."""

    timestamp_node_id_1: int
    timestamp_node_id_2: int


class ChannelUpdateChecksums(NamedTuple):
    """CRC32C of the updates of both ends (``checksum_part``), 0 for none."""

    checksum_node_id_1: int
    checksum_node_id_2: int


class _Timestamps(NamedTuple):
    encoding_type: int
    encoded_timestamps: bytes


def _pairs(data: bytes) -> list[tuple[int, int]]:
    if len(data) % 8:
        raise Malformed("not a whole number of pairs")
    return list(struct.iter_unpack(">II", data))


def _decode_timestamps(record: _Timestamps) -> tuple[ChannelUpdateTimestamps, ...]:
    _plain(record.encoding_type)
    return tuple(ChannelUpdateTimestamps(*pair) for pair in _pairs(record.encoded_timestamps))


def _encode_timestamps(timestamps: tuple[ChannelUpdateTimestamps, ...]) -> _Timestamps:
    return _Timestamps(UNCOMPRESSED, b"".join(_encode_pair(pair) for pair in timestamps))


def _encode_pair(pair: tuple[int, int]) -> bytes:
    try:
        return struct.pack(">II", *pair)
    except struct.error as error:
        raise Unencodable(str(error)) from None


TIMESTAMPS: Final = Mapped(
    group(_Timestamps, encoding_type=BYTE, encoded_timestamps=REST), _decode_timestamps, _encode_timestamps
)
CHECKSUMS: Final[FieldType[tuple[ChannelUpdateChecksums, ...]]] = rest_of(
    group(ChannelUpdateChecksums, "channel_update_checksums", checksum_node_id_1=U32, checksum_node_id_2=U32)
)


@message(264)
class ReplyChannelRange(Message):
    """Channels of some blocks; ``sync_complete`` is 1 in the last reply. The records run parallel to the ids."""

    chain_hash: BlockHash = field(CHAIN_HASH)
    first_blocknum: int = field(U32)
    number_of_blocks: int = field(U32)
    sync_complete: int = field(BYTE)
    encoded_short_ids: tuple[ShortChannelId, ...] = field(ENCODED_SHORT_IDS)
    timestamps_tlv: tuple[ChannelUpdateTimestamps, ...] | None = tlv(1, TIMESTAMPS)
    checksums_tlv: tuple[ChannelUpdateChecksums, ...] | None = tlv(3, CHECKSUMS)


@message(265)
class GossipTimestampFilter(Message):
    """Asks for gossip whose timestamp is at least ``first_timestamp`` and less than that plus ``timestamp_range``."""

    chain_hash: BlockHash = field(CHAIN_HASH)
    first_timestamp: int = field(U32)
    timestamp_range: int = field(U32)
