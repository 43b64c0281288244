"""What a signature signs: segwit version 0 (BIP 143) and taproot key path (BIP 341).

``segwit_v0`` is the hot path (one digest for each HTLC of a commitment) and hashes only what its type needs. To sign
many inputs of one transaction, ``SegwitV0`` keeps the three shared hashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from struct import Struct
from typing import Final

from salama.base.units import Sat
from salama.bitcoin.tx import Tx, TxOut, compact_size
from salama.crypto.hashes import tagged_hash

SIGHASH_DEFAULT: Final = 0
SIGHASH_ALL: Final = 1
SIGHASH_NONE: Final = 2
SIGHASH_SINGLE: Final = 3
ANYONECANPAY: Final = 0x80

_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
_OUTPOINT: Final = Struct("<32sI")
_VALUE_SEQUENCE: Final = Struct("<QI")
_LOCKTIME_TYPE: Final = Struct("<II")
_ZEROS: Final = bytes(32)


def _twice(data: bytes) -> bytes:
    return sha256(sha256(data).digest()).digest()


def _outpoints(tx: Tx) -> bytes:
    return b"".join([_OUTPOINT.pack(*one.outpoint) for one in tx.inputs])


def _sequences(tx: Tx) -> bytes:
    return b"".join([_U32.pack(one.sequence) for one in tx.inputs])


def _outputs(tx: Tx) -> bytes:
    return b"".join([out.encode() for out in tx.outputs])


def p2wpkh_script_code(pubkey_hash: bytes) -> bytes:
    """The script code of a p2wpkh input: 20 bytes of hash in the old pay-to-public-key-hash form (BIP 143)."""
    return b"\x76\xa9\x14" + pubkey_hash + b"\x88\xac"


class SegwitV0:
    """Digests of many inputs of one transaction: the hashes that all share are made once (BIP 143)."""

    __slots__ = ("_outputs", "_prevouts", "_sequences", "_tx")

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._prevouts: bytes | None = None
        self._sequences: bytes | None = None
        self._outputs: bytes | None = None

    def digest(self, index: int, script_code: bytes, value: Sat, sighash_type: int = SIGHASH_ALL) -> bytes:
        """32 bytes to sign for input ``index``, whose spent output holds ``value``."""
        tx = self._tx
        spending = tx.inputs[index]
        base = sighash_type & 0x1F
        prevouts = sequences = outputs = _ZEROS
        if not sighash_type & ANYONECANPAY:
            if self._prevouts is None:
                self._prevouts = _twice(_outpoints(tx))
            prevouts = self._prevouts
            if base not in (SIGHASH_NONE, SIGHASH_SINGLE):
                if self._sequences is None:
                    self._sequences = _twice(_sequences(tx))
                sequences = self._sequences
        if base == SIGHASH_SINGLE:
            if index < len(tx.outputs):
                outputs = _twice(tx.outputs[index].encode())
        elif base != SIGHASH_NONE:
            if self._outputs is None:
                self._outputs = _twice(_outputs(tx))
            outputs = self._outputs
        return _twice(
            b"".join(
                (
                    _U32.pack(tx.version),
                    prevouts,
                    sequences,
                    _OUTPOINT.pack(*spending.outpoint),
                    compact_size(len(script_code)),
                    script_code,
                    _VALUE_SEQUENCE.pack(value, spending.sequence),
                    outputs,
                    _LOCKTIME_TYPE.pack(tx.locktime, sighash_type),
                )
            )
        )


def segwit_v0(tx: Tx, index: int, script_code: bytes, value: Sat, sighash_type: int = SIGHASH_ALL) -> bytes:
    """32 bytes to sign for input ``index`` (BIP 143).

    ``script_code`` is the witness script, or ``p2wpkh_script_code``; ``value`` is what the spent output holds.
    """
    return SegwitV0(tx).digest(index, script_code, value, sighash_type)


def taproot(tx: Tx, index: int, spent: Sequence[TxOut], sighash_type: int = SIGHASH_DEFAULT) -> bytes:
    """32 bytes to sign for a key path spend of input ``index`` (BIP 341, no annex).

    ``spent``: the output each input spends, in input order. ValueError if there is not one for each, if the type is
    unknown, or if SINGLE has no output to match.
    """
    if len(spent) != len(tx.inputs):
        raise ValueError(f"{len(spent)} spent outputs for {len(tx.inputs)} inputs")
    if sighash_type not in (0, 1, 2, 3, 0x81, 0x82, 0x83):
        raise ValueError(f"unknown taproot signature type {sighash_type:#x}")
    base = sighash_type & 3
    spending = tx.inputs[index]
    parts = [b"\x00", bytes((sighash_type,)), _U32.pack(tx.version), _U32.pack(tx.locktime)]
    if not sighash_type & ANYONECANPAY:
        parts.append(sha256(_outpoints(tx)).digest())
        parts.append(sha256(b"".join([_U64.pack(out.value) for out in spent])).digest())
        parts.append(sha256(b"".join([compact_size(len(out.script)) + out.script for out in spent])).digest())
        parts.append(sha256(_sequences(tx)).digest())
    if base not in (SIGHASH_NONE, SIGHASH_SINGLE):
        parts.append(sha256(_outputs(tx)).digest())
    parts.append(b"\x00")  # key path, no annex
    if sighash_type & ANYONECANPAY:
        parts.append(_OUTPOINT.pack(*spending.outpoint))
        parts.append(spent[index].encode())
        parts.append(_U32.pack(spending.sequence))
    else:
        parts.append(_U32.pack(index))
    if base == SIGHASH_SINGLE:
        if index >= len(tx.outputs):
            raise ValueError(f"no output {index} to sign alone")
        parts.append(sha256(tx.outputs[index].encode()).digest())
    return tagged_hash(b"TapSighash", b"".join(parts))
