"""Sockets under strangers: garbage before, during and after the handshake, slow ones, silent ones, greedy ones (B8)."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from salama.base.ids import NodeId
from salama.crypto.secp256k1 import ecdh, public_key
from salama.net import tcp
from salama.net.limits import MAX_HANDSHAKES
from salama.net.tcp import ConnectFailed, Connection, Listener, PeerAddress, connect
from salama.transport.noise import StaticKey

OUR_SECRET, THEIR_SECRET = b"\x21" * 32, b"\x11" * 32


def key(secret: bytes) -> StaticKey:
    return StaticKey(public_key(secret), lambda point: ecdh(secret, point))


OURS, THEIRS = key(OUR_SECRET), key(THEIR_SECRET)
OUR_ID = NodeId(OURS.point)


class Host:
    """A listener and who came through it."""

    def __init__(self) -> None:
        self.listener = Listener(OURS, self._serve)
        self.came: list[Connection] = []
        self.heard: list[bytes] = []
        self.left = 0

    async def _serve(self, connection: Connection) -> None:
        self.came.append(connection)
        while messages := await connection.receive():
            self.heard += messages
        self.left += 1
        await connection.close()


def hosting(test: Callable[[Host, PeerAddress], Awaitable[None]]) -> None:
    """Run ``test`` beside a listener; afterwards no task, no complaint, no open handshake is left."""
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        host = Host()
        address = await host.listener.start(PeerAddress("127.0.0.1", 0))
        try:
            await asyncio.wait_for(test(host, address), 20)
        finally:
            await host.listener.stop()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert complaints == []


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def stranger(address: PeerAddress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(address.host, address.port)


async def is_hung_up_on(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1000), 5) == b""
    except ConnectionResetError:
        return True


def test_messages_go_both_ways_in_order() -> None:
    async def test(host: Host, address: PeerAddress) -> None:
        caller = await connect(address, OUR_ID, THEIRS)
        messages = [secrets.token_bytes(size) for size in (2, 100, 65535, 0, 7)] + [bytes([n]) for n in range(200)]
        caller.send(messages[:3])
        caller.send(messages[3:])
        await until(lambda: len(host.heard) == len(messages))
        assert host.heard == messages
        assert (host.came[0].their_node_id, caller.their_node_id) == (NodeId(THEIRS.point), OUR_ID)
        host.came[0].send([b"answer"])
        assert await caller.receive() == [b"answer"]
        await caller.close()
        await until(lambda: host.left)

    hosting(test)


@pytest.mark.parametrize(
    "garbage",
    [b"\x00", b"GET / HTTP/1.1\r\n\r\n", bytes(50), b"\x01" + bytes(49), secrets.token_bytes(4000), b"\xff" * 50],
    ids=["one byte", "http", "zeros", "version 1", "noise", "ones"],
)
def test_garbage_before_the_handshake(garbage: bytes) -> None:
    async def test(host: Host, address: PeerAddress) -> None:
        reader, writer = await stranger(address)
        writer.write(garbage)
        writer.write_eof()
        assert await is_hung_up_on(reader)
        writer.close()
        # and the next one is served as ever
        caller = await connect(address, OUR_ID, THEIRS)
        await until(lambda: host.came)
        await caller.close()
        assert len(host.came) == 1

    hosting(test)


def test_garbage_during_the_handshake() -> None:
    async def test(host: Host, address: PeerAddress) -> None:
        from salama.transport.noise import ACT_TWO_SIZE, Initiator

        reader, writer = await stranger(address)
        writer.write(Initiator(THEIRS, OUR_ID, b"\x33" * 32).act_one)
        assert len(await reader.readexactly(ACT_TWO_SIZE)) == ACT_TWO_SIZE
        writer.write(bytes(66))
        assert await is_hung_up_on(reader)
        writer.close()
        assert host.came == []

    hosting(test)


def test_garbage_after_the_handshake_ends_the_connection_and_loses_nothing_before_it() -> None:
    async def test(host: Host, address: PeerAddress) -> None:
        caller = await connect(address, OUR_ID, THEIRS)
        caller.send([b"first", b"second"])
        caller._writer.write(secrets.token_bytes(500))
        await until(lambda: host.left)
        assert host.heard == [b"first", b"second"]
        assert await caller.receive() == []
        await caller.close()

    hosting(test)


def test_a_message_cut_short_by_the_end_is_no_message() -> None:
    async def test(host: Host, address: PeerAddress) -> None:
        caller = await connect(address, OUR_ID, THEIRS)
        whole = caller._session.encrypt(b"complete")
        caller._writer.write(whole + caller._session.encrypt(b"cut short")[:-1])
        await caller.close()
        await until(lambda: host.left)
        assert host.heard == [b"complete"]

    hosting(test)


def test_slow_handshakes_are_bounded_in_number_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "HANDSHAKE_TIMEOUT", 2.0)  # long enough for all of them to come

    async def test(host: Host, address: PeerAddress) -> None:
        slow = [await stranger(address) for _ in range(MAX_HANDSHAKES)]
        for _, writer in slow:
            writer.write(b"\x00")
        await until(lambda: host.listener._handshakes == MAX_HANDSHAKES)
        # one more is hung up on at once
        reader, writer = await stranger(address)
        assert await is_hung_up_on(reader)
        writer.close()
        # none of them holds its place for longer than a handshake may take
        for reader, writer in slow:
            assert await is_hung_up_on(reader)
            writer.close()
        assert host.listener._handshakes == 0
        caller = await connect(address, OUR_ID, THEIRS)
        await caller.close()

    hosting(test)


def test_a_listener_stops_in_the_middle_of_handshakes() -> None:
    """`hosting` sees that nobody is left behind and nothing complained of."""

    async def test(host: Host, address: PeerAddress) -> None:
        strangers = [await stranger(address) for _ in range(3)]
        for _, writer in strangers:
            writer.write(bytes(10))
        await until(lambda: host.listener._handshakes == 3)
        await host.listener.stop()
        for reader, writer in strangers:
            assert await is_hung_up_on(reader)
            writer.close()

    hosting(test)


def test_a_peer_that_does_not_read_is_not_queued_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "WRITE_HIGH_WATER", 1 << 20)

    async def test(host: Host, address: PeerAddress) -> None:
        caller = await connect(address, OUR_ID, THEIRS)
        caller._writer.transport.pause_reading()
        await until(lambda: host.came)
        us = host.came[0]
        for _ in range(1000):
            us.send([bytes(60_000)])
            if us._writer.is_closing():
                break
            assert us._writer.transport.get_write_buffer_size() <= (1 << 20) + 60_018
        assert us._writer.is_closing()
        us.send([b"to nobody"])  # does no harm
        caller.abort()
        await until(lambda: host.left)

    hosting(test)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (PeerAddress("127.0.0.1", 1), "cannot be reached"),
        (PeerAddress("no.such.host.invalid", 9735), "cannot be reached"),
        (PeerAddress("x" * 300, 9735), "cannot be reached"),
    ],
)
def test_addresses_where_nobody_is(address: PeerAddress, words: str) -> None:
    async def main() -> None:
        with pytest.raises(ConnectFailed) as failed:
            await connect(address, OUR_ID, THEIRS)
        assert words in failed.value.reason

    asyncio.run(main())


def test_another_node_than_the_id_says() -> None:
    async def test(host: Host, address: PeerAddress) -> None:
        with pytest.raises(ConnectFailed) as failed:
            await connect(address, NodeId(public_key(b"\x77" * 32)), THEIRS)
        assert "another node" in failed.value.reason
        assert host.came == []

    hosting(test)


def test_a_host_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "HANDSHAKE_TIMEOUT", 0.1)

    async def main() -> None:
        held: list[asyncio.StreamWriter] = []

        async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            held.append(writer)

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectFailed) as failed:
            await connect(PeerAddress("127.0.0.1", port), OUR_ID, THEIRS)
        assert "too slow" in failed.value.reason
        for writer in held:
            writer.close()
        server.close()
        await server.wait_closed()

    asyncio.run(main())


def test_addresses_are_written_as_people_write_them() -> None:
    assert str(PeerAddress("::1", 9735)) == "[::1]:9735"
    assert str(PeerAddress("ln.example", 1)) == "ln.example:1"
