"""What a node must outlast, whoever serves the chain: restarts, slowness, a wrong chain, a step back, hours of silence.

One suite for the devnet (``test_outlasting``) and for a real bitcoind, with and without its publishers
(``interop/test_bitcoind_outlasting``).
A module that imports these tests gives the fixture ``served`` (immunity G1, G4).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest
from devnet_bench import ADDRESS
from test_watcher import Follower

from salama.base.ids import BlockHash
from salama.bitcoin.chain_events import BlockConnected, BlockDisconnected
from salama.chain.backend import BackendUnavailable
from salama.chain.bitcoind import Bitcoind
from salama.chain.publishers import find_publishers
from salama.chain.watcher import Watcher, WrongChain
from salama.chain.zmq_feed import ZmqFeed
from salama.node.chain import ChainFollower, Tip

__all__ = [
    "Served",
    "test_a_back_end_that_goes_backwards_and_comes_again",
    "test_a_back_end_that_is_slow",
    "test_a_restart_between_two_blocks",
    "test_another_chain_is_refused",
    "test_hours_without_a_chain",
    "test_reorganisations_of_one_block_and_of_six",
]

POLL = 0.2
PATIENCE = 60.0
FROZEN = 0.5
"""Seconds that a question may take here."""
HOURS = 6


class Served(Protocol):
    """A chain in a process of its own."""

    url: str
    cookie: Any
    process: Any

    def call(self, method: str, *params: Any) -> Any: ...
    def stop(self) -> Any: ...
    def start_again(self) -> None: ...


def mine(served: Served, count: int) -> None:
    served.call("generatetoaddress", count, ADDRESS)


@asynccontextmanager
async def watched(served: Served, timeout: float = 30.0, **more: Any) -> AsyncIterator[tuple[Bitcoind, Follower]]:
    """Somebody who follows the chain from its tip, hearing of blocks in the best way that the back-end offers."""
    backend = Bitcoind(served.url, cookie=served.cookie, timeout=timeout)
    feed: asyncio.Task[None] | None = None
    try:
        if publishers := await find_publishers(backend):
            backend.hear_blocks()
            feed = asyncio.create_task(ZmqFeed(publishers, backend.heard_block, lambda tx: None).run())
        info = await backend.info()
        watcher = Watcher(backend, (info.height, info.best_hash), poll_interval=POLL, **more)
        hashes = [await backend.block_hash(height) for height in range(int(info.height) + 1)]
        yield backend, Follower(watcher, [one for one in hashes if one is not None])
    finally:
        if feed is not None:
            feed.cancel()
            await asyncio.gather(feed, return_exceptions=True)
        await backend.close()


def play(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


async def catches_up(served: Served, follower: Follower) -> list[type]:
    """Follow to the tip; the kinds of what was told on the way."""
    best = served.call("getbestblockhash")
    told = len(follower.events)
    await follower.until(lambda: str(follower.chain[-1]) == best, PATIENCE)
    await follower.quiet(PATIENCE, lambda: follower.watcher.stale_since is None and follower.watcher.at_tip)
    assert follower.watcher.stale_since is None
    return [type(event) for event in follower.events[told:]]


async def goes_stale(follower: Follower) -> None:
    """Nothing is told, and the silence is noticed."""
    await follower.quiet(PATIENCE, lambda: follower.watcher.stale_since is not None)
    assert follower.watcher.stale_since is not None


def test_reorganisations_of_one_block_and_of_six(served: Served) -> None:
    async def work() -> None:
        async with watched(served) as (_, follower):
            for depth in (1, 6):
                mine(served, 7)
                assert await catches_up(served, follower) == [BlockConnected] * 7
                served.call("invalidateblock", str(follower.chain[-depth]))
                served.call("generatetodescriptor", depth + 1, "raw(51)")
                told = await catches_up(served, follower)
                assert told == [BlockDisconnected] * depth + [BlockConnected] * (depth + 1)

    play(work)


def test_a_restart_between_two_blocks(served: Served) -> None:
    """Its password is another one afterwards. Whoever publishes is heard again without being asked."""

    async def work() -> None:
        async with watched(served) as (backend, follower):
            mine(served, 2)
            await catches_up(served, follower)
            served.stop()
            await goes_stale(follower)
            with pytest.raises(BackendUnavailable):
                await backend.info()
            served.start_again()
            mine(served, 3)
            assert await catches_up(served, follower) == [BlockConnected] * 3
            mine(served, 1)
            assert await catches_up(served, follower) == [BlockConnected]

    play(work)


def test_a_back_end_that_is_slow(served: Served) -> None:
    """It takes questions and does not answer: each wait has its end, and what came meanwhile is told once."""

    async def work() -> None:
        async with watched(served, timeout=FROZEN) as (backend, follower):
            mine(served, 1)
            await catches_up(served, follower)
            served.process.send_signal(signal.SIGSTOP)
            try:
                began = asyncio.get_running_loop().time()
                with pytest.raises(BackendUnavailable):
                    async with asyncio.timeout(PATIENCE):
                        while True:  # the signal may come after one more answer
                            await backend.info()
                assert asyncio.get_running_loop().time() - began < 10 * FROZEN
                await goes_stale(follower)
            finally:
                served.process.send_signal(signal.SIGCONT)
            mine(served, 2)
            assert await catches_up(served, follower) == [BlockConnected] * 2

    play(work)


def test_a_back_end_that_goes_backwards_and_comes_again(served: Served) -> None:
    """As while it reads its blocks anew: its chain is a beginning of ours, and nothing is taken back for that."""

    async def work() -> None:
        async with watched(served) as (_, follower):
            mine(served, 5)
            await catches_up(served, follower)
            length, fourth = len(follower.chain), str(follower.chain[-4])
            served.call("invalidateblock", fourth)
            await goes_stale(follower)
            assert "fallen behind" in follower.watcher.problem
            assert len(follower.chain) == length
            served.call("reconsiderblock", fourth)
            assert await catches_up(served, follower) == []
            mine(served, 1)
            assert await catches_up(served, follower) == [BlockConnected]

    play(work)


def test_another_chain_is_refused(served: Served) -> None:
    async def work() -> None:
        genesis = BlockHash(bytes(31) + b"\x01")
        async with watched(served, genesis=genesis) as (_, follower):
            with pytest.raises(WrongChain) as refused:
                await follower.until(lambda: False)
            assert refused.value.expected == genesis
            assert str(refused.value.found) == served.call("getblockhash", 0)

    play(work)


def test_hours_without_a_chain(served: Served) -> None:
    """The node says since when it sees nothing; afterwards it is told of every block of those hours, in order."""

    async def work() -> None:
        now = [1_000_000.0]
        heights: list[int] = []

        async def on_block(event: BlockConnected) -> None:
            heights.append(int(event.height))

        async def on_reorg(event: BlockDisconnected) -> None:
            raise AssertionError(event)

        async with watched(served) as (backend, _):
            info = await backend.info()
            follower = ChainFollower(
                backend, Tip(info.height, info.best_hash), POLL, on_block, on_reorg, clock=lambda: now[0]
            )
            running = asyncio.create_task(follower.run())
            async with asyncio.timeout(PATIENCE):
                await follower.caught_up.wait()
                assert follower.trouble == ""
                served.stop()
                while not follower.stale:
                    await asyncio.sleep(POLL)
                assert follower.trouble == "", "a moment is no trouble"
                now[0] += HOURS * 3600
                await asyncio.sleep(2 * POLL)
                assert f"for {HOURS * 60} minutes" in follower.trouble
                served.start_again()
                mine(served, 6 * HOURS)
                wanted = list(range(int(info.height) + 1, int(info.height) + 6 * HOURS + 1))
                while heights != wanted or follower.stale:
                    assert heights == wanted[: len(heights)]
                    await asyncio.sleep(POLL)
            assert follower.trouble == ""
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    play(work)
