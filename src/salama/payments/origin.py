"""The opaque ``origin`` that a channel keeps with each outgoing HTLC: who asked for it (architecture, "Rows").

Two kinds: a forward, named by the incoming HTLC, and a part of a payment of ours, named by payment hash and part
number. Both are at most one live outgoing HTLC each: that is what makes forwarding twice impossible across restarts.
"""

from __future__ import annotations

from dataclasses import dataclass

from salama.base.ids import ChannelId, HtlcRef, PaymentHash, Side
from salama.channel.events import Origin

_FORWARD, _PART = b"F", b"P"


class MalformedOrigin(ValueError):
    """Bytes that are no origin of ours: the database is damaged or from another version."""


@dataclass(frozen=True, slots=True)
class ForwardOrigin:
    """An HTLC that relays ``incoming``."""

    incoming: HtlcRef

    def encode(self) -> Origin:
        return Origin(_FORWARD + self.incoming.channel_id + self.incoming.id.to_bytes(8, "big"))


@dataclass(frozen=True, slots=True)
class PartOrigin:
    """Part ``number`` of our payment of ``payment_hash``; numbers are never used twice, also by a later attempt."""

    payment_hash: PaymentHash
    number: int

    def encode(self) -> Origin:
        return Origin(_PART + self.payment_hash + self.number.to_bytes(4, "big"))


def decode_origin(origin: bytes) -> ForwardOrigin | PartOrigin:
    """The inverse of both ``encode``; raises MalformedOrigin."""
    kind, rest = origin[:1], origin[1:]
    if kind == _FORWARD and len(rest) == 40:
        ref = HtlcRef(ChannelId(rest[:32]), Side.INCOMING, int.from_bytes(rest[32:], "big"))
        return ForwardOrigin(ref)
    if kind == _PART and len(rest) == 36:
        return PartOrigin(PaymentHash(rest[:32]), int.from_bytes(rest[32:], "big"))
    raise MalformedOrigin(f"{len(origin)} bytes of unknown kind")
