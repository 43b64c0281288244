"""JSON-RPC 2.0 on a Unix socket: one JSON object a line in, one a line out. Who may open it may do everything."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from salama.api.errors import (
    INTERNAL,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    REFUSED,
    as_json,
)
from salama.api.method import Params, Result
from salama.api.schema import find_method
from salama.base.machine import CommandRefused

log = logging.getLogger("salama.api")

MAX_LINE = 1 << 20
"""Bytes of one request."""
MAX_CLIENTS = 64
MAX_PENDING = 1024
"""Requests of one client under way; further ones wait in its socket."""

Handler = Callable[[Params], Awaitable[Result]]


class _Request(msgspec.Struct):
    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")
    id: int | str | None = None


class _Outbox:
    """Replies to one client: all that one tick of the loop has made go out in one write."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._lines: list[bytes] = []

    def put(self, line: bytes) -> None:
        if not self._lines:
            asyncio.get_running_loop().call_soon(self.flush)
        self._lines.append(line)

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines and not self._writer.is_closing():
            self._writer.write(b"".join(lines))


class RpcServer:
    """Serves ``handlers`` (by method name) on ``path``."""

    def __init__(self, path: Path, handlers: dict[str, Handler]) -> None:
        self._path, self._handlers = path, handlers
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._answers: set[asyncio.Task[None]] = set()
        self._decoder = msgspec.json.Decoder(_Request)
        self._encoder = msgspec.json.Encoder()

    async def start(self) -> None:
        """Bind; a socket that a killed node left behind is replaced (the data directory's lock says that it is
        dead).
        """
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(self._path.stat().st_mode):
                self._path.unlink()
        old = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._client, str(self._path), limit=MAX_LINE)
        finally:
            os.umask(old)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        under_way = [*self._clients, *self._answers]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        with suppress(FileNotFoundError):
            self._path.unlink()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) >= MAX_CLIENTS:
            reason = f"{MAX_CLIENTS} programs have this node's socket open."
            writer.write(self._refusal(None, INVALID_REQUEST, "too_many_clients", reason))
            writer.close()
            return
        self._clients.add(task)
        room = asyncio.Semaphore(MAX_PENDING)
        answers: set[asyncio.Task[None]] = set()
        outbox = _Outbox(writer)
        try:
            while True:
                try:
                    # Whoever does not read what we answer is not read either.
                    await writer.drain()
                    line = await reader.readuntil(b"\n")
                except asyncio.LimitOverrunError:
                    reason = f"A request is at most {MAX_LINE} bytes."
                    writer.write(self._refusal(None, INVALID_REQUEST, "request_too_long", reason))
                    break
                except (EOFError, OSError):
                    break
                await room.acquire()
                answer = asyncio.create_task(self._answer(line, writer, outbox, room))
                for tasks in (answers, self._answers):
                    tasks.add(answer)
                    answer.add_done_callback(tasks.discard)
        except asyncio.CancelledError:
            # Only `stop` cancels us; asyncio's streams would report a cancelled handler as an error.
            pass
        finally:
            # A client that hangs up does not take its commands back: a payment goes on, only the answer is lost.
            self._clients.discard(task)
            with suppress(OSError):
                await asyncio.gather(*answers, return_exceptions=True)
                outbox.flush()
                writer.close()

    async def _answer(
        self, line: bytes, writer: asyncio.StreamWriter, outbox: _Outbox, room: asyncio.Semaphore
    ) -> None:
        try:
            outbox.put(await self._call(line))
            if not writer.is_closing() and writer.transport.get_write_buffer_size():
                with suppress(OSError):
                    await writer.drain()
        finally:
            room.release()

    async def _call(self, line: bytes) -> bytes:
        try:
            request = self._decoder.decode(line)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            return self._refusal(None, PARSE_ERROR, "bad_request", f"Not a JSON-RPC request: {str(error)[:200]}")
        method = find_method(request.method)
        handler = self._handlers.get(method.name) if method is not None else None
        if method is None or handler is None:
            return self._refusal(
                request.id, METHOD_NOT_FOUND, "unknown_method", f"There is no method {request.method[:60]!r}."
            )
        try:
            params = msgspec.json.decode(request.params, type=method.params)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            return self._refusal(request.id, INVALID_PARAMS, "bad_params", f"{method.name}: {str(error)[:300]}")
        if (task := asyncio.current_task()) is not None:
            task.set_name(f"api {method.name}")
        try:
            result = await handler(params)
        except CommandRefused as refused:
            return self._line({"jsonrpc": "2.0", "id": request.id, "error": as_json(REFUSED, refused)})
        except Exception:
            log.exception("method %s failed", method.name)
            return self._line({"jsonrpc": "2.0", "id": request.id, "error": as_json(INTERNAL_ERROR, INTERNAL)})
        return self._line({"jsonrpc": "2.0", "id": request.id, "result": result})

    def _refusal(self, id_: int | str | None, number: int, code: str, reason: str) -> bytes:
        return self._line({"jsonrpc": "2.0", "id": id_, "error": as_json(number, CommandRefused(code, reason))})

    def _line(self, answer: dict[str, Any]) -> bytes:
        return self._encoder.encode(answer) + b"\n"
