"""Carrying the chain to the machines, and our transactions to the chain.

Each block is given to every actor, and the tip is written down only after all of them have it on disk: a restart
begins at the first block that somebody may have missed, and every event is idempotent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from salama.base.ids import BlockHash, OutPoint, Txid
from salama.base.units import BlockHeight, FeeratePerKw
from salama.bitcoin.block import Block
from salama.bitcoin.chain_events import BlockConnected, BlockDisconnected
from salama.bitcoin.tx import Tx
from salama.chain.backend import BackendError, BackendUnavailable, ChainBackend
from salama.chain.watcher import Watcher

log = logging.getLogger("salama.chain")

MAX_REBROADCAST = 10_000
"""Own transactions kept for another try at every block; far above what a node with 1,000 channels needs."""
STALE_SECONDS = 600
"""How long the back-end may be out of reach, or behind, before its last word is too old for new risks."""
TIP = "chain.tip"
"""Where it is written what every actor has on disk: height, 4 bytes, and hash of the block."""
FEERATE_TARGET = 6
"""Blocks within which what nobody is in a hurry for should confirm."""


@dataclass(slots=True)
class Tip:
    """The last block that every actor has on disk."""

    height: BlockHeight
    hash: BlockHash


class Broadcaster:
    """Publishes transactions, again at every block, until they are in one."""

    def __init__(self, backend: ChainBackend) -> None:
        self._backend = backend
        self._waiting: dict[Txid, tuple[Tx, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: dict[Txid, asyncio.Task[None]] = {}
        self._out: set[Txid] = set()
        self._spenders: dict[OutPoint, set[Txid]] = {}

    async def attempted(self, txid: Txid) -> None:
        """Return once the attempt that is under way for a transaction, if any, has had its answer."""
        if (task := self._under_way.get(txid)) is not None:
            await asyncio.wait((task,))

    def waiting(self, txid: Txid) -> Tx | None:
        """A transaction of ours that is not confirmed yet."""
        found = self._waiting.get(txid)
        return None if found is None else found[0]

    def is_out(self, txid: Txid) -> bool:
        """Whether the back-end took an unconfirmed transaction of ours at its last attempt and has taken none of ours
        that replaces it."""
        return txid in self._out

    def publish(self, tx: Tx, why: str) -> None:
        """Publish now and keep trying; returns at once."""
        if tx.txid not in self._waiting and len(self._waiting) < MAX_REBROADCAST:
            self._waiting[tx.txid] = (tx, why)
            for one in tx.inputs:
                self._spenders.setdefault(one.outpoint, set()).add(tx.txid)
            self._spawn(tx, why)

    def _spawn(self, tx: Tx, why: str) -> None:
        task = asyncio.create_task(self._try(tx, why), name=f"broadcast {tx.txid}")
        self._tasks.add(task)
        self._under_way[tx.txid] = task
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._under_way.pop(tx.txid, None))

    async def _try(self, tx: Tx, why: str) -> None:
        try:
            result = await self._backend.broadcast(tx)
        except (BackendUnavailable, BackendError) as error:
            log.warning("%s %s was not published yet: %s", why, tx.txid, error)
            return
        rivals = self._rivals(tx)
        if result.accepted:
            if not result.already_known:
                log.info("published %s %s", why, tx.txid)
            self._out.difference_update(rivals)
            if tx.txid in self._waiting:
                self._out.add(tx.txid)
            return
        self._out.discard(tx.txid)
        if not self._out.isdisjoint(rivals):
            # Of several closing transactions one confirms: this one waits, in case the other one vanishes.
            log.debug("%s %s stands back behind another of ours", why, tx.txid)
        elif result.retry:
            log.warning("%s %s was refused for now: %s", why, tx.txid, result.reason)
        else:
            # Kept all the same: a reorganisation may change what the back-end thinks of it.
            log.error("%s %s was refused: %s", why, tx.txid, result.reason)

    def _rivals(self, tx: Tx) -> set[Txid]:
        """Unconfirmed transactions of ours that spend something that ``tx`` spends, too."""
        found = set[Txid]().union(*(self._spenders.get(one.outpoint, ()) for one in tx.inputs))
        return found - {tx.txid}

    def forget(self, txid: Txid) -> None:
        """Offer a transaction no longer: it is confirmed, or another one has taken its place."""
        found = self._waiting.pop(txid, None)
        if found is None:
            return
        self._out.discard(txid)
        for one in found[0].inputs:
            spenders = self._spenders[one.outpoint]
            spenders.discard(txid)
            if not spenders:
                del self._spenders[one.outpoint]

    def again(self) -> None:
        """Offer everything anew: the back-end was away, and the next block may be long in coming."""
        for tx, why in list(self._waiting.values()):
            self._spawn(tx, why)

    def block_connected(self, block: Block) -> None:
        """Forget what is confirmed, try the rest again."""
        if not self._waiting:
            return
        for tx in block.txs:
            self.forget(tx.txid)
        spent = {i.outpoint for tx in block.txs for i in tx.inputs}
        for txid, (tx, why) in list(self._waiting.items()):
            if any(i.outpoint in spent for i in tx.inputs):
                log.info("%s %s was replaced by another transaction", why, txid)
                self.forget(txid)
            else:
                self._spawn(tx, why)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


BlockHandler = Callable[[BlockConnected], Awaitable[None]]
ReorgHandler = Callable[[BlockDisconnected], Awaitable[None]]


class ChainFollower:
    """Follows the best chain, one block at a time, and knows where it stands."""

    def __init__(
        self,
        backend: ChainBackend,
        start: Tip | None,
        poll_seconds: float,
        on_block: BlockHandler,
        on_reorg: ReorgHandler,
        longest_silence: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._backend, self._clock, self._longest_silence = backend, clock, longest_silence
        known = (start.height, start.hash) if start else None
        self._watcher = Watcher(backend, known, poll_interval=poll_seconds, clock=clock)
        self._on_block, self._on_reorg = on_block, on_reorg
        self.tip = start
        self.feerate: FeeratePerKw | None = None
        self.caught_up = asyncio.Event()

    @property
    def height(self) -> BlockHeight:
        return self.tip.height if self.tip else BlockHeight(0)

    @property
    def stale(self) -> bool:
        """Whether the back-end did not answer, or stood behind us, when last asked."""
        return self._watcher.stale_since is not None

    @property
    def trouble(self) -> str:
        """Why what we know of the chain is too old to take new risks on, for a person; empty while all is well.

        Whoever keeps blocks from us may let our deadlines pass unseen (immunity G3): then nothing new is relayed and no
        channel is opened, while claims under way go on.
        """
        now, since, info = self._clock(), self._watcher.stale_since, self._watcher.info
        if since is not None and now - since >= STALE_SECONDS:
            return f"for {(now - since) / 60:.0f} minutes {self._watcher.problem}"
        if self._longest_silence is not None and info is not None:
            if not info.synced:
                return "the chain back-end is still catching up with the network"
            if now - info.tip_time >= self._longest_silence:
                return f"its newest block is {(now - info.tip_time) / 3600:.0f} hours old, or our clock is wrong"
        return ""

    async def run(self) -> None:
        """Until cancelled."""
        await self._ask_feerate()
        waiting = asyncio.create_task(self._watch_for_tip())
        try:
            async for event in self._watcher:
                if isinstance(event, BlockConnected):
                    self.tip = Tip(event.height, event.hash)
                    await self._on_block(event)
                    await self._ask_feerate()
                else:
                    await self._on_reorg(event)
        finally:
            waiting.cancel()

    async def _watch_for_tip(self) -> None:
        """Notice when every block up to the back-end's tip is dealt with; a fresh chain has no event to tell it."""
        while not self.caught_up.is_set():
            known = self._watcher.tip
            if self._watcher.stale_since is None and known is not None and self.tip in (None, Tip(*known)):
                self.tip = Tip(*known)
                self.caught_up.set()
            else:
                await asyncio.sleep(0.02)

    async def _ask_feerate(self) -> None:
        try:
            self.feerate = await self._backend.feerate(FEERATE_TARGET)
        except (BackendUnavailable, BackendError) as error:
            log.warning("no fee estimate: %s", error)


class Watch:
    """Outputs that some channel wants to hear about, by outpoint; and funding transactions by txid."""

    def __init__(self) -> None:
        self.outpoints: dict[OutPoint, bytes] = {}
        self._by_txid: dict[Txid, dict[OutPoint, None]] = {}

    def add(self, outpoint: OutPoint, channel_id: bytes) -> None:
        self.outpoints[outpoint] = channel_id
        self._by_txid.setdefault(outpoint.txid, {})[outpoint] = None

    def remove(self, outpoint: OutPoint) -> None:
        if self.outpoints.pop(outpoint, None) is not None:
            siblings = self._by_txid[outpoint.txid]
            del siblings[outpoint]
            if not siblings:
                del self._by_txid[outpoint.txid]

    def outputs_of(self, txid: Txid) -> Collection[OutPoint]:
        """The watched outputs of one transaction: several channels may be funded at once (immunity A3)."""
        return self._by_txid.get(txid, ())
