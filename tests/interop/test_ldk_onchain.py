"""Closes that are not agreed: our signatures in LDK's transactions and LDK's in ours, judged by the chain (B3, B5)."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from interop_bench import SalamaNode, World, txid_of, until
from ldk_moves import ldk_opens, pay_ldk, pay_us, quiet

from salama.base.machine import CommandRefused
from salama.bitcoin.tx import Tx

pytestmark = pytest.mark.interop
ON_BITCOIND = True


def give_ldk_coins(world: World, count: int = 5) -> None:
    """Coins out of which LDK pays the fees of what it publishes."""
    for _ in range(count):
        coin = world.chain.take_coin()
        txid, vout = str(coin.outpoint.txid), coin.outpoint.vout
        world.ldk.call("coin", txid=txid, vout=vout, amount=int(coin.amount))


def published_by_ldk(world: World) -> dict[str, Tx]:
    """What LDK sent and the chain took, by txid."""
    return {txid_of(raw): Tx.decode(bytes.fromhex(raw)) for raw, complaint in world.ldk.published if not complaint}


def is_spent(world: World, tx: Tx, vout: int) -> bool:
    return world.chain.call("gettxout", str(tx.txid), vout, True) is None


def commitment_of(world: World, channel_id: str) -> Tx:
    """The transaction that spends the funding output; it waits in the mempool."""
    channel = world["salama"].channel(channel_id)
    spent = (channel["funding_txid"], channel["funding_vout"])

    def find() -> Tx | None:
        for txid in world.chain.mempool():
            tx = Tx.decode(bytes.fromhex(world.chain.call("getrawtransaction", txid)))
            if any((str(i.outpoint.txid), i.outpoint.vout) == spent for i in tx.inputs):
                return tx
        return None

    return until("a commitment is published", find)


def test_we_close_alone(opened: World) -> None:
    """Our commitment carries LDK's signature to the chain, and LDK finds its money on it."""
    node, ldk = opened["salama"], opened.ldk
    pay_ldk(node, ldk, 123_456_789)
    quiet(opened)
    channel_id = node.channel()["channel_id"]
    # LDK must not hear of it before ours is mined: it would publish its own.
    os.kill(ldk.process.pid, signal.SIGSTOP)
    try:
        node.call("close", channel=channel_id, force=True, wait=0)
        commitment = commitment_of(opened, channel_id)
        opened.chain.mine(1)
    finally:
        os.kill(ldk.process.pid, signal.SIGCONT)
    opened.follow()
    closed = ldk.event("ChannelClosed", channel_id=channel_id)
    assert any(kind in str(closed["reason"]) for kind in ("CounterpartyForceClosed", "CommitmentTxConfirmed")), closed
    until("we name it", lambda: node.channel(channel_id)["closing_txid"] == str(commitment.txid))
    theirs = [int(o.value) for o in commitment.outputs].index(623_456)
    opened.mine(6)
    ldk.event("SpendableOutputs", channel_id=channel_id)
    until("LDK took its output", lambda: is_spent(opened, commitment, theirs))


def test_ldk_closes_alone(opened: World) -> None:
    """LDK's commitment carries our signature to the chain; we learn of it and name it."""
    node, ldk = opened["salama"], opened.ldk
    pay_us(node, ldk, 76_543_210)
    quiet(opened)
    channel_id = node.channel()["channel_id"]
    ldk.call("force_close", channel_id=channel_id)
    commitment = commitment_of(opened, channel_id)
    assert str(commitment.txid) in published_by_ldk(opened)
    opened.mine(1)
    until("we name it", lambda: node.channel(channel_id)["closing_txid"] == str(commitment.txid))
    assert node.channel(channel_id)["state"] == "on_chain"
    theirs = [int(o.value) for o in commitment.outputs].index(500_000 - 76_543 - 1)
    # The delay that we ask for grows with the capacity.
    opened.mine(300)
    ldk.event("SpendableOutputs", channel_id=channel_id)
    until("LDK took its delayed output", lambda: is_spent(opened, commitment, theirs))


