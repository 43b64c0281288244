"""A2 a channel that stands on another transaction than was signed for (Core Lightning #9498, September 2026)

What failed: victims had a private channel of version 2 whose funding was in no block, while its short channel id named
another transaction of a tenth of the amount; what they forwarded was gone.

Defence: the outpoint that was signed for is the one that is looked for: node/channels.py:Channels.block_connected finds
the funding by its outpoint in our own copy of the block, channel/confirming.py:funding_confirmed ignores every other
transaction and compares script and amount to the satoshi, and channel/state.py:ActiveFunding.short_channel_id follows
from where we saw it; what a peer says in channel_ready or announcement_signatures names nothing of ours. The rule is
the same for every way in which a channel of version 1 is funded: by us, by the peer, held back for another wallet, and
used before it confirms.

Not covered: version 2, replacements and splices, which are not built (A14).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from immunity_world import Registry, Stranger
from test_a12_zero_conf import trusting

from salama.base.ids import ChannelId, OutPoint, ShortChannelId, Txid
from salama.base.units import BlockHeight, Msat, Sat
from salama.bitcoin.script import p2wsh
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.channel.events import AddRefused, BlockArrived, FundingConfirmed, FundingMade
from salama.channel.limits import room_of_trust
from salama.channel.state import Opening, Phase
from salama.channel.transactions import funding_output
from salama.node.channels import scids_of
from salama.testing.pair import START, End, Pair, hash_of, wallet_tx
from salama.wire.gossip import AnnouncementSignatures
from salama.wire.opening import AcceptChannel, ChannelReady, FundingSigned
from salama.wire.updates import UpdateAddHtlc


def pending() -> Pair:
    pair = Pair.of()
    pair.opens(1_000_000, 400_000_000)
    pair.settle()
    return pair


def held_back() -> Pair:
    """Both first signatures are there, and the transaction is with another wallet."""
    pair = Pair.of()
    pair.opens(1_000_000, 400_000_000)
    alice = pair.alice
    pair.deliver(alice)
    funds, pair._funds = pair._funds, lambda: None  # type: ignore[method-assign]
    pair.deliver(pair.bob)
    assert isinstance(alice.state, Opening) and alice.state.accept is not None
    keys = alice.state.open.funding_pubkey, alice.state.accept.funding_pubkey
    output = funding_output(Sat(1_000_000), *keys)
    tx, vout = wallet_tx(output.value, output.script)
    alice.does(FundingMade(tx, vout, publish=False))
    pair.funding_tx, pair._funds = tx, funds  # type: ignore[method-assign]
    pair.settle()
    assert alice.record.funding.tx is None
    return pair


WAYS: dict[str, tuple[Callable[[], Pair], str]] = {
    "we fund": (pending, "alice"),
    "the peer funds": (pending, "bob"),
    "another wallet funds": (held_back, "alice"),
    "used at once": (trusting, "bob"),
}


def lying(tx: Tx, change: str, number: int) -> Tx:
    """Something like the funding ``tx``, and not it."""
    change_output, output = tx.outputs
    if change == "amount":
        return replace(tx, outputs=(change_output, replace(output, value=Sat(number % 1_000_000))))
    if change == "script":
        return replace(tx, outputs=(change_output, replace(output, script=p2wsh(b"%d" % number))))
    if change == "order":
        return replace(tx, outputs=(output, change_output))
    if change == "none":
        return replace(tx, outputs=(change_output,))
    return replace(tx, locktime=1 + number)


def is_unused(end: End) -> None:
    record = end.record
    assert record.funding.confirmation is None and record.funding.short_channel_id is None
    assert scids_of(record) == (record.our_alias,), "no name but the one that we chose"


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=15, deadline=None)
@given(
    change=st.sampled_from(["amount", "script", "order", "none", "locktime"]),
    number=st.integers(0, 1 << 31),
    index=st.integers(0, 5000),
)
def test_no_other_transaction_is_the_funding(way: str, change: str, number: int, index: int) -> None:
    make, name = WAYS[way]
    pair = make()
    end: End = getattr(pair, name)
    assert pair.funding_tx is not None
    before, room = end.record, room_of_trust(end.record, end.env)
    end.does(FundingConfirmed(lying(pair.funding_tx, change, number), BlockHeight(int(START) + 1), index))
    assert end.record is before, "it says nothing about ours, which may come yet"
    pair.mines(200)
    is_unused(end)
    assert room_of_trust(end.record, end.env) == room
    if way != "used at once":
        assert end.record.phase is Phase.AWAITING_FUNDING and not end.record.our_ready
        assert isinstance(end.does(end.add_event(1, 1_000_000))[0], AddRefused)


def test_what_the_peer_calls_it_is_not_believed(tmp_path: Path) -> None:
    """The peer confirms a tenth of the money for the same keys, says that it is ready, and pays."""

    async def story(node: Registry) -> None:
        stranger = Stranger("one")
        peer = node.meets(stranger)
        await node.channels.open_received(stranger.node_id, stranger.offers(node.channels.signer.node_id))
        (opening,) = node.channels._openings.values()
        state = opening.state
        assert isinstance(state, Opening) and state.accept is not None
        output = funding_output(Sat(100_000), state.open.funding_pubkey, state.accept.funding_pubkey)
        small = Tx(2, (TxIn(OutPoint(Txid(b"\x01" * 32), 0)),), (output,), 0)
        promised = OutPoint(Txid(b"\x02" * 32), 0)
        await node.hears(stranger, stranger.names_funding(peer.last(AcceptChannel), promised))
        assert peer.last(FundingSigned) is not None
        channel_id = ChannelId.v1(promised)
        actor = node.channels.by_id[channel_id]
        other = TxOut(Sat(1), b"\x51")
        coinbase = Tx(2, (TxIn(OutPoint(Txid(bytes(32)), 0xFFFFFFFF)),), (other,), 0)
        for n in range(1, 8):
            txs = (coinbase, small) if n == 1 else (coinbase,)
            block = SimpleNamespace(height=BlockHeight(int(START) + n), block=SimpleNamespace(txs=txs))
            node.channels.block_connected(block)  # type: ignore[arg-type]
        seen = ShortChannelId.of(BlockHeight(int(START) + 1), 1, 0)
        point = stranger.signer.channel_keys(0).second_point
        for message in (
            ChannelReady(channel_id=channel_id, second_per_commitment_point=point, short_channel_id=seen),
            AnnouncementSignatures(
                channel_id=channel_id, short_channel_id=seen, node_signature=bytes(64), bitcoin_signature=bytes(64)
            ),
            UpdateAddHtlc(
                channel_id=channel_id,
                id=0,
                amount_msat=Msat(50_000_000),
                payment_hash=hash_of(1),
                cltv_expiry=int(START) + 500,
                onion_routing_packet=bytes(1366),
            ),
        ):
            await node.hears(stranger, message)
        record = actor.record
        assert record is not None and record.phase is Phase.AWAITING_FUNDING
        assert record.funding.confirmation is None and record.funding.short_channel_id is None
        assert not record.htlcs and not node.around.committed and peer.last(ChannelReady) is None
        assert seen not in node.channels.by_scid
        assert peer.closed, "an HTLC before both are ready ends the connection"
        actor.tell(BlockArrived())
        await node.rests()
        assert peer.last(ChannelReady) is None

    Registry.run(tmp_path, story)
