"""E2 an inbox without end (lnd 0.18.5 and before; bounded mailboxes, August 2026)

What failed: messages of a peer were queued faster than they were handled, a thousand of 64 KB each for every stranger.

Defence: node/peers.py:Peers._serve reads a socket no further while its peer's messages wait (MAX_BACKLOG);
net/tcp.py:Connection.receive reads little at a time of who has no channel with us, and lets others have their turn
between two reads; net/tcp.py:Connection.send drops a peer that does not read; node/peers.py:Peers._may_stay bounds how
many strangers may be connected (MAX_PEERS_WITHOUT_CHANNEL).

Not covered: a budget in bytes; the largest messages, 2048 of them, make 134 MB.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from salama.base.ids import BlockHash, ChannelId, NodeId
from salama.crypto.secp256k1 import ecdh, public_key
from salama.net.limits import READ_SIZE, STRANGER_READ_SIZE
from salama.net.tcp import Connection
from salama.node.peers import MAX_BACKLOG, MAX_PEERS_WITHOUT_CHANNEL, Peers
from salama.testing.graphs import unsigned_node_id
from salama.transport.noise import Initiator, Responder, StaticKey
from salama.wire import Init, Stfu
from salama.wire.features import Features

SECRET = b"\x21" * 32
INIT = Init(globalfeatures=Features(), features=Features(), networks=(BlockHash(b"\x01" * 32),))
HELLO = Stfu(channel_id=ChannelId(b"\x05" * 32), initiator=1).encode()


class Line:
    """A connection that brings as much as is read of it, and counts."""

    address = "192.0.2.1:9735"

    def __init__(self, number: int, *, inbound: bool = True, endless: bool = False) -> None:
        self.their_node_id: NodeId = unsigned_node_id(number)
        self.inbound, self.endless = inbound, endless
        self.reads = 0
        self.is_closed = asyncio.Event()

    def send(self, _: object) -> None: ...

    async def receive(self) -> list[bytes]:
        self.reads += 1
        if self.reads == 1:
            return [INIT.encode()]
        if self.endless and not self.is_closed.is_set():
            await asyncio.sleep(0)
            return [HELLO] * 500
        await self.is_closed.wait()
        return []

    async def close(self) -> None:
        self.is_closed.set()

    def abort(self) -> None:
        self.is_closed.set()


def peers_of(listeners: dict[str, Any]) -> Peers:
    key = StaticKey(public_key(SECRET), lambda point: ecdh(SECRET, point))
    ignore = {name: lambda *_: None for name in ("peer_ready", "peer_gone", "message")}
    made: Any = SimpleNamespace(**{**ignore, "has_channel": lambda _: False, "backlog": lambda _: 0, **listeners})
    return Peers(key, INIT, made, 1.0)


def test_a_socket_is_not_read_while_its_messages_wait() -> None:
    async def main() -> None:
        waiting = [0]

        def message(*_: Any) -> None:
            waiting[0] += 1

        peers = peers_of({"message": message, "backlog": lambda _: waiting[0]})
        line = Line(1, endless=True)
        serving = asyncio.create_task(peers._serve(line))  # type: ignore[arg-type]
        await asyncio.sleep(0.2)
        assert MAX_BACKLOG < waiting[0] <= MAX_BACKLOG + 500
        seen = line.reads
        await asyncio.sleep(0.1)
        assert line.reads == seen
        waiting[0] = 0
        await asyncio.sleep(0.1)
        assert line.reads > seen, "it goes on when they are handled"
        line.abort()
        waiting[0] = 0
        await asyncio.wait_for(serving, 2)
        await peers.stop()

    asyncio.run(main())


def test_strangers_are_bounded_and_friends_are_not() -> None:
    async def main() -> None:
        friends = {unsigned_node_id(n) for n in range(1000, 1010)}
        peers = peers_of({"has_channel": lambda node_id: node_id in friends})
        lines = [Line(n) for n in [*range(MAX_PEERS_WITHOUT_CHANNEL + 20), *range(1000, 1010)]]
        dialled = Line(5000, inbound=False)
        tasks = [asyncio.create_task(peers._serve(line)) for line in [*lines, dialled]]  # type: ignore[arg-type]
        await asyncio.sleep(0.2)
        connected = set(peers.connected)
        assert len(connected) == MAX_PEERS_WITHOUT_CHANNEL + 10 + 1
        assert friends <= connected and dialled.their_node_id in connected
        assert sum(line.is_closed.is_set() for line in lines) == 20
        for line in [*lines, dialled]:
            line.abort()
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        await peers.stop()

    asyncio.run(main())


class _Socket:
    """The writing half of a connection that says nothing."""

    def __init__(self) -> None:
        self.transport = SimpleNamespace(abort=lambda: None, get_write_buffer_size=lambda: 0)

    def is_closing(self) -> bool:
        return True

    def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


def flood(number: int, count: int) -> tuple[Connection, asyncio.StreamReader]:
    """A connection on whose socket ``count`` small messages wait, and its reader."""
    secret = bytes([number]) * 32
    theirs = StaticKey(public_key(secret), lambda point: ecdh(secret, point))
    ours = StaticKey(public_key(SECRET), lambda point: ecdh(SECRET, point))
    caller, callee = Initiator(theirs, ours.point, b"\x31" * 32), Responder(ours, b"\x32" * 32)
    act_three, away = caller.receive_act_two(callee.receive_act_one(caller.act_one))
    reader = asyncio.StreamReader(limit=READ_SIZE)
    reader.feed_data(b"".join(map(away.encrypt, [INIT.encode(), *[HELLO] * count])))
    here = callee.receive_act_three(act_three)
    return Connection(reader, _Socket(), here, "192.0.2.1:9735", inbound=True), reader  # type: ignore[arg-type]


@pytest.mark.parametrize("is_friend", [False, True])
def test_strangers_who_flood_together_do_not_hold_the_loop(is_friend: bool) -> None:
    """All that waits on a socket could be handed over in one go, that of each stranger behind that of the other."""
    strangers, count = 8, 1000

    async def main() -> None:
        heard, most, is_over = [0], 0, False

        def message(*_: Any) -> None:
            heard[0] += 1

        async def others() -> None:
            nonlocal most
            while not is_over:
                before = heard[0]
                await asyncio.sleep(0)
                most = max(most, heard[0] - before)

        peers = peers_of({"message": message, "has_channel": lambda _: is_friend})
        lines = [flood(number, count) for number in range(1, strangers + 1)]
        watching = asyncio.create_task(others())
        serving = [asyncio.create_task(peers._serve(connection)) for connection, _ in lines]
        while heard[0] < strangers * count:
            await asyncio.sleep(0)
        is_over = True
        for _, reader in lines:
            reader.feed_eof()
        await asyncio.wait_for(asyncio.gather(watching, *serving), 5)
        await peers.stop()
        # One read, and a last one that is not full.
        of_one = 2 * (STRANGER_READ_SIZE // (len(HELLO) + 34) + 1)
        if is_friend:
            assert most > strangers * of_one, "who has a channel is read as fast as it can write"
        else:
            assert most <= strangers * of_one

    asyncio.run(main())
