"""One Bitcoin for all machines: the devnet's chain state and mempool, without proof of work, mined by the world.

Every transaction that a node offers is judged by the devnet's policy and by Bitcoin Core's script interpreter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

from salama.base.ids import BlockHash, OutPoint, ShortChannelId, Txid
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.bitcoin.block import Block, BlockHeader, merkle_root
from salama.bitcoin.networks import REGTEST
from salama.bitcoin.script import Op, number, p2wsh, push, script
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.chain.backend import BackendError, BackendUnavailable, BroadcastResult, ChainInfo, HeaderInfo, Utxo
from salama.chain.devnet import miner
from salama.chain.devnet.chainstate import ChainCoin, ChainState, StoredBlock
from salama.chain.devnet.mempool import Mempool
from salama.chain.devnet.policy import Refusal, Rejected
from salama.crypto.hashes import sha256

if TYPE_CHECKING:
    from salama.sim.machine import Machine

_ANYONE = script(Op(0x51))
_SUBSIDY = 50 * 100_000_000
_COINBASE = OutPoint(Txid(bytes(32)), 0xFFFFFFFF)


class Bitcoin:
    """The chain, its mempool, and what its fees are thought to be."""

    def __init__(self, dice: Random, clock: Callable[[], float]) -> None:
        self._dice, self._clock = dice, clock
        genesis = BlockHash(REGTEST.chain_hash)
        self.state = ChainState(StoredBlock(genesis, BlockHash(bytes(32)), 0, int(clock()), -1, 0))
        self.pool = Mempool(self.state, lambda: int(clock()))
        self.blocks: dict[BlockHash, Block] = {}
        self.feerate = FeeratePerKw(1000)
        self.refused: list[tuple[str, Tx, str]] = []
        """What nodes offered and policy or consensus did not take: by whom, what, why."""
        self.published: dict[Txid, Tx] = {}
        self.on_offer: Callable[[str, Tx], None] = lambda who, tx: None
        """Called with every transaction that a node offers, before it is judged."""
        self.watchers: list[Callable[[], None]] = []
        """Called at every change of the tip."""
        self._faucets = 0

    @property
    def height(self) -> int:
        return self.state.height

    def mine(self, txs: Sequence[Tx] | None = None) -> Block:
        """A block of ``txs``, or of the best paying ones that wait."""
        block = self._connect([entry.tx for entry in miner.choose(self.pool)] if txs is None else list(txs))
        self.pool.block_connected(block.txs)
        self._tell()
        return block

    def reorganise(self, depth: int) -> None:
        """Replace the last ``depth`` blocks by one more; their transactions stand in other blocks, or wait again."""
        depth = min(depth, self.height - 1)
        undone: list[Tx] = []
        for _ in range(depth):
            block = self.blocks[self.state.active[-1]]
            self.state.disconnect(block)
            undone[:0] = block.txs[1:]
        self.pool.put_back([*undone, *(entry.tx for entry in self.pool.entries.values())])
        for _ in range(depth + 1):
            chosen = [entry.tx for entry in miner.choose(self.pool)] if self._dice.random() < 0.7 else []
            self.pool.block_connected(self._connect(chosen).txs)
        self._tell()

    def give(self, outputs: Sequence[TxOut]) -> Block:
        """A block that pays ``outputs`` from nowhere."""
        self._faucets += 1
        coin = OutPoint(Txid(sha256(b"faucet %d" % self._faucets)), 0)
        total = sum(int(out.value) for out in outputs)
        self.state.coins[coin] = ChainCoin(TxOut(Sat(total), p2wsh(_ANYONE)), 0, False)
        return self.mine([Tx(2, (TxIn(coin, witness=(_ANYONE,)),), tuple(outputs), 0)])

    def _connect(self, txs: list[Tx]) -> Block:
        tip = self.state.tip
        height = tip.height + 1
        # A number beside the height: a block mined again after a reorganisation must have another hash.
        mark = number(height) + push(self._dice.randbytes(8))
        reward = Tx(2, (TxIn(_COINBASE, 0xFFFFFFFF, mark),), (TxOut(Sat(_SUBSIDY), p2wsh(_ANYONE)),), 0)
        block_txs = (reward, *txs)
        time = max(self.state.median_time(tip.height) + 1, int(self._clock()))
        root = merkle_root([tx.txid for tx in block_txs])
        block = Block(BlockHeader(0x20000000, tip.hash, root, time, 0x207FFFFF, 0), block_txs)
        stored = StoredBlock(block.hash, tip.hash, height, time, -1, 0)
        self.state.blocks[stored.hash] = stored
        self.blocks[stored.hash] = block
        self.state.connect(stored, block)
        return block

    def offer(self, who: str, tx: Tx) -> BroadcastResult:
        """A node's transaction for the mempool."""
        self.on_offer(who, tx)
        if tx.txid in self.state.places or tx.txid in self.pool.entries:
            return BroadcastResult(True, already_known=True)
        try:
            self.pool.accept(tx)
        except Rejected as refusal:
            self.refused.append((who, tx, str(refusal)))
            code = -25 if refusal.refusal is Refusal.MISSING_INPUTS else -26
            return BroadcastResult(False, code=code, reason=str(refusal))
        self.published[tx.txid] = tx
        return BroadcastResult(True)

    def _tell(self) -> None:
        for watcher in self.watchers:
            watcher()


