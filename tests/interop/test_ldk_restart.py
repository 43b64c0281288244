"""LDK ends and starts again, with all that it knew (B2.60 to B2.66)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from interop_bench import World, until
from ldk_moves import open_msat, pay_ldk, pay_us, quiet

pytestmark = pytest.mark.interop


def again(world: World, saved: dict[str, object]) -> None:
    """LDK in a new process, in the old one's place."""
    world.ldk.stop()
    world.add_ldk(**saved)
    world.follow()


def test_ldk_restarts(opened: World) -> None:
    node, ldk = opened["salama"], opened.ldk
    pay_ldk(node, ldk, 10_000_000)
    quiet(opened)
    again(opened, ldk.save())
    ldk = opened.ldk
    node.call("connect", peer=ldk.uri)
    opened.ready(node.channel()["channel_id"], node)
    pay_us(node, ldk, 4_000_000)
    pay_ldk(node, ldk, 2_000_000)
    quiet(opened)
    assert open_msat(opened) == (492_000_000, 508_000_000)


def test_ldk_restarts_with_a_payment_of_ours(opened: World) -> None:
    """It knows the HTLC only because it was saved, and claims after the restart."""
    node, ldk = opened["salama"], opened.ldk
    ldk.call("hold", on=True)
    invoice = ldk.call("invoice", amount_msat=30_000_000)
    with ThreadPoolExecutor(1) as pool:
        paying = pool.submit(node.call, "pay", request=invoice)
        held = ldk.event("PaymentClaimable")["payment_hash"]
        until("all is signed", lambda: ldk.channel()["inbound_htlcs"] == 1)
        again(opened, ldk.save())
        node.call("connect", peer=opened.ldk.uri)
        opened.ldk.call("claim", payment_hash=held)
        assert paying.result()["status"] == "succeeded"
    quiet(opened)
    assert open_msat(opened) == (470_000_000, 530_000_000)
