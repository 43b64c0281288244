"""JSON-RPC over persistent HTTP connections, from the caller's side: the wire beneath ``bitcoind``.

Every wait has an end, every answer a largest size, and whatever comes back is a value, a ``BackendError`` or a
``BackendUnavailable``. All calls made through here may be repeated without harm, so a lost connection is tried again.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from salama.chain.backend import BackendError, BackendUnavailable

# A block of four million weight units in hex, twice over, and room for a mainnet mempool's list of txids.
MAX_RESPONSE: Final = 32_000_000
MAX_HEAD: Final = 16_384
MAX_COOKIE: Final = 4_096
MAX_IDLE_CONNECTIONS: Final = 4
MAX_AT_ONCE: Final = 4
ATTEMPTS: Final = 3
FIRST_PAUSE: Final = 0.05
CONNECT_SECONDS: Final = 5.0
RPC_IN_WARMUP: Final = -28
_READ_LIMIT: Final = 1 << 20

_encoder: Final = msgspec.json.Encoder()


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        return Decimal("NaN")


_decoder: Final = msgspec.json.Decoder(float_hook=_decimal)


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are to the back-end: a cookie file, read anew when refused, or a fixed user and password."""

    cookie: Path | None = None
    user: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return f"Login(cookie={str(self.cookie)!r})" if self.cookie else "Login(...)"

    def header(self) -> bytes:
        """Value of the ``Authorization`` header; raises BackendUnavailable while there is no cookie."""
        if self.cookie is None:
            return b"Basic " + base64.b64encode(f"{self.user}:{self.password}".encode())
        try:
            with self.cookie.open("rb") as file:
                content = file.read(MAX_COOKIE + 1).strip()
        except OSError as problem:
            raise BackendUnavailable(f"its cookie file cannot be read: {problem}") from None
        if not content or len(content) > MAX_COOKIE:
            raise BackendUnavailable("its cookie file holds no cookie")
        return b"Basic " + base64.b64encode(content)


class _Lost(Exception):
    """The connection ended before its answer did."""


