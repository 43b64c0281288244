"""Partially signed transactions as values: version 0 (BIP 174), version 2 (BIP 370), taproot fields (BIP 371).

A PSBT comes from another program and is believed in nothing: keys and values must have the lengths that their type
says, nothing may come twice, an output that is shown must be the one that is spent. What we have no use for is kept
as it came. Knows no wallet, and of signatures only where they stand.

Not read: a transaction without inputs, which cannot be told from one with witnesses.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from operator import itemgetter
from typing import Any, Final, TypeVar

from salama.base.ids import OutPoint, Txid
from salama.base.units import OutOfRange, Sat
from salama.bitcoin.psbt_maps import (
    KeyOrigin,
    MalformedPsbt,
    Map,
    encode_map,
    encode_origin,
    is_pubkey,
    parse_origin,
    read_bytes,
    read_map,
    read_tap_origins,
    u32,
)
from salama.bitcoin.tx import (
    FINAL_SEQUENCE,
    MalformedTx,
    Tx,
    TxIn,
    TxOut,
    compact_size,
    encode_witness,
    read_compact_size,
)

__all__ = ["KeyOrigin", "MalformedPsbt", "Psbt", "PsbtInput", "PsbtOutput"]

MAGIC: Final = b"psbt\xff"
MAX_SIZE: Final = 2_000_000
"""Bytes: a transaction that relays has at most 100,000 virtual ones, but each input may show its whole parent."""
_V2_GLOBAL: Final = frozenset((0x02, 0x03, 0x04, 0x05, 0x06))
_V2_INPUT: Final = frozenset((0x0E, 0x0F, 0x10, 0x11, 0x12))
_V2_OUTPUT: Final = frozenset((0x03, 0x04))
_TIME_LOCK: Final = 500_000_000
"""Lock times from here on are seconds, below are heights."""


@dataclass(frozen=True, slots=True)
class PsbtInput:
    """What is known of one input. Pairs are sorted by their key."""

    previous_tx: Tx | None = None
    """The whole transaction whose output is spent."""
    previous_output: TxOut | None = None
    partial_signatures: tuple[tuple[bytes, bytes], ...] = ()
    """Public key; DER signature with its type byte."""
    sighash_type: int | None = None
    redeem_script: bytes | None = None
    witness_script: bytes | None = None
    origins: tuple[tuple[bytes, KeyOrigin], ...] = ()
    """By public key of 33 or 65 bytes."""
    final_script_sig: bytes | None = None
    final_witness: tuple[bytes, ...] | None = None
    tap_signature: bytes | None = None
    """For the key path: 64 bytes, or 65 with a type byte."""
    tap_internal_key: bytes | None = None
    tap_origins: tuple[tuple[bytes, KeyOrigin], ...] = ()
    """By x-only public key; the leaves it belongs to are in ``other`` when there are any."""
    other: tuple[tuple[bytes, bytes], ...] = ()
    """Records that we only carry: whole key with its type, and value."""

    @property
    def is_final(self) -> bool:
        return self.final_witness is not None or self.final_script_sig is not None


@dataclass(frozen=True, slots=True)
class PsbtOutput:
    """What is known of one output."""

    redeem_script: bytes | None = None
    witness_script: bytes | None = None
    origins: tuple[tuple[bytes, KeyOrigin], ...] = ()
    tap_internal_key: bytes | None = None
    tap_origins: tuple[tuple[bytes, KeyOrigin], ...] = ()
    other: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Psbt:
    """An unsigned transaction and, in its order, what is known of inputs and outputs."""

    tx: Tx
    inputs: tuple[PsbtInput, ...]
    outputs: tuple[PsbtOutput, ...]
    version: int = 0
    other: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def of(cls, tx: Tx) -> Psbt:
        """A PSBT that knows nothing but ``tx``; witnesses and scriptsigs are left out."""
        bare = Tx(tx.version, tuple(TxIn(i.outpoint, i.sequence) for i in tx.inputs), tx.outputs, tx.locktime)
        return cls(bare, tuple(PsbtInput() for _ in tx.inputs), tuple(PsbtOutput() for _ in tx.outputs))

    @classmethod
    def parse(cls, text: str) -> Psbt:
        """From base64 or hexadecimal. Raises MalformedPsbt."""
        text = "".join(text.split())
        if len(text) > 2 * MAX_SIZE:
            raise MalformedPsbt("it is too long")
        try:
            if text[:10].lower() == MAGIC.hex():
                return cls.decode(bytes.fromhex(text))
            return cls.decode(base64.b64decode(text, validate=True))
        except MalformedPsbt:
            raise
        except (ValueError, binascii.Error):
            raise MalformedPsbt("it is neither base64 nor hexadecimal") from None

    def render(self) -> str:
        """As base64, the usual text."""
        return base64.b64encode(self.encode()).decode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> Psbt:
        """The PSBT that ``data`` holds and nothing else. Raises MalformedPsbt."""
        if len(data) > MAX_SIZE:
            raise MalformedPsbt("it is too long")
        if not data.startswith(MAGIC):
            raise MalformedPsbt("it does not begin as one")
        try:
            return _decode(data)
        except MalformedTx as wrong:
            raise MalformedPsbt(f"in it is {wrong}") from None
        except OutOfRange:
            raise MalformedPsbt("an amount of more than 21 million bitcoin") from None

    def encode(self) -> bytes:
        """The bytes, in the version that ``version`` says."""
        parts = [MAGIC, encode_map(_global_records(self))]
        for index, one in enumerate(self.inputs):
            extra = _v2_input(self.tx.inputs[index]) if self.version == 2 else []
            parts.append(encode_map(extra + _input_records(one)))
        for index, out in enumerate(self.outputs):
            extra = _v2_output(self.tx.outputs[index]) if self.version == 2 else []
            parts.append(encode_map(extra + _output_records(out)))
        return b"".join(parts)

    def spent(self, index: int) -> TxOut | None:
        """The output that input ``index`` spends, as far as the PSBT tells."""
        one = self.inputs[index]
        if one.previous_tx is not None:
            return one.previous_tx.outputs[self.tx.inputs[index].outpoint.vout]
        return one.previous_output

    def fee(self) -> Sat | None:
        """What the transaction pays, None if not every output spent is shown. Raises MalformedPsbt if negative."""
        spent = [self.spent(index) for index in range(len(self.inputs))]
        total = 0
        for output in spent:
            if output is None:
                return None
            total += int(output.value)
        left = total - sum(int(output.value) for output in self.tx.outputs)
        if left < 0:
            raise MalformedPsbt("more goes out than comes in")
        return Sat(left)

    def with_input(self, index: int, one: PsbtInput) -> Psbt:
        """The same with another input ``index``."""
        return replace(self, inputs=(*self.inputs[:index], one, *self.inputs[index + 1 :]))

    def combined(self, theirs: Psbt) -> Psbt:
        """Both together, ours where they differ in one field. Raises MalformedPsbt for another transaction."""
        if theirs.tx != self.tx:
            raise MalformedPsbt("the two are of different transactions")
        inputs = tuple(_merged(a, b) for a, b in zip(self.inputs, theirs.inputs, strict=True))
        outputs = tuple(_merged(a, b) for a, b in zip(self.outputs, theirs.outputs, strict=True))
        return replace(self, inputs=inputs, outputs=outputs, other=_union(self.other, theirs.other))

    def extract(self) -> Tx:
        """The transaction, once every input is final. Raises MalformedPsbt."""
        inputs = []
        for index, (bare, one) in enumerate(zip(self.tx.inputs, self.inputs, strict=True)):
            if not one.is_final:
                raise MalformedPsbt(f"input {index} is not signed yet")
            inputs.append(TxIn(bare.outpoint, bare.sequence, one.final_script_sig or b"", one.final_witness or ()))
        return Tx(self.tx.version, tuple(inputs), self.tx.outputs, self.tx.locktime)


# --- decoding --------------------------------------------------------------------------------------------------------


def _decode(data: bytes) -> Psbt:
    at = len(MAGIC)
    raw, at = read_map(data, at)
    top = Map(raw)
    version = top.number(0xFB) or 0
    if version == 0:
        unsigned = top.single(0x00)
        if unsigned is None:
            raise MalformedPsbt("it has no transaction")
        tx = Tx.decode(unsigned)
        if any(one.script_sig or one.witness for one in tx.inputs) or tx.encode_stripped() != unsigned:
            raise MalformedPsbt("its transaction is signed")
        if top.has(_V2_GLOBAL):
            raise MalformedPsbt("a field of version 2 in version 0")
        input_maps, at = _read_maps(data, at, len(tx.inputs))
        output_maps, at = _read_maps(data, at, len(tx.outputs))
        if any(one.has(_V2_INPUT) for one in input_maps) or any(one.has(_V2_OUTPUT) for one in output_maps):
            raise MalformedPsbt("a field of version 2 in version 0")
    elif version == 2:
        input_maps, output_maps, at, tx = _decode_v2(data, at, top)
    else:
        raise MalformedPsbt(f"version {version} is not known")
    if at != len(data):
        raise MalformedPsbt("something stands behind its end")
    for key, value in raw.items():
        if key[0] == 0x01 and (len(key) != 79 or len(value) != 4 + 4 * key[5]):
            raise MalformedPsbt("an extended key that is none")
    inputs = tuple(_input(one, spending) for one, spending in zip(input_maps, tx.inputs, strict=True))
    return Psbt(tx, inputs, tuple(_output(one) for one in output_maps), version, top.rest())


def _read_maps(data: bytes, at: int, count: int) -> tuple[list[Map], int]:
    found = []
    if count > len(data) - at:  # the shortest map is one byte
        raise MalformedPsbt("truncated")
    for _ in range(count):
        records, at = read_map(data, at)
        found.append(Map(records))
    return found, at


def _decode_v2(data: bytes, at: int, top: Map) -> tuple[list[Map], list[Map], int, Tx]:
    if top.single(0x00) is not None:
        raise MalformedPsbt("a field of version 0 in version 2")
    tx_version, fallback = top.number(0x02), top.number(0x03)
    counts = [top.single(kind) for kind in (0x04, 0x05)]
    top.single(0x06, (1,))
    if tx_version is None or counts[0] is None or counts[1] is None:
        raise MalformedPsbt("it lacks its version or its counts")
    sizes = [read_compact_size(raw or b"", 0) for raw in counts]
    if any(end != len(raw or b"") for (_, end), raw in zip(sizes, counts, strict=True)) or not sizes[0][0]:
        raise MalformedPsbt("counts that are none")
    input_maps, at = _read_maps(data, at, sizes[0][0])
    output_maps, at = _read_maps(data, at, sizes[1][0])
    inputs, locks = [], []
    for one in input_maps:
        txid, vout, sequence = one.single(0x0E, (32,)), one.number(0x0F), one.number(0x10)
        if txid is None or vout is None:
            raise MalformedPsbt("an input that does not say what it spends")
        seconds, height = one.number(0x11), one.number(0x12)
        if (seconds is not None and seconds < _TIME_LOCK) or (height is not None and not 0 < height < _TIME_LOCK):
            raise MalformedPsbt("a lock time of the wrong kind")
        if seconds is not None or height is not None:
            locks.append((seconds, height))
        inputs.append(TxIn(OutPoint(Txid(txid), vout), FINAL_SEQUENCE if sequence is None else sequence))
    outputs = []
    for one in output_maps:
        amount, script = one.single(0x03, (8,)), one.single(0x04)
        if amount is None or script is None:
            raise MalformedPsbt("an output without amount or script")
        outputs.append(TxOut(Sat(int.from_bytes(amount, "little")), script))
    tx = Tx(tx_version, tuple(inputs), tuple(outputs), _locktime(locks, fallback or 0))
    return input_maps, output_maps, at, tx


def _locktime(locks: list[tuple[int | None, int | None]], fallback: int) -> int:
    """The largest lock that all inputs which want one can live with, a height if there is a choice (BIP 370)."""
    if not locks:
        return fallback
    heights = [height for _, height in locks]
    if all(height is not None for height in heights):
        return max(height for height in heights if height is not None)
    times = [seconds for seconds, _ in locks]
    if all(seconds is not None for seconds in times):
        return max(seconds for seconds in times if seconds is not None)
    raise MalformedPsbt("inputs whose lock times exclude each other")


def _input(records: Map, spending: TxIn) -> PsbtInput:
    raw_tx, raw_output = records.single(0x00), records.single(0x01)
    previous = None if raw_tx is None else Tx.decode(raw_tx)
    output = None if raw_output is None else _txout(raw_output)
    if previous is not None:
        vout = spending.outpoint.vout
        if previous.txid != spending.outpoint.txid or vout >= len(previous.outputs):
            raise MalformedPsbt("the transaction shown for an input is not the one it spends")
        if output is not None and previous.outputs[vout] != output:
            raise MalformedPsbt("an input shows two different outputs that it spends")
    signatures = tuple(records.many(0x02, is_pubkey))
    if any(not 9 <= len(signature) <= 73 for _, signature in signatures):
        raise MalformedPsbt("a signature that is none")
    sighash_type = records.number(0x03)
    redeem_script, witness_script = records.single(0x04), records.single(0x05)
    origins = tuple((key, parse_origin(value)) for key, value in records.many(0x06, is_pubkey))
    script_sig, raw_witness = records.single(0x07), records.single(0x08)
    tap_signature, tap_key = records.single(0x13, (64, 65)), records.single(0x17, (32,))
    plain, carried = read_tap_origins(records, 0x16)
    rest = records.rest()
    for key, value in rest:
        if (key[0] == 0x14 and (len(key) != 65 or len(value) not in (64, 65))) or (
            key[0] == 0x15 and (not 34 <= len(key) <= 34 + 32 * 128 or (len(key) - 34) % 32)
        ):
            raise MalformedPsbt("a taproot script signature or leaf that is none")
    return PsbtInput(
        previous, output, signatures, sighash_type, redeem_script, witness_script, origins, script_sig,
        None if raw_witness is None else _witness(raw_witness),
        tap_signature, tap_key, plain, tuple(sorted((*rest, *carried))),
    )  # fmt: skip


def _output(records: Map) -> PsbtOutput:
    redeem_script, witness_script = records.single(0x00), records.single(0x01)
    origins = tuple((key, parse_origin(value)) for key, value in records.many(0x02, is_pubkey))
    tap_key = records.single(0x05, (32,))
    plain, carried = read_tap_origins(records, 0x07)
    return PsbtOutput(
        redeem_script, witness_script, origins, tap_key, plain, tuple(sorted((*records.rest(), *carried)))
    )


def _txout(raw: bytes) -> TxOut:
    if len(raw) < 9:
        raise MalformedPsbt("truncated")
    script, end = read_bytes(raw, 8)
    if end != len(raw):
        raise MalformedPsbt("something stands behind an output")
    return TxOut(Sat(int.from_bytes(raw[:8], "little")), script)


def _witness(raw: bytes) -> tuple[bytes, ...]:
    count, at = read_compact_size(raw, 0)
    if count > len(raw) - at:
        raise MalformedPsbt("truncated")
    items = []
    for _ in range(count):
        item, at = read_bytes(raw, at)
        items.append(item)
    if at != len(raw):
        raise MalformedPsbt("something stands behind a witness")
    return tuple(items)


# --- encoding --------------------------------------------------------------------------------------------------------


def _global_records(psbt: Psbt) -> list[tuple[bytes, bytes]]:
    tx = psbt.tx
    if psbt.version == 0:
        return [(b"\x00", tx.encode_stripped()), *psbt.other]
    return [
        (b"\x02", u32(tx.version)),
        (b"\x03", u32(tx.locktime)),
        (b"\x04", compact_size(len(tx.inputs))),
        (b"\x05", compact_size(len(tx.outputs))),
        (b"\xfb", u32(2)),
        *psbt.other,
    ]


def _v2_input(one: TxIn) -> list[tuple[bytes, bytes]]:
    return [
        (b"\x0e", bytes(one.outpoint.txid)),
        (b"\x0f", u32(one.outpoint.vout)),
        (b"\x10", u32(one.sequence)),
    ]


def _v2_output(one: TxOut) -> list[tuple[bytes, bytes]]:
    return [(b"\x03", int(one.value).to_bytes(8, "little")), (b"\x04", one.script)]


def _optional(kind: int, value: bytes | None) -> list[tuple[bytes, bytes]]:
    return [] if value is None else [(bytes((kind,)), value)]


def _pairs(kind: int, pairs: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(bytes((kind,)) + key, value) for key, value in pairs]


def _input_records(one: PsbtInput) -> list[tuple[bytes, bytes]]:
    return [
        *_optional(0x00, None if one.previous_tx is None else one.previous_tx.encode()),
        *_optional(0x01, None if one.previous_output is None else one.previous_output.encode()),
        *_pairs(0x02, one.partial_signatures),
        *_optional(0x03, None if one.sighash_type is None else u32(one.sighash_type)),
        *_optional(0x04, one.redeem_script),
        *_optional(0x05, one.witness_script),
        *_pairs(0x06, ((key, encode_origin(origin)) for key, origin in one.origins)),
        *_optional(0x07, one.final_script_sig),
        *_optional(0x08, None if one.final_witness is None else encode_witness(one.final_witness)),
        *_optional(0x13, one.tap_signature),
        *_pairs(0x16, ((key, b"\x00" + encode_origin(origin)) for key, origin in one.tap_origins)),
        *_optional(0x17, one.tap_internal_key),
        *one.other,
    ]


def _output_records(one: PsbtOutput) -> list[tuple[bytes, bytes]]:
    return [
        *_optional(0x00, one.redeem_script),
        *_optional(0x01, one.witness_script),
        *_pairs(0x02, ((key, encode_origin(origin)) for key, origin in one.origins)),
        *_optional(0x05, one.tap_internal_key),
        *_pairs(0x07, ((key, b"\x00" + encode_origin(origin)) for key, origin in one.tap_origins)),
        *one.other,
    ]


# --- combining -------------------------------------------------------------------------------------------------------


V = TypeVar("V")
M = TypeVar("M", PsbtInput, PsbtOutput)


def _union(ours: tuple[tuple[bytes, V], ...], theirs: tuple[tuple[bytes, V], ...]) -> tuple[tuple[bytes, V], ...]:
    return tuple(sorted({**dict(theirs), **dict(ours)}.items(), key=itemgetter(0)))


def _merged(ours: M, theirs: M) -> M:
    changed: dict[str, Any] = {}
    for field in fields(ours):
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if mine is None:
            changed[field.name] = other
        elif field.name in ("partial_signatures", "origins", "tap_origins", "other"):
            changed[field.name] = _union(mine, other)
    return replace(ours, **changed)
