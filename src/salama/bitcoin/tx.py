"""Transactions as values: decoded once, frozen, with their ids (BIP 144 serialisation; used by BOLT 3 and BOLT 5).

Knows nothing of scripts, keys or validity. Decoding takes exactly the canonical serialisation, so that the hash of the
bytes read is the hash of the value; it has no limits of its own beyond the bytes given, because a legal block may hold
witnesses of any size (immunity G1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from struct import Struct, error
from typing import Final

from salama.base.ids import OutPoint, Txid
from salama.base.units import OutOfRange, Sat

FINAL_SEQUENCE: Final = 0xFFFFFFFF
RBF_SEQUENCE: Final = 0xFFFFFFFD
COINBASE_OUTPOINT: Final = OutPoint(Txid(bytes(32)), 0xFFFFFFFF)

_U16: Final = Struct("<H")
_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
_OUTPOINT: Final = Struct("<32sI")
_SMALL_SIZES: Final = tuple(bytes((number,)) for number in range(0xFD))
_MIN_INPUT = 41
_MIN_OUTPUT = 9


class MalformedTx(ValueError):
    """Bytes that are not one whole transaction in its canonical serialisation."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"not a valid transaction: {reason}")


def compact_size(number: int) -> bytes:
    """Bitcoin's little-endian variable length integer (not BOLT 1's BigSize, which is big-endian)."""
    if number < 0xFD:
        return _SMALL_SIZES[number]
    if number <= 0xFFFF:
        return b"\xfd" + number.to_bytes(2, "little")
    if number <= 0xFFFFFFFF:
        return b"\xfe" + number.to_bytes(4, "little")
    return b"\xff" + number.to_bytes(8, "little")


def read_compact_size(data: bytes, at: int) -> tuple[int, int]:
    """The number at ``at`` and the position after it; raises MalformedTx if truncated or not minimal."""
    try:
        first = data[at]
        if first < 0xFD:
            return first, at + 1
        if first == 0xFD:
            number, end, least = _U16.unpack_from(data, at + 1)[0], at + 3, 0xFD
        elif first == 0xFE:
            number, end, least = _U32.unpack_from(data, at + 1)[0], at + 5, 0x10000
        else:
            number, end, least = _U64.unpack_from(data, at + 1)[0], at + 9, 0x100000000
    except (IndexError, error):
        raise MalformedTx("truncated") from None
    if number < least:
        raise MalformedTx("a length is not minimally encoded")
    return number, end


@dataclass(frozen=True, slots=True)
class TxIn:
    """One input; ``sequence`` signals replaceability unless told otherwise."""

    outpoint: OutPoint
    sequence: int = RBF_SEQUENCE
    script_sig: bytes = b""
    witness: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class TxOut:
    """One output: its amount and its scriptpubkey."""

    value: Sat
    script: bytes

    def encode(self) -> bytes:
        return _U64.pack(self.value) + compact_size(len(self.script)) + self.script


@dataclass(frozen=True, slots=True)
class Tx:
    """A transaction. ``version`` and ``locktime`` are unsigned 32-bit numbers."""

    version: int
    inputs: tuple[TxIn, ...]
    outputs: tuple[TxOut, ...]
    locktime: int
    # The id survives with_witness, and costs a hash of everything otherwise: kept once known.
    _txid: Txid | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def decode(cls, data: bytes) -> Tx:
        """The transaction that ``data`` holds and nothing else; raises MalformedTx."""
        tx, end = read_tx(data, 0)
        if end != len(data):
            raise MalformedTx(f"{len(data) - end} bytes after its end")
        return tx

    def encode(self) -> bytes:
        """With witnesses if any input has one (BIP 144)."""
        if not any(i.witness for i in self.inputs):
            return self.encode_stripped()
        parts = [_U32.pack(self.version), b"\x00\x01"]
        self._write_body(parts)
        parts.extend([encode_witness(one.witness) for one in self.inputs])
        parts.append(_U32.pack(self.locktime))
        return b"".join(parts)

    def encode_stripped(self) -> bytes:
        """Without witnesses: what the txid commits to."""
        parts = [_U32.pack(self.version)]
        self._write_body(parts)
        parts.append(_U32.pack(self.locktime))
        return b"".join(parts)

    def _write_body(self, parts: list[bytes]) -> None:
        parts.append(compact_size(len(self.inputs)))
        for one in self.inputs:
            parts.append(_OUTPOINT.pack(*one.outpoint))
            parts.append(compact_size(len(one.script_sig)))
            parts.append(one.script_sig)
            parts.append(_U32.pack(one.sequence))
        parts.append(compact_size(len(self.outputs)))
        for out in self.outputs:
            parts.append(_U64.pack(out.value))
            parts.append(compact_size(len(out.script)))
            parts.append(out.script)

    @property
    def txid(self) -> Txid:
        if self._txid is None:
            object.__setattr__(self, "_txid", Txid(sha256(sha256(self.encode_stripped()).digest()).digest()))
            assert self._txid is not None
        return self._txid

    @property
    def wtxid(self) -> Txid:
        return Txid(sha256(sha256(self.encode()).digest()).digest())

    @property
    def weight(self) -> int:
        """Weight units (BIP 141): four for a byte outside the witnesses, one for a byte of them."""
        stripped = len(self.encode_stripped())
        if not any(i.witness for i in self.inputs):
            return 4 * stripped
        return 4 * stripped + 2 + sum(witness_size(i.witness) for i in self.inputs)

    @property
    def vsize(self) -> int:
        """Virtual bytes: a quarter of the weight, rounded up."""
        return (self.weight + 3) // 4

    @property
    def is_coinbase(self) -> bool:
        return len(self.inputs) == 1 and self.inputs[0].outpoint == COINBASE_OUTPOINT

    def with_witness(self, index: int, witness: Iterable[bytes]) -> Tx:
        """The same transaction with another witness on input ``index``; the txid stays."""
        old = self.inputs[index]
        changed = TxIn(old.outpoint, old.sequence, old.script_sig, tuple(witness))
        tx = Tx(self.version, (*self.inputs[:index], changed, *self.inputs[index + 1 :]), self.outputs, self.locktime)
        object.__setattr__(tx, "_txid", self._txid)
        return tx

    def outpoint(self, vout: int) -> OutPoint:
        """The name of our output ``vout``."""
        return OutPoint(self.txid, vout)


