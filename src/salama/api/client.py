"""Talking to a node over its Unix socket: a blocking client for the terminal, an async one for programs."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from salama.api.calls import Calls
from salama.api.errors import from_json
from salama.api.method import Params, Result
from salama.api.places import SOCKET_NAME, data_directory
from salama.base.machine import CommandRefused

MAX_ANSWER = 64 << 20
R = TypeVar("R", bound=Result)


def _not_running(path: Path) -> CommandRefused:
    return CommandRefused(
        "not_running",
        f"No node answers at {path}.",
        "Start one with `salama run`, or name another by --network or --dir.",
    )


def call(path: Path, method: str, params: dict[str, Any], timeout: float | None = None) -> Any:
    """Call ``method`` and wait for its result. Raises CommandRefused, also when no node is there."""
    request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(str(path))
            connection.sendall(request)
            with connection.makefile("rb") as lines:
                line = lines.readline(MAX_ANSWER)
    except TimeoutError:
        raise CommandRefused("timeout", "The node did not answer in time.", "It goes on; ask again.") from None
    except OSError:
        raise _not_running(path) from None
    return _result(line, path)


def _result(line: bytes, path: Path) -> Any:
    if not line.endswith(b"\n"):
        raise CommandRefused(
            "no_answer", f"The node at {path} closed the connection without an answer.", "Is it stopping?"
        )
    answer = json.loads(line)
    if "error" in answer:
        raise from_json(answer["error"])
    return answer["result"]


class RpcClient:
    """An async client; calls may overlap."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._unsent: list[bytes] = []
        """Requests of this tick of the loop: they go out in one write."""
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._connecting = asyncio.Lock()

    async def connect(self) -> None:
        """Connect unless the connection stands. Raises CommandRefused("not_running")."""
        async with self._connecting:  # calls may overlap
            if self._reader is None or self._reader.done():
                await self._connect()

    async def _connect(self) -> None:
        if self._writer is not None:
            self._writer.close()
        try:
            reader, self._writer = await asyncio.open_unix_connection(str(self._path), limit=MAX_ANSWER)
        except OSError:
            raise _not_running(self._path) from None
        self._reader = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                answer = json.loads(line)
                waiting = self._waiting.pop(answer.get("id"), None)
                if waiting is None or waiting.done():
                    continue
                if "error" in answer:
                    waiting.set_exception(from_json(answer["error"]))
                else:
                    waiting.set_result(answer["result"])
        except OSError:
            pass
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(
                        CommandRefused("no_answer", "The node closed the connection.", "Is it stopping?")
                    )
            self._waiting.clear()

    async def call(self, method: str, **params: Any) -> Any:
        """Raises CommandRefused."""
        if self._reader is None or self._reader.done():
            await self.connect()
        assert self._writer is not None
        number = next(self._ids)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(json.dumps(request).encode() + b"\n")
        return await waiting

    def _flush(self) -> None:
        lines, self._unsent = self._unsent, []
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(b"".join(lines))

    async def close(self) -> None:
        """Let go of the connection; calls under way end with an error."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()


class Client(Calls):
    """A running node, asked over its Unix socket, with typed results.

        async with Client.of("regtest") as node:
            print((await node.getinfo()).block_height)
            async for event in node.stream():
                print(event.name, event.fields)

    Belongs to one event loop; calls may overlap.
    """

    def __init__(self, socket: Path) -> None:
        self._rpc = RpcClient(socket)

    @classmethod
    def of(cls, network: str, directory: Path | str | None = None) -> Self:
        """The node of ``network`` in its usual directory, or the one in ``directory``."""
        return cls(data_directory(str(directory) if directory else None, network) / SOCKET_NAME)

    async def ask(self, method: str, params: Params, result: type[R]) -> R:
        answer = await self._rpc.call(method, **msgspec.to_builtins(params))
        try:
            return msgspec.convert(answer, type=result)
        except msgspec.ValidationError as error:
            reason = f"The node answered {method} in a way that this version does not understand: {error}."
            raise CommandRefused("bad_answer", reason, "Use the same version on both sides.") from None

    async def __aenter__(self) -> Self:
        await self._rpc.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hang_up()

    async def hang_up(self) -> None:
        """Let go of the connection; the node goes on."""
        await self._rpc.close()
