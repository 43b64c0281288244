"""The Python faces of a node: inside the program, and over the socket. Both have every method, with types."""

from __future__ import annotations

import asyncio
import inspect
import tempfile
import typing
from collections.abc import Iterator
from pathlib import Path

import client_code
import pytest

import salama
from salama.api.calls import Calls
from salama.api.client import Client
from salama.api.embedded import Node
from salama.api.node_schema import Event
from salama.api.schema import METHODS
from salama.api.server import RpcServer
from salama.base.machine import CommandRefused

ROOT = Path(__file__).parents[2]


@pytest.fixture
def socket() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rpc") as directory:  # a socket's name has at most 107 bytes
        yield Path(directory) / "salama.sock"


def test_the_client_is_what_the_schema_says() -> None:
    """Else run scripts/client_code.py."""
    assert client_code.text() == (ROOT / "src" / "salama" / "api" / "calls.py").read_text()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_its_types(name: str) -> None:
    method = METHODS[name]
    call = getattr(Calls, name)
    hints = typing.get_type_hints(call)
    assert hints.pop("return") is method.result
    assert hints == typing.get_type_hints(method.params)
    parameters = list(inspect.signature(call).parameters.values())[1:]
    assert tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD) == method.positional


def test_names_at_the_door() -> None:
    assert salama.Node is Node
    assert salama.Client is Client
    assert salama.CommandRefused is CommandRefused
    with pytest.raises(AttributeError):
        salama.nothing  # noqa: B018


def test_a_payment_between_two_nodes_of_a_program(socket: Path) -> None:
    """One of them is asked over its socket too; the stream tells each event once."""

    async def play() -> None:
        async with salama.Node.regtest() as alice, salama.Node.regtest(beside=alice) as bob:
            assert await alice.fund() > 0
            served = RpcServer(socket, bob._handlers)
            await served.start()
            try:
                async with salama.Client(socket) as client:
                    await told(alice, bob, client)
            finally:
                await served.stop()
        with pytest.raises(CommandRefused, match="does not run"):
            await bob.getinfo()

    async def told(alice: Node, bob: Node, client: Client) -> None:
        stream: list[Event] = []

        async def listen() -> None:
            async for event in client.stream():
                stream.append(event)  # noqa: PERF401 (it never ends)

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0)
        await alice.open(bob.uri, "1000000sat")
        await alice.mine(6)
        async with asyncio.timeout(20):
            while not (await alice.channels()).channels[0].can_send_msat:
                await asyncio.sleep(0.02)
        invoice = await client.invoice("1000sat", "over the socket")
        paid = await alice.pay(invoice.invoice)
        assert (paid.status, paid.amount_msat) == ("succeeded", 1_000_000)
        assert (await client.getinfo()).node_id == bob.node_id
        (line,) = (await client.invoices()).invoices
        assert line.description == "over the socket"
        async with asyncio.timeout(20):
            while "invoice.paid" not in [event.name for event in stream]:
                await asyncio.sleep(0.02)
        listening.cancel()
        every = [event async for event in some(bob, len(stream))]
        assert every == stream
        # what is refused says the same on both sides
        for node in (bob, client):
            with pytest.raises(CommandRefused) as refused:
                await node.newaddr(kind="p2sh")
            assert refused.value.code == "bad_params"
            with pytest.raises(CommandRefused) as refused:
                await node.close("nothing")
            assert refused.value.code == "unknown_channel"
        settings = {line.name: line for line in (await bob.config(changed=True)).settings}
        assert settings["listen"].source == "flag"

    async def some(node: Node, count: int) -> typing.AsyncIterator[Event]:
        async for event in node.stream(0):
            yield event
            count -= 1
            if count == 0:
                return

    asyncio.run(asyncio.wait_for(play(), 60))


def test_a_node_that_cannot_start_leaves_nothing_behind(tmp_path: Path) -> None:
    async def play() -> None:
        with pytest.raises(CommandRefused, match="colour"):
            async with Node.regtest(tmp_path / "node", {"colour": "blue"}):
                pass
        with pytest.raises(CommandRefused) as refused:
            async with Node("mainnet", tmp_path / "node", {"poll_seconds": "0.05"}):
                pass
        assert refused.value.code == "bad_setting"
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(play())
