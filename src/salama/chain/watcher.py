"""Follows the best chain and tells of each block that joins or leaves it, in order (BOLT 5; immunity G4).

Knows hashes only: what a block means is for those who receive the events. An outage of the back-end yields nothing and
is visible in ``stale_since``. A back-end whose chain is a mere beginning of ours has fallen behind, for example because
it rebuilds its index; no block is taken back for that, since a real reorganisation comes with a longer chain.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

from salama.base.ids import BlockHash
from salama.base.units import BlockHeight
from salama.bitcoin.chain_events import BlockConnected, BlockDisconnected
from salama.chain.backend import BackendError, BackendUnavailable, ChainBackend, ChainInfo

MEMORY: Final = 288
MAX_REORG: Final = 2_016
POLL_SECONDS: Final = 1.0
# How long one question for a new block may hang, in poll intervals.
LONG_POLL_INTERVALS: Final = 5
_FIRST_PAUSE: Final = 0.1
_HASTE: Final = 0.01

ChainEvent = BlockConnected | BlockDisconnected


class ReorgTooDeep(Exception):
    """The back-end follows a chain that leaves ours deeper than we can or will walk back; a person must look."""

    def __init__(self, height: int) -> None:
        self.height = height
        super().__init__(f"the chain back-end contradicts our chain below height {height}")


class WrongChain(Exception):
    """The back-end serves another network than before."""

    def __init__(self, expected: BlockHash, found: BlockHash) -> None:
        self.expected, self.found = expected, found
        super().__init__(f"the chain back-end serves the chain of genesis {found}, ours is {expected}")


class Watcher:
    """An async iterator of ``BlockConnected`` and ``BlockDisconnected``; one at a time.

    An iteration that was cancelled may be followed by another, which goes on behind the last event handed out.

    ``start`` is the last block already dealt with: the first event is about what came after it, also if it has left the
    chain since. With None the first event connects the present tip. ``recent`` are earlier blocks of the same chain, as
    (height, hash), which spare questions after a reorganisation. ``genesis``, if given, must be the back-end's.

    Iteration raises ReorgTooDeep and WrongChain; both mean that the node must not go on by itself.
    """

    def __init__(
        self,
        backend: ChainBackend,
        start: tuple[BlockHeight, BlockHash] | None = None,
        *,
        recent: Iterable[tuple[BlockHeight, BlockHash]] = (),
        genesis: BlockHash | None = None,
        poll_interval: float = POLL_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._backend, self._clock = backend, clock
        self._poll_interval = poll_interval
        self._genesis = genesis
        self._tip = start
        self._hashes: OrderedDict[int, BlockHash] = OrderedDict(sorted((int(h), one) for h, one in recent))
        self._stale_since: float | None = clock()
        self._problem = "not asked yet"
        self._info: ChainInfo | None = None
        self._at_tip = False
        if start is not None:
            self._remember(*start)

    @property
    def tip(self) -> tuple[BlockHeight, BlockHash] | None:
        """The block of the last event, or its parent if that block left."""
        return self._tip

    @property
    def at_tip(self) -> bool:
        """Whether every block that the back-end knew of when last asked has been told of."""
        return self._at_tip

    @property
    def stale_since(self) -> float | None:
        """Unix time since when the back-end is out of reach, behind us or contradicting itself; None if all is well."""
        return self._stale_since

    @property
    def problem(self) -> str:
        """Why the view is stale, for a person; empty while all is well."""
        return self._problem

    @property
    def info(self) -> ChainInfo | None:
        """What the back-end said of itself when last asked, a few poll intervals ago at most while it is in reach."""
        return self._info

    def __aiter__(self) -> AsyncIterator[ChainEvent]:
        return self._events()

    async def _events(self) -> AsyncIterator[ChainEvent]:
        first_pause = min(_FIRST_PAUSE, self._poll_interval)
        pause = first_pause
        loop = asyncio.get_running_loop()
        hasty = False
        while True:
            try:
                await self._check_chain()
                undone, before = 0, self._tip
                while (event := await self._next()) is not None:
                    if isinstance(event, BlockDisconnected):
                        undone += 1
                        if undone > MAX_REORG:
                            raise ReorgTooDeep(event.height)
                    else:
                        undone = 0
                    yield event
                pause = first_pause
                if self._stale_since is not None:
                    # It is behind us, so that any wait for another tip than ours would end at once.
                    await asyncio.sleep(self._poll_interval)
                    continue
                if hasty and before == self._tip:
                    # It says there is news when there is none: do not turn in circles.
                    await asyncio.sleep(first_pause)
                assert self._tip is not None
                height, tip = self._tip
                asked = loop.time()
                await self._backend.wait_for_block(tip, height, LONG_POLL_INTERVALS * self._poll_interval)
                hasty = loop.time() - asked < _HASTE
            except (BackendUnavailable, BackendError) as problem:
                self._stale(str(problem))
                await asyncio.sleep(pause)
                pause = min(2 * pause, self._poll_interval)

    async def _check_chain(self) -> None:
        info = self._info = await self._backend.info()
        if self._genesis is None:
            self._genesis = info.genesis_hash
        elif info.genesis_hash != self._genesis:
            raise WrongChain(self._genesis, info.genesis_hash)
        if self._tip is None:
            # The tip becomes the first block told of: pretend to have stopped just before it.
            header = await self._backend.header(info.best_hash)
            if header is None:
                raise BackendError(0, "its best block is unknown to it")
            if header.previous is not None:
                self._move(BlockHeight(header.height - 1), header.previous)
            else:
                self._move(header.height, header.hash)

    async def _next(self) -> ChainEvent | None:
        """One step towards the back-end's tip; None once there."""
        assert self._tip is not None
        height, tip = self._tip
        above = await self._backend.block_hash(height + 1)
        if above is not None:
            block = await self._backend.block(above)
            if block.header.previous == tip:
                self._at_tip = False
                self._move(BlockHeight(height + 1), above)
                return BlockConnected(BlockHeight(height + 1), above, block)
        here = await self._backend.block_hash(height)
        if here == tip:
            if above is not None:
                raise BackendError(0, f"its blocks at heights {height} and {height + 1} do not fit")
            self._stale_since, self._problem, self._at_tip = None, "", True
            return None
        if here is None and await self._is_behind():
            self._stale(f"the chain back-end has fallen behind our height {height}")
            return None
        return await self._step_back()

    async def _is_behind(self) -> bool:
        """Whether the back-end's chain is a beginning of ours."""
        info = await self._backend.info()
        assert self._tip is not None
        height, tip = self._tip
        if info.height >= height:
            return False
        if not info.synced or self._hashes.get(info.height) == info.best_hash:
            return True
        # Without a memory of our own we depend on it to know our tip; a node that lost its last blocks does not.
        return height - 1 not in self._hashes and await self._backend.header(tip) is None

    async def _step_back(self) -> BlockDisconnected:
        assert self._tip is not None
        height, tip = self._tip
        if height == 0:
            raise ReorgTooDeep(0)
        previous = self._hashes.get(height - 1)
        if previous is None:
            header = await self._backend.header(tip)
            if header is None or header.previous is None or header.height != height:
                raise ReorgTooDeep(height)
            previous = header.previous
        self._hashes.pop(height, None)
        self._at_tip = False
        self._move(BlockHeight(height - 1), previous)
        return BlockDisconnected(height, tip)

    def _move(self, height: BlockHeight, block_hash: BlockHash) -> None:
        self._tip = (height, block_hash)
        self._remember(height, block_hash)

    def _remember(self, height: int, block_hash: BlockHash) -> None:
        self._hashes[height] = block_hash
        self._hashes.move_to_end(height)
        while len(self._hashes) > MEMORY:
            self._hashes.popitem(last=False)

    def _stale(self, problem: str) -> None:
        self._at_tip = False
        self._problem = problem
        if self._stale_since is None:
            self._stale_since = self._clock()
