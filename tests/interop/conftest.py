"""Worlds for the interop tests, and what their inhabitants said when a test failed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# What holds for our chain must hold for bitcoind: its tests are run again on one (test_bitcoind.py).
sys.path.append(str(Path(__file__).parent.parent / "chain"))

from gate import Gate
from interop_bench import Chain, World, missing_bitcoind, missing_ldk, need
from ldk_moves import we_open

TAIL = 60
FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


def _tell(world: World) -> None:
    for name, node in world.nodes.items():
        print(f"--- {name}", *node.log().splitlines()[-TAIL:], sep="\n")
    if world.ldk_peer is not None:
        print("--- LDK complains of", *world.ldk.complaints(), sep="\n")
        print("--- LDK", *world.ldk.log_file.read_text().splitlines()[-TAIL:], sep="\n")
        print("--- published by LDK", *world.ldk.published, sep="\n")


@contextmanager
def inhabited(chain: Chain, directory: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A world that ends with the test; what its inhabitants said is shown if that failed."""
    world = World(directory, chain)
    try:
        yield world
    finally:
        if request.node.stash.get(FAILED, True):
            _tell(world)
        world.stop()


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A chain and nobody on it yet: a devnet, or the real bitcoind where a module asks for it and there is one.

    Behind the real one's gate every transaction of our nodes is put to its policy first.
    """
    real = getattr(request.module, "ON_BITCOIND", False) and missing_bitcoind() is None
    chain = Gate(Chain.bitcoind(tmp_path)) if real else Chain.devnet(tmp_path)
    with inhabited(chain, tmp_path, request) as world:
        yield world
        assert not isinstance(chain, Gate) or chain.complaints == []


@pytest.fixture
def pair(world: World) -> World:
    """Our node `salama` and LDK, connected and with money to open channels."""
    need("ldk", missing_ldk())
    node = world.add_node("salama")
    ldk = world.add_ldk()
    world.fund()
    node.call("connect", peer=ldk.uri)
    return world


@pytest.fixture
def real(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A real bitcoind with money on its chain, and two of our nodes, alice and bob."""
    need("bitcoind", missing_bitcoind())
    with inhabited(Chain.bitcoind(tmp_path), tmp_path, request) as world:
        world.add_node("alice")
        world.add_node("bob")
        world.fund()
        yield world


@contextmanager
def gated(feerate: str, directory: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A real bitcoind behind a gate that estimates ``feerate``, alice, bob and carol with money."""
    need("bitcoind", missing_bitcoind())
    gate = Gate(Chain.bitcoind(directory))
    gate.feerate = feerate
    with inhabited(gate, directory, request) as world:
        for name in ("alice", "bob", "carol"):
            world.add_node(name)
        world.fund()
        yield world
        assert gate.complaints == []


@pytest.fixture
def opened(pair: World) -> World:
    """The pair with one unannounced channel, half of it on either side."""
    we_open(pair, push="500000sat", private=True)
    return pair
