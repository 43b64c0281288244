"""HTTP/1.1 on loopback, just enough for JSON-RPC: POST with a length, keep-alive, Basic authentication.

One event loop, one request at a time on a connection. Every size is bounded, and a connection that sends nothing is
dropped in the end.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from salama.chain.devnet.rpc import Answer

MAX_HEAD: Final = 16_384
MAX_BODY: Final = 32_000_000
MAX_CONNECTIONS: Final = 256
IDLE_SECONDS: Final = 600.0
_REASONS: Final = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    404: b"Not Found",
    405: b"Method Not Allowed",
    411: b"Length Required",
    413: b"Content Too Large",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """User names and the passwords that go with them."""

    known: tuple[tuple[bytes, bytes], ...]

    def __repr__(self) -> str:
        return "Credentials(...)"

    def admit(self, header: bytes) -> bool:
        """Whether an ``Authorization`` header is one of ours; in a time that tells nothing of how near it came."""
        scheme, _, text = header.partition(b" ")
        if scheme.lower() != b"basic":
            return False
        try:
            given = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        matches = [hmac.compare_digest(given, user + b":" + password) for user, password in self.known]
        return any(matches)


@dataclass(frozen=True, slots=True)
class _Head:
    """What we need of a request's head."""

    length: int
    keep_alive: bool
    path: bytes


class _Refuse(Exception):
    """End the connection with this status."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(status)


class RpcServer:
    """The listening socket and its connections."""

    def __init__(self, credentials: Credentials, handle: Callable[[bytes], Answer | Awaitable[Answer]]) -> None:
        self.credentials, self.handle = credentials, handle
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens and returns the port (a free one for 0). Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), host, port, backlog=128)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stops listening and drops every connection."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.drop()
        if self._server is not None:
            await self._server.wait_closed()


class _Connection(asyncio.Protocol):
    """One caller."""

    def __init__(self, server: RpcServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if len(self._server.connections) >= MAX_CONNECTIONS:
            self._end(503)
            return
        self._server.connections.add(self)
        self._rest()

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None:
            self._advance()
        elif len(self._buffer) > MAX_HEAD and not self._paused and self._transport is not None:
            # Somebody pipelines behind a call that waits: what is in the buffer is enough for now.
            self._transport.pause_reading()
            self._paused = True

    def drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- requests

    def _rest(self) -> None:
        """Starts the idle clock anew."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.drop)

    def _advance(self) -> None:
        """Answers what is whole in the buffer, until a call has to wait."""
        try:
            while self._task is None and self._transport is not None and not self._transport.is_closing():
                head = self._head
                if head is None:
                    head = self._head = self._take_head()
                    if head is None:
                        return
                if len(self._buffer) < head.length:
                    return
                body = bytes(self._buffer[: head.length])
                del self._buffer[: head.length]
                self._head = None
                if head.path.partition(b"?")[0] not in (b"/", b""):
                    self._send(Answer(404, b""), head.keep_alive)
                    continue
                result = self._server.handle(body)
                if isinstance(result, Answer):
                    self._send(result, head.keep_alive)
                else:
                    # A call may wait as long as it likes; silence is counted from its answer on.
                    if self._timer is not None:
                        self._timer.cancel()
                    self._task = asyncio.ensure_future(self._wait(result, head.keep_alive))
        except _Refuse as refusal:
            self._end(refusal.status)

    async def _wait(self, result: Awaitable[Answer], keep_alive: bool) -> None:
        answer = await result
        self._task = None
        if self._transport is None or self._transport.is_closing():
            return
        self._send(answer, keep_alive)
        if self._paused:
            self._transport.resume_reading()
            self._paused = False
        self._advance()

    def _take_head(self) -> _Head | None:
        end = self._buffer.find(b"\r\n\r\n", 0, MAX_HEAD)
        if end < 0:
            if len(self._buffer) >= MAX_HEAD:
                raise _Refuse(413)
            return None
        lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        parts = lines[0].split(b" ")
        if len(parts) != 3 or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
            raise _Refuse(400)
        headers: dict[bytes, bytes] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon or name != name.strip():
                raise _Refuse(400)
            headers[name.lower()] = value.strip()
        if not self._server.credentials.admit(headers.get(b"authorization", b"")):
            raise _Refuse(401)
        if parts[0] != b"POST":
            raise _Refuse(405)
        if b"transfer-encoding" in headers or b"content-length" not in headers:
            raise _Refuse(411)
        length = headers[b"content-length"]
        if not length.isdigit() or len(length) > 12:
            raise _Refuse(400)
        if int(length) > MAX_BODY:
            raise _Refuse(413)
        if headers.get(b"expect", b"").lower() == b"100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        wish = headers.get(b"connection", b"").lower()
        keep_alive = wish != b"close" if parts[2] == b"HTTP/1.1" else wish == b"keep-alive"
        return _Head(int(length), keep_alive, parts[1])

    def _send(self, answer: Answer, keep_alive: bool) -> None:
        transport = self._transport
        if transport is None:
            return
        head = b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n" % (
            answer.status,
            _REASONS[answer.status],
            len(answer.body),
            b"keep-alive" if keep_alive else b"close",
        )
        transport.write(head + answer.body)
        if keep_alive:
            self._rest()
        else:
            transport.close()

    def _end(self, status: int) -> None:
        transport = self._transport
        if transport is None:
            return
        extra = b'WWW-Authenticate: Basic realm="jsonrpc"\r\n' if status == 401 else b""
        transport.write(
            b"HTTP/1.1 %d %s\r\n%sContent-Length: 0\r\nConnection: close\r\n\r\n" % (status, _REASONS[status], extra)
        )
        transport.close()
