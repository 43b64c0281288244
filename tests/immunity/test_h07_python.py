"""H7 what Python itself makes easy (no single publication: the traps of the language)

What failed: in programs of this kind, one call that blocks the loop lets deadlines pass; numbers of thousands of
digits, deep nesting and regular expressions that try every way take minutes; pickled data runs as code.

Defence: what is parsed is bounded before it is looked at (api/server.py:MAX_LINE, chain/http_client.py:MAX_RESPONSE),
by parsers that refuse deep nesting; no module takes data for code; signatures of many HTLCs are checked in threads
(signer/verifying.py); no turn takes more than node/actor.py:Actor.BATCH events, and after a full one everybody else
comes first.

Not covered: a path through the mainnet graph is searched in the event loop; what a hundred strangers say in the same
moment, 256 KiB each at most, is decrypted and decoded before anybody else's turn.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import pkgutil
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import salama
from salama.api.method import Params
from salama.api.schema import METHODS
from salama.api.server import MAX_LINE
from salama.base.ids import ShortChannelId
from salama.base.units import BlockHeight
from salama.bitcoin.networks import REGTEST
from salama.gossip.events import MessageReceived, PeerReady
from salama.node.graph import GossipActor
from salama.signer.local import LocalSigner
from salama.storage.journal import Journal
from salama.testing.gossip import Author, signed_channel
from salama.testing.graphs import unsigned_node_id
from salama.wire.features import Features
from salama.wire.gossip import ChannelAnnouncement

ROOT = Path(salama.__file__).parent
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "xml", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
PEER = unsigned_node_id(1)
CHANNEL = signed_channel(Author.of(1), Author.of(2), ShortChannelId.of(500, 0, 0))


def sources() -> list[Path]:
    found = sorted(ROOT.rglob("*.py"))
    assert len(found) > 200
    return found


def test_no_data_is_taken_for_code() -> None:
    worth_a_look = re.compile("|".join(sorted(FORBIDDEN_MODULES | FORBIDDEN_CALLS)))
    for path in sources():
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)) if worth_a_look.search(text) else ():
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
            assert not FORBIDDEN_MODULES.intersection(names), path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in FORBIDDEN_CALLS, f"{path}: {node.func.id}"


def patterns() -> dict[str, re.Pattern[str] | re.Pattern[bytes]]:
    """Every regular expression that a module keeps at hand."""
    found: dict[str, re.Pattern[str] | re.Pattern[bytes]] = {}
    for info in pkgutil.walk_packages(salama.__path__, "salama."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                found[f"{info.name}.{name}"] = value
    return found


HOSTILE = (
    "a",
    "0",
    "1",
    " ",
    "-",
    ".",
    "[",
    "]",
    ":",
    "@",
    "/",
    "0.",
    "a-",
    "ab:",
    "\\",
    "\n",
    "é",
    "0123456789abcdef",
)


def test_no_pattern_tries_every_way() -> None:
    found = patterns()
    assert found
    for name, pattern in found.items():
        for piece in HOSTILE:
            text = piece * (3_000 // len(piece)) + "!"
            began = time.process_time()
            if isinstance(pattern.pattern, bytes):
                pattern.search(text.encode())  # type: ignore[arg-type]
            else:
                pattern.search(text)  # type: ignore[arg-type]
            # Trying every way takes minutes here; what grows with the square, a tenth of this.
            assert time.process_time() - began < 1, f"{name} and {piece!r}"


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"limit":' + b"9" * 100_000 + b"}",
        b'{"limit":1e' + b"9" * 100_000 + b"}",
        b'{"amount":"' + b"9" * 200_000 + b'sat"}',
    ],
)
def test_what_a_client_sends_is_refused_at_once(text: bytes) -> None:
    """Whatever is short enough to be read at all."""
    assert MAX_LINE < 100_000_000
    for method in METHODS.values():
        assert issubclass(method.params, Params)
        began = time.process_time()
        with pytest.raises((msgspec.MsgspecError, RecursionError)):
            msgspec.json.decode(text, type=method.params)
        assert time.process_time() - began < 1


def announcement(number: int) -> ChannelAnnouncement:
    """Of a channel that nobody has announced, under the signatures of another one."""
    return replace(CHANNEL.announcement, short_channel_id=ShortChannelId.of(400 + number // 100, number % 100, 0))


def test_a_flood_of_gossip_lets_everything_else_go_on(tmp_path: Path) -> None:
    """Work is counted instead of time: at most 500 announcements in a turn, of four signatures each, of 40 us at most
    each; and after each turn whoever else has something to do does it."""
    sizes: list[int] = []
    others: list[int] = []
    flood = 3_000

    async def story(journal: Journal) -> None:
        nothing: Any = None
        actor = GossipActor(
            journal, LocalSigner(b"\x07" * 32), nothing, lambda: SimpleNamespace(connected={}),  # type: ignore[arg-type, return-value]
            lambda: BlockHeight(600), chain_hash=REGTEST.chain_hash, alias="", features=Features(), flush_seconds=60.0,
        )  # fmt: skip
        quick = actor.turn

        def counted(state: Any, events: Any) -> Any:
            sizes.append(len(events))
            others.append(0)
            return quick(state, events)

        actor.turn = counted  # type: ignore[method-assign]
        actor.tell(PeerReady(PEER, Features()))
        for number in range(flood - 1):
            actor.tell(MessageReceived(PEER, announcement(number)))
        running = asyncio.create_task(actor.run())
        while actor.waiting:
            await asyncio.sleep(0)
            if others:
                others[-1] += 1
        await actor.settled()
        running.cancel()

    with Journal.open(tmp_path) as journal:
        asyncio.run(story(journal))
    assert sum(sizes) == flood and max(sizes) <= 500
    assert all(others[:-1]), "no turn follows another at once"
