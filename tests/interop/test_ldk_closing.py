"""Closing together when it is not simple: payments pending, connections lost, fees far apart (B2.35, B2.36, B2.39)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from interop_bench import World, until
from ldk_moves import closed_together, ldk_opens, pay_us, quiet, we_open

pytestmark = pytest.mark.interop
ON_BITCOIND = True


@pytest.mark.parametrize("closer", ["us", "LDK"])
@pytest.mark.parametrize("end", ["claim", "fail"])
def test_a_close_waits_for_a_payment(opened: World, closer: str, end: str) -> None:
    """shutdown with an HTLC pending: no new ones, this one ends, then the fee is agreed."""
    node, ldk = opened["salama"], opened.ldk
    ldk.call("hold", on=True)
    channel_id = node.channel()["channel_id"]
    invoice = ldk.call("invoice", amount_msat=60_000_000)
    with ThreadPoolExecutor(1) as pool:
        paying = pool.submit(node.call, "pay", request=invoice, timeout=20)
        held = ldk.event("PaymentClaimable")["payment_hash"]
        if closer == "us":
            node.call("close", channel=channel_id, wait=0)
        else:
            ldk.call("close", channel_id=channel_id)
        until("we are closing", lambda: node.channel(channel_id)["state"] == "shutting_down")
        ldk.call(end, payment_hash=held)
        assert paying.result()["status"] == ("succeeded" if end == "claim" else "failed")
    closing = closed_together(opened, channel_id)
    theirs = 560_000 if end == "claim" else 500_000
    assert theirs in [int(o.value) for o in closing.outputs]


@pytest.mark.parametrize("closer", ["us", "LDK"])
def test_a_close_survives_a_lost_connection(opened: World, closer: str) -> None:
    """The connection goes right after shutdown: both say it again and come to the end."""
    node, ldk = opened["salama"], opened.ldk
    channel_id = node.channel()["channel_id"]
    if closer == "us":
        node.call("close", channel=channel_id, wait=0)
    else:
        ldk.call("close", channel_id=channel_id)
    ldk.call("disconnect", node_id=node.node_id)
    closed_together(opened, channel_id)


def test_a_close_survives_our_end(opened: World) -> None:
    """SIGKILL after shutdown with a payment pending; the close goes on after the restart."""
    node, ldk = opened["salama"], opened.ldk
    channel_id = node.channel()["channel_id"]
    ldk.call("close", channel_id=channel_id)
    node.kill()
    node.start()
    closed_together(opened, channel_id)


@pytest.mark.parametrize("opener", ["us", "LDK"])
@pytest.mark.parametrize("closer", ["us", "LDK"])
@pytest.mark.parametrize("ours_is_higher", [True, False])
def test_ideas_of_the_fee_far_apart(pair: World, opener: str, closer: str, ours_is_higher: bool) -> None:
    """One side thinks of 253 sat/kw, the other of 20 times that."""
    node, ldk = pair["salama"], pair.ldk
    if opener == "us":
        channel_id = we_open(pair, push="500000sat", private=True)
    else:
        channel_id = ldk_opens(pair, push_msat=500_000_000)
    pay_us(node, ldk, 1_234_567)
    quiet(pair)
    if ours_is_higher:
        pair.chain.call("setfeeestimate", "0.0002")
    else:
        ldk.call("feerate", sat_per_kw=5_000)
    pair.mine(2)
    quiet(pair)
    if closer == "us":
        node.call("close", channel=channel_id, wait=0)
    else:
        ldk.call("close", channel_id=channel_id)
    closed_together(pair, channel_id)


@pytest.mark.parametrize("opener", ["us", "LDK"])
def test_a_side_with_nothing_to_take(pair: World, opener: str) -> None:
    """The other's balance is dust or nothing: one output is enough."""
    node = pair["salama"]
    channel_id = we_open(pair, push="300sat", private=True) if opener == "us" else ldk_opens(pair, push_msat=300_000)
    node.call("close", channel=channel_id, wait=0)
    closing = closed_together(pair, channel_id)
    assert len(closing.outputs) == 1
