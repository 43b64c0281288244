"""What the devnet's mempool takes beyond consensus: Bitcoin Core's standardness, as far as a Lightning node meets it.

Pure functions that raise ``Rejected`` with Core's own word, because nodes and tools match on those words. Where
versions of Core differ, the stricter rule is taken, so that what passes here passes on mainnet.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from salama.base.units import MAX_SAT
from salama.bitcoin.script import (
    PAY_TO_ANCHOR,
    dust_limit,
    is_op_return,
    is_p2pkh,
    is_p2sh,
    is_p2tr,
    is_p2wpkh,
    is_p2wsh,
    witness_program,
)
from salama.bitcoin.tx import COINBASE_OUTPOINT, Tx, TxOut
from salama.crypto.secp256k1 import InvalidSignature, from_der, is_low_s

MAX_STANDARD_WEIGHT: Final = 400_000
MAX_BLOCK_WEIGHT: Final = 4_000_000
MAX_BLOCK_SIGOPS: Final = 80_000
MAX_STANDARD_SIGOPS: Final = MAX_BLOCK_SIGOPS // 5
MIN_STRIPPED_SIZE: Final = 65
MAX_SCRIPT_SIG: Final = 1_650
MAX_DATA_CARRIER: Final = 83
MAX_P2WSH_SCRIPT: Final = 3_600
MAX_P2WSH_ITEMS: Final = 100
MAX_WITNESS_ITEM: Final = 80
ANNEX_TAG: Final = 0x50


class Refusal(Enum):
    """Which of Core's error codes a rejection becomes."""

    MISSING_INPUTS = -25
    REJECTED = -26
    ALREADY_IN_CHAIN = -27


class Rejected(Exception):
    """The mempool does not take a transaction. ``word`` is Core's reject reason, ``detail`` what follows it."""

    def __init__(self, word: str, detail: str = "", refusal: Refusal = Refusal.REJECTED) -> None:
        self.word, self.detail, self.refusal = word, detail, refusal
        super().__init__(f"{word}, {detail}" if detail else word)


class OutputKind(Enum):
    """Core's names of output scripts, as its RPC prints them."""

    PUBKEY = "pubkey"
    PUBKEYHASH = "pubkeyhash"
    SCRIPTHASH = "scripthash"
    MULTISIG = "multisig"
    NULLDATA = "nulldata"
    WITNESS_V0_KEYHASH = "witness_v0_keyhash"
    WITNESS_V0_SCRIPTHASH = "witness_v0_scripthash"
    WITNESS_V1_TAPROOT = "witness_v1_taproot"
    ANCHOR = "anchor"
    WITNESS_UNKNOWN = "witness_unknown"
    NONSTANDARD = "nonstandard"


def output_kind(script: bytes) -> OutputKind:
    """Which template a scriptpubkey follows."""
    if is_p2wpkh(script):
        return OutputKind.WITNESS_V0_KEYHASH
    if is_p2wsh(script):
        return OutputKind.WITNESS_V0_SCRIPTHASH
    if is_p2tr(script):
        return OutputKind.WITNESS_V1_TAPROOT
    if script == PAY_TO_ANCHOR:
        return OutputKind.ANCHOR
    program = witness_program(script)
    if program is not None:
        return OutputKind.NONSTANDARD if program[0] == 0 else OutputKind.WITNESS_UNKNOWN
    if is_p2pkh(script):
        return OutputKind.PUBKEYHASH
    if is_p2sh(script):
        return OutputKind.SCRIPTHASH
    if is_op_return(script):
        return OutputKind.NULLDATA if _is_push_only(script[1:]) else OutputKind.NONSTANDARD
    if len(script) in (35, 67) and script[0] == len(script) - 2 and script[-1] == 0xAC and _is_key(script[1:-1]):
        return OutputKind.PUBKEY
    if _is_bare_multisig(script):
        return OutputKind.MULTISIG
    return OutputKind.NONSTANDARD


