"""Closes between real processes on a real chain: an HTLC in flight, a cheat with an old database (B5.08, B2.49)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from salama.testing.network import LocalNetwork, LocalNode, until


@pytest.fixture
def network() -> Iterator[LocalNetwork]:
    with TemporaryDirectory(prefix="oc") as directory, LocalNetwork(Path(directory)) as made:
        yield made


def account(node: LocalNode, name: str) -> list[dict[str, Any]]:
    """The lines ``onchain.NAME`` of a node's event feed, as its database has them."""
    with sqlite3.connect(f"file:{node.directory / 'salama.sqlite3'}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT fields FROM events WHERE name = ? ORDER BY id", (f"onchain.{name}",))
        found = [json.loads(fields) for (fields,) in rows]
    database.close()
    return found


def confirmed(node: LocalNode) -> int:
    return int(node.call("balance")["onchain_confirmed_msat"]) // 1000


def stands_at(node: LocalNode, height: int) -> bool:
    return int(node.call("getinfo")["block_height"]) >= height


def mine(network: LocalNetwork, blocks: int, *nodes: LocalNode) -> None:
    """One block at a time, each seen by ``nodes`` before the next; others may be deaf."""
    for _ in range(blocks):
        network.chain("generatetodescriptor", 1, f"raw({network.miner})")
        height = network.height()
        for node in nodes:
            until(f"{node.name} is at {height}", partial(stands_at, node, height))


def test_an_htlc_in_flight_when_the_channel_goes_to_the_chain(network: LocalNetwork) -> None:
    alice, bob, carol = (network.start(name) for name in ("alice", "bob", "carol"))
    network.fund(alice)
    network.fund(bob)
    network.open(alice, bob, "1000000sat")
    network.open(bob, carol, "1000000sat")
    network.known(2)
    request = carol.invoice("50000sat")
    results: list[Any] = []

    def pay() -> None:
        try:
            results.append(alice.call("pay", request=request))
        except Exception as refused:
            results.append(refused)

    # Carol says nothing more; Bob has signed the HTLC into her next commitment.
    os.kill(carol.child.pid, signal.SIGSTOP)
    try:
        payer = threading.Thread(target=pay)
        payer.start()
        until("bob has offered the HTLC", lambda: bob.channel(carol)["htlcs_outgoing"] == 1)
        mine(network, 40, alice, bob)
        until("bob has closed on the chain", lambda: bob.channel(carol)["state"] == "on_chain")
        mine(network, 12, alice, bob)
        until("the HTLC came back to alice", lambda: alice.channel(bob)["htlcs_outgoing"] == 0)
    finally:
        os.kill(carol.child.pid, signal.SIGCONT)
    payer.join(30)
    assert len(results) == 1
    assert alice.channel(bob)["state"] == "normal", "the upstream channel is alive"
    closed = account(bob, "closed")
    assert closed[0]["what"] == "our commitment" and "expiry" in closed[0]["reason"]


def test_a_cheat_loses_everything(network: LocalNetwork) -> None:
    alice, bob = network.start("alice"), network.start("bob")
    network.fund(alice)
    network.fund(bob)
    network.open(alice, bob, "1000000sat")
    assert alice.pays(bob, "400000sat")["status"] == "succeeded"
    network.stop(bob)
    old = network.directory / "old"
    shutil.copytree(bob.directory, old)
    bob = network.start("bob")
    until("the channel is back", lambda: bob.is_usable_with(alice))
    assert bob.pays(alice, "300000sat")["status"] == "succeeded"
    before = confirmed(alice)
    channel_id = bob.channel(alice)["channel_id"]
    network.stop(bob)
    network.stop(alice)
    shutil.rmtree(bob.directory)
    shutil.copytree(old, bob.directory)
    bob = network.start("bob")
    bob.call("close", channel=channel_id, force=True)
    until("the old commitment is offered", lambda: len(network.mempool()) >= 1)
    mine(network, 2, bob)
    alice = network.start("alice")
    until("alice has seen it", lambda: account(alice, "closed"))
    assert account(alice, "closed")[0]["what"] == "a revoked commitment of theirs"
    until("alice claims", lambda: account(alice, "claim"))
    until("the penalty is offered", lambda: len(network.mempool()) >= 1)
    mine(network, 3, alice)
    until("the penalty is alice's", lambda: confirmed(alice) > before + 980_000)
    assert {one["by_us"] for one in account(alice, "output_spent")} == {True}, account(alice, "output_spent")
    told = [line["text"] for line in alice.call("why", channel=channel_id)["lines"]]
    assert told[0].startswith("The channel was opened with")
    assert any(text.startswith("ATTENTION") and "revoked" in text for text in told)
    assert any("a penalty" in text and "fee" in text for text in told)
