"""One channel with LDK: opened by either side, used in both directions, lost and found again, closed by either side.

B1.01 (init), B2.03 (establishment), B2.30 (normal operation), B2.70 (reestablish), B2.20 (closing) against the BOLTs as
LDK reads them.
"""

from __future__ import annotations

from typing import Any

import pytest
from interop_bench import Ldk, SalamaNode, World, missing_ldk, need, txid_of, until

from salama.bitcoin.tx import Tx

pytestmark = pytest.mark.interop

CAPACITY = 1_000_000


def we_open(world: World, amount: str = "1000000sat", **more: Any) -> str:
    """A channel opened by our node; its id. Usable by both when this returns."""
    opened = world["salama"].call("open", peer=world.ldk.node_id, amount=amount, **more)
    world.settled(opened["funding_txid"], 6)
    world.ready(opened["channel_id"], world["salama"])
    return str(opened["channel_id"])


def ldk_opens(world: World, push_msat: int = 0, **more: Any) -> str:
    """A channel opened by LDK; its id. Usable by both when this returns."""
    ldk, node = world.ldk, world["salama"]
    temporary = ldk.call("open", node_id=node.node_id, amount=CAPACITY, push=push_msat, **more)
    wanted = ldk.event("FundingGenerationReady", temporary_channel_id=temporary)
    funding = world.chain.pay([(wanted["channel_value_satoshis"], bytes.fromhex(wanted["output_script"]))])
    ldk.call("fund", temporary_channel_id=temporary, node_id=node.node_id, tx=funding.encode().hex())
    channel_id = str(ldk.event("ChannelPending", former_temporary_channel_id=temporary)["channel_id"])
    world.settled(str(funding.txid), 6)
    world.ready(channel_id, node)
    return channel_id


def pay_ldk(node: SalamaNode, ldk: Ldk, amount_msat: int) -> dict[str, Any]:
    """Our node pays LDK; what it said. LDK has claimed when this returns."""
    paid = node.call("pay", request=ldk.call("invoice", amount_msat=amount_msat))
    assert paid["status"] == "succeeded", paid
    ldk.event("PaymentClaimed", payment_hash=paid["payment_hash"], amount_msat=amount_msat)
    return dict(paid)


def pay_us(node: SalamaNode, ldk: Ldk, amount_msat: int) -> dict[str, Any]:
    """LDK pays our node; the event that told LDK of success."""
    invoice = node.call("invoice", amount=f"{amount_msat}msat", description="from LDK")
    payment_hash = ldk.call("pay", invoice=invoice["invoice"])
    sent = ldk.event("PaymentSent", payment_hash=payment_hash)
    assert payment_hash == invoice["payment_hash"]
    return sent


def quiet(world: World) -> None:
    """Wait until no HTLC is left on either side."""
    node, ldk = world["salama"], world.ldk
    until(
        "our node has no HTLC left",
        lambda: all(c["htlcs_incoming"] + c["htlcs_outgoing"] == 0 for c in node.call("channels")["channels"]),
    )
    until(
        "LDK has no HTLC left",
        lambda: all(c["inbound_htlcs"] + c["outbound_htlcs"] == 0 for c in ldk.call("channels")),
    )


def closed_together(world: World, channel_id: str) -> Tx:
    """Wait for the mutual close of both sides and its burial; the closing transaction."""
    node, ldk = world["salama"], world.ldk
    reason = ldk.event("ChannelClosed", channel_id=channel_id)["reason"]
    assert "Cooperative" in str(reason), reason
    txid = until("we know the closing transaction", lambda: node.channel(channel_id)["closing_txid"])
    world.settled(txid, 1)
    assert [c for _, c in ldk.published if c] == []
    # Both published the same transaction: LDK's is on the chain under the id that we name.
    assert txid in [txid_of(raw) for raw, _ in ldk.published]
    world.mine(6)
    assert ldk.call("channels") == []
    raw = next(raw for raw, _ in ldk.published if txid_of(raw) == txid)
    return Tx.decode(bytes.fromhex(raw))


def test_it_calls_us_and_we_call_it(pair: World) -> None:
    node, ldk = pair["salama"], pair.ldk
    until("LDK has us", lambda: ldk.call("connected") == [node.node_id])
    assert node.call("peers")["peers"][0]["inbound"] is False
    ldk.call("disconnect", node_id=node.node_id)
    until("we call again by ourselves", lambda: node.log().count(": connected to") == 2)
    until("LDK has us again", lambda: ldk.call("connected") == [node.node_id])
    assert ldk.complaints() == []


def test_ldk_calls_us(world: World) -> None:
    need("ldk", missing_ldk())
    node, ldk = world.add_node("salama"), world.add_ldk()
    ldk.call("connect", node_id=node.node_id, host="127.0.0.1", port=node.port)
    peer = until("it is there", lambda: node.call("peers")["peers"])[0]
    assert (peer["node_id"], peer["connected"], peer["inbound"]) == (ldk.node_id, True, True)
    assert ldk.complaints() == []


def test_a_channel_opened_by_us(pair: World) -> None:
    node, ldk = pair["salama"], pair.ldk
    channel_id = we_open(pair)
    theirs, ours = ldk.channel(), node.channel()
    assert theirs["channel_id"] == ours["channel_id"] == channel_id
    assert theirs["anchors"] is True
    assert (theirs["outbound"], ours["opener"]) == (False, True)
    assert theirs["funding"] == f"{ours['funding_txid']}:{ours['funding_vout']}"
    assert theirs["feerate"] == ours["feerate_per_kw"]

    pay_ldk(node, ldk, 100_000_000)
    pay_us(node, ldk, 30_000_000)
    quiet(pair)
    assert node.channel()["theirs_msat"] == 70_000_000
    assert ldk.channel()["outbound_msat"] == 70_000_000 - 1000 * ldk.channel()["reserve"]

    node.call("close", channel=channel_id)
    closing = closed_together(pair, channel_id)
    assert 70_000 in [int(o.value) for o in closing.outputs]


def test_a_channel_opened_by_ldk(pair: World) -> None:
    node, ldk = pair["salama"], pair.ldk
    channel_id = ldk_opens(pair, push_msat=200_000_000)
    assert node.channel()["ours_msat"] == 200_000_000
    assert node.channel()["opener"] is False
    assert ldk.channel()["anchors"] is True

    pay_us(node, ldk, 50_000_000)
    pay_ldk(node, ldk, 20_000_000)
    quiet(pair)
    assert node.channel()["ours_msat"] == 230_000_000

    ldk.call("close", channel_id=channel_id)
    closing = closed_together(pair, channel_id)
    assert 230_000 in [int(o.value) for o in closing.outputs]
