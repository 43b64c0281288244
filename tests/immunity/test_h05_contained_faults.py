"""H5 one peer's trouble is everybody's (lnd added recovery in 0.20.1, #10904)

What failed: an exception while one peer's message was handled ended the process.

Defence: node/peers.py:Peers._serve ends the connection in which something failed and nothing else;
node/actor.py:Actor.run freezes the one machine whose turn failed; only a disk that does not take a commit stops the
node (storage/errors.py:StorageFault).

Loss of power at any line of the shell is what make sim tries.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from immunity_world import Registry, Stranger, outpoint

from salama.base.ids import BlockHash, ChannelId, NodeId
from salama.channel.events import BlockArrived
from salama.crypto.secp256k1 import ecdh, public_key
from salama.node.peers import Peers
from salama.transport.noise import StaticKey
from salama.wire import Init, Stfu
from salama.wire.features import Features

SECRET = b"\x21" * 32
CHAIN = BlockHash(b"\x01" * 32)
INIT = Init(globalfeatures=Features(), features=Features(), networks=(CHAIN,))
HELLO = Stfu(channel_id=ChannelId(b"\x05" * 32), initiator=1)


class Line:
    """A connection that brings what it is given, then waits."""

    inbound = True
    address = "192.0.2.1:9735"

    def __init__(self, number: int) -> None:
        self.their_node_id = NodeId(public_key(bytes(31) + bytes([number])))
        self.inbox: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.sent: list[bytes] = []
        self.is_closed = False

    def send(self, messages: list[bytes]) -> None:
        self.sent += messages

    async def receive(self) -> list[bytes]:
        return await self.inbox.get()

    async def close(self) -> None:
        self.is_closed = True
        self.inbox.put_nowait([])

    def abort(self) -> None:
        self.is_closed = True
        self.inbox.put_nowait([])


@pytest.mark.parametrize("where", ["peer_ready", "message", "backlog", "peer_gone"])
def test_a_fault_ends_one_connection(where: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    async def main() -> None:
        victim, other = Line(1), Line(2)

        def fails(name: str) -> Any:
            def call(who: Any, *_: Any) -> Any:
                if name == where and who.node_id == victim.their_node_id:
                    raise RuntimeError("a mistake of ours")
                return 0

            return call

        names = ("peer_ready", "peer_gone", "message", "backlog")
        listeners: Any = SimpleNamespace(has_channel=lambda _: False, **{name: fails(name) for name in names})
        key = StaticKey(public_key(SECRET), lambda point: ecdh(SECRET, point))
        peers = Peers(key, INIT, listeners, 1.0)
        serving = [asyncio.create_task(peers._serve(line)) for line in (victim, other)]  # type: ignore[arg-type]
        for line in (victim, other):
            line.inbox.put_nowait([INIT.encode(), HELLO.encode()])
        await asyncio.sleep(0.05)
        victim.inbox.put_nowait([])
        await asyncio.wait(serving[:1], timeout=2)
        assert serving[0].done() and victim.is_closed
        serving[0].exception()
        assert list(peers.connected) == [other.their_node_id] and not other.is_closed and not serving[1].done()
        other.inbox.put_nowait([])
        await asyncio.wait_for(serving[1], 2)
        await peers.stop()

    asyncio.run(main())


def test_a_fault_in_one_channel_freezes_that_channel(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    async def story(node: Registry) -> None:
        strangers = [Stranger(n) for n in range(2)]
        for n, stranger in enumerate(strangers):
            await node.opened(stranger, outpoint(n))
        broken, healthy = node.channels.by_id.values()
        before = broken.record

        def fails(*_: Any) -> Any:
            raise AssertionError("a mistake of ours")

        broken.turn = fails  # type: ignore[method-assign]
        for actor in (broken, healthy):
            actor.tell(BlockArrived())
        await node.rests()
        assert broken.frozen and not healthy.frozen
        assert broken.record is before, "nothing is done on what failed, also no closing"
        peer = node.peers[broken.peer]
        assert peer.closed
        assert not node.peers[healthy.peer].closed
        broken.tell(BlockArrived())
        healthy.tell(BlockArrived())
        await node.rests()
        assert not healthy.frozen and healthy.task is not None and not healthy.task.done()

    Registry.run(tmp_path, story)
