"""A1 funding that is not what was agreed (CVE-2019-12998, CVE-2019-12999, CVE-2019-13000: Core Lightning, lnd, eclair)

What failed: the side that does not fund believed the funding's id and looked neither at the script nor at the amount of
the output, so worthless channels were taken for full ones and spent from.

Defence: channel/confirming.py:funding_confirmed compares the whole output with what both keys and the capacity give;
node/channels.py:Channels.block_connected takes transactions only from our own copy of a block and computes their ids
itself.

Not covered: the funding of dual-funded and spliced channels, which are not built.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from immunity_world import Registry, Stranger

from salama.base.ids import ChannelId, OutPoint, Txid
from salama.base.units import BlockHeight, Sat
from salama.bitcoin.script import p2wsh
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.channel.state import Phase
from salama.testing.pair import START
from salama.wire.opening import ChannelReady

OTHER = p2wsh(b"somebody else")


@pytest.mark.parametrize("fault", ["", "amount", "script", "vout", "txid"])
def test_only_the_agreed_output_opens_a_channel(tmp_path: Path, fault: str) -> None:
    """The stranger signs for an outpoint whose transaction pays less, to another script, or elsewhere."""

    async def story(node: Registry) -> None:
        stranger = Stranger("one")
        peer = node.meets(stranger)
        await node.channels.open_received(stranger.node_id, stranger.offers(node.channels.signer.node_id))
        (opening,) = node.channels._openings.values()
        script = funding_script_of(opening)
        value = Sat(999_999) if fault == "amount" else Sat(1_000_000)
        paid = TxOut(value, OTHER if fault == "script" else script)
        outputs = (TxOut(Sat(1_000_000), OTHER), paid) if fault == "vout" else (paid,)
        tx = Tx(2, (TxIn(OutPoint(Txid(b"\x01" * 32), 0)),), outputs, 0)
        named = OutPoint(Txid(b"\x02" * 32) if fault == "txid" else tx.txid, 0)
        await node.hears(stranger, stranger.names_funding(peer.sent[-1], named))  # type: ignore[arg-type]
        actor = node.channels.by_id[ChannelId.v1(named)]
        for n in range(1, 8):
            txs = (coinbase(), tx) if n == 1 else (coinbase(),)
            block = SimpleNamespace(height=BlockHeight(int(START) + n), block=SimpleNamespace(txs=txs))
            node.channels.block_connected(block)  # type: ignore[arg-type]
        await node.rests()
        assert (peer.last(ChannelReady) is not None) == (fault == "")
        record = actor.record
        assert record is not None
        assert record.phase is (Phase.AWAITING_FUNDING if fault in ("", "txid") else Phase.CLOSED)
        assert (record.funding.confirmation is not None) == (fault == "")

    Registry.run(tmp_path, story)


def coinbase() -> Tx:
    return Tx(2, (TxIn(OutPoint(Txid(bytes(32)), 0xFFFFFFFF)),), (TxOut(Sat(1), OTHER),), 0)


def funding_script_of(opening: object) -> bytes:
    from salama.channel.transactions import funding_output

    state = opening.state  # type: ignore[attr-defined]
    output = funding_output(Sat(1_000_000), state.open.funding_pubkey, state.accept.funding_pubkey)
    return output.script
