"""Setting up and minding a connection: ``init``, ``error``, ``ping``, peer storage (BOLT 1, B1.05 to B1.10)."""

from __future__ import annotations

from salama.base.ids import BlockHash, ChannelId
from salama.codec.fields import CHAIN_HASH, CHANNEL_ID, REST, U16, VARBYTES, rest_of
from salama.codec.message import Message, field, message, tlv
from salama.wire.features import FEATURES_U16, Features

ALL_CHANNELS = ChannelId(bytes(32))
"""In ``error`` and ``warning``: no channel in particular, hence every channel with this peer."""
MAX_PONG = 65532
"""``num_pong_bytes`` from here on asks for no answer (B1.09)."""
MAX_PEER_STORAGE = 65531
"""Bytes of the largest blob a peer keeps for us (B1.10)."""


@message(16)
class Init(Message):
    """The first message of a connection. Both feature fields count together: ``all_features``."""

    globalfeatures: Features = field(FEATURES_U16)
    features: Features = field(FEATURES_U16)
    networks: tuple[BlockHash, ...] | None = tlv(1, rest_of(CHAIN_HASH))
    remote_addr: bytes | None = tlv(3, REST)

    @property
    def all_features(self) -> Features:
        return self.globalfeatures | self.features


@message(17)
class Error(Message):
    """The channel (all of them if ``ALL_CHANNELS``) has failed. ``data`` is meant for people and may hold anything."""

    channel_id: ChannelId = field(CHANNEL_ID)
    data: bytes = field(VARBYTES)


@message(1)
class Warning(Message):
    """Something went wrong, without failing a channel."""

    channel_id: ChannelId = field(CHANNEL_ID)
    data: bytes = field(VARBYTES)


@message(18)
class Ping(Message):
    """Asks for a ``pong`` of ``num_pong_bytes``, or for none if that is ``MAX_PONG`` or more."""

    num_pong_bytes: int = field(U16)
    ignored: bytes = field(VARBYTES)


@message(19)
class Pong(Message):
    """Answers a ``ping``."""

    ignored: bytes = field(VARBYTES)


@message(7)
class PeerStorage(Message):
    """An encrypted blob for the peer to keep."""

    blob: bytes = field(VARBYTES)


@message(9)
class PeerStorageRetrieval(Message):
    """The blob that we kept for the peer, given back after each reconnection."""

    blob: bytes = field(VARBYTES)
