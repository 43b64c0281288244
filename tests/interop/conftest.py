"""Worlds for the interop tests, and what their inhabitants said when a test failed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interop_bench import Chain, World, missing_ldk, need
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


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A devnet and nobody on it yet."""
    world = World(tmp_path, Chain.devnet(tmp_path))
    try:
        yield world
    finally:
        if request.node.stash.get(FAILED, True):
            _tell(world)
        world.stop()


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
def opened(pair: World) -> World:
    """The pair with one unannounced channel, half of it on either side."""
    we_open(pair, push="500000sat", private=True)
    return pair
