"""Funding output, commitment transactions and their HTLC transactions (BOLT 3, B3.01 to B3.07).

Transactions come out unsigned, each as a type of its role that remembers what every output is for; ``witnesses``
completes them. Nothing here knows a secret. ``owner`` is the side that can broadcast a commitment, ``other`` its
counterparty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from struct import Struct
from typing import Final

from salama.base.ids import OutPoint
from salama.base.units import Sat
from salama.bitcoin.script import p2wsh
from salama.bitcoin.sighash import ANYONECANPAY, SIGHASH_ALL, SIGHASH_SINGLE, segwit_v0
from salama.bitcoin.tx import Tx, TxIn, TxOut, compact_size
from salama.channel.formats import CommitmentFormat
from salama.channel.keys import CommitmentKeys
from salama.channel.scripts import anchor_scriptpubkey, funding_script, to_local_script
from salama.channel.spec import CommitmentSpec, SpecHtlc

MAX_COMMITMENT_NUMBER: Final = (1 << 48) - 1

_U32: Final = Struct("<I")
_U64: Final = Struct("<Q")
_ZEROS: Final = bytes(32)
_COMMITMENT_VERSION: Final = 2


class FundingOverspent(ValueError):
    """The balances and HTLCs of a commitment exceed what the funding output holds; both in satoshis."""

    def __init__(self, wanted: int, capacity: int) -> None:
        self.wanted, self.capacity = wanted, capacity
        super().__init__(f"outputs of {wanted} sat from a funding of {capacity} sat")


# --- funding ---------------------------------------------------------------------------------------------------------


def funding_output(capacity: Sat, one: bytes, another: bytes) -> TxOut:
    """What a funding transaction must pay: exactly ``capacity`` to both funding keys."""
    return TxOut(capacity, p2wsh(funding_script(one, another)))


# --- commitment numbers (B3.01) --------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def obscuring_factor(opener_payment_basepoint: bytes, accepter_payment_basepoint: bytes) -> int:
    """Mask of 48 bits that hides the commitment number from who does not know both basepoints."""
    return int.from_bytes(sha256(opener_payment_basepoint + accepter_payment_basepoint).digest()[-6:], "big")


def obscured_number(number: int, factor: int) -> tuple[int, int]:
    """``locktime`` and ``sequence`` that carry commitment ``number``. ValueError beyond 48 bits."""
    if not 0 <= number <= MAX_COMMITMENT_NUMBER:
        raise ValueError(f"{number} is not a commitment number of 48 bits")
    obscured = number ^ factor
    return 0x20 << 24 | obscured & 0xFFFFFF, 0x80 << 24 | obscured >> 24


def decode_commitment_number(tx: Tx, factor: int) -> int | None:
    """The commitment number in a transaction that spends our funding output, or None if it has not that form."""
    if len(tx.inputs) != 1:
        return None
    locktime, sequence = tx.locktime, tx.inputs[0].sequence
    if locktime >> 24 != 0x20 or sequence >> 24 != 0x80:
        return None
    return ((sequence & 0xFFFFFF) << 24 | locktime & 0xFFFFFF) ^ factor


# --- the commitment transaction --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HtlcOutput:
    """Output ``index`` of a commitment, which carries ``htlc``."""

    htlc: SpecHtlc
    offered: bool
    """By the owner of the commitment: its second stage is HTLC-timeout, else HTLC-success."""
    index: int
    amount: Sat
    script: bytes
    """Witness script of the output."""
    second_stage_amount: Sat
    """Output of the HTLC transaction: ``amount`` less the fee that its format prescribes."""


@dataclass(frozen=True, slots=True)
class CommitmentTx:
    """An unsigned commitment transaction and the meaning of its outputs. An index is None if that output is absent."""

    tx: Tx
    format: CommitmentFormat
    number: int
    owner_is_us: bool
    spec: CommitmentSpec = field(repr=False)
    keys: CommitmentKeys = field(repr=False)
    capacity: Sat
    funding_script: bytes = field(repr=False)
    fee: Sat
    """What the miner gets: the base fee, whatever was trimmed and all fractions of a satoshi."""
    htlc_outputs: tuple[HtlcOutput, ...]
    """In the order of the outputs, which is the order of ``htlc_signature``."""
    trimmed: tuple[SpecHtlc, ...]
    to_local_index: int | None
    to_remote_index: int | None
    owner_anchor_index: int | None
    other_anchor_index: int | None
    to_local_script: bytes = field(repr=False)
    """Witness script of ``to_local`` and of every second-stage output, also when the former is absent."""
    to_remote_script: bytes = field(repr=False)
    """Witness script of ``to_remote``; empty if that pays to a public key hash."""

    def htlc_output(self, htlc: SpecHtlc) -> HtlcOutput | None:
        """The output that carries ``htlc``, or None if it is trimmed or not in this commitment."""
        key = htlc.key
        return next((output for output in self.htlc_outputs if output.htlc.key == key), None)


def make_commitment_tx(
    *,
    format: CommitmentFormat,
    funding: OutPoint,
    capacity: Sat,
    owner_funding_pubkey: bytes,
    other_funding_pubkey: bytes,
    number: int,
    obscuring_factor: int,
    spec: CommitmentSpec,
    keys: CommitmentKeys,
    dust_limit: Sat,
    to_self_delay: int,
    owner_is_opener: bool,
) -> CommitmentTx:
    """The commitment transaction that ``spec`` describes.

    ``dust_limit`` is the owner's own; ``to_self_delay`` (blocks) is the one that the *other* side demanded of it. The
    opener pays base fee and anchors as far as its balance goes. Raises FundingOverspent, and ValueError for a
    commitment number beyond 48 bits.
    """
    kept, trimmed = format.split_trimmed(spec, dust_limit)
    dust = int(dust_limit)
    cost = int(format.commit_fee(spec.feerate, len(kept))) + int(format.anchors_total)
    to_local, to_remote = int(spec.to_local) // 1000, int(spec.to_remote) // 1000
    # What an opener cannot pay is simply missing from the fee: limits refuse such a state long before, except that two
    # updates may cross on the wire.
    if owner_is_opener:
        to_local = max(0, to_local - cost)
    else:
        to_remote = max(0, to_remote - cost)

    # Rows to sort: value, scriptpubkey, expiry of an HTLC (B3.02), id; then what the output is. No two rows compare
    # equal before the last column: two outputs of one kind and script differ in expiry or id.
    rows: list[tuple[int, bytes, int, int, _Kind]] = []
    to_local_witness = to_local_script(keys.revocation, keys.delayed_payment, to_self_delay)
    to_remote_spk, to_remote_witness = format.to_remote(keys.other_payment)
    if has_local := to_local >= dust:
        rows.append((to_local, p2wsh(to_local_witness), 0, 0, "to_local"))
    if has_remote := to_remote >= dust:
        rows.append((to_remote, to_remote_spk, 0, 0, "to_remote"))
    anchor = int(format.anchor_amount)
    if anchor:
        if has_local or kept:
            rows.append((anchor, anchor_scriptpubkey(owner_funding_pubkey), 0, 0, "owner_anchor"))
        if has_remote or kept:
            rows.append((anchor, anchor_scriptpubkey(other_funding_pubkey), 0, 0, "other_anchor"))
    scripts = format.htlc_scripts(keys) if kept else None
    for htlc in kept:
        assert scripts is not None
        offered = spec.is_offered(htlc)
        witness = (
            scripts.offered(htlc.payment_hash) if offered else scripts.received(htlc.payment_hash, htlc.cltv_expiry)
        )
        spk = b"\x00\x20" + sha256(witness).digest()
        rows.append((int(htlc.amount) // 1000, spk, int(htlc.cltv_expiry), htlc.id, (htlc, offered, witness)))
    rows.sort(key=_by_value_script_expiry)

    timeout_fee = int(format.htlc_timeout_fee(spec.feerate))
    success_fee = int(format.htlc_success_fee(spec.feerate))
    outputs: list[TxOut] = []
    htlc_outputs: list[HtlcOutput] = []
    where: dict[str, int] = {}
    total = 0
    for index, (value, spk, _, _, kind) in enumerate(rows):
        amount = Sat(value)
        total += value
        outputs.append(TxOut(amount, spk))
        if isinstance(kind, str):
            where[kind] = index
        else:
            htlc, offered, witness = kind
            left = Sat(value - (timeout_fee if offered else success_fee))
            htlc_outputs.append(HtlcOutput(htlc, offered, index, amount, witness, left))
    if total > int(capacity):
        raise FundingOverspent(total, int(capacity))

    locktime, sequence = obscured_number(number, obscuring_factor)
    return CommitmentTx(
        tx=Tx(_COMMITMENT_VERSION, (TxIn(funding, sequence),), tuple(outputs), locktime),
        format=format,
        number=number,
        owner_is_us=spec.owner_is_us,
        spec=spec,
        keys=keys,
        capacity=capacity,
        funding_script=funding_script(owner_funding_pubkey, other_funding_pubkey),
        fee=Sat(int(capacity) - total),
        htlc_outputs=tuple(htlc_outputs),
        trimmed=tuple(trimmed),
        to_local_index=where.get("to_local"),
        to_remote_index=where.get("to_remote"),
        owner_anchor_index=where.get("owner_anchor"),
        other_anchor_index=where.get("other_anchor"),
        to_local_script=to_local_witness,
        to_remote_script=to_remote_witness,
    )


_Kind = str | tuple[SpecHtlc, bool, bytes]


def _by_value_script_expiry(row: tuple[int, bytes, int, int, _Kind]) -> tuple[int, bytes, int, int]:
    # HTLCs alike in everything that BOLT 3 sorts by have the same output and the same HTLC transaction but for the
    # outpoint: which comes first changes no byte. The id makes it definite which of them an output is counted as.
    return row[:4]


def commitment_sighash(commitment: CommitmentTx) -> bytes:
    """32 bytes that both funding keys sign."""
    return funding_sighash(commitment.tx, commitment.funding_script, commitment.capacity)


def funding_sighash(tx: Tx, funding_script: bytes, capacity: Sat) -> bytes:
    """32 bytes to sign for a transaction whose first input spends the funding output (commitment or closing)."""
    return segwit_v0(tx, 0, funding_script, capacity, SIGHASH_ALL)


# --- HTLC transactions (B3.07) ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _HtlcTx:
    tx: Tx
    spent: HtlcOutput
    """The output of the commitment that input 0 spends."""
    output_script: bytes = field(repr=False)
    """Witness script of the only output: the owner's after its delay, the other side's after a revocation."""

    @property
    def htlc(self) -> SpecHtlc:
        return self.spent.htlc


@dataclass(frozen=True, slots=True)
class HtlcTimeoutTx(_HtlcTx):
    """Takes an HTLC back to the commitment's owner, who had offered it; final from ``cltv_expiry`` on."""


