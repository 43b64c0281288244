"""TCP connections under Noise (BOLT 8): listen, connect, and a stream of whole messages in both directions.

The socket is read no faster than its messages are handled, so a peer's flood waits in its own kernel buffers.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from salama.base.ids import NodeId
from salama.crypto.secp256k1 import is_scalar
from salama.net.limits import (
    CONNECT_TIMEOUT,
    HANDSHAKE_TIMEOUT,
    MAX_HANDSHAKES,
    READ_SIZE,
    STRANGER_READ_SIZE,
    WRITE_HIGH_WATER,
)
from salama.transport.noise import (
    ACT_ONE_SIZE,
    ACT_THREE_SIZE,
    ACT_TWO_SIZE,
    HandshakeFailed,
    Initiator,
    Responder,
    Session,
    StaticKey,
    TransportCorrupted,
)


class ConnectFailed(Exception):
    """No connection: the reason is a sentence for a person."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a node listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Connection:
    """An authenticated, encrypted stream of messages with one peer."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: Session, address: str, inbound: bool
    ) -> None:
        self._reader, self._writer, self._session = reader, writer, session
        self.address, self.inbound = address, inbound
        self.their_node_id = NodeId(session.their_node_id)
        self.bytes_in = self.bytes_out = 0
        self.is_friend: Callable[[], bool] = lambda: False
        """Whether the peer is one for whom others may wait; asked only when much of it waits."""
        self._read_size = STRANGER_READ_SIZE

    def send(self, messages: Sequence[bytes]) -> None:
        """Encrypt and hand to the kernel in one write. A peer that does not read is disconnected, not queued for."""
        if self._writer.is_closing():
            return
        data = b"".join(map(self._session.encrypt, messages))
        self.bytes_out += len(data)
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > WRITE_HIGH_WATER:
            self._writer.transport.abort()

    async def receive(self) -> list[bytes]:
        """The next messages, at least one; empty when the connection is over, for whatever reason.

        More may wait than is read at a time: then others have their turn before it is handled.
        """
        while True:
            try:
                data = await self._reader.read(self._read_size)
                self.bytes_in += len(data)
                if len(data) == self._read_size:
                    # The reader gives what it has without waiting, and strangers would be served to the end.
                    await asyncio.sleep(0)
                    self._read_size = READ_SIZE if self.is_friend() else STRANGER_READ_SIZE
                messages = self._session.feed(data) if data else []
            except TransportCorrupted as broken:
                self.abort()
                return list(broken.messages)
            except OSError:
                data, messages = b"", []
            if messages or not data:
                return messages

    async def close(self) -> None:
        """Flush what was sent, then close; never waits for a peer that has stopped reading."""
        with suppress(OSError, TimeoutError):
            self._writer.close()
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()
        self.abort()

    def abort(self) -> None:
        self._writer.transport.abort()


def _ephemeral() -> bytes:
    while not is_scalar(secret := secrets.token_bytes(32)):
        pass
    return secret


def _tune(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def connect(address: PeerAddress, their_node_id: NodeId, our_key: StaticKey) -> Connection:
    """Connect and shake hands as the initiator. Raises ConnectFailed."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            reader, writer = await asyncio.open_connection(address.host, address.port, limit=READ_SIZE)
    except TimeoutError:
        raise ConnectFailed(f"{address} did not answer within {CONNECT_TIMEOUT:.0f} s") from None
    except (OSError, UnicodeError, ValueError) as error:
        raise ConnectFailed(f"{address} cannot be reached: {error}") from None
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            _tune(writer)
            handshake = Initiator(our_key, their_node_id, _ephemeral())
            writer.write(handshake.act_one)
            act_three, session = handshake.receive_act_two(await reader.readexactly(ACT_TWO_SIZE))
            writer.write(act_three)
            return Connection(reader, writer, session, str(address), inbound=False)
    except (HandshakeFailed, OSError, EOFError, TimeoutError) as error:
        writer.transport.abort()
        hint = "it may be another node than the id says" if isinstance(error, EOFError) else str(error) or "too slow"
        raise ConnectFailed(f"the handshake with {address} failed: {hint}") from None


class Listener:
    """Accepts connections and shakes hands as the responder; ``on_connection`` gets only authenticated ones."""

    def __init__(self, our_key: StaticKey, on_connection: Callable[[Connection], Awaitable[None]]) -> None:
        self._our_key, self._on_connection = our_key, on_connection
        self._server: asyncio.Server | None = None
        self._handshakes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, address: PeerAddress) -> PeerAddress:
        """Listen; port 0 picks a free one. Returns the address in use. Raises OSError."""
        self._server = await asyncio.start_server(self._accept, address.host, address.port, limit=READ_SIZE)
        host, port = self._server.sockets[0].getsockname()[:2]
        return PeerAddress(host, port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._handshakes >= MAX_HANDSHAKES:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            connection = await self._counted_handshake(reader, writer)
            if connection is not None:
                await self._on_connection(connection)
        except asyncio.CancelledError:
            # Only `stop` cancels us; asyncio's streams would report a cancelled handler as an error.
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _counted_handshake(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Connection | None:
        self._handshakes += 1
        try:
            return await self._shake_hands(reader, writer)
        finally:
            self._handshakes -= 1

    async def _shake_hands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Connection | None:
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                _tune(writer)
                peer = writer.get_extra_info("peername") or ("?", 0)
                handshake = Responder(self._our_key, _ephemeral())
                writer.write(handshake.receive_act_one(await reader.readexactly(ACT_ONE_SIZE)))
                session = handshake.receive_act_three(await reader.readexactly(ACT_THREE_SIZE))
                return Connection(reader, writer, session, str(PeerAddress(*peer[:2])), inbound=True)
        except (HandshakeFailed, OSError, EOFError, TimeoutError):
            writer.transport.abort()
            return None

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
