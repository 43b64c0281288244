"""Payments between our node and LDK: amounts, failures, crossings, parts, feerates (B2.45 to B2.53, BOLT 4, 11)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from interop_bench import World, until
from ldk_moves import CAPACITY, ldk_opens, open_msat, pay_ldk, pay_us, quiet, we_open

pytestmark = pytest.mark.interop


def test_amounts_around_every_threshold(opened: World) -> None:
    """A millisatoshi, both sides of the dust limit, odd millisatoshis, and nearly all there is."""
    node, ldk = opened["salama"], opened.ldk
    for amount_msat in (1, 999, 1_000, 353_999, 354_000, 546_000, 1_000_001, 450_000_000):
        pay_ldk(node, ldk, amount_msat)
        quiet(opened)
        assert node.channel()["theirs_msat"] == 500_000_000 + amount_msat
        pay_us(node, ldk, amount_msat)
        quiet(opened)
        assert open_msat(opened) == (500_000_000, 500_000_000)
    assert ldk.complaints() == []


def test_the_payer_chooses_the_amount(opened: World) -> None:
    node, ldk = opened["salama"], opened.ldk
    paid = node.call("pay", request=ldk.call("invoice", amount_msat=None), amount="12345678msat")
    assert paid["status"] == "succeeded"
    assert ldk.event("PaymentClaimed")["amount_msat"] == 12_345_678

    invoice = node.call("invoice", amount="any")
    ldk.call("pay", invoice=invoice["invoice"], amount_msat=7_654_321)
    ldk.event("PaymentSent", payment_hash=invoice["payment_hash"])
    ours = next(i for i in node.call("invoices")["invoices"] if i["payment_hash"] == invoice["payment_hash"])
    assert (ours["status"], ours["received_msat"]) == ("paid", 7_654_321)


def test_ldk_refuses_and_we_know_who_did(opened: World) -> None:
    """LDK fails what it holds: its error reaches us through our own onion."""
    node, ldk = opened["salama"], opened.ldk
    ldk.call("hold", on=True)
    invoice = ldk.call("invoice", amount_msat=1_000_000)
    with ThreadPoolExecutor(1) as pool:
        paying = pool.submit(node.call, "pay", request=invoice, timeout=20)
        claimable = ldk.event("PaymentClaimable")
        assert node.channel()["htlcs_outgoing"] == 1
        ldk.call("fail", payment_hash=claimable["payment_hash"])
        paid = paying.result()
    assert paid["status"] == "failed"
    assert paid["failure_code"], paid
    assert "incorrect_or_unknown_payment_details" in str(paid["parts"]), paid
    quiet(opened)
    assert open_msat(opened) == (500_000_000, 500_000_000)


def test_we_refuse_and_ldk_knows_who_did(opened: World) -> None:
    """An invoice that is paid already: LDK reads our error and does not try again."""
    node, ldk = opened["salama"], opened.ldk
    invoice = node.call("invoice", amount="1000sat")
    paid = ldk.call("pay", invoice=invoice["invoice"])
    ldk.event("PaymentSent", payment_hash=paid)
    until("LDK forgets the payment", lambda: not ldk.channel()["outbound_htlcs"])
    again = pay_twice(opened, invoice["invoice"])
    assert again["reason"] == "RecipientRejected", again
    quiet(opened)
    assert node.channel()["ours_msat"] == 501_000_000


def pay_twice(world: World, invoice: str) -> dict[str, object]:
    """LDK pays an invoice under another payment id; how that failed."""
    payment_id = "77" * 32
    world.ldk.call("pay", invoice=invoice, payment_id=payment_id)
    failed = world.ldk.event("PaymentFailed", payment_id=payment_id)
    path = world.ldk.seen("PaymentPathFailed", payment_id=payment_id)
    assert len(path) == 1
    assert path[0]["payment_failed_permanently"]
    return failed


def test_payments_that_cross(opened: World) -> None:
    """Both sides send at the same time: commitments of both are in flight together."""
    node, ldk = opened["salama"], opened.ldk
    theirs = [ldk.call("invoice", amount_msat=1_000_000 + n) for n in range(20)]
    ours = [node.call("invoice", amount=f"{2_000_000 + n}msat") for n in range(20)]
    with ThreadPoolExecutor(20) as pool:
        paying = [pool.submit(node.call, "pay", request=invoice) for invoice in theirs]
        for invoice in ours:
            ldk.call("pay", invoice=invoice["invoice"])
        assert [p.result()["status"] for p in paying] == ["succeeded"] * 20
    until("all of LDK's arrived", lambda: len(ldk.seen("PaymentSent")) == 20)
    assert ldk.seen("PaymentFailed") == []
    quiet(opened)
    gained = sum(2_000_000 + n for n in range(20)) - sum(1_000_000 + n for n in range(20))
    assert open_msat(opened) == (500_000_000 + gained, 500_000_000 - gained)
    assert ldk.complaints() == []


def test_parts_over_two_channels(pair: World) -> None:
    """More than one channel holds: several parts, claimed only together, in either direction."""
    node, ldk = pair["salama"], pair.ldk
    we_open(pair, push="500000sat", private=True)
    ldk_opens(pair, push_msat=CAPACITY * 500)
    paid = pay_ldk(node, ldk, 800_000_000)
    assert len(paid["parts"]) > 1
    quiet(pair)
    pay_us(node, ldk, 1_200_000_000)
    quiet(pair)
    assert len(ldk.seen("PaymentPathSuccessful")) > 1
    assert sum(c["ours_msat"] for c in node.call("channels")["channels"]) == CAPACITY * 1000 + 400_000_000


def test_feerates_move(pair: World) -> None:
    """update_fee by the opener, LDK and us in turn; payments go on at the new feerate."""
    node, ldk = pair["salama"], pair.ldk
    by_ldk = ldk_opens(pair, push_msat=CAPACITY * 500)
    ldk.call("feerate", sat_per_kw=1_000)
    ldk.call("tick")
    until("LDK's feerate is ours", lambda: node.channel(by_ldk)["feerate_per_kw"] == 1_000)
    pay_ldk(node, ldk, 10_000_000)
    pay_us(node, ldk, 20_000_000)
    quiet(pair)
    assert ldk.channel(by_ldk)["feerate"] == 1_000
    by_us = we_open(pair, push="500000sat", private=True)
    first = node.channel(by_us)["feerate_per_kw"]
    pair.chain.call("setfeeestimate", "0.00010")
    pair.mine(2)
    until("our new feerate is LDK's", lambda: ldk.channel(by_us)["feerate"] == 2_500)
    until("it is in our commitment too", lambda: node.channel(by_us)["feerate_per_kw"] == 2_500)
    assert first != 2_500
    pay_ldk(node, ldk, 600_000_000)
    pay_us(node, ldk, 700_000_000)
    quiet(pair)
    assert ldk.complaints() == []
