"""What a publisher of bitcoind says, what a liar says in its place, and what happens when nobody speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import zmq
import zmq.asyncio
from hypothesis import given
from hypothesis import strategies as st

from salama.base.ids import BlockHash, OutPoint, Txid
from salama.base.units import Sat
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.chain.backend import BackendError
from salama.chain.bitcoind import Bitcoind
from salama.chain.publishers import find_publishers
from salama.chain.zmq_feed import MAX_MESSAGE, ZmqFeed

TX = Tx(2, (TxIn(OutPoint(Txid(b"\x01" * 32), 0), witness=(b"a witness",)),), (TxOut(Sat(1000), b"\x51"),), 0)
HASH = BlockHash(b"\x02" * 31 + b"\x00")


def number(n: int) -> bytes:
    return n.to_bytes(4, "little")


class Heard:
    def __init__(self) -> None:
        self.blocks: list[BlockHash] = []
        self.txs: list[Tx] = []

    def feed(self, endpoint: str = "") -> ZmqFeed:
        return ZmqFeed({"hashblock": endpoint, "rawtx": endpoint}, self.blocks.append, self.txs.append, silence=0.3)


def with_publisher(story: Callable[[Any, Heard, ZmqFeed], Awaitable[None]]) -> None:
    async def main() -> None:
        context = zmq.asyncio.Context()
        publisher = context.socket(zmq.XPUB)  # tells of subscribers, so that nothing is published to nobody
        publisher.setsockopt(zmq.LINGER, 0)
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        heard = Heard()
        feed = heard.feed(f"tcp://127.0.0.1:{port}")
        task = asyncio.create_task(feed.run())
        try:
            async with asyncio.timeout(10):
                subscriptions = {await publisher.recv(), await publisher.recv()}
                assert subscriptions == {b"\x01hashblock", b"\x01rawtx"}
                await story(publisher, heard, feed)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            publisher.close()
            context.term()

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_blocks_and_transactions_are_heard_of() -> None:
    async def story(publisher: Any, heard: Heard, feed: ZmqFeed) -> None:
        await publisher.send_multipart([b"rawtx", TX.encode(), number(0)])
        await publisher.send_multipart([b"hashblock", HASH[::-1], number(0)])
        await until(lambda: heard.blocks)
        assert heard.blocks == [HASH]
        assert [tx.encode() for tx in heard.txs] == [TX.encode()]
        assert (feed.heard, feed.missed) == (2, 0)

    with_publisher(story)


def test_what_makes_no_sense_is_passed_over_and_does_not_end_it() -> None:
    async def story(publisher: Any, heard: Heard, feed: ZmqFeed) -> None:
        for frames in (
            [b"rawtx"],
            [b"rawtx", b"", number(0)],
            [b"rawtx", TX.encode()[:-1], number(1)],
            [b"rawtx", TX.encode(), b"longer than a number"],
            [b"hashblock", b"short", number(0)],
            [b"hashblockk", HASH, number(0)],
            [b"rawtx", b"\xff" * 100_000, number(2)],
            [b"rawtx", TX.encode(), number(3), b"more"],
        ):
            await publisher.send_multipart(frames)
        await publisher.send_multipart([b"hashblock", HASH[::-1], number(1)])
        await until(lambda: heard.blocks)
        assert heard.txs == []

    with_publisher(story)


def test_a_message_beyond_any_transaction_does_not_end_it() -> None:
    async def story(publisher: Any, heard: Heard, feed: ZmqFeed) -> None:
        await publisher.send_multipart([b"rawtx", bytes(MAX_MESSAGE + 1), number(0)])
        # The library hangs up on whoever sends that, for good.
        while not heard.blocks:
            await publisher.send_multipart([b"hashblock", HASH[::-1], number(1)])
            await asyncio.sleep(0.02)

    with_publisher(story)


@pytest.mark.parametrize("endpoint", ["ipc:///" + "long/" * 40, "ipc://", "tcp://two words:1"])
def test_a_publisher_that_cannot_be_called_ends_nothing(endpoint: str) -> None:
    """It is asked in turns instead: only hints are lost."""

    async def main() -> None:
        task = asyncio.create_task(Heard().feed(endpoint).run())
        done, _ = await asyncio.wait([task], timeout=0.5)
        assert not done, task.exception()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_lost_messages_are_counted() -> None:
    heard = Heard()
    feed = heard.feed()
    for n in (5, 6, 9, 0, 1):
        feed.receive([b"hashblock", bytes(HASH), number(n)])
    assert (feed.heard, feed.missed) == (5, 2)


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_any_frames(frames: list[bytes]) -> None:
    Heard().feed().receive(frames)


class Rpc:
    """A back-end that answers one question."""

    host = "192.0.2.7"

    def __init__(self, answer: object) -> None:
        self.answer = answer

    async def rpc(self, method: str) -> object:
        assert method == "getzmqnotifications"
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (
            [
                {"type": "pubhashblock", "address": "tcp://127.0.0.1:28332", "hwm": 1000},
                {"type": "pubrawtx", "address": "tcp://0.0.0.0:28333", "hwm": 1000},
                {"type": "pubsequence", "address": "tcp://127.0.0.1:28334", "hwm": 1000},
            ],
            {"hashblock": "tcp://127.0.0.1:28332", "rawtx": "tcp://192.0.2.7:28333"},
        ),
        ([{"type": "pubrawtx", "address": "tcp://[::1]:28333"}], {"rawtx": "tcp://[::1]:28333"}),
        ([{"type": "pubrawtx", "address": "ipc:///run/b.sock"}], {"rawtx": "ipc:///run/b.sock"}),
        ([{"type": "pubrawtx", "address": "pgm://[::1"}, {"type": "pubrawtx", "address": 5}, 7, None], {}),
        ([{"type": "pubrawtx", "address": "tcp://h:99999"}, {"type": "pubrawtx", "address": "udp://h:1"}], {}),
        ([], {}),
        ("nonsense", {}),
        (BackendError(-32601, "Method not found"), {}),
    ],
)
def test_bitcoind_says_where_it_publishes(answer: object, found: dict[str, str]) -> None:
    assert asyncio.run(find_publishers(Rpc(answer))) == found  # type: ignore[arg-type]


def test_a_publisher_ends_the_wait_for_a_block_and_its_silence_too() -> None:
    async def main() -> None:
        backend = Bitcoind("http://127.0.0.1:1")
        backend.hear_blocks()
        loop = asyncio.get_running_loop()
        waiting = asyncio.create_task(backend.wait_for_block(HASH, 1, 60))
        await asyncio.sleep(0)
        backend.heard_block(HASH)
        await asyncio.wait_for(waiting, 5)
        began = loop.time()
        await backend.wait_for_block(HASH, 1, 0.05)
        assert 0.04 < loop.time() - began < 5

    asyncio.run(main())
