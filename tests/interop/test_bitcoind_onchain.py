"""Closes by one side alone on a real bitcoind: every transaction that our nodes send is put to its mempool.

Each way in which an output is claimed, with Bitcoin Core's policy (B3.05 to B3.09, B5.04 to B5.11). Nodes are held with
SIGSTOP where a test needs an HTLC at one point of its life.
"""

from __future__ import annotations

import itertools
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gate import Gate
from interop_bench import SalamaNode, World, until

from conftest import gated
from salama.onchain.claims import Way

pytestmark = pytest.mark.interop

SIZE = "1000000sat"
FIRST, STUCK = "300000sat", "150000sat"
ANCHOR = 330


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    with gated("0.00005", tmp_path, request) as world:
        yield world


def gate_of(world: World) -> Gate:
    assert isinstance(world.chain, Gate)
    return world.chain


def send(node: SalamaNode, number: int) -> None:
    node.process.send_signal(number)


def between(node: SalamaNode, peer: SalamaNode) -> dict[str, Any]:
    found = [c for c in node.call("channels", closed=True)["channels"] if c["peer"] == peer.node_id]
    assert len(found) == 1, found
    return dict(found[0])


def line_up(world: World, *names: str) -> list[str]:
    """A channel from each of these to the next, half paid over; their ids."""
    found = []
    for opener, peer in itertools.pairwise(names):
        said = world[opener].call("open", peer=world[peer].uri, amount=SIZE)
        world.settled(said["funding_txid"], 6)
        world.ready(said["channel_id"], world[opener], world[peer])
        found.append(str(said["channel_id"]))
    for name in names:
        node = world[name]
        until(
            f"{name} hears of {len(found)} channels",
            lambda node=node: node.call("getinfo")["graph_channels"] >= len(found),
        )
    paid = world[names[0]].call("pay", request=world[names[-1]].call("invoice", amount=FIRST)["invoice"])
    assert paid["status"] == "succeeded", paid
    for name in names:
        node = world[name]
        until(
            f"{name} is at rest",
            lambda node=node: (
                not any(c["htlcs_outgoing"] + c["htlcs_incoming"] for c in node.call("channels")["channels"])
            ),
        )
    return found


def has_sent(node: SalamaNode, peer: SalamaNode, message: str, since: int) -> Callable[[], bool]:
    """Whether the node's log, from ``since`` on, has the message going to the peer."""
    return lambda: f"{peer.node_id[:12]} > {message}" in node.log()[since:]


def mine(world: World, count: int, *deaf: str) -> None:
    """Blocks one at a time, each seen by everybody who hears."""
    tip = world.chain.height
    for height in range(tip + 1, tip + count + 1):
        world.chain.mine(1)
        for name, node in world.nodes.items():
            if name not in deaf:
                until(
                    f"{name} is at {height}",
                    lambda node=node, height=height: node.call("getinfo")["block_height"] >= height,
                )


def ways(node: SalamaNode) -> set[str]:
    """How the node claimed outputs, and bitcoind took it."""
    return {way.value for way in Way if f"published {way.value}" in node.log()}


def mine_until_claimed(world: World, name: str, *wanted: Way, most: int, deaf: tuple[str, ...] = ()) -> None:
    def claimed() -> bool:
        return {way.value for way in wanted} <= ways(world[name])

    for _ in range(most):
        if claimed():
            return
        mine(world, 1, *deaf)
    # Blocks may come faster here than a node signs.
    until(f"{name} claims {wanted}", claimed)


def test_a_close_whose_fee_must_be_raised(world: World) -> None:
    """Our commitment and the child that pays for it, its replacement, both balances."""
    alice, bob = world["alice"], world["bob"]
    (channel_id,) = line_up(world, "alice", "bob")
    bob.kill()
    gate_of(world).feerate = "0.0002"
    mine(world, 2, "bob")
    alice.call("close", channel=channel_id, force=True, wait=0)
    until("parent and child wait", lambda: len(world.chain.mempool()) == 2)
    first = set(world.chain.mempool())
    gate_of(world).feerate = "0.0005"
    # Blocks of others, who leave ours waiting.
    for _ in range(2):
        world.chain.call("generateblock", alice.address, [])
    until("a child takes the place of the first", lambda: set(world.chain.mempool()) not in (set(), first))
    assert len(set(world.chain.mempool()) & first) == 1
    mine(world, 1, "bob")
    bob.start()
    mine_until_claimed(world, "bob", Way.PAYMENT, most=5)
    delay = 255
    world.mine(delay)
    mine_until_claimed(world, "alice", Way.DELAYED, most=5)
    assert Way.ANCHOR.value in ways(alice)


def pay_while_deaf(payer: SalamaNode, payee: SalamaNode) -> None:
    """Ask for an invoice, stop the payee, begin to pay."""
    request = payee.call("invoice", amount=STUCK)["invoice"]
    send(payee, signal.SIGSTOP)

    def pay() -> None:
        try:
            payer.call("pay", request=request)
        except Exception as lost:
            print(f"the payment ended with {lost}")

    threading.Thread(target=pay, daemon=True).start()


def payment_that_carol_leaves(world: World) -> list[str]:
    """An HTLC of bob's to carol, in the commitments of both, and carol gone with the preimage; bob is stopped."""
    ids = line_up(world, "alice", "bob", "carol")
    bob, carol = world["bob"], world["carol"]
    at_bob, at_carol = len(bob.log()), len(carol.log())
    pay_while_deaf(world["alice"], carol)
    until("bob has signed", has_sent(bob, carol, "commitment_signed", at_bob))
    send(bob, signal.SIGSTOP)
    send(carol, signal.SIGCONT)
    until("carol has signed", has_sent(carol, bob, "commitment_signed", at_carol))
    carol.kill()
    return ids


