"""What the best chain means: unspent outputs, where each transaction is, what spent each output.

The consensus library offers no look-up, so this is kept beside it, in memory, moved block by block and rebuilt from the
block log at every start. Nothing is judged here: a block that arrives has been accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from salama.base.ids import BlockHash, OutPoint, Txid
from salama.base.units import BlockHeight
from salama.bitcoin.block import Block
from salama.bitcoin.script import is_op_return
from salama.bitcoin.tx import Tx, TxOut

COINBASE_MATURITY: Final = 100
MAX_SCRIPT: Final = 10_000
_MEDIAN_SPAN: Final = 11


@dataclass(frozen=True, slots=True)
class ChainCoin:
    """An unspent output of the chain, or one that the mempool would make (height: that of the next block)."""

    out: TxOut
    height: int
    coinbase: bool


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block that consensus accepted, on whatever branch. ``offset`` and ``size`` find it in the log."""

    hash: BlockHash
    previous: BlockHash
    height: int
    time: int
    offset: int
    size: int


class ChainState:
    """The best chain's state. ``active[h]`` is the block at height h."""

    def __init__(self, genesis: StoredBlock) -> None:
        self.blocks: dict[BlockHash, StoredBlock] = {genesis.hash: genesis}
        # The genesis coinbase is unspendable by a quirk of the first client, so it is no coin and has no place.
        self.active: list[BlockHash] = [genesis.hash]
        self.coins: dict[OutPoint, ChainCoin] = {}
        self.places: dict[Txid, tuple[BlockHash, int]] = {}
        self.spenders: dict[OutPoint, Txid] = {}
        # Satoshis in all coins.
        self.total = 0
        self._undo: dict[BlockHash, list[tuple[OutPoint, ChainCoin]]] = {}

    @property
    def height(self) -> int:
        return len(self.active) - 1

    @property
    def tip(self) -> StoredBlock:
        return self.blocks[self.active[-1]]

    def is_active(self, block: StoredBlock) -> bool:
        return block.height < len(self.active) and self.active[block.height] == block.hash

    def median_time(self, height: int) -> int:
        """Median time past of the block at ``height`` of the best chain: what the next block's locks compare with."""
        times = sorted(self.blocks[h].time for h in self.active[max(0, height - _MEDIAN_SPAN + 1) : height + 1])
        return times[len(times) // 2]

    def connect(self, stored: StoredBlock, block: Block) -> None:
        """``block`` becomes the tip; its parent is the tip now."""
        undo: list[tuple[OutPoint, ChainCoin]] = []
        for index, tx in enumerate(block.txs):
            if index:
                for one in tx.inputs:
                    coin = self.coins.pop(one.outpoint)
                    self.total -= coin.out.value
                    undo.append((one.outpoint, coin))
                    self.spenders[one.outpoint] = tx.txid
            txid = tx.txid
            self.places[txid] = (stored.hash, index)
            for vout, out in enumerate(tx.outputs):
                if is_spendable(out):
                    self.coins[OutPoint(txid, vout)] = ChainCoin(out, stored.height, index == 0)
                    self.total += out.value
        self._undo[stored.hash] = undo
        self.active.append(stored.hash)

    def disconnect(self, block: Block) -> None:
        """The tip, which is ``block``, leaves the best chain."""
        tip = self.active.pop()
        for tx in reversed(block.txs):
            txid = tx.txid
            del self.places[txid]
            for vout in range(len(tx.outputs)):
                coin = self.coins.pop(OutPoint(txid, vout), None)
                if coin is not None:
                    self.total -= coin.out.value
            if not tx.is_coinbase:
                for one in tx.inputs:
                    del self.spenders[one.outpoint]
        made_here = {tx.txid for tx in block.txs}
        for outpoint, coin in self._undo.pop(tip):
            if outpoint.txid not in made_here:
                self.coins[outpoint] = coin
                self.total += coin.out.value

    def spent_by(self, tx_index: int, block: StoredBlock, block_txs: tuple[Tx, ...]) -> tuple[TxOut, ...] | None:
        """Outputs that transaction ``tx_index`` of an active block spent, in input order; None if unknown."""
        undo = self._undo.get(block.hash)
        if undo is None or tx_index == 0:
            return None
        start = sum(len(tx.inputs) for tx in block_txs[1:tx_index])
        return tuple(coin.out for _, coin in undo[start : start + len(block_txs[tx_index].inputs)])

    def next_height(self) -> BlockHeight:
        return BlockHeight(len(self.active))


def is_spendable(out: TxOut) -> bool:
    """Whether an output enters the set of unspent ones: neither OP_RETURN nor longer than any script may be."""
    return not is_op_return(out.script) and len(out.script) <= MAX_SCRIPT
