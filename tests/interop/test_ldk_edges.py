"""Where limits meet: the last satoshi, the last slot, dust, refusals, big channels (B2.04, B2.45, B2.50)."""

from __future__ import annotations

import signal
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from interop_bench import Ldk, LdkFailed, World, missing_ldk, need, until
from ldk_moves import CAPACITY, ldk_opens, pay_ldk, pay_us, quiet, we_open

from salama.base.machine import CommandRefused

pytestmark = pytest.mark.interop

SLOTS = 30
"""HTLCs that our node takes from its peer at a time."""


@pytest.mark.parametrize("opener", ["us", "LDK"])
def test_to_the_last_satoshi(pair: World, opener: str) -> None:
    """Each side sends exactly what it believes it can, and the other agrees; whoever pays the fees."""
    node, ldk = pair["salama"], pair.ldk
    if opener == "us":
        we_open(pair, private=True)
    else:
        ldk_opens(pair)
        pay_us(node, ldk, ldk.channel()["next_limit_msat"])
        quiet(pair)
    for _ in range(2):
        pay_ldk(node, ldk, node.channel()["can_send_msat"])
        quiet(pair)
        assert node.channel()["can_send_msat"] < 2_000_000
        pay_us(node, ldk, ldk.channel()["next_limit_msat"])
        quiet(pair)
        # What may remain: the reserve, and the opener's provision for fees.
        assert node.channel()["theirs_msat"] < 20_000_000
    assert ldk.complaints() == []


def test_as_many_payments_at_once_as_ldk_takes(opened: World) -> None:
    """Fifty HTLCs in one commitment, and more waiting; then LDK claims and fails them in turn."""
    node, ldk = opened["salama"], opened.ldk
    ldk.call("hold", on=True)
    invoices = [ldk.call("invoice", amount_msat=1_000_000 + n) for n in range(60)]
    with ThreadPoolExecutor(60) as pool:
        paying = [pool.submit(node.call, "pay", request=invoice, timeout=60) for invoice in invoices]
        until("its slots are full", lambda: ldk.channel()["inbound_htlcs"] == 50)
        until("LDK was told of each", lambda: len(ldk.seen("PaymentClaimable")) == 50)
        for n, claimable in enumerate(ldk.seen("PaymentClaimable")):
            ldk.call("claim" if n % 2 else "fail", payment_hash=claimable["payment_hash"])
        ldk.call("hold", on=False)
        statuses = [p.result()["status"] for p in paying]
    quiet(opened)
    claimed = ldk.seen("PaymentClaimed")
    assert statuses.count("succeeded") == len(claimed) >= 25
    assert node.channel()["theirs_msat"] == 500_000_000 + sum(e["amount_msat"] for e in claimed)
    assert ldk.complaints() == []


def test_as_many_payments_at_once_as_we_take(opened: World) -> None:
    """While we do not answer, LDK counts our thirty slots as we do: it gives up what they do not hold."""
    alice, ldk = opened["salama"], opened.ldk
    invoices = [alice.call("invoice", amount=f"{1_000_000 + n}msat") for n in range(40)]
    alice.process.send_signal(signal.SIGSTOP)
    try:
        for invoice in invoices[:SLOTS]:
            ldk.call("pay", invoice=invoice["invoice"])
        for invoice in invoices[SLOTS:]:
            with pytest.raises(LdkFailed):
                ldk.call("pay", invoice=invoice["invoice"])
    finally:
        alice.process.send_signal(signal.SIGCONT)
    until("each is paid", lambda: len(ldk.seen("PaymentSent")) == SLOTS)
    quiet(opened)
    paid = {i["payment_hash"] for i in alice.call("invoices")["invoices"] if i["status"] == "paid"}
    assert paid == {e["payment_hash"] for e in ldk.seen("PaymentSent")} == {i["payment_hash"] for i in invoices[:SLOTS]}
    pay_us(alice, ldk, 1_000_000)


def test_dust_has_its_bound_at_ldk(world: World) -> None:
    """More dust than LDK wants to see lost: it fails what is beyond, and both go on."""
    need("ldk", missing_ldk())
    node, ldk = world.add_node("salama"), world.add_ldk(max_dust_msat=2_500_000)
    world.fund()
    node.call("connect", peer=ldk.uri)
    we_open(world, push="500000sat", private=True)
    ldk.call("hold", on=True)
    invoices = [ldk.call("invoice", amount_msat=350_000) for _ in range(12)]
    with ThreadPoolExecutor(12) as pool:
        paying: list[Future[Any]] = [pool.submit(node.call, "pay", request=i, timeout=10) for i in invoices]
        until("LDK holds some and failed others", lambda: _held(ldk) == ldk.channel()["inbound_htlcs"] > 0)
        until("all came", lambda: node.log().count("> update_add_htlc") >= 12)
        until("it failed the rest", lambda: _held(ldk) == ldk.channel()["inbound_htlcs"] < 12)
        for claimable in ldk.seen("PaymentClaimable"):
            ldk.call("claim", payment_hash=claimable["payment_hash"])
        ldk.call("hold", on=False)
        paid = [p.result() for p in paying]
    quiet(world)
    claimed = ldk.seen("PaymentClaimed")
    assert 1 <= len(claimed) < 12
    assert [p["status"] for p in paid].count("succeeded") == len(claimed)
    assert "temporary_channel_failure" in str(next(p for p in paid if p["status"] == "failed"))
    assert node.channel()["theirs_msat"] == 500_000_000 + 350_000 * len(claimed)
    pay_ldk(node, ldk, 5_000_000)


def _held(ldk: Ldk) -> int:
    return len(ldk.seen("PaymentClaimable"))


def test_ldk_refuses_a_channel(pair: World) -> None:
    """Its error ends our opening with its words, and our coins are free again."""
    node, ldk = pair["salama"], pair.ldk
    ldk.call("accept", how="no")
    with pytest.raises(CommandRefused) as refused:
        node.call("open", peer=ldk.node_id, amount="1000000sat")
    assert "takes no channels" in str(refused.value), refused.value
    balance = node.call("balance")
    assert balance["onchain_reserved_msat"] == 0
    assert node.call("channels")["channels"] == []
    ldk.call("accept", how="yes")
    we_open(pair, private=True)
    pay_ldk(node, ldk, 1_000_000)


def test_we_refuse_a_channel(pair: World) -> None:
    """Too small for us. LDK tries once more with an older channel type, which we refuse too; then a bigger one."""
    node, ldk = pair["salama"], pair.ldk
    temporary = ldk.call("open", node_id=node.node_id, amount=15_000)
    closed = ldk.event("ChannelClosed", channel_id=temporary)
    assert closed["reason"]["kind"] == "CounterpartyForceClosed", closed
    assert "channel_type" in closed["reason"]["peer_msg"], closed
    assert node.log().count("< open_channel") == 2
    ldk_opens(pair, push_msat=1_000_000)
    assert ldk.call("connected") == [node.node_id]


@pytest.mark.parametrize("opener", ["us", "LDK"])
def test_a_channel_beyond_the_old_limit(pair: World, opener: str) -> None:
    """option_support_large_channel: more than 2^24 satoshis."""
    node, ldk = pair["salama"], pair.ldk
    if opener == "LDK":
        ldk_opens(pair, amount=1_000_000_000, push_msat=400_000_000_000)
    else:
        we_open(pair, amount="1000000000sat", push="400000000sat")
    pay_ldk(node, ldk, 300_000_000_000)
    pay_us(node, ldk, 200_000_000_000)
    quiet(pair)
    assert node.channel()["capacity_msat"] == 1_000 * CAPACITY * 1_000
