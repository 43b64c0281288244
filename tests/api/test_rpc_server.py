"""The socket of the API under strange, rude and silent clients: a clear answer each, and the next one is served."""

import asyncio
import json
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from salama.api.client import RpcClient, call
from salama.api.schema import METHODS
from salama.api.server import MAX_CLIENTS, MAX_LINE, RpcServer
from salama.base.machine import CommandRefused


@pytest.fixture
def path() -> Iterator[Path]:
    # Not in tmp_path: a Unix socket's name has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="rpc"))
    yield directory / "salama.sock"
    shutil.rmtree(directory)


class Answers:
    """Methods without a node behind them."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.invoices: list[str] = []
        self.counted = 0

    async def newaddr(self, params: Any) -> dict[str, str]:
        return {"kind": params.kind}

    async def getinfo(self, _: Any) -> dict[str, str]:
        raise ZeroDivisionError("a mistake of ours with a /secret/path")

    async def balance(self, _: Any) -> dict[str, str]:
        raise CommandRefused("no_balance", "There is none.", "Earn some.")

    async def stop(self, _: Any) -> dict[str, str]:
        await self.gate.wait()
        return {"waited": "yes"}

    async def channels(self, _: Any) -> dict[str, str]:
        self.counted += 1
        return {"big": "x" * 200_000}

    async def invoice(self, params: Any) -> dict[str, str]:
        self.invoices.append(params.amount)
        await asyncio.sleep(0)
        return {"amount": params.amount}


def serving(path: Path, test: Callable[[Answers], Awaitable[None]]) -> None:
    """Run ``test`` beside a server; at the end nothing that the server started is left."""

    async def main() -> None:
        answers = Answers()
        server = RpcServer(path, {name: getattr(answers, name) for name in METHODS if hasattr(answers, name)})
        await server.start()
        try:
            await asyncio.wait_for(test(answers), 20)
        finally:
            await server.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not path.exists()

    complaints: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await main()

    asyncio.run(watched())
    assert complaints == []


async def ask(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    """What one client hears for these lines, in the order of the answers."""
    reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 24)
    for line in lines:
        writer.write(line + b"\n")
    answers = [json.loads(await reader.readline()) for _ in lines]
    writer.close()
    await writer.wait_closed()
    return answers


def request(method: str, id: Any = 1, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).encode()


def test_a_call_and_its_answer(path: Path) -> None:
    async def test(_: Answers) -> None:
        (answer,) = await ask(path, request("newaddr", id="seven", kind="p2tr"))
        assert answer == {"jsonrpc": "2.0", "id": "seven", "result": {"kind": "p2tr"}}

    serving(path, test)


@pytest.mark.parametrize(
    ("line", "code", "word"),
    [
        (b"", -32700, "bad_request"),
        (b"nonsense", -32700, "bad_request"),
        (b"\xff\xfe\x00", -32700, "bad_request"),
        (b'{"method": "newaddr", "id": 1', -32700, "bad_request"),
        (b'{"id": 1}', -32700, "bad_request"),
        (b'{"method": 5, "id": 1}', -32700, "bad_request"),
        (b'{"method": "newaddr", "id": {}}', -32700, "bad_request"),
        (b'[{"method": "newaddr", "id": 1}]', -32700, "bad_request"),
        (b"[" * 100_000, -32700, "bad_request"),
        (b'{"method": "newaddr", "id": 1, "params": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", -32700, ""),
        (b'{"method": "launder", "id": 1}', -32601, "unknown_method"),
        (b'{"method": "__class__", "id": 1}', -32601, "unknown_method"),
        (b'{"method": "' + b"x" * 1000 + b'", "id": 1}', -32601, "unknown_method"),
        (b'{"method": "newaddr", "id": 1, "params": []}', -32602, "bad_params"),
        (b'{"method": "newaddr", "id": 1, "params": {"kind": 5}}', -32602, "bad_params"),
        (b'{"method": "newaddr", "id": 1, "params": {"knid": "p2tr"}}', -32602, "bad_params"),
        (b'{"method": "invoice", "id": 1, "params": {}}', -32602, "bad_params"),
        (b'{"method": "invoice", "id": 1, "params": {"amount": 5000}}', -32602, "bad_params"),
        (b'{"method": "invoice", "id": 1, "params": {"amount": "1sat", "expiry": 1e300}}', -32602, "bad_params"),
        (request("balance"), 1, "no_balance"),
        (request("getinfo"), -32603, "internal_error"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_code(path: Path, line: bytes, code: int, word: str) -> None:
    async def test(_: Answers) -> None:
        bad, good = sorted(await ask(path, line, request("newaddr", id=2)), key=lambda answer: answer["id"] == 2)
        error = bad["error"]
        assert error["code"] == code
        if word:
            assert error["data"]["code"] == word
        assert len(error["message"]) < 600
        assert "secret" not in json.dumps(error)
        assert good["result"] == {"kind": "p2wpkh"}

    serving(path, test)


def test_a_request_without_end_is_refused_and_its_client_hung_up_on(path: Path) -> None:
    async def test(_: Answers) -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"x" * (MAX_LINE + 70_000))
        answer = json.loads(await reader.readline())
        assert answer["error"]["data"]["code"] == "request_too_long"
        with suppress(ConnectionResetError):  # it did not wait for the rest of what we sent
            assert await reader.read() == b""
        writer.close()
        assert (await ask(path, request("newaddr")))[0]["result"]

    serving(path, test)


def test_half_a_request_is_no_request(path: Path) -> None:
    async def test(answers: Answers) -> None:
        _, writer = await asyncio.open_unix_connection(str(path))
        writer.write(request("invoice", amount="1sat"))  # no end of line
        writer.close()
        await writer.wait_closed()
        await ask(path, request("newaddr"))
        assert answers.invoices == []

    serving(path, test)


def test_a_client_that_hangs_up_does_not_take_its_command_back(path: Path) -> None:
    async def test(answers: Answers) -> None:
        _, writer = await asyncio.open_unix_connection(str(path))
        writer.write(request("invoice", amount="1sat") + b"\n")
        await writer.drain()
        writer.close()
        while not answers.invoices:
            await asyncio.sleep(0.001)

    serving(path, test)


def test_clients_above_the_limit_are_told_so(path: Path) -> None:
    async def test(_: Answers) -> None:
        clients = [await asyncio.open_unix_connection(str(path)) for _ in range(MAX_CLIENTS)]
        for reader, writer in clients:
            writer.write(request("newaddr") + b"\n")
            assert json.loads(await reader.readline())["result"]
        reader, writer = await asyncio.open_unix_connection(str(path))
        answer = json.loads(await reader.readline())
        assert answer["error"]["data"]["code"] == "too_many_clients"
        assert await reader.read() == b""
        writer.close()
        clients.pop()[1].close()
        while True:  # as soon as one has left, the next is served
            answer = (await ask(path, request("newaddr")))[0]
            if "result" in answer:
                break
        for _, writer in clients:
            writer.close()

    serving(path, test)


def test_a_client_that_never_reads_is_not_served_without_bound(path: Path) -> None:
    async def test(answers: Answers) -> None:
        _, writer = await asyncio.open_unix_connection(str(path))
        for _ in range(3000):
            writer.write(request("channels") + b"\n")
        for _ in range(50):
            # others are served all the while
            assert (await ask(path, request("newaddr")))[0]["result"]
        assert answers.counted < 1500, "the rest waits in its socket"
        writer.transport.abort()

    serving(path, test)


def test_calls_of_one_moment_share_their_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: Counter[str] = Counter()
    write = asyncio.StreamWriter.write

    def counted(writer: asyncio.StreamWriter, data: bytes) -> None:
        writes["answers" if b"result" in data else "requests"] += 1
        write(writer, data)

    async def test(_: Answers) -> None:
        client = RpcClient(path)
        await client.connect()
        monkeypatch.setattr(asyncio.StreamWriter, "write", counted)
        answers = await asyncio.gather(*(client.call("newaddr") for _ in range(50)))
        assert answers == [{"kind": "p2wpkh"}] * 50
        await client.close()

    serving(path, test)
    assert writes == {"requests": 1, "answers": 1}


def test_answers_come_as_they_are_ready(path: Path) -> None:
    async def test(answers: Answers) -> None:
        client = RpcClient(path)
        slow = asyncio.create_task(client.call("stop"))
        assert await client.call("newaddr") == {"kind": "p2wpkh"}
        assert not slow.done()
        answers.gate.set()
        assert await slow == {"waited": "yes"}
        with pytest.raises(CommandRefused) as refused:
            await client.call("balance")
        assert (refused.value.code, refused.value.remedy) == ("no_balance", "Earn some.")
        await client.close()

    serving(path, test)


def test_a_stopping_server_waits_for_no_answer(path: Path) -> None:
    async def main() -> None:
        answers = Answers()
        server = RpcServer(path, {"stop": answers.stop})
        await server.start()
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(request("stop") + b"\n")
        await asyncio.sleep(0.05)
        await asyncio.wait_for(server.stop(), 2)
        assert await reader.read() == b""
        writer.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not path.exists()

    asyncio.run(main())


def test_a_socket_that_a_killed_node_left_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.exists()

    async def test(_: Answers) -> None:
        assert path.stat().st_mode & 0o077 == 0
        assert (await ask(path, request("newaddr")))[0]["result"]

    serving(path, test)


def test_the_blocking_client_says_that_nobody_is_there(path: Path) -> None:
    with pytest.raises(CommandRefused) as refused:
        call(path, "getinfo", {})
    assert refused.value.code == "not_running"
    assert str(path) in refused.value.reason


def test_the_blocking_client_gives_up_in_time(path: Path) -> None:
    async def test(_: Answers) -> None:
        def impatient() -> str:
            with pytest.raises(CommandRefused) as refused:
                call(path, "stop", {}, timeout=0.05)
            return refused.value.code

        assert await asyncio.to_thread(impatient) == "timeout"

    serving(path, test)
