"""bitcoind's ZMQ publishers, where it has any: blocks and transactions are heard of the moment it hears of them.

Only a hint, never a source: nothing that arrives here is authenticated or complete, a publisher drops what its
subscriber is too slow to take. So a block's arrival makes the watcher ask, and a transaction is looked at for the
preimages that its witnesses reveal, which prove themselves (BOLT 5, B5.06). Whoever has no publisher is polled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import zmq
import zmq.asyncio

from salama.base.ids import BlockHash
from salama.bitcoin.tx import MalformedTx, Tx

log = logging.getLogger("salama.chain")

MAX_QUEUED: Final = 1_000
"""Messages that may wait for us; what comes on top is dropped by the library, and polling finds it."""
MAX_MESSAGE: Final = 4_200_000
"""A transaction that fills a block, and a little."""
MAX_ENDPOINTS: Final = 8
SILENCE_SECONDS: Final = 1_800.0
"""After that long without a word the connections are made anew: the library gives up on a publisher that once broke
its rules, and does not say so.
"""


class ZmqFeed:
    """Listens to publishers until stopped. Belongs to one event loop.

    ``on_block`` is told the hash of a block that joined bitcoind's chain, ``on_transaction`` each transaction that it
    accepted, unconfirmed or in a block. Both may be told a thing twice or never.
    """

    def __init__(
        self,
        endpoints: dict[str, str],
        on_block: Callable[[BlockHash], None],
        on_transaction: Callable[[Tx], None],
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self._endpoints = endpoints
        self._on_block, self._on_transaction = on_block, on_transaction
        self._silence = silence
        self._last: dict[bytes, int] = {}
        self.heard = 0
        """Messages that made sense."""
        self.missed = 0
        """Messages that a publisher numbered and that did not arrive."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._listen()

    async def _listen(self) -> None:
        """Until there is silence."""
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.SUB)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, MAX_QUEUED)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.IPV6, 1)
        try:
            for topic in self._endpoints:
                socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
            for endpoint in sorted(set(self._endpoints.values()))[:MAX_ENDPOINTS]:
                self._call(socket, endpoint)
            while await socket.poll(int(self._silence * 1000)):
                self.receive(await socket.recv_multipart())
            log.info("no word from bitcoind's publishers for %.0f seconds: connecting anew", self._silence)
        finally:
            socket.close()
            context.term()

    def _call(self, socket: zmq.asyncio.Socket, endpoint: str) -> None:
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            # An address that cannot be one for us, as bitcoind tells it: blocks are asked for all the same.
            log.warning("bitcoind's publisher at %r cannot be called: %s", endpoint, error.strerror)

    def receive(self, frames: Sequence[bytes]) -> None:
        """One message: topic, body, number. What makes no sense is passed over."""
        if len(frames) != 3 or len(frames[2]) != 4:
            return
        topic, body, number = frames[0], frames[1], int.from_bytes(frames[2], "little")
        if topic.decode("ascii", "replace") not in self._endpoints:
            return
        last = self._last.get(topic)
        if last is not None and number > last + 1:
            self.missed += number - last - 1
        self._last[topic] = number
        if topic == b"hashblock" and len(body) == 32:
            self.heard += 1
            self._on_block(BlockHash(body[::-1]))
        elif topic == b"rawtx":
            try:
                tx = Tx.decode(body)
            except MalformedTx:
                return
            self.heard += 1
            self._on_transaction(tx)
