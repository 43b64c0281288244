"""The funding output must be what was agreed on, whatever the funding transaction's id says (B2.05, immunity A1).

The accepter knows the transaction by its id alone until it is confirmed: the opener may have named one that pays less,
or to another script, or that has no such output at all.
"""

from __future__ import annotations

import pytest

from salama.base.ids import OutPoint, Txid
from salama.base.machine import Effect
from salama.base.units import BlockHeight, Sat
from salama.base.values import replace
from salama.bitcoin.script import p2wsh
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.channel.events import FundingConfirmed, Send
from salama.channel.state import Channel, Phase
from salama.channel.step import step
from salama.channel.transactions import funding_output
from salama.testing.pair import START, Pair
from salama.wire.setup import Error


def confirm(pair: Pair, outputs: list[TxOut], vout: int) -> tuple[Channel, list[Effect]]:
    """What Bob makes of a funding transaction with ``outputs``, if that is the one that Alice named."""
    tx = Tx(2, (TxIn(OutPoint(Txid(bytes(32)), 1)),), tuple(outputs), 0)
    funding = replace(pair.bob.record.funding, outpoint=OutPoint(tx.txid, vout), confirmation=None)
    record = replace(pair.bob.record, active=(funding,), phase=Phase.AWAITING_FUNDING)
    done = step(Channel(record, pair.bob.link), FundingConfirmed(tx, BlockHeight(int(START)), 1), pair.bob.env)
    assert isinstance(done.state, Channel)
    return done.state, list(done.effects)


def agreed(pair: Pair) -> TxOut:
    funding = pair.bob.record.funding
    return funding_output(funding.capacity, funding.our_funding_pubkey, funding.their_funding_pubkey)


def test_the_agreed_output_is_taken_wherever_it_stands() -> None:
    pair = Pair.opened()
    other = TxOut(Sat(5000), p2wsh(b"change"))
    for outputs, vout in (([agreed(pair)], 0), ([other, agreed(pair)], 1)):
        channel, _ = confirm(pair, outputs, vout)
        assert channel.record.phase is not Phase.CLOSED
        assert channel.record.funding.confirmation is not None


@pytest.mark.parametrize(
    "fault", ["one satoshi less", "one satoshi more", "another script", "no such output", "beside"]
)
def test_any_other_output_ends_the_channel(fault: str) -> None:
    pair = Pair.opened()
    right = agreed(pair)
    other = TxOut(right.value, p2wsh(b"another"))
    outputs, vout = {
        "one satoshi less": ([TxOut(Sat(int(right.value) - 1), right.script)], 0),
        "one satoshi more": ([TxOut(Sat(int(right.value) + 1), right.script)], 0),
        "another script": ([other], 0),
        "no such output": ([right], 1),
        "beside": ([other, right], 0),
    }[fault]
    channel, effects = confirm(pair, outputs, vout)
    assert channel.record.phase is Phase.CLOSED
    assert channel.record.funding.confirmation is None
    assert [e.message.NAME for e in effects if isinstance(e, Send)] == [Error.NAME]
