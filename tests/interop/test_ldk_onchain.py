"""Closes that are not agreed: our signatures in LDK's transactions and LDK's in ours, judged by the chain (B3, B5)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from interop_bench import World, txid_of, until
from ldk_moves import CAPACITY, ldk_opens, pay_ldk, pay_us, quiet

from salama.bitcoin.tx import Tx

pytestmark = pytest.mark.interop
ON_BITCOIND = True
MOST_FEES = 20_000
"""Satoshis: what all our transactions around one close may cost at the lowest feerates."""


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
    with silenced(opened):
        node.call("close", channel=channel_id, force=True, wait=0)
        commitment = commitment_of(opened, channel_id)
        opened.chain.mine(1)
    opened.follow()
    closed = ldk.event("ChannelClosed", channel_id=channel_id)
    assert any(kind in str(closed["reason"]) for kind in ("CounterpartyForceClosed", "CommitmentTxConfirmed")), closed
    until("we name it", lambda: node.channel(channel_id)["closing_txid"] == str(commitment.txid))
    theirs = [int(o.value) for o in commitment.outputs].index(623_456)
    opened.mine(6)
    ldk.event("SpendableOutputs", channel_id=channel_id)
    until("LDK took its output", lambda: is_spent(opened, commitment, theirs))
    ends_with(opened, channel_id, CAPACITY - 623_457)


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
    ends_with(opened, channel_id, 576_543)


def test_ldk_takes_a_payment_to_the_chain(opened: World) -> None:
    """LDK claims an HTLC of ours by HTLC-success, with our signature; the preimage that it shows is our proof."""
    node, ldk = opened["salama"], opened.ldk
    give_ldk_coins(opened)
    channel_id = node.channel()["channel_id"]
    with paying(opened, 60_000_000) as (pays, held):
        ldk.call("force_close", channel_id=channel_id)
        commitment = commitment_of(opened, channel_id)
        htlc = [int(o.value) for o in commitment.outputs].index(60_000)
        opened.mine(1)
        ldk.call("claim", payment_hash=held)
        success = until("its HTLC transaction is taken", lambda: _spender(opened, commitment, htlc))
        assert success.locktime == 0
        opened.mine(1)
        paid = pays.result()
    assert paid["status"] == "succeeded"
    assert is_spent(opened, commitment, htlc)
    # Our own side of its commitment is ours at once.
    ends_with(opened, channel_id, CAPACITY // 2 - 60_000)


def test_ldk_closes_with_a_payment_that_nobody_takes(opened: World) -> None:
    """LDK's commitment holds our HTLC; after its time we take it back from there."""
    node, ldk = opened["salama"], opened.ldk
    channel_id = node.channel()["channel_id"]
    with paying(opened, 60_000_000) as (pays, _):
        ldk.call("force_close", channel_id=channel_id)
        commitment_of(opened, channel_id)
        until_over(opened, channel_id)
        assert pays.result()["status"] == "failed"
    ends_with(opened, channel_id, CAPACITY // 2)


def test_we_close_with_a_payment_that_nobody_takes(opened: World) -> None:
    """Our commitment holds the HTLC; after its time our HTLC-timeout transaction carries LDK's signature."""
    node, ldk = opened["salama"], opened.ldk
    channel_id = node.channel()["channel_id"]
    with paying(opened, 60_000_000) as (pays, _):
        with silenced(opened):
            node.call("close", channel=channel_id, force=True, wait=0)
            commitment_of(opened, channel_id)
            opened.chain.mine(1)
        opened.follow()
        until_over(opened, channel_id)
        assert pays.result()["status"] == "failed"
    assert ldk.seen("PaymentClaimed") == []
    ends_with(opened, channel_id, CAPACITY // 2)


@pytest.mark.parametrize("closer", ["us", "LDK"])
def test_we_take_a_payment_to_the_chain(pair: World, closer: str) -> None:
    """We know a preimage and LDK does not hear it: we claim from its commitment, or by HTLC-success from ours."""
    alice, bob, ldk = pair["salama"], pair.add_node("bob"), pair.ldk
    to_bob = alice.call("open", peer=bob.uri, amount="1000000sat", private=True)
    pair.settled(to_bob["funding_txid"], 6)
    pair.ready(to_bob["channel_id"], alice, bob)
    channel_id = ldk_opens(pair, push_msat=100_000_000, announce=True)
    invoice = bob.call("invoice", amount="50000sat")
    os.kill(bob.process.pid, signal.SIGSTOP)
    try:
        payment_hash = ldk.call("pay", invoice=invoice["invoice"])
        until("the HTLC waits at bob's door", lambda: alice.channel(to_bob["channel_id"])["htlcs_outgoing"] == 1)
        if closer == "LDK":
            ldk.call("force_close", channel_id=channel_id)
            commitment = commitment_of(pair, channel_id)
            pair.chain.mine(1)
            ldk.follow()
        os.kill(ldk.process.pid, signal.SIGSTOP)
    finally:
        os.kill(bob.process.pid, signal.SIGCONT)
    try:
        until("alice has the preimage", lambda: alice.channel(to_bob["channel_id"])["htlcs_outgoing"] == 0)
        if closer == "us":
            alice.call("close", channel=channel_id, force=True, wait=0)
            commitment = commitment_of(pair, channel_id)
            pair.chain.mine(1)
        htlc = next(n for n, o in enumerate(commitment.outputs) if 50_000 < int(o.value) < 50_100)
        until("alice claims it", lambda: is_spent(pair, commitment, htlc))
    finally:
        os.kill(ldk.process.pid, signal.SIGCONT)
    pair.mine(1)
    # LDK reads the preimage on the chain: it has paid.
    ldk.event("PaymentSent", payment_hash=payment_hash)
    until_over(pair, channel_id)
    ends_with(pair, channel_id, 100_000 + int(commitment.outputs[htlc].value))


def test_ldk_publishes_the_past(opened: World) -> None:
    """An LDK that was started from an old state closes with a revoked commitment: all of it is ours, HTLCs too."""
    node, ldk = opened["salama"], opened.ldk
    channel_id = node.channel()["channel_id"]
    with paying(opened, 60_000_000) as (pays, held):
        old = ldk.save()
        ldk.call("claim", payment_hash=held)
        assert pays.result()["status"] == "succeeded"
    ldk.call("hold", on=False)
    pay_ldk(node, ldk, 100_000_000)
    pay_us(node, ldk, 20_000_000)
    quiet(opened)
    ldk.stop()
    thief = opened.add_ldk(**old)
    opened.follow()
    give_ldk_coins(opened)
    thief.call("force_close", channel_id=channel_id)
    commitment = commitment_of(opened, channel_id)
    opened.mine(1)
    worth = [n for n, o in enumerate(commitment.outputs) if int(o.value) > 330]
    assert len(worth) == 3
    until("we take every output", lambda: all(is_spent(opened, commitment, n) for n in worth))
    opened.mine(1)
    until_over(opened, channel_id)
    ends_with(opened, channel_id, CAPACITY)


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


@contextmanager
def paying(world: World, amount_msat: int) -> Iterator[tuple[Future[dict[str, Any]], str]]:
    """A payment by us that LDK holds, in the commitments of both: what comes of it, and its hash."""
    node, ldk = world["salama"], world.ldk
    ldk.call("hold", on=True)
    invoice = ldk.call("invoice", amount_msat=amount_msat)
    with ThreadPoolExecutor(1) as pool:
        pays = pool.submit(node.call, "pay", request=invoice, timeout=5)
        held = ldk.event("PaymentClaimable")["payment_hash"]
        quiet_commitments(world)
        try:
            yield pays, held
        except BaseException:
            node.stop()
            raise


@contextmanager
def silenced(world: World) -> Iterator[None]:
    """LDK neither hears nor says anything meanwhile."""
    process = world.ldk.process
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def until_over(world: World, channel_id: str, step: int = 20) -> None:
    """Mine until our node has forgotten the channel: nothing is left to claim and all of it is deep."""
    node = world["salama"]
    for _ in range(1_000 // step):
        world.mine(step)
        if node.channel(channel_id)["state"] == "closed":
            return
    raise AssertionError(node.call("why", channel=channel_id))


def ends_with(world: World, channel_id: str, wanted: int) -> None:
    """The wallet has what the channel owed us, less what the fees of a few small transactions come to."""
    until_over(world, channel_id)
    until("the wallet sees it", lambda: wanted - MOST_FEES <= _gained(world) <= wanted)


def _gained(world: World) -> int:
    """Satoshis of our wallet beyond its first coins; what it put into channels of its own counts as spent."""
    balance = world["salama"].call("balance")
    first = 3 * 50 * 100_000_000
    spent = sum(
        c["capacity_msat"] // 1000 for c in world["salama"].call("channels", closed=True)["channels"] if c["opener"]
    )
    return int(balance["onchain_confirmed_msat"]) // 1000 - first + spent


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
