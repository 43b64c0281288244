"""Connections and processes that end at bad moments, and channels that go on (B2.60 to B2.66)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from interop_bench import World, until
from ldk_moves import ldk_opens, open_msat, pay_ldk, pay_us, quiet, we_open

from salama.base.machine import CommandRefused

pytestmark = pytest.mark.interop


def test_a_lost_connection(opened: World) -> None:
    node, ldk = opened["salama"], opened.ldk
    channel_id = node.channel()["channel_id"]
    for _ in range(3):
        pay_ldk(node, ldk, 5_000_000)
        ldk.call("disconnect", node_id=node.node_id)
        opened.ready(channel_id, node)
        pay_us(node, ldk, 3_000_000)
    quiet(opened)
    assert open_msat(opened) == (494_000_000, 506_000_000)
    assert ldk.complaints() == []


def test_a_connection_lost_with_payments_on_it(opened: World) -> None:
    """The connection is cut again and again while both sides send; nothing is lost or done twice."""
    node, ldk = opened["salama"], opened.ldk
    theirs = [ldk.call("invoice", amount_msat=1_000_000 + n) for n in range(15)]
    ours = [node.call("invoice", amount=f"{2_000_000 + n}msat") for n in range(15)]
    with ThreadPoolExecutor(15) as pool:
        paying = [pool.submit(_pay_somehow, opened, invoice) for invoice in theirs]
        for n, invoice in enumerate(ours):
            if n % 4 == 3:
                ldk.call("disconnect", node_id=node.node_id)
                until("they meet again", lambda: ldk.call("connected"))
            until("the channel is back", lambda: ldk.channel()["usable"])
            ldk.call("pay", invoice=invoice["invoice"])
        statuses = [p.result() for p in paying]
    quiet(opened)
    sent = sum(1_000_000 + n for n, status in enumerate(statuses) if status == "succeeded")
    claimed = {e["payment_hash"]: e["amount_msat"] for e in ldk.seen("PaymentClaimed")}
    assert sum(claimed.values()) == sent
    arrived = {e["payment_hash"] for e in ldk.seen("PaymentSent")}
    got = sum(2_000_000 + n for n, invoice in enumerate(ours) if invoice["payment_hash"] in arrived)
    until("LDK has an end for each", lambda: len(ldk.seen("PaymentSent")) + len(ldk.seen("PaymentFailed")) >= 15)
    assert open_msat(opened) == (500_000_000 + got - sent, 500_000_000 - got + sent)
    assert len(arrived) >= 10
    assert ldk.complaints() == []


def _pay_somehow(world: World, invoice: str) -> str:
    return str(world["salama"].call("pay", request=invoice, timeout=30)["status"])


def test_we_are_killed_while_ldk_holds_our_payment(opened: World) -> None:
    """SIGKILL with an HTLC on its way: after the restart LDK claims, and we know that we paid."""
    node, ldk = opened["salama"], opened.ldk
    ldk.call("hold", on=True)
    invoice = ldk.call("invoice", amount_msat=40_000_000)
    with ThreadPoolExecutor(1) as pool:
        paying = pool.submit(_pay_or_lose_the_node, opened, invoice)
        held = ldk.event("PaymentClaimable")["payment_hash"]
        node.kill()
        paying.result()
    node.start()
    opened.ready(node.channel()["channel_id"], node)
    assert node.channel()["htlcs_outgoing"] == 1
    ldk.call("claim", payment_hash=held)
    ldk.event("PaymentClaimed", payment_hash=held)
    quiet(opened)
    until("the payment is done", lambda: node.call("payments")["payments"][0]["status"] == "succeeded")
    assert open_msat(opened) == (460_000_000, 540_000_000)
    pay_us(node, ldk, 10_000_000)
    assert ldk.complaints() == []


def _pay_or_lose_the_node(world: World, invoice: str) -> None:
    with pytest.raises(CommandRefused):
        world["salama"].call("pay", request=invoice)


def test_killed_in_the_middle_of_everything(opened: World) -> None:
    """SIGKILL at odd moments of a stream of payments from LDK: every one ends, and both agree about the money."""
    node, ldk = opened["salama"], opened.ldk
    invoices = [node.call("invoice", amount=f"{1_000_000 + n}msat") for n in range(24)]
    for n, invoice in enumerate(invoices):
        ldk.call("pay", invoice=invoice["invoice"])
        if n % 6 == 5:
            until("LDK sees one end", lambda n=n: len(ldk.seen("PaymentSent")) > n // 2)
            node.kill()
            node.start()
            opened.ready(node.channel()["channel_id"], node)
    until("each has its end", lambda: len(ldk.seen("PaymentSent")) + len(ldk.seen("PaymentFailed")) >= 24)
    quiet(opened)
    arrived = {e["payment_hash"] for e in ldk.seen("PaymentSent")}
    got = sum(1_000_000 + n for n, invoice in enumerate(invoices) if invoice["payment_hash"] in arrived)
    assert open_msat(opened) == (500_000_000 + got, 500_000_000 - got)
    paid = {i["payment_hash"] for i in node.call("invoices")["invoices"] if i["status"] == "paid"}
    assert paid == arrived
    assert ldk.complaints() == []


def test_killed_before_the_funding_confirms(pair: World) -> None:
    """Both openings survive a SIGKILL between funding_signed and channel_ready."""
    node, ldk = pair["salama"], pair.ldk
    opened = node.call("open", peer=ldk.node_id, amount="1000000sat", push="1000sat")
    node.kill()
    node.start()
    pair.settled(opened["funding_txid"], 6)
    pair.ready(opened["channel_id"], node)
    pay_ldk(node, ldk, 1_000_000)
    by_ldk = ldk_opens(pair, push_msat=1_000_000, before_blocks=lambda: (node.kill(), node.start()))
    pair.ready(by_ldk, node)
    pay_us(node, ldk, 1_000_000)
    assert ldk.complaints() == []


def test_a_second_channel_after_a_close(opened: World) -> None:
    node, ldk = opened["salama"], opened.ldk
    closed = node.call("close", channel=node.channel()["channel_id"])
    opened.settled(closed["closing_txid"], 6)
    again = we_open(opened, private=True)
    pay_ldk(node, ldk, 5_000_000)
    assert ldk.channel()["channel_id"] == again
