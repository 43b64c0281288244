"""What our nodes send while all goes well, put to a real bitcoind's policy first: openings, the wallet, agreed closes.

Closes by one side alone are in ``test_bitcoind_onchain``, the older way to close together in ``test_ldk_closing``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gate import Gate
from interop_bench import World, until

from conftest import gated
from salama.base.machine import CommandRefused
from salama.bitcoin import script
from salama.bitcoin.address import render
from salama.bitcoin.networks import NETWORKS

pytestmark = pytest.mark.interop

KEY = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
SCRIPTS = {
    "p2pkh": script.p2pkh(bytes(20)),
    "p2sh": b"\xa9\x14" + bytes(20) + b"\x87",
    "p2wpkh": script.p2wpkh(KEY),
    "p2wsh": script.p2wsh(b"\x51"),
    "p2tr": script.p2tr(KEY[1:]),
}


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    with gated("0.00002", tmp_path, request) as world:
        yield world


def taken(world: World, txid: str) -> bool:
    """Whether bitcoind took it from one of our nodes, or holds it by now."""
    assert isinstance(world.chain, Gate)
    return txid in world.chain.taken


def test_payments_on_the_chain_and_their_fees(world: World) -> None:
    """To every kind of address; each replaced by a dearer one, then by a child that pays; then everything."""
    alice = world["alice"]
    for kind, to in SCRIPTS.items():
        address = str(render(to, NETWORKS["regtest"]))
        first = alice.call("withdraw", address=address, amount="250000sat", feerate=500)["txid"]
        second = alice.call("bumpfee", txid=first, feerate=900, how="rbf")["txid"]
        until(f"{kind}: the second takes the place of the first", lambda txid=second: txid in world.chain.mempool())
        assert first not in world.chain.mempool()
        child = alice.call("bumpfee", txid=second, feerate=2500, how="cpfp")["txid"]
        until(f"{kind}: the child is there", lambda txid=child: txid in world.chain.mempool())
        assert all(taken(world, txid) for txid in (first, second, child))
        world.mine(1)
    everything = alice.call("withdraw", address=world["carol"].call("newaddr", kind="p2tr")["address"], amount="all")[
        "txid"
    ]
    until("it is there", lambda: everything in world.chain.mempool())
    world.mine(1)
    assert world.chain.mempool() == []
    until("nothing is left", lambda: alice.call("balance")["onchain_confirmed_msat"] == 0)


def test_openings_and_their_fees(world: World) -> None:
    """One channel, and three by one transaction, which a child then makes dearer."""
    alice, bob, carol = (world[name] for name in ("alice", "bob", "carol"))
    one = alice.call("open", peer=bob.uri, amount="1000000sat", push="100000sat")["funding_txid"]
    wanted = f"{bob.uri}=300000sat,{carol.uri}=400000sat,{carol.uri}=16000000sat"
    batch = alice.call("openbatch", channels=wanted, feerate=253)
    several = batch["funding_txid"]
    assert len(batch["channels"]) == 3
    until("both are there", lambda: {one, several} <= set(world.chain.mempool()))
    with pytest.raises(CommandRefused):
        alice.call("bumpfee", txid=several, feerate=3000, how="rbf")  # that would be other channels
    child = alice.call("bumpfee", txid=several, feerate=3000, how="cpfp")["txid"]
    until("the child is there", lambda: child in world.chain.mempool())
    assert all(taken(world, txid) for txid in (one, several, child))
    world.mine(6)
    for channel in batch["channels"]:
        world.ready(channel["channel_id"], alice)


@pytest.mark.parametrize("again", ["alice", "bob"])
def test_a_close_together_and_a_dearer_one(world: World, again: str) -> None:
    """Either side may offer a closing transaction that it pays for, and replace it (option_simple_close)."""
    alice, bob = world["alice"], world["bob"]
    opened = alice.call("open", peer=bob.uri, amount="1000000sat", push="400000sat")
    world.settled(opened["funding_txid"], 6)
    channel_id = opened["channel_id"]
    world.ready(channel_id, alice, bob)
    first = alice.call("close", channel=channel_id)["closing_txid"]
    until("a close is there", lambda: world.chain.mempool())
    assert taken(world, first)
    (before,) = world.chain.mempool()
    world[again].call("close", channel=channel_id, feerate=4000)
    until("a dearer one takes its place", lambda: set(world.chain.mempool()) not in (set(), {before}))
    (after,) = world.chain.mempool()
    assert taken(world, after)
    world.mine(6)
    for node in (alice, bob):
        until(f"{node.name} knows", lambda node=node: node.channel(channel_id)["closing_txid"] == after)
