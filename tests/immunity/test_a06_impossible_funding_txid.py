"""A6 a funding id that cannot be (Core Lightning, fixed in 26.04; again #9530, September 2026)

What failed: an all-zero funding_txid ran into an assertion about peer data and ended the process.

Defence: channel/opening.py:first_record takes any 32 bytes as an id; only a transaction that hashes to it, seen in a
block of ours, makes the channel usable (channel/confirming.py:funding_confirmed).
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from immunity_world import Registry, Stranger, outpoint

from salama.base.ids import ChannelId, OutPoint, Txid
from salama.base.units import BlockHeight, Sat
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.storage import queries
from salama.testing.pair import START
from salama.wire.opening import ChannelReady


@pytest.mark.parametrize("txid", [bytes(32), b"\xff" * 32, bytes(31) + b"\x01"])
@pytest.mark.parametrize("vout", [0, 1, 0xFFFF])
def test_any_id_is_just_a_funding_that_never_comes(tmp_path: Path, txid: bytes, vout: int) -> None:
    async def story(node: Registry) -> None:
        strange = OutPoint(Txid(txid), vout)
        await node.opened(Stranger("strange"), strange)
        actor = node.channels.by_id.get(ChannelId.v1(strange))
        assert actor is None or (not actor.frozen and actor.record is not None)
        peer = await node.opened(Stranger("next"), outpoint(1))
        assert not peer.errors and node.record_of(outpoint(1)) is not None

    Registry.run(tmp_path, story)


def test_a_channel_id_of_zeros_is_not_every_channel(tmp_path: Path) -> None:
    """Zeros mean all channels in an error: a channel that hashes to them must not be reachable by accident."""

    async def story(node: Registry) -> None:
        strange = OutPoint(Txid(bytes(32)), 0)
        assert ChannelId.v1(strange) == bytes(32)
        peer = await node.opened(Stranger("strange"), strange)
        assert peer.errors and not node.channels.by_id

    Registry.run(tmp_path, story)


@pytest.mark.parametrize("whose", ["a payment to our wallet", "the funding of our own channel"])
def test_a_transaction_of_our_own_is_nobodys_funding(tmp_path: Path, whose: str) -> None:
    """It is in a block, and we know it well; it does not pay what the stranger promised."""

    async def story(node: Registry) -> None:
        script = await node.wallet.new_script()
        tx = Tx(2, (TxIn(OutPoint(Txid(b"\x01" * 32), 0)),), (TxOut(Sat(1_000_000), script),), 0)
        if whose != "a payment to our wallet":
            await node.opened(Stranger("friend"), tx.outpoint(0))
        coinbase = Tx(2, (TxIn(OutPoint(Txid(bytes(32)), 0xFFFFFFFF)),), (TxOut(Sat(1), b"\x51"),), 0)
        peer = await node.opened(Stranger("strange"), tx.outpoint(0))
        actor = node.channels.by_id[ChannelId.v1(tx.outpoint(0))]
        assert bool(peer.errors) == (whose != "a payment to our wallet"), "the place is taken"
        for n in range(1, 8):
            txs = (coinbase, tx) if n == 1 else (coinbase,)
            block = SimpleNamespace(height=BlockHeight(int(START) + n), block=SimpleNamespace(txs=txs))
            node.channels.block_connected(block)  # type: ignore[arg-type]
        await node.rests()
        assert not actor.frozen and peer.last(ChannelReady) is None
        assert not node.channels.by_id and not node.journal.read_now(queries.open_channels)

    Registry.run(tmp_path, story)