@dataclass(frozen=True, slots=True)
class HtlcSuccessTx(_HtlcTx):
    """Takes an HTLC to the commitment's owner, who received it and knows the preimage."""


HtlcTx = HtlcTimeoutTx | HtlcSuccessTx


def make_htlc_tx(commitment: CommitmentTx, output: HtlcOutput) -> HtlcTx:
    """The unsigned second-stage transaction for one of ``commitment.htlc_outputs``."""
    tx = Tx(
        2,
        (TxIn(commitment.tx.outpoint(output.index), commitment.format.htlc_sequence),),
        (TxOut(output.second_stage_amount, p2wsh(commitment.to_local_script)),),
        int(output.htlc.cltv_expiry) if output.offered else 0,
    )
    role = HtlcTimeoutTx if output.offered else HtlcSuccessTx
    return role(tx, output, commitment.to_local_script)


def make_htlc_txs(commitment: CommitmentTx) -> tuple[HtlcTx, ...]:
    """All second-stage transactions, in the order of ``commitment.htlc_outputs``."""
    return tuple(make_htlc_tx(commitment, output) for output in commitment.htlc_outputs)


def htlc_sighash(htlc_tx: HtlcTx, sighash_type: int) -> bytes:
    """32 bytes to sign: SIGHASH_ALL by the owner, ``format.other_htlc_sighash`` by the other side.

    Once a fee input is added, the owner signs the larger transaction instead (``bitcoin.sighash``).
    """
    return segwit_v0(htlc_tx.tx, 0, htlc_tx.spent.script, htlc_tx.spent.amount, sighash_type)


