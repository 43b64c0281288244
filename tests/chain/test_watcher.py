"""The watcher: every block once and in order, through reorgs, outages and restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from devnet_bench import ADDRESS, Devnet
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.base.ids import BlockHash
from salama.base.units import BlockHeight
from salama.bitcoin.block import Block, BlockHeader
from salama.bitcoin.chain_events import BlockConnected, BlockDisconnected
from salama.chain.backend import BackendError, BackendUnavailable, ChainInfo, HeaderInfo
from salama.chain.bitcoind import Bitcoind
from salama.chain.watcher import ChainEvent, ReorgTooDeep, Watcher, WrongChain


class Fake:
    """A back-end in memory whose chain a test moves; implements what the watcher asks."""

    def __init__(self) -> None:
        genesis = self._block(BlockHash(bytes(32)), 0)
        self.known: dict[BlockHash, tuple[int, Block]] = {genesis.hash: (0, genesis)}
        self.active = [genesis.hash]
        self.genesis = genesis.hash
        self.failing: Exception | None = None
        self.synced = True
        self.tip_time = 0
        self.moved = asyncio.Event()
        self.calls = 0
        self.before_call: Callable[[], None] = lambda: None

    @staticmethod
    def _block(previous: BlockHash, salt: int) -> Block:
        return Block(BlockHeader(1, previous, bytes(32), salt, 0, 0), ())

    def extend(self, count: int = 1, salt: int = 0) -> None:
        for _ in range(count):
            block = self._block(self.active[-1], salt)
            self.known[block.hash] = (len(self.active), block)
            self.active.append(block.hash)
        self.move()

    def cut(self, count: int) -> None:
        del self.active[len(self.active) - count :]
        self.move()

    def move(self) -> None:
        self.moved.set()
        self.moved = asyncio.Event()

    def _ask(self) -> None:
        self.calls += 1
        self.before_call()
        if self.failing is not None:
            raise self.failing

    async def info(self) -> ChainInfo:
        self._ask()
        height, tip = BlockHeight(len(self.active) - 1), self.active[-1]
        return ChainInfo("regtest", height, tip, self.genesis, self.synced, self.tip_time)

    async def block_hash(self, height: int) -> BlockHash | None:
        self._ask()
        return self.active[height] if 0 <= height < len(self.active) else None

    async def header(self, block_hash: BlockHash) -> HeaderInfo | None:
        self._ask()
        found = self.known.get(block_hash)
        if found is None:
            return None
        height, block = found
        connected = height < len(self.active) and self.active[height] == block_hash
        return HeaderInfo(block_hash, block.header.previous if height else None, BlockHeight(height), connected)

    async def block(self, block_hash: BlockHash) -> Block:
        self._ask()
        if block_hash not in self.known:
            raise BackendError(-5, "Block not found")
        return self.known[block_hash][1]

    async def wait_for_block(self, tip: BlockHash, height: int, timeout: float) -> None:
        self._ask()
        if self.active[-1] == tip:
            try:
                await asyncio.wait_for(self.moved.wait(), timeout)
            except TimeoutError:
                return

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the watcher has no business with {name}")


def watch(fake: Fake, start: int | None = 0, **more: Any) -> Watcher:
    begun = None if start is None else (BlockHeight(start), fake.active[start])
    return Watcher(fake, begun, poll_interval=more.pop("poll_interval", 0.02), **more)


class Follower:
    """Applies events to a chain of its own and insists on their order."""

    def __init__(self, watcher: Watcher, chain: list[BlockHash]) -> None:
        self.watcher, self.chain = watcher, chain
        self.events: list[ChainEvent] = []
        self._source: AsyncIterator[ChainEvent] = aiter(watcher)

    async def until(self, reached: Callable[[], bool], timeout: float = 10.0) -> None:
        async with asyncio.timeout(timeout):
            while not reached():
                self.take(await anext(self._source))

    async def quiet(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Nothing may come for a while, or until something holds."""
        task = asyncio.ensure_future(anext(self._source))
        end = time.monotonic() + seconds
        while not task.done() and not until() and (left := end - time.monotonic()) > 0:
            await asyncio.wait([task], timeout=min(left, 0.05))
        assert not task.done(), f"unexpected {task}"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # Cancelling ended the generator; the watcher itself goes on where it stood.
        self._source = aiter(self.watcher)

    def take(self, event: ChainEvent) -> None:
        self.events.append(event)
        if isinstance(event, BlockConnected):
            assert event.height == len(self.chain)
            assert event.block.header.previous == self.chain[-1]
            assert event.block.hash == event.hash
            self.chain.append(event.hash)
        else:
            assert (event.height, event.hash) == (len(self.chain) - 1, self.chain.pop())
        assert self.watcher.tip == (len(self.chain) - 1, self.chain[-1])