def test_ldk_takes_a_payment_to_the_chain(opened: World) -> None:
    """LDK claims an HTLC of ours by its HTLC-success transaction, with the signature that we gave for it."""
    node, ldk = opened["salama"], opened.ldk
    give_ldk_coins(opened)
    ldk.call("hold", on=True)
    invoice = ldk.call("invoice", amount_msat=60_000_000)
    channel_id = node.channel()["channel_id"]
    with ThreadPoolExecutor(1) as pool:
        paying = pool.submit(_pay, node, invoice)
        held = ldk.event("PaymentClaimable")["payment_hash"]
        quiet_commitments(opened)
        ldk.call("force_close", channel_id=channel_id)
        commitment = commitment_of(opened, channel_id)
        htlc = [int(o.value) for o in commitment.outputs].index(60_000)
        opened.mine(1)
        ldk.call("claim", payment_hash=held)
        success = until("its HTLC transaction is taken", lambda: _spender(opened, commitment, htlc))
        assert success.locktime == 0
        opened.mine(6)
        assert is_spent(opened, commitment, htlc)
        node.stop()
        paying.result()


def test_ldk_takes_a_timeout_to_the_chain(pair: World) -> None:
    """LDK takes back an HTLC that we never answered, by its HTLC-timeout transaction with our signature."""
    alice, bob, ldk = pair["salama"], pair.add_node("bob"), pair.ldk
    to_bob = alice.call("open", peer=bob.uri, amount="1000000sat", private=True)
    pair.settled(to_bob["funding_txid"], 6)
    pair.ready(to_bob["channel_id"], alice, bob)
    channel_id = ldk_opens(pair, push_msat=100_000_000, announce=True)
    give_ldk_coins(pair)
    invoice = bob.call("invoice", amount="50000sat")
    # Bob stops in his tracks: connected, and silent.
    os.kill(bob.process.pid, signal.SIGSTOP)
    try:
        ldk.call("pay", invoice=invoice["invoice"])
        until("the HTLC waits at bob's door", lambda: alice.channel(to_bob["channel_id"])["htlcs_outgoing"] == 1)
        quiet_commitments(pair, incoming=1)
        ldk.call("force_close", channel_id=channel_id)
        commitment = commitment_of(pair, channel_id)
    finally:
        os.kill(bob.process.pid, signal.SIGCONT)
        bob.stop()
        del pair.nodes["bob"]
    amounts = [int(o.value) for o in commitment.outputs]
    htlc = next(n for n, amount in enumerate(amounts) if 50_000 < amount < 50_100)
    alice.stop()
    del pair.nodes["salama"]
    for _ in range(40):
        pair.mine(25)
        if _spender(pair, commitment, htlc):
            break
    timeout = _spender(pair, commitment, htlc)
    assert timeout is not None
    assert timeout.locktime > 0
    pair.mine(1)
    assert is_spent(pair, commitment, htlc)


def _pay(node: SalamaNode, invoice: str) -> None:
    with suppress(CommandRefused):
        node.call("pay", request=invoice)


def quiet_commitments(world: World, incoming: int = 0) -> None:
    """Wait until the HTLC is in the commitments of both sides."""
    node, ldk = world["salama"], world.ldk
    until("LDK has committed", lambda: ldk.channel()["inbound_htlcs"] + ldk.channel()["outbound_htlcs"] == 1)
    until("we have", lambda: sum(c["htlcs_incoming"] for c in node.call("channels")["channels"]) == incoming)


def _spender(world: World, tx: Tx, vout: int) -> Tx | None:
    """What LDK published to spend an output, and the chain took."""
    for spender in published_by_ldk(world).values():
        if any(i.outpoint.txid == tx.txid and i.outpoint.vout == vout for i in spender.inputs):
            return spender
    return None