def htlc_sighashes(commitment: CommitmentTx) -> list[bytes]:
    """What the other side signs for every HTLC output, in the order of ``htlc_signature``.

    The same digests as ``htlc_sighash`` of each transaction, without building any: this runs for every signature.
    """
    format, second_stage_spk = commitment.format, p2wsh(commitment.to_local_script)
    sighash_type = format.other_htlc_sighash
    all_outputs = sighash_type == SIGHASH_ALL
    assert all_outputs or sighash_type == SIGHASH_SINGLE | ANYONECANPAY
    # One input and one output: SINGLE and ALL commit to the same outputs, ANYONECANPAY leaves two hashes empty.
    sequence = _U32.pack(format.htlc_sequence)
    sequences = _double(sequence) if all_outputs else _ZEROS
    version, kind = _U32.pack(2), _U32.pack(sighash_type)
    final, txid = _U32.pack(0), bytes(commitment.tx.txid)
    output_tail = compact_size(len(second_stage_spk)) + second_stage_spk
    digests: list[bytes] = []
    for output in commitment.htlc_outputs:
        outpoint = txid + _U32.pack(output.index)
        script = output.script
        preimage = b"".join(
            (
                version,
                _double(outpoint) if all_outputs else _ZEROS,
                sequences,
                outpoint,
                compact_size(len(script)),
                script,
                _U64.pack(output.amount),
                sequence,
                _double(_U64.pack(output.second_stage_amount) + output_tail),
                _U32.pack(output.htlc.cltv_expiry) if output.offered else final,
                kind,
            )
        )
        digests.append(sha256(sha256(preimage).digest()).digest())
    return digests


def _double(data: bytes) -> bytes:
    return sha256(sha256(data).digest()).digest()
