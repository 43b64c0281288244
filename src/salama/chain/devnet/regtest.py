"""The devnet itself: block log, consensus, chain state and mempool held together, and moved only through here.

What is told to a caller is in the log first. The log decides after a restart: blocks are replayed into the consensus
library in the order of their arrival, which also decides between branches of equal work.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from salama.base.ids import BlockHash, OutPoint, Txid
from salama.bitcoin.block import Block, MalformedBlock
from salama.bitcoin.tx import MalformedTx, Tx, TxOut
from salama.chain.devnet import miner
from salama.chain.devnet.blocklog import BlockLog, DamagedLog, Kind
from salama.chain.devnet.chainstate import ChainState, StoredBlock
from salama.chain.devnet.kernel import Kernel
from salama.chain.devnet.mempool import Entry, Mempool, Outcome, PackageOutcome
from salama.chain.devnet.policy import Refusal, Rejected

_DECODED_BLOCKS: Final = 32


class DirectoryInUse(Exception):
    """Another process holds the data directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        super().__init__(f"{directory} is in use by another process")


class UnknownBlock(Exception):
    """No block of this hash."""


class BlockRefused(Exception):
    """Consensus does not accept a block; ``reason`` in its words."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Regtest:
    """A private chain in one data directory. Not thread-safe: one thread moves it."""

    def __init__(self, datadir: Path, clock: Callable[[], float] = time.time) -> None:
        """Opens or creates ``datadir``. Raises DirectoryInUse, DamagedLog, KernelFailure."""
        datadir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._datadir, self._clock = datadir, clock
        self._lock = _lock(datadir)
        # Called after each change of the tip.
        self.on_tip: Callable[[], None] = lambda: None
        self._invalidated: set[BlockHash] = set()
        try:
            self._log = BlockLog(datadir / "chain.log")
            self._kernel = Kernel(self._scratch(0))
            self._scratch_count = 0
            self._genesis = self._kernel.genesis()
            genesis = Block.decode(self._genesis)
            self.chain = ChainState(
                StoredBlock(genesis.hash, genesis.header.previous, 0, genesis.header.time, -1, len(self._genesis))
            )
            self._decoded: OrderedDict[BlockHash, Block] = OrderedDict({genesis.hash: genesis})
            self.pool = Mempool(self.chain, lambda: int(clock()))
            self._replay()
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Lets go of the directory. The log needs no farewell."""
        self._kernel.close()
        self._log.close()
        os.close(self._lock)

    # --- reading

    def stored(self, block_hash: BlockHash) -> StoredBlock:
        """Raises UnknownBlock."""
        found = self.chain.blocks.get(block_hash)
        if found is None:
            raise UnknownBlock(str(block_hash))
        return found

    def raw_block(self, stored: StoredBlock) -> bytes:
        """The serialised block."""
        return self._genesis if stored.offset < 0 else self._log.read(stored.offset, stored.size)

    def block(self, stored: StoredBlock) -> Block:
        """The decoded block; a few are remembered."""
        found = self._decoded.get(stored.hash)
        if found is None:
            found = Block.decode(self.raw_block(stored))
            self._remember(stored.hash, found)
        return found

    def is_invalid(self, stored: StoredBlock) -> bool:
        """Whether the block or an ancestor was invalidated by command."""
        walk: StoredBlock | None = stored
        while walk is not None and not self.chain.is_active(walk):
            if walk.hash in self._invalidated:
                return True
            walk = self.chain.blocks.get(walk.previous)
        return False

    def branch_tips(self) -> Iterator[StoredBlock]:
        """Blocks that no other block builds on, and the tip."""
        parents = {stored.previous for stored in self.chain.blocks.values()}
        for stored in self.chain.blocks.values():
            if stored.hash not in parents or stored.hash == self.chain.active[-1]:
                yield stored

    def transaction(self, txid: Txid) -> tuple[Tx, StoredBlock | None] | None:
        """A transaction of the mempool (no block) or of the best chain."""
        entry = self.pool.entries.get(txid)
        if entry is not None:
            return entry.tx, None
        place = self.chain.places.get(txid)
        if place is None:
            return None
        stored = self.chain.blocks[place[0]]
        return self.block(stored).txs[place[1]], stored

    # --- transactions

    def submit_tx(self, tx: Tx) -> Outcome:
        """Into the mempool; raises policy.Rejected."""
        outcome = self.pool.accept(tx)
        self._log.append(Kind.MEMPOOL_TX, tx.encode())
        return outcome

    def submit_package(self, txs: Sequence[Tx]) -> PackageOutcome:
        """Parents and their child; what was refused says so in the outcome."""
        before = set(self.pool.entries)
        outcome = self.pool.accept_package(txs)
        for tx in txs:
            if tx.txid in self.pool.entries and tx.txid not in before:
                self._log.append(Kind.MEMPOOL_TX, tx.encode())
        return outcome

    # --- blocks

    def generate(self, script: bytes) -> BlockHash:
        """Mines one block of the best paying transactions to ``script``."""
        chosen: list[Entry] = miner.choose(self.pool)
        return self._mine(script, [e.tx for e in chosen], sum(e.fee for e in chosen))

    def fees_of(self, txs: Sequence[Tx]) -> int:
        """Fees of ``txs``, each spending the chain or an earlier one of them. Raises policy.Rejected."""
        made: dict[OutPoint, TxOut] = {}
        fees = 0
        for tx in txs:
            for one in tx.inputs:
                coin = self.chain.coins.get(one.outpoint)
                out = made.pop(one.outpoint, None) if coin is None else coin.out
                if out is None:
                    raise Rejected("bad-txns-inputs-missingorspent", refusal=Refusal.MISSING_INPUTS)
                fees += out.value
            fees -= sum(out.value for out in tx.outputs)
            made.update((OutPoint(tx.txid, vout), out) for vout, out in enumerate(tx.outputs))
        if fees < 0:
            raise Rejected("bad-txns-in-belowout")
        return fees

    def generate_with(self, script: bytes, txs: Sequence[Tx], fees: int, submit: bool = True) -> Block:
        """Mines exactly ``txs``, in this order. Raises BlockRefused."""
        block = self._template(script, txs, fees)
        if submit:
            self._add(block, block.encode())
        return block

    def submit_block(self, raw: bytes) -> BlockHash:
        """A block made elsewhere. Raises BlockRefused, also for one known already ("duplicate")."""
        try:
            block = Block.decode(raw)
        except MalformedBlock:
            raise BlockRefused("block-decode-failed") from None
        known = self.chain.blocks.get(block.hash)
        if known is not None:
            raise BlockRefused("duplicate-invalid" if self.is_invalid(known) else "duplicate")
        parent = self.chain.blocks.get(block.header.previous)
        if parent is None:
            raise BlockRefused("prev-blk-not-found")
        if self.is_invalid(parent) or parent.hash in self._invalidated:
            raise BlockRefused("bad-prevblk")
        self._add(block, raw)
        return block.hash

    def invalidate(self, block_hash: BlockHash) -> None:
        """Takes a block and all that builds on it out of the race. Raises UnknownBlock, BlockRefused for genesis."""
        stored = self.stored(block_hash)
        if stored.height == 0:
            raise BlockRefused("the genesis block cannot be invalidated")
        if block_hash in self._invalidated:
            return
        self._log.append(Kind.INVALIDATED, block_hash)
        self._invalidated.add(block_hash)
        if self.chain.is_active(stored):
            self._rebuild()

    def reconsider(self, block_hash: BlockHash) -> None:
        """Undoes ``invalidate`` for a block, its ancestors and its descendants. Raises UnknownBlock."""
        stored = self.stored(block_hash)
        cleared = self._related_invalid(stored)
        if not cleared:
            return
        self._log.append(Kind.RECONSIDERED, block_hash)
        self._invalidated -= cleared
        self._rebuild()

    # --- inside

    def _mine(self, script: bytes, txs: Sequence[Tx], fees: int) -> BlockHash:
        block = self._template(script, txs, fees)
        self._add(block, block.encode())
        return block.hash

    def _template(self, script: bytes, txs: Sequence[Tx], fees: int) -> Block:
        tip = self.chain.tip
        now = max(self.chain.median_time(tip.height) + 1, int(self._clock()))
        return miner.mine(tip.hash, tip.height + 1, now, script, txs, fees)

    def _add(self, block: Block, raw: bytes) -> None:
        verdict = self._kernel.submit(raw)
        if not verdict.accepted:
            raise BlockRefused(verdict.reason)
        try:
            offset = self._log.append(Kind.BLOCK, raw)
        except OSError:
            # A full disk: the kernel must forget what a restart would not find.
            self._rebuild()
            raise
        self._store(block, offset, len(raw))
        if self._follow_kernel():
            self.on_tip()

    def _store(self, block: Block, offset: int, size: int) -> StoredBlock:
        parent = self.chain.blocks[block.header.previous]
        stored = StoredBlock(block.hash, parent.hash, parent.height + 1, block.header.time, offset, size)
        self.chain.blocks[stored.hash] = stored
        self._remember(stored.hash, block)
        return stored

    def _remember(self, block_hash: BlockHash, block: Block) -> None:
        self._decoded[block_hash] = block
        while len(self._decoded) > _DECODED_BLOCKS:
            self._decoded.popitem(last=False)

    def _follow_kernel(self) -> bool:
        """Moves chain state and mempool to the kernel's tip; returns whether the tip changed."""
        chain = self.chain
        height, tip = self._kernel.tip()
        if tip == chain.active[-1]:
            return False
        fork = min(height, chain.height)
        while chain.active[fork] != self._kernel.hash_at(fork):
            fork -= 1
        undone: list[Tx] = []
        reorganised = chain.height > fork
        while chain.height > fork:
            block = self.block(chain.tip)
            chain.disconnect(block)
            undone[:0] = block.txs[1:]
        for at in range(fork + 1, height + 1):
            stored = chain.blocks[self._kernel.hash_at(at)]
            block = self.block(stored)
            chain.connect(stored, block)
            if not reorganised:
                self.pool.block_connected(block.txs)
        if reorganised:
            # Whatever the reorg unsettled is judged again, oldest first.
            self.pool.put_back([*undone, *(entry.tx for entry in self.pool.entries.values())])
        return True

    def _rebuild(self) -> None:
        """A fresh kernel with every block that counts: the library has no command to invalidate one."""
        self._scratch_count += 1
        fresh = Kernel(self._scratch(self._scratch_count))
        old, self._kernel = self._kernel, fresh
        old.close()
        left_out: set[BlockHash] = set(self._invalidated)
        for stored in self.chain.blocks.values():
            if stored.height == 0:
                continue
            if stored.previous in left_out or stored.hash in left_out:
                left_out.add(stored.hash)
                continue
            self._accept_again(self.raw_block(stored))
        if self._follow_kernel():
            self.on_tip()

    def _accept_again(self, raw: bytes) -> None:
        verdict = self._kernel.submit(raw)
        if not verdict.accepted:
            raise DamagedLog(self._datadir, f"consensus refuses a block it took before: {verdict.reason}")

    def _related_invalid(self, stored: StoredBlock) -> set[BlockHash]:
        """Invalidated blocks that are ``stored``, among its ancestors or among its descendants."""
        return {one for one in self._invalidated if self._is_on_path(self.chain.blocks[one], stored)}

    def _is_on_path(self, one: StoredBlock, other: StoredBlock) -> bool:
        low, high = sorted((one, other), key=lambda stored: stored.height)
        while high.height > low.height:
            high = self.chain.blocks[high.previous]
        return high.hash == low.hash

    def _replay(self) -> None:
        """The log, record by record. Mempool transactions are tried again once all blocks are in."""
        waiting: list[Tx] = []
        reordered = False
        for record in self._log.replay():
            try:
                if record.kind is Kind.BLOCK:
                    block = Block.decode(record.payload)
                    if block.header.previous not in self.chain.blocks:
                        raise DamagedLog(self._datadir, f"a block without its parent at byte {record.offset}")
                    self._store(block, record.offset, len(record.payload))
                    if not reordered:
                        self._accept_again(record.payload)
                        self._follow_kernel()
                elif record.kind is Kind.MEMPOOL_TX:
                    waiting.append(Tx.decode(record.payload))
                elif record.kind is Kind.INVALIDATED:
                    self._invalidated.add(self.stored(BlockHash(record.payload)).hash)
                    reordered = True
                else:
                    self._invalidated -= self._related_invalid(self.stored(BlockHash(record.payload)))
                    reordered = True
            except (MalformedBlock, MalformedTx, UnknownBlock, ValueError) as problem:
                raise DamagedLog(self._datadir, f"nonsense at byte {record.offset}: {problem}") from None
        if reordered:
            self._rebuild()
        self.pool.put_back((tx for tx in waiting if tx.txid not in self.chain.places), newer_wins=True)

    def _scratch(self, number: int) -> Path:
        return self._datadir / "kernel" / str(number % 2)


def _lock(datadir: Path) -> int:
    handle = os.open(datadir / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise DirectoryInUse(datadir) from None
    return handle
