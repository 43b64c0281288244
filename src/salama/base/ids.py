"""Names of things: keys, channels, transactions, payments (BOLT 1 fundamental types, BOLT 7 short_channel_id)."""

from __future__ import annotations

import re
from enum import Enum
from typing import ClassVar, NamedTuple, Self


class MalformedId(ValueError):
    """Text or bytes that cannot be the identifier they are meant to be."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind, self.reason = kind, reason
        super().__init__(f"not a valid {kind}: {reason}")


class FixedBytes(bytes):
    """Bytes of one exact length."""

    SIZE: ClassVar[int]
    __slots__ = ()

    def __new__(cls, value: bytes) -> Self:
        if len(value) != cls.SIZE:
            raise MalformedId(cls.__name__, f"{len(value)} bytes instead of {cls.SIZE}")
        return bytes.__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From hex; raises MalformedId."""
        if len(text) != 2 * cls.SIZE:
            raise MalformedId(cls.__name__, f"{len(text)} characters instead of {2 * cls.SIZE}")
        try:
            return cls(bytes.fromhex(text))
        except ValueError:
            raise MalformedId(cls.__name__, "not hexadecimal") from None

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.hex()})"


class NodeId(FixedBytes):
    """Compressed public key of a node."""

    SIZE = 33
    __slots__ = ()


class ChannelId(FixedBytes):
    """32-byte ``channel_id``, temporary or final (BOLT 2, B2.01)."""

    SIZE = 32
    __slots__ = ()

    @classmethod
    def v1(cls, funding: OutPoint) -> ChannelId:
        """``funding_txid`` XOR ``funding_output_index`` in the last two bytes (B2.01)."""
        tail = int.from_bytes(funding.txid[-2:], "big") ^ funding.vout
        return cls(bytes(funding.txid[:-2]) + tail.to_bytes(2, "big"))


class PaymentHash(FixedBytes):
    """SHA-256 of a preimage."""

    SIZE = 32
    __slots__ = ()


class Preimage(FixedBytes):
    """Payment preimage; hidden from ``repr`` because whoever reads it may claim the payment."""

    SIZE = 32
    __slots__ = ()

    def __repr__(self) -> str:
        return "Preimage(...)"


class Txid(FixedBytes):
    """Transaction id in its wire order; ``str`` and ``parse`` use the reversed order that people see."""

    SIZE = 32
    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(bytes(super().parse(text))[::-1])

    def __str__(self) -> str:
        return self[::-1].hex()

    def __repr__(self) -> str:
        return f"Txid({self})"


class BlockHash(Txid):
    """Block hash, same orders as ``Txid``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"BlockHash({self})"


class OutPoint(NamedTuple):
    """One output of a transaction."""

    txid: Txid
    vout: int

    def __str__(self) -> str:
        return f"{self.txid}:{self.vout}"

    @classmethod
    def parse(cls, text: str) -> OutPoint:
        txid, colon, vout = text.partition(":")
        if not colon or not re.fullmatch(r"[0-9]{1,10}", vout) or int(vout) > 0xFFFFFFFF:
            raise MalformedId("OutPoint", "expected txid:vout")
        return cls(Txid.parse(txid), int(vout))


class ShortChannelId(int):
    """3 bytes block height, 3 bytes transaction index, 2 bytes output index (BOLT 7, B7.01); text ``HxTxV``."""

    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        if not 0 <= value < 1 << 64:
            raise MalformedId("ShortChannelId", "not an unsigned 64-bit number")
        return int.__new__(cls, value)

    @classmethod
    def of(cls, height: int, index: int, vout: int) -> Self:
        if not (0 <= height < 1 << 24 and 0 <= index < 1 << 24 and 0 <= vout < 1 << 16):
            raise MalformedId("ShortChannelId", "a part is out of range")
        return cls(height << 40 | index << 16 | vout)

    @classmethod
    def parse(cls, text: str) -> Self:
        match = re.fullmatch(r"([0-9]{1,8})x([0-9]{1,8})x([0-9]{1,5})", text)
        if match is None:
            raise MalformedId("ShortChannelId", "expected HxTxV")
        return cls.of(*map(int, match.groups()))

    @property
    def height(self) -> int:
        return self >> 40

    @property
    def index(self) -> int:
        return self >> 16 & 0xFFFFFF

    @property
    def vout(self) -> int:
        return self & 0xFFFF

    def __str__(self) -> str:
        return f"{self.height}x{self.index}x{self.vout}"

    def __repr__(self) -> str:
        return f"ShortChannelId({self})"


class Side(Enum):
    """Who offered an HTLC, seen by us."""

    INCOMING = "incoming"
    OUTGOING = "outgoing"

    @property
    def other(self) -> Side:
        return Side.OUTGOING if self is Side.INCOMING else Side.INCOMING


class HtlcRef(NamedTuple):
    """One HTLC among all: never named by its hash or amount, which may repeat."""

    channel_id: ChannelId
    side: Side
    id: int

    def __str__(self) -> str:
        return f"{self.channel_id.hex()[:8]}/{self.side.value}/{self.id}"
