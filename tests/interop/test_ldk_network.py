"""Gossip and routes with LDK: each learns the other's channels, each relays for the other (B4.50, B7)."""

from __future__ import annotations

import pytest
from interop_bench import SalamaNode, World, until
from ldk_moves import ldk_opens, pay_ldk, pay_us, quiet, we_open

pytestmark = pytest.mark.interop


def between_us(world: World, payer: SalamaNode, payee: SalamaNode) -> str:
    """An announced channel between two of our nodes."""
    opened = payer.call("open", peer=payee.uri, amount="1000000sat", push="400000sat")
    world.settled(opened["funding_txid"], 6)
    world.ready(opened["channel_id"], payer, payee)
    return str(opened["channel_id"])


def graph_is(world: World, nodes: int, channels: int) -> None:
    """Wait until everybody knows so many nodes and channels."""
    for node in world.nodes.values():
        until(
            f"{node.name} knows {channels} channels",
            lambda node=node: _ours(node.call("getinfo")) == (nodes, channels),
        )
    wanted = {"nodes": nodes, "channels": channels, "policies": 2 * channels}
    until(f"LDK knows {channels} channels", lambda: world.ldk.call("graph") == wanted)


def _ours(info: dict[str, int]) -> tuple[int, int]:
    return info["graph_nodes"], info["graph_channels"]


def test_an_announced_channel_is_known_to_both(pair: World) -> None:
    """announcement_signatures made by both, put together by both: the same announcement, valid to the other."""
    ldk = pair.ldk
    we_open(pair)
    graph_is(pair, 2, 1)
    assert ldk.channel()["announced"] is True
    ldk_opens(pair, announce=True)
    graph_is(pair, 2, 2)
    assert ldk.complaints() == []


def test_an_unannounced_channel_is_nobodys_business(pair: World) -> None:
    we_open(pair, private=True, push="500000sat")
    by_ldk = ldk_opens(pair, announce=False, push_msat=500_000_000)
    assert pair["salama"].channel(by_ldk)["private"] is True
    pay_ldk(pair["salama"], pair.ldk, 1_000_000)
    pay_us(pair["salama"], pair.ldk, 1_000_000)
    graph_is(pair, 0, 0)


def test_scid_privacy(pair: World) -> None:
    """A channel of the type with option_scid_alias: known by aliases alone, also in invoices."""
    node, ldk = pair["salama"], pair.ldk
    ldk_opens(pair, privacy=True, push_msat=500_000_000)
    pay_us(node, ldk, 1_000_000)
    pay_ldk(node, ldk, 1_000_000)
    quiet(pair)
    assert ldk.complaints() == []


def test_ldk_pays_through_us(pair: World) -> None:
    """LDK finds the way over our announcements and updates; we peel its onion and relay."""
    alice, bob, ldk = pair["salama"], pair.add_node("bob"), pair.ldk
    we_open(pair, push="500000sat")
    between_us(pair, alice, bob)
    graph_is(pair, 3, 2)
    invoice = bob.call("invoice", amount="30000sat")
    ldk.call("pay", invoice=invoice["invoice"])
    sent = ldk.event("PaymentSent", payment_hash=invoice["payment_hash"])
    # Our usual terms: 1 sat and 100 millionths.
    assert sent["fee_paid_msat"] == 1_000 + 3_000
    forwards = until("we count the fee", lambda: alice.call("forwards")["settled"])
    assert forwards == 1
    # And back, by our own search: LDK is the last hop.
    until("bob knows the terms of both channels", lambda: bob.log().count("< channel_update") >= 4)
    paid = bob.call("pay", request=ldk.call("invoice", amount_msat=5_000_000))
    assert paid["status"] == "succeeded", paid
    assert len(paid["parts"][0]["route"]) == 2
    quiet(pair)
    assert ldk.complaints() == []


def test_we_pay_through_ldk(pair: World) -> None:
    """Our onion is peeled and relayed by LDK; its errors come back through two layers."""
    alice, carol, ldk = pair["salama"], pair.add_node("carol"), pair.ldk
    we_open(pair, push="500000sat")
    to_carol = ldk_opens(pair, push_msat=400_000_000, announce=True, to=carol)
    graph_is(pair, 3, 2)
    invoice = carol.call("invoice", amount="20000sat")
    paid = alice.call("pay", request=invoice["invoice"])
    assert paid["status"] == "succeeded", paid
    assert paid["fee_msat"] > 0
    assert [hop.split(">")[1] for hop in paid["parts"][0]["route"]] == [ldk.node_id[:12], carol.node_id[:12]]
    forwarded = ldk.event("PaymentForwarded")
    assert forwarded["total_fee_earned_msat"] == paid["fee_msat"]
    # Back the other way.
    back = carol.call("pay", request=alice.call("invoice", amount="7000sat")["invoice"])
    assert back["status"] == "succeeded", back
    # Carol is gone: LDK says that the next peer is, and we read it.
    later = carol.call("invoice", amount="1000sat")["invoice"]
    carol.stop()
    until("LDK misses carol", lambda: not ldk.channel(to_carol)["usable"])
    lost = alice.call("pay", request=later, timeout=5)
    assert lost["status"] == "failed", lost
    assert "temporary_channel_failure" in str(lost["parts"]) or "unknown_next_peer" in str(lost["parts"]), lost
    assert ldk.complaints() == []


def test_addresses_of_every_kind(pair: World) -> None:
    """LDK's announcement with IPv4, IPv6, Tor and a host name reaches us whole."""
    node, ldk = pair["salama"], pair.ldk
    we_open(pair)
    graph_is(pair, 2, 1)
    ldk.call("announce", alias="a peer of ours")
    until("we know its name", lambda: node.call("peers")["peers"][0]["alias"] == "a peer of ours")
    assert ldk.complaints() == []


def test_newcomers_learn_what_was_before(pair: World) -> None:
    """A graph of two channels, passed on by us to LDK, and by LDK to a node of ours that knows nobody else."""
    alice, bob, ldk = pair["salama"], pair.add_node("bob"), pair.ldk
    between_us(pair, alice, bob)
    until("LDK heard it from us", lambda: ldk.call("graph") == {"nodes": 2, "channels": 1, "policies": 2})
    we_open(pair)
    graph_is(pair, 3, 2)
    carol = pair.add_node("carol")
    carol.call("connect", peer=ldk.uri)
    graph_is(pair, 3, 2)
    assert ldk.complaints() == []
