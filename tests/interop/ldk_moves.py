"""What our node and LDK do with each other, move by move; each waits until both sides have done it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from interop_bench import Ldk, SalamaNode, World, txid_of, until

from salama.bitcoin.tx import Tx

CAPACITY = 1_000_000


def we_open(world: World, amount: str = "1000000sat", **more: Any) -> str:
    """A channel opened by our node; its id. Usable by both when this returns."""
    opened = world["salama"].call("open", peer=world.ldk.node_id, amount=amount, **more)
    world.settled(opened["funding_txid"], 6)
    world.ready(opened["channel_id"], world["salama"])
    return str(opened["channel_id"])


def ldk_opens(
    world: World,
    push_msat: int = 0,
    amount: int = CAPACITY,
    to: SalamaNode | None = None,
    before_blocks: Callable[[], object] = lambda: None,
    **more: Any,
) -> str:
    """A channel opened by LDK; its id. Usable by both when this returns."""
    ldk, node = world.ldk, to or world["salama"]
    if node.node_id not in ldk.call("connected"):
        ldk.call("connect", node_id=node.node_id, host="127.0.0.1", port=node.port)
        until("LDK is connected", lambda: node.node_id in ldk.call("connected"))
    temporary = ldk.call("open", node_id=node.node_id, amount=amount, push=push_msat, **more)
    wanted = ldk.event("FundingGenerationReady", temporary_channel_id=temporary)
    funding = world.chain.pay([(wanted["channel_value_satoshis"], bytes.fromhex(wanted["output_script"]))])
    ldk.call("fund", temporary_channel_id=temporary, node_id=node.node_id, tx=funding.encode().hex())
    channel_id = str(ldk.event("ChannelPending", former_temporary_channel_id=temporary)["channel_id"])
    before_blocks()
    world.settled(str(funding.txid), 6)
    world.ready(channel_id, node)
    return channel_id


def open_msat(world: World) -> tuple[int, int]:
    """Ours and theirs in the only channel, on which both agree."""
    ours, theirs = world["salama"].channel(), world.ldk.channel()
    assert theirs["outbound_msat"] == max(0, ours["theirs_msat"] - 1000 * theirs["reserve"])
    return ours["ours_msat"], ours["theirs_msat"]


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