def test_catches_up_and_follows() -> None:
    async def run() -> None:
        fake = Fake()
        fake.extend(5)
        follower = Follower(watch(fake, 2), fake.active[:3])
        assert follower.watcher.stale_since is not None
        await follower.until(lambda: len(follower.chain) == 6)
        await follower.quiet(0.03)
        assert follower.watcher.at_tip
        assert follower.watcher.stale_since is None
        fake.extend(2)
        await follower.until(lambda: len(follower.chain) == 8)
        assert follower.chain == fake.active

    asyncio.run(run())


def test_without_a_start_the_tip_comes_first() -> None:
    async def run() -> None:
        fake = Fake()
        fake.extend(5)
        async for event in watch(fake, None):
            assert (event.height, event.hash) == (5, fake.active[5])
            assert isinstance(event, BlockConnected)
            break
        young = Fake()
        watcher = watch(young, None)
        follower = Follower(watcher, list(young.active))
        await follower.quiet(0.03)
        young.extend()
        await follower.until(lambda: len(follower.chain) == 2)

    asyncio.run(run())


def test_a_reorg_while_we_were_away() -> None:
    async def run() -> None:
        fake = Fake()
        fake.extend(6)
        seen = list(fake.active)
        fake.cut(3)
        fake.extend(4, salt=1)
        # Only the tip was remembered: the back-end still knows the stale blocks.
        follower = Follower(Watcher(fake, (BlockHeight(6), seen[6]), poll_interval=0.02), list(seen))
        await follower.until(lambda: follower.chain == fake.active)
        assert [type(e) for e in follower.events] == [BlockDisconnected] * 3 + [BlockConnected] * 4
        # A back-end that lost them needs our memory of them.
        for lost in seen[4:]:
            del fake.known[lost]
        recent = [(BlockHeight(h), seen[h]) for h in (3, 4, 5)]
        follower = Follower(Watcher(fake, (BlockHeight(6), seen[6]), recent=recent, poll_interval=0.02), list(seen))
        await follower.until(lambda: follower.chain == fake.active)
        with pytest.raises(ReorgTooDeep):
            await anext(aiter(Watcher(fake, (BlockHeight(6), seen[6]), poll_interval=0.02)))

    asyncio.run(run())


def test_a_back_end_that_falls_behind_takes_nothing_back() -> None:
    async def run() -> None:
        fake = Fake()
        fake.extend(6)
        follower = Follower(watch(fake), fake.active[:1])
        await follower.until(lambda: len(follower.chain) == 7)
        whole = list(fake.active)
        fake.cut(3)
        await follower.quiet(0.1)
        assert follower.watcher.stale_since is not None
        assert "behind" in follower.watcher.problem
        assert not follower.watcher.at_tip
        calls = fake.calls
        await follower.quiet(0.1)
        assert fake.calls - calls < 100
        # It catches up on the same chain: nothing to tell; then on another: now it is a reorg.
        fake.active = list(whole)
        fake.move()
        await follower.quiet(0.1)
        assert follower.watcher.stale_since is None
        fake.cut(2)
        fake.extend(1, salt=9)
        await follower.until(lambda: follower.chain == fake.active)
        # Also while it rebuilds its index from the start, deeper than anybody remembers.
        fake.cut(5)
        fake.synced = False
        watcher = Watcher(fake, (BlockHeight(6), whole[6]), poll_interval=0.02)
        follower = Follower(watcher, list(whole))
        await follower.quiet(0.1)
        assert watcher.stale_since is not None

    asyncio.run(run())


def test_outages_yield_nothing_and_are_visible() -> None:
    async def run() -> None:
        fake = Fake()
        fake.extend(2)
        now = [1_000.0]
        follower = Follower(watch(fake, clock=lambda: now[0]), fake.active[:1])
        await follower.until(lambda: len(follower.chain) == 3)
        await follower.quiet(0.03)
        for failure in (BackendUnavailable("gone"), BackendError(-1, "odd")):
            fake.failing = failure
            fake.move()
            now[0] += 5
            await follower.quiet(0.05)
            assert follower.watcher.stale_since == now[0]
            now[0] += 100
            await follower.quiet(0.05)
            assert follower.watcher.stale_since == now[0] - 100
            fake.failing = None
            fake.extend()
            length = len(fake.active)
            await follower.until(lambda n=length: len(follower.chain) == n)
            await follower.quiet(0.05)
            assert follower.watcher.stale_since is None

    asyncio.run(run())


