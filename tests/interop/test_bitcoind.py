"""The back-end and the watcher on a real bitcoind: what our devnet promises, bitcoind must keep (immunity G1, C23)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from devnet_bench import ADDRESS
from interop_bench import ANYONE_ADDRESS, Chain, free_port, missing_bitcoind, need
from test_bitcoind_backend import (
    coinbase,
    test_broadcast_and_outputs,
    test_chain_questions,
    test_many_questions_at_once,
    test_packages,
    test_refusals_keep_their_words,
    test_waiting_sees_a_block_at_once,
    using,
)
from test_watcher import Follower

from salama.base.ids import BlockHash
from salama.bitcoin.chain_events import BlockDisconnected
from salama.bitcoin.tx import Tx
from salama.chain.backend import BackendUnavailable, BroadcastResult
from salama.chain.bitcoind import Bitcoind
from salama.chain.publishers import find_publishers
from salama.chain.watcher import Watcher
from salama.chain.zmq_feed import ZmqFeed

pytestmark = pytest.mark.interop

# Tests of the devnet that run here again, with the fixture below in its place.
__all__ = [
    "test_broadcast_and_outputs",
    "test_chain_questions",
    "test_many_questions_at_once",
    "test_packages",
    "test_refusals_keep_their_words",
    "test_waiting_sees_a_block_at_once",
]


@pytest.fixture(scope="module")
def devnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Stands in for the devnet in the tests taken over from there: a real bitcoind with mature coins."""
    need("bitcoind", missing_bitcoind())
    chain = Chain.bitcoind(tmp_path_factory.mktemp("bitcoind"), ADDRESS)
    try:
        chain.call("generatetoaddress", 140, ADDRESS)
        yield chain
    finally:
        chain.stop()


def test_without_traffic_there_is_no_estimate(devnet: Chain) -> None:
    async def work(backend: Bitcoind) -> None:
        assert await backend.feerate(6) is None

    using(devnet, work)  # type: ignore[arg-type]


def test_the_devnet_knows_the_same_coins(devnet: Chain) -> None:
    """Anybody's coin, by which the other tests of this room pay, is standard to spend."""
    devnet.mine(1, ANYONE_ADDRESS)
    devnet.mine(100)
    tx = devnet.pay([(50_000, bytes.fromhex("0014") + bytes(20))])

    async def work(backend: Bitcoind) -> None:
        assert await backend.test_accept(tx) == BroadcastResult(True)

    using(devnet, work)  # type: ignore[arg-type]
    assert coinbase is not None


def test_watching_through_a_reorg_and_a_restart(tmp_path: Path) -> None:
    need("bitcoind", missing_bitcoind())
    bitcoind = Chain.bitcoind(tmp_path)

    async def run() -> None:
        backend = Bitcoind(bitcoind.url, cookie=bitcoind.cookie)
        info = await backend.info()
        chain = [info.best_hash]
        watcher = Watcher(backend, (info.height, info.best_hash), poll_interval=0.2)
        # The follower counts from zero: give it what came before.
        genesis = await backend.block_hash(0)
        assert genesis is not None
        chain.insert(0, genesis)
        follower = Follower(watcher, chain)
        bitcoind.mine(5)
        await follower.until(lambda: len(chain) == 7)

        bitcoind.call("invalidateblock", str(chain[-3]))
        # Shorter for now: nothing is taken back before the other branch is longer.
        await follower.quiet(0.3)
        assert len(chain) == 7
        bitcoind.mine(4, ANYONE_ADDRESS)
        best = (await backend.info()).best_hash
        follower.events.clear()
        await follower.until(lambda: chain[-1] == best)
        assert [type(e) for e in follower.events][:3] == [BlockDisconnected] * 3
        assert len(follower.events) == 7

        bitcoind.stop()
        with pytest.raises(BackendUnavailable):
            await backend.info()
        await follower.quiet(0.3)
        assert watcher.stale_since is not None
        bitcoind.start_again()
        bitcoind.mine(2)
        length = len(chain)
        await follower.until(lambda: len(chain) == length + 2)
        await follower.quiet(0.3)
        assert watcher.stale_since is None
        await backend.close()

    try:
        asyncio.run(run())
    finally:
        bitcoind.stop()


def test_its_publishers_are_found_and_listened_to(tmp_path: Path) -> None:
    need("bitcoind", missing_bitcoind())
    ports = [free_port(), free_port()]
    options = [f"-zmqpub{t}=tcp://127.0.0.1:{p}" for t, p in zip(("hashblock", "rawtx"), ports, strict=True)]
    chain = Chain.bitcoind(tmp_path, ADDRESS, *options)

    async def work() -> None:
        backend = Bitcoind(chain.url, cookie=chain.cookie)
        publishers = await find_publishers(backend)
        assert publishers == {"hashblock": f"tcp://127.0.0.1:{ports[0]}", "rawtx": f"tcp://127.0.0.1:{ports[1]}"}
        blocks: list[BlockHash] = []
        txs: list[Tx] = []
        feed = asyncio.create_task(ZmqFeed(publishers, blocks.append, txs.append).run())
        try:
            async with asyncio.timeout(30):
                while not (blocks and txs):  # whoever subscribes just now may miss the first
                    chain.call("generatetoaddress", 1, ADDRESS)
                    await asyncio.sleep(0.2)
            best = await asyncio.to_thread(chain.call, "getbestblockhash")
            assert str(blocks[-1]) == best
            block = await backend.block(blocks[-1])
            assert txs[-1].encode() == block.txs[0].encode()
        finally:
            feed.cancel()
            await asyncio.gather(feed, return_exceptions=True)
            await backend.close()

    try:
        asyncio.run(work())
    finally:
        chain.stop()
