"""Whatever comes through the socket gets an answer that is one line of JSON-RPC; a method given nonsense refuses it by
a code of its own, and never fails.
"""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

import salama
from salama.api.errors import INTERNAL
from salama.api.method import Done, Method
from salama.api.schema import ALIASES, METHODS
from salama.api.server import RpcServer
from salama.base.machine import CommandRefused

CODES = {"bad_request", "unknown_method", "bad_params"}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
requests = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": json_values,
        "id": json_values,
        "method": st.sampled_from([*METHODS, *ALIASES, "", "nothing"]) | json_values,
        "params": json_values,
        "more": json_values,
    },
)
lines = st.one_of(
    st.binary(max_size=200),
    requests.map(lambda request: json.dumps(request).encode()),
    st.integers(1, 2000).map(lambda depth: b'{"method":"getinfo","params":' + b"[" * depth),
    st.sampled_from(
        (b'{"id":1e999,"method":"getinfo"}', b'{"id":%s,"method":"getinfo"}' % (b"9" * 5000), b"\xff\xfe{}")
    ),
)


async def handler(_: object) -> Done:
    return Done()


@settings(max_examples=300)
@given(line=lines)
def test_any_line_has_one_answer(line: bytes) -> None:
    server = RpcServer(Path("/nonexistent"), dict.fromkeys(METHODS, handler))
    reply = asyncio.run(server._call(line))
    assert reply.endswith(b"\n") and reply.count(b"\n") == 1
    answer = json.loads(reply)
    assert answer["jsonrpc"] == "2.0"
    assert ("result" in answer) != ("error" in answer)
    if "error" in answer:
        assert answer["error"]["data"]["code"] in CODES
        assert len(reply) < 2000


def nonsense(dice: random.Random, method: Method) -> dict[str, Any]:
    """Parameters of the right types, mostly, with values that nobody means."""
    texts = [
        "", "0", "-1", "all", "any", "1sat", "1msat", "21000000btc", "0.00000001btc", "9" * 30, "00" * 32, "ff" * 33,
        "02" + "11" * 32, "02" + "11" * 32 + "@127.0.0.1:1", "1x1x1", "0x0x0", "16777215x16777215x65535",
        "ff" * 32 + ":0",
        "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202", "lnbcrt1", "closed 5", "\x00", "\u202e", "é" * 20,
    ]  # fmt: skip
    given: dict[str, Any] = {}
    info = msgspec.inspect.type_info(method.params)
    assert isinstance(info, msgspec.inspect.StructType)
    for field in info.fields:
        kind = field.type.type if isinstance(field.type, msgspec.inspect.Metadata) else field.type
        if not field.required and dice.random() < 0.4:
            continue
        if field.name in ("wait", "timeout"):
            given[field.name] = 0 if field.name == "wait" else 1
        elif isinstance(kind, msgspec.inspect.IntType):
            given[field.name] = dice.choice((-1, 0, 1, 5, 253, 1000, 2016, 2**31, 2**63, 2**64))
        elif isinstance(kind, msgspec.inspect.BoolType):
            given[field.name] = dice.random() < 0.5
        else:
            given[field.name] = dice.choice(texts)
    return given


def test_every_method_refuses_nonsense_in_its_own_words() -> None:
    async def play() -> None:
        dice = random.Random(20)
        failed: list[str] = []
        async with salama.Node.regtest() as node:
            for name, method in METHODS.items():
                if name == "stop":
                    continue
                for _ in range(25):
                    params = nonsense(dice, method)
                    try:
                        checked = msgspec.convert(params, type=method.params)
                    except msgspec.ValidationError:
                        continue
                    try:
                        async with asyncio.timeout(10):
                            await node.ask(name, checked, method.result)
                    except CommandRefused as refused:
                        if refused.code == INTERNAL.code:
                            failed.append(f"{name} {params}: {refused.__cause__!r}")
        assert not failed, "\n".join(failed)

    asyncio.run(asyncio.wait_for(play(), 120))
