"""Blocks for the devnet: which transactions, in which order, under which coinbase (BIP 34, BIP 141)."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Sequence
from typing import Final

from salama.base.ids import BlockHash, Txid
from salama.base.units import Sat
from salama.bitcoin.block import Block, BlockHeader, merkle_root
from salama.bitcoin.script import number, push
from salama.bitcoin.tx import COINBASE_OUTPOINT, FINAL_SEQUENCE, Tx, TxIn, TxOut
from salama.chain.devnet.mempool import Entry, Mempool
from salama.chain.devnet.policy import MAX_BLOCK_SIGOPS, MAX_BLOCK_WEIGHT
from salama.crypto.hashes import sha256d

HALVING: Final = 150
FIRST_SUBSIDY: Final = 50 * 100_000_000
VERSION: Final = 0x20000000
BITS: Final = 0x207FFFFF
# Header, transaction count and coinbase.
RESERVED_WEIGHT: Final = 4_000
RESERVED_SIGOPS: Final = 400
_COMMITMENT: Final = bytes.fromhex("6a24aa21a9ed")
_WITNESS_RESERVED: Final = bytes(32)


def subsidy(height: int) -> int:
    """New satoshis of the block at ``height``: regtest halves every 150 blocks."""
    halvings = height // HALVING
    return FIRST_SUBSIDY >> halvings if halvings < 64 else 0


def choose(pool: Mempool) -> list[Entry]:
    """The best paying transactions that fit a block, each after what it spends.

    A transaction is valued with the ancestors it would bring along: that is how a child pays for its parent.
    """
    entries = pool.entries
    place = {txid: at for at, txid in enumerate(entries)}
    ancestors = {txid: pool.ancestors(entry.tx) for txid, entry in entries.items()}
    chosen: list[Entry] = []
    inside: set[Txid] = set()
    weight, sigops = RESERVED_WEIGHT, RESERVED_SIGOPS

    def rank(txid: Txid) -> tuple[float, int]:
        package = [entries[one] for one in (*(ancestors[txid] - inside), txid)]
        return -sum(e.fee for e in package) / sum(e.vsize for e in package), place[txid]

    heap = [(*rank(txid), txid) for txid in entries]
    heapq.heapify(heap)
    while heap:
        *stale, txid = heapq.heappop(heap)
        if txid in inside:
            continue
        fresh = rank(txid)
        if fresh != tuple(stale):
            # Ancestors were taken since: valued anew. Terminates, for each value is reached once.
            heapq.heappush(heap, (*fresh, txid))
            continue
        package = sorted((ancestors[txid] - inside) | {txid}, key=place.__getitem__)
        more_weight = sum(entries[one].weight for one in package)
        more_sigops = sum(entries[one].sigops for one in package)
        if weight + more_weight > MAX_BLOCK_WEIGHT or sigops + more_sigops > MAX_BLOCK_SIGOPS:
            continue
        weight, sigops = weight + more_weight, sigops + more_sigops
        chosen.extend(entries[one] for one in package)
        inside.update(package)
        touched = {child for one in package for child in pool.descendants(one)} - inside
        for child in touched:
            heapq.heappush(heap, (*rank(child), child))
    return chosen


def coinbase(height: int, script: bytes, value: int, txs: Iterable[Tx]) -> Tx:
    """The first transaction of a block that holds ``txs`` after it; ``value`` is subsidy and fees together."""
    # A random number beside the height: the same block mined twice around a reorg must not have the same hash.
    script_sig = number(height) + push(os.urandom(8))
    root = merkle_root([Txid(bytes(32)), *(tx.wtxid for tx in txs)])
    return Tx(
        version=2,
        inputs=(TxIn(COINBASE_OUTPOINT, FINAL_SEQUENCE, script_sig, (_WITNESS_RESERVED,)),),
        outputs=(TxOut(Sat(value), script), TxOut(Sat(0), _COMMITMENT + sha256d(root + _WITNESS_RESERVED))),
        locktime=0,
    )


def mine(previous: BlockHash, height: int, time: int, script: bytes, txs: Sequence[Tx], fees: int) -> Block:
    """A block with valid proof of work: on regtest every second nonce will do."""
    all_txs = (coinbase(height, script, subsidy(height) + fees, txs), *txs)
    root = merkle_root([tx.txid for tx in all_txs])
    nonce = 0
    while True:
        header = BlockHeader(VERSION, previous, root, time, BITS, nonce)
        if int.from_bytes(header.hash, "little") <= header.target:
            return Block(header, all_txs)
        nonce += 1
