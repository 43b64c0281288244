"""Blocks, transactions and mempool entries as Bitcoin Core's JSON shows them (field names are its own)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from salama.base.ids import Txid
from salama.bitcoin.address import render as render_address
from salama.bitcoin.networks import NETWORKS
from salama.bitcoin.script import disassemble
from salama.bitcoin.tx import Tx, TxOut, compact_size
from salama.chain.devnet.chainstate import StoredBlock
from salama.chain.devnet.mempool import Entry
from salama.chain.devnet.policy import output_kind
from salama.chain.devnet.regtest import Regtest

REGTEST: Final = NETWORKS["regtest"]
DIFFICULTY: Final = msgspec.Raw(b"4.656542373906925e-10")
TARGET: Final = "7fffff0000000000000000000000000000000000000000000000000000000000"


def amount(sat: int) -> msgspec.Raw:
    """Satoshis as the eight-decimal number of the RPC; never by way of a float."""
    sign = "-" if sat < 0 else ""
    return msgspec.Raw(f"{sign}{abs(sat) // 100_000_000}.{abs(sat) % 100_000_000:08d}".encode())


def feerate(fee: int, vsize: int) -> msgspec.Raw:
    """A fee for a size as BTC per 1000 virtual bytes."""
    return amount(fee * 1000 // vsize if vsize else 0)


def script(raw: bytes) -> dict[str, Any]:
    """A scriptpubkey."""
    address = render_address(raw, REGTEST)
    shown: dict[str, Any] = {"asm": disassemble(raw), "desc": f"addr({address})" if address else f"raw({raw.hex()})"}
    shown["hex"] = raw.hex()
    if address:
        shown["address"] = address
    shown["type"] = output_kind(raw).value
    return shown


def transaction(tx: Tx, spent: Sequence[TxOut] | None = None, with_hex: bool = True) -> dict[str, Any]:
    """A decoded transaction; with ``spent`` also its fee."""
    raw = tx.encode()
    shown: dict[str, Any] = {
        "txid": str(tx.txid),
        "hash": str(tx.wtxid),
        "version": tx.version,
        "size": len(raw),
        "vsize": tx.vsize,
        "weight": tx.weight,
        "locktime": tx.locktime,
        "vin": [_input(tx, index) for index in range(len(tx.inputs))],
        "vout": [
            {"value": amount(out.value), "n": n, "scriptPubKey": script(out.script)} for n, out in enumerate(tx.outputs)
        ],
    }
    if spent is not None:
        shown["fee"] = amount(sum(out.value for out in spent) - sum(out.value for out in tx.outputs))
    if with_hex:
        shown["hex"] = raw.hex()
    return shown


def _input(tx: Tx, index: int) -> dict[str, Any]:
    one = tx.inputs[index]
    shown: dict[str, Any]
    if tx.is_coinbase:
        shown = {"coinbase": one.script_sig.hex()}
    else:
        shown = {
            "txid": str(one.outpoint.txid),
            "vout": one.outpoint.vout,
            "scriptSig": {"asm": disassemble(one.script_sig), "hex": one.script_sig.hex()},
        }
    if one.witness:
        shown["txinwitness"] = [item.hex() for item in one.witness]
    shown["sequence"] = one.sequence
    return shown


def header(net: Regtest, stored: StoredBlock) -> dict[str, Any]:
    """A block's header and place. ``confirmations`` is -1 off the best chain."""
    chain = net.chain
    raw = net.block(stored).header
    active = chain.is_active(stored)
    shown: dict[str, Any] = {
        "hash": str(stored.hash),
        "confirmations": chain.height - stored.height + 1 if active else -1,
        "height": stored.height,
        "version": raw.version,
        "versionHex": f"{raw.version:08x}",
        "merkleroot": raw.merkle_root[::-1].hex(),
        "time": raw.time,
        "mediantime": chain.median_time(stored.height) if active else raw.time,
        "nonce": raw.nonce,
        "bits": f"{raw.bits:08x}",
        "target": TARGET,
        "difficulty": DIFFICULTY,
        "chainwork": chainwork(stored.height),
        "nTx": len(net.block(stored).txs),
    }
    if stored.height:
        shown["previousblockhash"] = str(stored.previous)
    if active and stored.height < chain.height:
        shown["nextblockhash"] = str(chain.active[stored.height + 1])
    return shown


def chainwork(height: int) -> str:
    """Work up to ``height``: two hashes a block."""
    return f"{2 * (height + 1):064x}"


def block(net: Regtest, stored: StoredBlock, decoded: bool) -> dict[str, Any]:
    """A block with its txids, or with whole transactions if ``decoded``."""
    whole = net.block(stored)
    shown = header(net, stored)
    # Sizes from the parts: the witness bytes are what the stripped form lacks.
    stripped = 80 + len(compact_size(len(whole.txs))) + sum(len(tx.encode_stripped()) for tx in whole.txs)
    shown["strippedsize"] = stripped
    shown["size"] = stored.size
    shown["weight"] = 3 * stripped + stored.size
    if decoded:
        shown["tx"] = [
            transaction(tx, net.chain.spent_by(index, stored, whole.txs)) for index, tx in enumerate(whole.txs)
        ]
    else:
        shown["tx"] = [str(tx.txid) for tx in whole.txs]
    return shown


def mempool_entry(net: Regtest, txid: Txid, entry: Entry) -> dict[str, Any]:
    """One transaction of the mempool, with its family's sums."""
    pool = net.pool
    up = [pool.entries[one] for one in pool.ancestors(entry.tx)] + [entry]
    down = [pool.entries[one] for one in pool.descendants(txid)] + [entry]
    return {
        "vsize": entry.vsize,
        "weight": entry.weight,
        "time": entry.time,
        "height": entry.height,
        "descendantcount": len(down),
        "descendantsize": sum(one.vsize for one in down),
        "ancestorcount": len(up),
        "ancestorsize": sum(one.vsize for one in up),
        "wtxid": str(entry.wtxid),
        "fees": {
            "base": amount(entry.fee),
            "modified": amount(entry.fee),
            "ancestor": amount(sum(one.fee for one in up)),
            "descendant": amount(sum(one.fee for one in down)),
        },
        "depends": [str(one) for one in pool.parents(entry.tx)],
        "spentby": [str(one) for one in pool.children(txid)],
        "bip125-replaceable": True,
        "unbroadcast": False,
    }