class SimBackend:
    """A machine's view of the chain (``chain.backend.ChainBackend``): answers take a moment, or do not come."""

    def __init__(self, machine: Machine, chain: Bitcoin) -> None:
        self._machine, self._chain = machine, chain

    async def _ask(self) -> None:
        await asyncio.sleep(self._machine.backend_latency())
        if self._machine.backend_down:
            self._machine.fault_happened("chain back-end away")
            raise BackendUnavailable("connection refused")

    is_local = True

    async def info(self) -> ChainInfo:
        await self._ask()
        tip = self._chain.state.tip
        genesis = BlockHash(REGTEST.chain_hash)
        return ChainInfo("regtest", BlockHeight(tip.height), tip.hash, genesis, True, tip.time)

    async def block_hash(self, height: int) -> BlockHash | None:
        await self._ask()
        active = self._chain.state.active
        return active[height] if 0 <= height < len(active) else None

    async def header(self, block_hash: BlockHash) -> HeaderInfo | None:
        await self._ask()
        stored = self._chain.state.blocks.get(block_hash)
        if stored is None:
            return None
        previous = stored.previous if stored.height else None
        return HeaderInfo(stored.hash, previous, BlockHeight(stored.height), self._chain.state.is_active(stored))

    async def block(self, block_hash: BlockHash) -> Block:
        await self._ask()
        block = self._chain.blocks.get(block_hash)
        if block is None:
            raise BackendError(-5, "Block not found")
        return block

    async def wait_for_block(self, tip: BlockHash, height: int, timeout: float) -> None:
        await self._ask()
        loop = asyncio.get_running_loop()
        news = loop.create_future()

        def changed() -> None:
            if not news.done():
                news.set_result(None)

        if self._chain.state.active[-1] != tip:
            return
        self._chain.watchers.append(changed)
        handle = loop.call_later(timeout, changed)
        try:
            await news
        finally:
            handle.cancel()
            self._chain.watchers.remove(changed)
        await self._ask()

    async def broadcast(self, tx: Tx) -> BroadcastResult:
        await self._ask()
        return self._chain.offer(self._machine.name, tx)

    async def submit_package(self, txs: Sequence[Tx]) -> BroadcastResult:
        await self._ask()
        for tx in txs:
            self._chain.on_offer(self._machine.name, tx)
        outcome = self._chain.pool.accept_package(txs)
        for tx in txs:
            if tx.txid in self._chain.pool.entries:
                self._chain.published[tx.txid] = tx
        accepted = all(tx.txid in self._chain.pool.entries or tx.txid in self._chain.state.places for tx in txs)
        return BroadcastResult(accepted, code=0 if accepted else -26, reason="" if accepted else outcome.word)

    async def test_accept(self, tx: Tx) -> BroadcastResult:
        await self._ask()
        (result,) = self._chain.pool.test([tx])
        if isinstance(result, Rejected):
            return BroadcastResult(False, code=-26, reason=str(result))
        return BroadcastResult(True)

    async def utxo(self, outpoint: OutPoint, include_mempool: bool = True) -> Utxo | None:
        await self._ask()
        if include_mempool and outpoint in self._chain.pool.spends:
            return None
        if include_mempool and outpoint.txid in self._chain.pool.entries:
            coin = self._chain.pool.coin(outpoint)
            return None if coin is None else Utxo(coin.out, None, False)
        coin = self._chain.state.coins.get(outpoint)
        return None if coin is None else Utxo(coin.out, BlockHeight(coin.height), coin.coinbase)

    async def utxo_by_scid(self, scid: ShortChannelId) -> tuple[OutPoint, TxOut] | None:
        await self._ask()
        active = self._chain.state.active
        height = scid.height
        block = self._chain.blocks.get(active[height]) if 0 < height < len(active) else None
        if block is None or scid.index >= len(block.txs):
            return None
        outpoint = OutPoint(block.txs[scid.index].txid, scid.vout)
        coin = self._chain.state.coins.get(outpoint)
        return None if coin is None else (outpoint, coin.out)

    async def feerate(self, target_blocks: int) -> FeeratePerKw | None:
        await self._ask()
        return self._chain.feerate

    async def mempool_txids(self) -> frozenset[Txid]:
        await self._ask()
        return frozenset(self._chain.pool.entries)

    async def mempool_spenders(self, outpoints: Sequence[OutPoint]) -> frozenset[Txid]:
        await self._ask()
        spends = self._chain.pool.spends
        return frozenset(spends[one] for one in outpoints if one in spends)

    async def transaction(self, txid: Txid) -> Tx | None:
        await self._ask()
        entry = self._chain.pool.entries.get(txid)
        if entry is not None:
            return entry.tx
        place = self._chain.state.places.get(txid)
        return self._chain.blocks[place[0]].txs[place[1]] if place is not None else None

    async def close(self) -> None:
        pass