def test_an_htlc_runs_out_in_our_commitment(world: World) -> None:
    """HTLC-timeout with a coin for its fee, then its second stage."""
    payment_that_carol_leaves(world)
    send(world["bob"], signal.SIGCONT)
    del world.nodes["carol"]
    bob = world["bob"]
    mine_until_claimed(world, "bob", Way.TIMEOUT_TX, most=60)
    mine(world, 8)
    until("alice has it back", lambda: between(world["alice"], bob)["htlcs_outgoing"] == 0)
    world.mine(255)
    mine_until_claimed(world, "bob", Way.DELAYED, most=5)


def test_an_htlc_runs_out_in_their_commitment(world: World) -> None:
    """Carol closes; bob claims the expired HTLC and his balance directly."""
    _, channel_id = payment_that_carol_leaves(world)
    bob, carol = world["bob"], world["carol"]
    carol.start()
    carol.call("close", channel=channel_id, force=True, wait=0)
    until("carol's commitment waits", lambda: world.chain.mempool())
    mine(world, 1, "bob")
    carol.kill()
    del world.nodes["carol"]
    send(bob, signal.SIGCONT)
    world.follow()
    mine_until_claimed(world, "bob", Way.PAYMENT, Way.EXPIRED, most=60)
    mine(world, 8)
    until("alice has it back", lambda: between(world["alice"], bob)["htlcs_outgoing"] == 0)


def preimage_that_alice_does_not_hear_of(world: World) -> list[str]:
    """Bob has paid carol and learned the preimage; alice, who owes him, was stopped before."""
    ids = line_up(world, "alice", "bob", "carol")
    alice, bob, carol = (world[name] for name in ("alice", "bob", "carol"))
    at_bob = len(bob.log())
    pay_while_deaf(alice, carol)
    until("bob has signed", has_sent(bob, carol, "commitment_signed", at_bob))
    send(alice, signal.SIGSTOP)
    send(carol, signal.SIGCONT)
    until("bob has the preimage", has_sent(bob, alice, "update_fulfill_htlc", at_bob))
    until("carol is paid", lambda: between(carol, bob)["htlcs_incoming"] == 0)
    return ids


def test_a_paid_htlc_in_our_commitment(world: World) -> None:
    """HTLC-success: before the HTLC runs out bob goes to the chain with the preimage."""
    preimage_that_alice_does_not_hear_of(world)
    world["alice"].kill()
    del world.nodes["alice"]
    mine_until_claimed(world, "bob", Way.SUCCESS_TX, most=110)
    world.mine(256)
    mine_until_claimed(world, "bob", Way.DELAYED, most=5)


def test_a_paid_htlc_in_their_commitment(world: World) -> None:
    """Alice closes; bob claims with the preimage."""
    channel_id, _ = preimage_that_alice_does_not_hear_of(world)
    alice, bob = world["alice"], world["bob"]
    alice.kill()
    send(bob, signal.SIGSTOP)
    alice.start()
    alice.call("close", channel=channel_id, force=True, wait=0)
    until("alice's commitment waits", lambda: world.chain.mempool())
    mine(world, 1, "bob")
    send(bob, signal.SIGCONT)
    world.follow()
    mine_until_claimed(world, "bob", Way.PREIMAGE, Way.PAYMENT, most=5)
    mine(world, 1)
    until("alice learned the preimage", lambda: alice.call("payments")["payments"][0]["status"] == "succeeded")


@pytest.mark.parametrize("with_htlc", [False, True])
def test_a_revoked_commitment(world: World, with_htlc: bool) -> None:
    """The penalty takes the cheater's balance, and an HTLC of the old state."""
    alice, bob, carol = (world[name] for name in ("alice", "bob", "carol"))
    channel_id, _ = line_up(world, "alice", "bob", "carol")
    if with_htlc:
        at_bob = len(bob.log())
        pay_while_deaf(alice, carol)
        until("bob has signed", has_sent(bob, carol, "commitment_signed", at_bob))
    bob.stop()
    old = bob.directory.with_name("old")
    shutil.copytree(bob.directory, old)
    bob.start()
    if with_htlc:
        send(carol, signal.SIGCONT)
    until("both channels are back", lambda: all(c["connected"] for c in bob.call("channels")["channels"]))
    until("alice hears nothing more", lambda: between(alice, bob)["htlcs_outgoing"] == 0)
    paid = alice.call("pay", request=bob.call("invoice", amount="10000sat")["invoice"])
    assert paid["status"] == "succeeded", paid
    until("all is quiet", lambda: between(alice, bob)["htlcs_outgoing"] == 0)
    for node in (alice, bob, carol):
        node.stop()
    del world.nodes["carol"]
    shutil.rmtree(bob.directory)
    shutil.copytree(old, bob.directory)
    bob.start()
    bob.call("close", channel=channel_id, force=True, wait=0)
    txid = until("the old commitment waits", lambda: next(iter(world.chain.mempool()), None))
    old_outputs = gate_of(world).taken[txid].outputs
    mine(world, 1, "alice")
    bob.kill()
    del world.nodes["bob"]
    alice.start()
    mine_until_claimed(world, "alice", Way.PENALTY, Way.PAYMENT, most=3)
    mine(world, 1)
    spent = {i.outpoint.vout for tx in gate_of(world).taken.values() for i in tx.inputs if str(i.outpoint.txid) == txid}
    assert spent == {vout for vout, output in enumerate(old_outputs) if output.value != ANCHOR}, "all but the anchors"
    assert len(spent) == (3 if with_htlc else 2), "two balances, and the HTLC"