def test_another_network_stops_it() -> None:
    async def run() -> None:
        fake = Fake()
        with pytest.raises(WrongChain):
            await asyncio.wait_for(anext(aiter(watch(fake, genesis=BlockHash(b"\x01" * 32)))), 10)
        fake.extend(1)
        follower = Follower(watch(fake), fake.active[:1])
        await follower.until(lambda: len(follower.chain) == 2)
        fake.genesis = BlockHash(b"\x02" * 32)
        fake.extend(1)
        with pytest.raises(WrongChain):
            await follower.until(lambda: False)

    asyncio.run(run())


def test_a_back_end_that_cries_wolf_is_not_asked_in_circles() -> None:
    async def run() -> None:
        fake = Fake()

        async def at_once(tip: BlockHash, height: int, timeout: float) -> None:
            return

        fake.wait_for_block = at_once  # type: ignore[method-assign]
        follower = Follower(watch(fake), list(fake.active))
        await follower.quiet(0.35)
        assert fake.calls < 80

    asyncio.run(run())


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_history_moved_at_any_moment_ends_at_the_tip(data: st.DataObject) -> None:
    """The chain changes between any two of the watcher's questions."""

    async def run() -> None:
        fake = Fake()
        fake.extend(3)
        moves = data.draw(
            st.lists(st.tuples(st.integers(1, 12), st.integers(0, 3), st.integers(1, 4), st.booleans()), max_size=6)
        )
        salt = 0
        countdown = 0

        def before_call() -> None:
            nonlocal countdown, salt
            fake.failing = None
            if not moves:
                return
            countdown += 1
            wait, depth, growth, fail = moves[0]
            if countdown < wait:
                return
            moves.pop(0)
            countdown, salt = 0, salt + 1
            fake.cut(min(depth, len(fake.active) - 2))
            # Longer than before: that is what a reorganisation is.
            fake.extend(depth + growth, salt)
            if fail:
                fake.failing = BackendUnavailable("in the middle")

        fake.before_call = before_call
        follower = Follower(watch(fake, poll_interval=0.001), fake.active[:1])
        await follower.until(lambda: not moves and follower.chain == fake.active)

    asyncio.run(run())


# --- with a devnet


def test_a_devnet_with_reorg_and_restart(tmp_path: Path) -> None:
    devnet = Devnet(tmp_path / "devnet")

    async def run() -> None:
        nonlocal devnet
        backend = Bitcoind(devnet.url, cookie=devnet.cookie)
        tool = Bitcoind(devnet.url, cookie=devnet.cookie)
        info = await backend.info()
        chain = [info.best_hash]
        watcher = Watcher(backend, (info.height, info.best_hash), poll_interval=0.2)
        follower = Follower(watcher, chain)
        await tool.rpc("generatetoaddress", 5, ADDRESS)
        await follower.until(lambda: len(chain) == 6)

        # A new block is seen as soon as it is there.
        delays = []
        for _ in range(10):
            wanted = len(chain) + 1
            following = asyncio.ensure_future(follower.until(lambda n=wanted: len(chain) == n))
            await asyncio.sleep(0.02)
            started = time.perf_counter()
            await tool.rpc("generatetoaddress", 1, ADDRESS)
            await following
            delays.append(time.perf_counter() - started)
        assert sorted(delays)[len(delays) // 2] < 0.15

        # A reorg of three blocks by four.
        await tool.rpc("invalidateblock", str(chain[-3]))
        await tool.rpc("generatetoaddress", 4, ADDRESS)
        best = (await tool.info()).best_hash
        follower.events.clear()
        await follower.until(lambda: chain[-1] == best)
        assert [type(e) for e in follower.events][:3] == [BlockDisconnected] * 3
        assert len(follower.events) == 7

        # A restart on the same port, with another cookie.
        port = str(devnet.port)
        devnet.kill()
        await follower.quiet(0.3)
        assert watcher.stale_since is not None
        devnet = Devnet(tmp_path / "devnet", "--port", port)
        await tool.rpc("generatetoaddress", 2, ADDRESS)
        length = len(chain)
        await follower.until(lambda: len(chain) == length + 2)
        await follower.quiet(0.3)
        assert watcher.stale_since is None
        await backend.close()
        await tool.close()

    try:
        asyncio.run(run())
    finally:
        devnet.stop()