def check_consensus_form(tx: Tx) -> None:
    """The rules that need no chain: at least one output, no input twice, a sum of outputs inside the money range."""
    if not tx.outputs:
        raise Rejected("bad-txns-vout-empty")
    if len(tx.encode_stripped()) * 4 > MAX_BLOCK_WEIGHT:
        raise Rejected("bad-txns-oversize")
    if sum(out.value for out in tx.outputs) > MAX_SAT:
        raise Rejected("bad-txns-txouttotal-toolarge")
    if len({one.outpoint for one in tx.inputs}) != len(tx.inputs):
        raise Rejected("bad-txns-inputs-duplicate")
    if tx.is_coinbase:
        raise Rejected("coinbase")
    if any(one.outpoint == COINBASE_OUTPOINT for one in tx.inputs):
        raise Rejected("bad-txns-prevout-null")


def check_standard(tx: Tx) -> None:
    """Form of a transaction by itself, dust apart."""
    if not 1 <= tx.version <= 3:
        raise Rejected("version")
    if tx.weight > MAX_STANDARD_WEIGHT:
        raise Rejected("tx-size")
    for one in tx.inputs:
        if len(one.script_sig) > MAX_SCRIPT_SIG:
            raise Rejected("scriptsig-size")
        if not _is_push_only(one.script_sig):
            raise Rejected("scriptsig-not-pushonly")
    carriers = 0
    for out in tx.outputs:
        kind = output_kind(out.script)
        if kind is OutputKind.NONSTANDARD:
            raise Rejected("scriptpubkey")
        if kind is OutputKind.NULLDATA:
            carriers += 1
            # Stricter than Core 30, which relays up to 100 kB of it: older nodes on the way would not.
            if len(out.script) > MAX_DATA_CARRIER:
                raise Rejected("scriptpubkey")
    if carriers > 1:
        raise Rejected("multi-op-return")
    if len(tx.encode_stripped()) < MIN_STRIPPED_SIZE:
        raise Rejected("tx-size-small")


def dust_outputs(tx: Tx) -> tuple[int, ...]:
    """Indexes of outputs below their dust limit."""
    return tuple(i for i, out in enumerate(tx.outputs) if out.value < dust_limit(out.script))


def check_inputs_standard(tx: Tx, spent: Sequence[TxOut]) -> None:
    """What may be spent: known templates, witnesses of ordinary size, signatures with a low S."""
    if sigop_cost(tx, spent) > MAX_STANDARD_SIGOPS:
        raise Rejected("bad-txns-too-many-sigops")
    for index, (one, out) in enumerate(zip(tx.inputs, spent, strict=True)):
        kind = output_kind(out.script)
        # Version 1..16 programs without a meaning accept anybody's spend until they get one.
        if kind in (OutputKind.NONSTANDARD, OutputKind.WITNESS_UNKNOWN):
            raise Rejected("bad-txns-nonstandard-inputs", f"input {index}")
        script = out.script
        if kind is OutputKind.SCRIPTHASH:
            script = _last_push(one.script_sig)
        _check_witness(one.witness, script, kind is OutputKind.SCRIPTHASH)
        if not is_p2tr(script) and not all(_is_low_s(item) for item in one.witness):
            raise Rejected(
                "mempool-script-verify-flag-failed (Non-canonical signature: S value is unnecessarily high)",
                f"input {index}",
            )


def _check_witness(witness: Sequence[bytes], script: bytes, nested: bool) -> None:
    if not witness:
        return
    if script == PAY_TO_ANCHOR or witness_program(script) is None:
        raise Rejected("bad-witness-nonstandard")
    if is_p2wsh(script):
        items = witness[:-1]
        if (
            len(witness[-1]) > MAX_P2WSH_SCRIPT
            or len(items) > MAX_P2WSH_ITEMS
            or any(len(item) > MAX_WITNESS_ITEM for item in items)
        ):
            raise Rejected("bad-witness-nonstandard")
    if is_p2tr(script) and not nested:
        if len(witness) >= 2 and witness[-1][:1] == bytes((ANNEX_TAG,)):
            raise Rejected("bad-witness-nonstandard")
        if len(witness) >= 2:
            control = witness[-1]
            if not control:
                raise Rejected("bad-witness-nonstandard")
            if control[0] & 0xFE == 0xC0 and any(len(item) > MAX_WITNESS_ITEM for item in witness[:-2]):
                raise Rejected("bad-witness-nonstandard")


