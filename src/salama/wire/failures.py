"""Why a payment failed, as the failing node says it inside the encrypted return packet (BOLT 4, B4.07).

Codes carry flags in their top bits. Unknown codes are kept whole, since their flags still tell whom to avoid and for
how long.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Final, Self, TypeVar

from salama.base.units import Msat
from salama.codec.fields import BIGSIZE, MSAT, SHA256, U16, U32, VARBYTES, Malformed
from salama.codec.message import Declared, Extension, bolt_name, declare, field

BADONION: Final = 0x8000
"""The onion could not be read; the failure was reported by the node before."""
PERM: Final = 0x4000
"""The failure will not go away."""
NODE: Final = 0x2000
"""The whole node failed, not one channel."""
UPDATE: Final = 0x1000
"""A ``channel_update`` may be attached, though few senders still do and it must never reach our public graph."""

F = TypeVar("F", bound="FailureMessage")


@declare
class FailureMessage(Declared):
    """A failure code with its data; ``extension`` holds unknown odd records behind it."""

    CODE: ClassVar[int] = 0
    NAME: ClassVar[str] = "failure_message"
    extension: Extension = ()

    @property
    def failure_code(self) -> int:
        return self.CODE

    @property
    def is_badonion(self) -> bool:
        return bool(self.failure_code & BADONION)

    @property
    def is_permanent(self) -> bool:
        return bool(self.failure_code & PERM)

    @property
    def is_node(self) -> bool:
        return bool(self.failure_code & NODE)

    @property
    def is_update(self) -> bool:
        return bool(self.failure_code & UPDATE)

    def encode(self) -> bytes:
        """With the two-byte code in front; raises Unencodable."""
        return self.CODE.to_bytes(2, "big") + self._write()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The failure of this class in ``data``; raises Malformed, also if it is another one."""
        if len(data) < 2 or data[0] << 8 | data[1] != cls.CODE:
            raise Malformed(f"not a {cls.NAME}")
        return cls._read(data, 2)


FAILURES: dict[int, type[FailureMessage]] = {}
"""Every declared failure message by its code."""


def failure(code: int) -> Callable[[type[F]], type[F]]:
    """Declare the failure message of ``code``."""

    def declared(cls: type[F]) -> type[F]:
        made = declare(cls)
        made.CODE, made.NAME = code, bolt_name(cls.__name__)
        FAILURES[code] = made
        return made

    return declared


@dataclasses.dataclass(frozen=True, slots=True, init=False, repr=False)
class UnknownFailure(FailureMessage):
    """A code that nobody declared."""

    NAME: ClassVar[str] = "unknown_failure"
    code: int
    data: bytes

    def __init__(self, code: int, data: bytes, extension: Extension = ()) -> None:
        object.__setattr__(self, "code", code)
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "extension", extension)

    @property
    def failure_code(self) -> int:
        return self.code

    def encode(self) -> bytes:
        return self.code.to_bytes(2, "big") + self.data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) < 2:
            raise Malformed("shorter than a failure code")
        return cls(data[0] << 8 | data[1], data[2:])

    def __repr__(self) -> str:
        return f"UnknownFailure(code={self.code:#06x}, data=<{len(self.data)} bytes>)"


def decode_failure(data: bytes) -> FailureMessage:
    """The failure message in ``data``; an undeclared code gives UnknownFailure. Raises only Malformed."""
    if len(data) < 2:
        raise Malformed("shorter than a failure code")
    cls = FAILURES.get(data[0] << 8 | data[1], UnknownFailure)
    return cls.decode(data)


@failure(NODE | 2)
class TemporaryNodeFailure(FailureMessage):
    """The node cannot relay for now."""


@failure(PERM | NODE | 2)
class PermanentNodeFailure(FailureMessage):
    """The node cannot relay at all."""


@failure(PERM | NODE | 3)
class RequiredNodeFeatureMissing(FailureMessage):
    """The onion lacks a feature that the node requires."""


@failure(BADONION | PERM | 4)
class InvalidOnionVersion(FailureMessage):
    """The onion has an unknown version."""

    sha256_of_onion: bytes = field(SHA256)


@failure(BADONION | PERM | 5)
class InvalidOnionHmac(FailureMessage):
    """The onion was changed on its way, or made for another hash."""

    sha256_of_onion: bytes = field(SHA256)


@failure(BADONION | PERM | 6)
class InvalidOnionKey(FailureMessage):
    """The onion's key is not a point."""

    sha256_of_onion: bytes = field(SHA256)


@failure(UPDATE | 7)
class TemporaryChannelFailure(FailureMessage):
    """The outgoing channel cannot take this HTLC now: no balance, no slot, peer offline."""

    channel_update: bytes = field(VARBYTES)


@failure(PERM | 8)
class PermanentChannelFailure(FailureMessage):
    """The outgoing channel cannot take any HTLC any more."""


@failure(PERM | 9)
class RequiredChannelFeatureMissing(FailureMessage):
    """The onion lacks a feature that the outgoing channel requires."""


@failure(PERM | 10)
class UnknownNextPeer(FailureMessage):
    """The node has no such outgoing channel."""


@failure(UPDATE | 11)
class AmountBelowMinimum(FailureMessage):
    """The HTLC is smaller than the outgoing channel's minimum."""

    htlc_msat: Msat = field(MSAT)
    channel_update: bytes = field(VARBYTES)


@failure(UPDATE | 12)
class FeeInsufficient(FailureMessage):
    """The fee left for the node is too small."""

    htlc_msat: Msat = field(MSAT)
    channel_update: bytes = field(VARBYTES)


@failure(UPDATE | 13)
class IncorrectCltvExpiry(FailureMessage):
    """The difference between incoming and outgoing expiry is too small."""

    cltv_expiry: int = field(U32)
    channel_update: bytes = field(VARBYTES)


@failure(UPDATE | 14)
class ExpiryTooSoon(FailureMessage):
    """The HTLC expires too soon to be relayed safely."""

    channel_update: bytes = field(VARBYTES)


@failure(PERM | 15)
class IncorrectOrUnknownPaymentDetails(FailureMessage):
    """From the recipient: the payment is unknown, or its amount, secret or expiry are wrong."""

    htlc_msat: Msat = field(MSAT)
    height: int = field(U32)


@failure(18)
class FinalIncorrectCltvExpiry(FailureMessage):
    """From the recipient: the HTLC expires earlier than the onion says."""

    cltv_expiry: int = field(U32)


@failure(19)
class FinalIncorrectHtlcAmount(FailureMessage):
    """From the recipient: the HTLC carries less than the onion says."""

    incoming_htlc_amt: Msat = field(MSAT)


@failure(UPDATE | 20)
class ChannelDisabled(FailureMessage):
    """The outgoing channel is disabled; no ``disabled_flags`` are defined."""

    disabled_flags: int = field(U16)
    channel_update: bytes = field(VARBYTES)


@failure(21)
class ExpiryTooFar(FailureMessage):
    """The HTLC expires too far in the future."""


@failure(PERM | 22)
class InvalidOnionPayload(FailureMessage):
    """The payload could not be understood; ``type`` and ``offset`` name the record to blame, or are 0."""

    type: int = field(BIGSIZE)
    offset: int = field(U16)


@failure(23)
class MppTimeout(FailureMessage):
    """From the recipient: the other parts of the payment did not arrive in time."""


@failure(BADONION | PERM | 24)
class InvalidOnionBlinding(FailureMessage):
    """Something went wrong inside a blinded path."""

    sha256_of_onion: bytes = field(SHA256)