def encode_witness(witness: tuple[bytes, ...]) -> bytes:
    """One input's witness stack: a count, then each item behind its length."""
    parts = [compact_size(len(witness))]
    for item in witness:
        parts.append(compact_size(len(item)))
        parts.append(item)
    return b"".join(parts)


def witness_size(witness: tuple[bytes, ...]) -> int:
    """Bytes of ``encode_witness`` without building them."""
    return len(compact_size(len(witness))) + sum(len(compact_size(len(item))) + len(item) for item in witness)


def read_tx(data: bytes, at: int) -> tuple[Tx, int]:
    """The transaction that starts at ``at`` and the position after it; raises MalformedTx."""
    start, size = at, len(data)
    try:
        (version,) = _U32.unpack_from(data, at)
        at += 4
        segwit = data[at] == 0
        if segwit:
            # No input count may be zero, so a zero here announces the witness serialisation.
            if data[at + 1] != 1:
                raise MalformedTx("no inputs, or an unknown serialisation flag")
            at += 2
        body = at
        count, at = read_compact_size(data, at)
        if count == 0 or count > (size - at) // _MIN_INPUT:
            raise MalformedTx("no inputs" if count == 0 else "truncated")
        heads: list[tuple[OutPoint, int, bytes]] = []
        for _ in range(count):
            txid, vout = _OUTPOINT.unpack_from(data, at)
            length = data[at + 36]
            if length < 0xFD:
                at += 37
            else:
                length, at = read_compact_size(data, at + 36)
            script_sig = data[at : at + length]
            at += length
            heads.append((OutPoint(Txid(txid), vout), _U32.unpack_from(data, at)[0], script_sig))
            at += 4
        count, at = read_compact_size(data, at)
        if count > (size - at) // _MIN_OUTPUT:
            raise MalformedTx("truncated")
        outputs: list[TxOut] = []
        for _ in range(count):
            (value,) = _U64.unpack_from(data, at)
            length = data[at + 8]
            if length < 0xFD:
                at += 9
            else:
                length, at = read_compact_size(data, at + 8)
            outputs.append(TxOut(Sat(value), data[at : at + length]))
            at += length
        if at > size:
            raise MalformedTx("truncated")
        body_end = at
        if segwit:
            inputs: list[TxIn] = []
            any_witness = False
            for outpoint, sequence, script_sig in heads:
                count, at = read_compact_size(data, at)
                if count == 0:
                    inputs.append(TxIn(outpoint, sequence, script_sig))
                    continue
                any_witness = True
                if count > size - at:
                    raise MalformedTx("truncated")
                items: list[bytes] = []
                for _ in range(count):
                    length = data[at]
                    if length < 0xFD:
                        at += 1
                    else:
                        length, at = read_compact_size(data, at)
                    items.append(data[at : at + length])
                    at += length
                inputs.append(TxIn(outpoint, sequence, script_sig, tuple(items)))
            if not any_witness:
                raise MalformedTx("the witness serialisation without any witness")
        else:
            inputs = [TxIn(*head) for head in heads]
        if at > size:
            raise MalformedTx("truncated")
        locktime = data[at : at + 4]
        tx = Tx(version, tuple(inputs), tuple(outputs), _U32.unpack(locktime)[0])
        stripped = data[start : start + 4] + data[body:body_end] + locktime
    except (IndexError, error):
        raise MalformedTx("truncated") from None
    except OutOfRange:
        raise MalformedTx("an output of more than 21 million bitcoin") from None
    object.__setattr__(tx, "_txid", Txid(sha256(sha256(stripped).digest()).digest()))
    return tx, at + 4