class JsonRpcClient:
    """Calls to one JSON-RPC server. Belongs to one event loop."""

    def __init__(self, url: str, login: Login, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.username is not None:
            raise ValueError("expected a URL of the form http://host:port")
        self.host, self.port = parts.hostname, parts.port or 8332
        self._path = (parts.path or "/").encode("ascii")
        self._login, self._timeout = login, timeout
        self._authorization: bytes | None = None
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self._host_header = f"{shown}:{self.port}".encode("ascii")
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._busy: set[asyncio.StreamWriter] = set()
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._closed = False

    @property
    def is_local(self) -> bool:
        """Whether the traffic stays on this machine; elsewhere it is readable on the way (immunity G7)."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    async def call(self, method: str, *params: Any) -> Any:
        """The result of one call. Numbers with a point are ``Decimal``. Raises BackendError, BackendUnavailable."""
        async with self._slots:
            return _result(await self._post(_request(method, params), self._timeout))

    async def wait(self, seconds: float, method: str, *params: Any) -> Any:
        """A call that the server answers only after a while; takes none of the slots of ordinary calls."""
        return _result(await self._post(_request(method, params), seconds + self._timeout))

    async def batch(self, calls: Sequence[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        """Results of several calls in one exchange, in order; raises the first error among them."""
        body = _encoder.encode(
            [
                {"jsonrpc": "1.0", "id": at, "method": method, "params": params}
                for at, (method, params) in enumerate(calls)
            ]
        )
        async with self._slots:
            answers = await self._post(body, self._timeout)
        if not isinstance(answers, list) or len(answers) != len(calls):
            # One error for the whole batch, or nonsense.
            _result(answers)
            raise BackendError(0, "a batch was not answered by a batch of the same size")
        results: list[Any] = [None] * len(calls)
        seen: set[int] = set()
        for one in answers:
            at = one.get("id") if isinstance(one, dict) else None
            if type(at) is not int or not 0 <= at < len(calls) or at in seen:
                raise BackendError(0, "an answer in a batch belongs to no call")
            seen.add(at)
            results[at] = _result(one)
        return results

    async def close(self) -> None:
        """Closes connections; later calls raise BackendUnavailable."""
        self._closed = True
        writers = [*(writer for _, writer in self._idle), *self._busy]
        self._idle.clear()
        for writer in writers:
            writer.close()
        for writer in writers:
            with suppress(OSError):
                await writer.wait_closed()

    async def _post(self, body: bytes, seconds: float) -> Any:
        pause = FIRST_PAUSE
        problem = "closed"
        attempt, renewed = 0, False
        while attempt < ATTEMPTS:
            if self._closed:
                raise BackendUnavailable("closed by us")
            if self._authorization is None:
                self._authorization = self._login.header()
            reused = bool(self._idle)
            try:
                # Not wait_for, which in Python 3.11 can swallow a cancellation that comes together with the answer.
                async with asyncio.timeout(seconds):
                    status, answer = await self._exchange(body)
            except TimeoutError:
                # Before OSError, whose kind it is: one long silence is enough.
                raise BackendUnavailable(f"no answer within {seconds:g} seconds") from None
            except (_Lost, OSError) as lost:
                problem = str(lost) or type(lost).__name__
                if reused:
                    # Only an old connection that had been closed meanwhile: try a new one at once.
                    continue
                attempt += 1
                if attempt < ATTEMPTS:
                    await asyncio.sleep(pause)
                    pause *= 4
                continue
            if status in (401, 403):
                self._authorization = None
                if renewed:
                    raise BackendUnavailable("it refuses our user and password, or the cookie")
                renewed = True
                continue
            if status == 503:
                problem = "it has too much work queued"
                attempt += 1
                await asyncio.sleep(pause)
                pause *= 4
                continue
            try:
                return _decoder.decode(answer)
            except (msgspec.MsgspecError, RecursionError, ValueError):
                raise BackendError(0, f"not JSON (HTTP status {status})") from None
        raise BackendUnavailable(problem)

    async def _exchange(self, body: bytes) -> tuple[int, bytes]:
        reader, writer = self._idle.pop() if self._idle else await self._connect()
        reusable = False
        self._busy.add(writer)
        try:
            writer.write(
                b"POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n"
                % (self._path, self._host_header, self._authorization or b"", len(body))
                + body
            )
            await writer.drain()
            status, answer, reusable = await _read_response(reader)
            return status, answer
        finally:
            self._busy.discard(writer)
            # A call cancelled in the middle leaves a connection that would answer the wrong question next.
            if reusable and not self._closed and len(self._idle) < MAX_IDLE_CONNECTIONS:
                self._idle.append((reader, writer))
            else:
                writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await asyncio.open_connection(self.host, self.port, limit=_READ_LIMIT)
        except TimeoutError:
            raise _Lost("cannot connect in time") from None


def _request(method: str, params: tuple[Any, ...]) -> bytes:
    return _encoder.encode({"jsonrpc": "1.0", "id": 0, "method": method, "params": params})


def _result(answer: Any) -> Any:
    if not isinstance(answer, dict):
        raise BackendError(0, "an answer that is no object")
    error = answer.get("error")
    if error is None:
        if "result" not in answer:
            raise BackendError(0, "an answer without result and error")
        return answer["result"]
    code = error.get("code") if isinstance(error, dict) else None
    text = error.get("message") if isinstance(error, dict) else None
    code = code if type(code) is int and abs(code) < 1 << 31 else 0
    message = text[:1000] if isinstance(text, str) else "an error without a message"
    if code == RPC_IN_WARMUP:
        raise BackendUnavailable(f"it is starting up: {message}")
    raise BackendError(code, message)


async def _read_response(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status, body and whether the connection may be used again."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise _Lost("the connection was closed") from None
    if len(head) > MAX_HEAD:
        raise BackendError(0, "an HTTP head of unreasonable size")
    lines = head[:-4].split(b"\r\n")
    words = lines[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or len(words[1]) != 3 or not words[1].isdigit():
        raise BackendError(0, "the answer is not HTTP")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or len(length) > 10 or int(length) > MAX_RESPONSE:
        raise BackendError(0, "an answer without a length, or too long")
    try:
        body = await reader.readexactly(int(length))
    except asyncio.IncompleteReadError:
        raise _Lost("the connection was closed in the middle of an answer") from None
    reusable = words[0] == b"HTTP/1.1" and headers.get(b"connection", b"").lower() != b"close"
    return int(words[1]), body, reusable