def _is_low_s(item: bytes) -> bool:
    """False only for what can be nothing but a DER signature with a high S."""
    if not 9 <= len(item) <= 73 or item[0] != 0x30 or item[1] != len(item) - 3:
        return True
    try:
        return is_low_s(from_der(item[:-1]))
    except InvalidSignature:
        return True


def sigop_cost(tx: Tx, spent: Sequence[TxOut]) -> int:
    """Signature operations as blocks are limited by them (BIP 141): legacy ones count four times."""
    legacy = sum(_sigops(one.script_sig, False) for one in tx.inputs)
    legacy += sum(_sigops(out.script, False) for out in tx.outputs)
    witness = 0
    for one, out in zip(tx.inputs, spent, strict=True):
        script = out.script
        if is_p2sh(script):
            script = _last_push(one.script_sig)
            legacy += _sigops(script, True)
        if is_p2wpkh(script):
            witness += 1
        elif is_p2wsh(script) and one.witness:
            witness += _sigops(one.witness[-1], True)
    return 4 * legacy + witness


def _sigops(script: bytes, accurate: bool) -> int:
    count, previous, at = 0, 0, 0
    while at < len(script):
        code = script[at]
        at += 1
        if 1 <= code <= 0x4E:
            end = _push_end(script, at - 1)
            if end is None:
                break
            at = end
        elif code in (0xAC, 0xAD):
            count += 1
        elif code in (0xAE, 0xAF):
            count += previous - 0x50 if accurate and 0x51 <= previous <= 0x60 else 20
        previous = code
    return count


def _push_end(script: bytes, at: int) -> int | None:
    """Where the push that begins at ``at`` ends, None if the script is too short for it."""
    code = script[at]
    at += 1
    if code < 0x4C:
        size = code
    else:
        width = 1 << code - 0x4C
        size = int.from_bytes(script[at : at + width], "little")
        at += width
    return at + size if at + size <= len(script) else None


def _is_push_only(script: bytes) -> bool:
    at = 0
    while at < len(script):
        code = script[at]
        if code > 0x60:
            return False
        if 1 <= code <= 0x4E:
            end = _push_end(script, at)
            if end is None:
                return False
            at = end
        else:
            at += 1
    return True


def _last_push(script: bytes) -> bytes:
    """The data of the last push of a push-only script: a P2SH redeem script."""
    last, at = b"", 0
    while at < len(script):
        code = script[at]
        if 1 <= code <= 0x4E:
            end = _push_end(script, at)
            if end is None:
                return b""
            head = 1 if code < 0x4C else 1 + (1 << code - 0x4C)
            last, at = script[at + head : end], end
        else:
            last, at = b"", at + 1
    return last


def _is_key(data: bytes) -> bool:
    return (len(data) == 33 and data[0] in (2, 3)) or (len(data) == 65 and data[0] == 4)


def _is_bare_multisig(script: bytes) -> bool:
    if len(script) < 37 or script[-1] != 0xAE or not 0x51 <= script[0] <= 0x53 or not 0x51 <= script[-2] <= 0x53:
        return False
    at, keys = 1, 0
    while at < len(script) - 2:
        size = script[at]
        if not _is_key(script[at + 1 : at + 1 + size]):
            return False
        at, keys = at + 1 + size, keys + 1
    return at == len(script) - 2 and keys == script[-2] - 0x50 and script[0] - 0x50 <= keys
