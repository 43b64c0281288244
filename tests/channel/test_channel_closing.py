"""Closing together: shutdown, the fee, and what the chain says in the end (B2.35, B2.36, B2.39)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from salama.base.machine import CommandRefused
from salama.base.units import FeeratePerKw, Msat, Sat
from salama.bitcoin.script import p2wpkh, p2wsh
from salama.channel.env import Feerates
from salama.channel.events import CloseChannel, CommandAnswered, Disconnect, FundingSpent, Send
from salama.channel.state import Phase
from salama.channel.step import step
from salama.testing.pair import End, Pair
from salama.wire.closing import ClosingSigned, FeeRange, Shutdown
from salama.wire.setup import Warning
from salama.wire.updates import UpdateAddHtlc

SCRIPT = p2wpkh(b"\x02" + bytes(31) + b"\x0c")
OTHER = p2wsh(b"anything")


def closing_messages(end: End) -> list[ClosingSigned]:
    return [e.message for e in end.effects if isinstance(e, Send) and isinstance(e.message, ClosingSigned)]


def agreed(pair: Pair) -> Any:
    (tx,) = {tx.txid: tx for tx in pair.alice.broadcasts[1:]}.values()
    (same,) = {tx.txid: tx for tx in pair.bob.broadcasts}.values()
    assert tx == same
    return tx


@pytest.mark.parametrize("is_alice", [True, False])
def test_either_side_closes(is_alice: bool) -> None:
    pair = Pair.opened()
    pair.alice.adds(50_000_000)
    pair.settle()
    pair.bob.settles_all()
    pair.settle()
    (pair.alice if is_alice else pair.bob).does(CloseChannel(SCRIPT))
    pair.settle()
    tx = agreed(pair)
    ours = pair.alice.record.params.closing_script if not is_alice else SCRIPT
    paid = {output.script: int(output.value) for output in tx.outputs}
    fee = 1_000_000 - sum(paid.values())
    assert paid[ours] == 550_000 - fee
    assert sum(paid.values()) - paid[ours] == 450_000
    assert tx.weight <= fee <= tx.weight + 4, "1000 sat/kw, whatever the lengths of the signatures"
    assert len(closing_messages(pair.alice)) + len(closing_messages(pair.bob)) == 2
    assert CommandAnswered("", "closing") in (pair.alice if is_alice else pair.bob).effects


def test_both_close_at_once() -> None:
    pair = Pair.opened()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.bob.does(CloseChannel(OTHER))
    pair.settle()
    assert {output.script for output in agreed(pair).outputs} == {SCRIPT, OTHER}


def test_closing_waits_for_htlcs_and_takes_no_new_ones() -> None:
    pair = Pair.opened()
    pair.alice.adds(50_000_000)
    pair.bob.adds(10_000_000)
    pair.settle()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()
    for end in (pair.alice, pair.bob):
        assert end.record.phase is Phase.SHUTTING_DOWN
        end.adds(1_000_000)
        assert [r.code for r in end.refused] == ["closing"]
        assert not closing_messages(end)
    pair.bob.settles_all()
    pair.settle()
    assert pair.alice.record.phase is Phase.SHUTTING_DOWN
    pair.alice.fails_all()
    pair.settle()
    agreed(pair)
    assert pair.alice.record.phase is Phase.NEGOTIATING


def test_queued_adds_are_refused_when_closing_begins() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.alice.adds(2_000_000)
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()
    assert [r.code for r in pair.alice.refused] == ["closing"]
    pair.bob.settles_all()
    pair.settle()
    agreed(pair)


def test_closing_before_the_channel_is_ready() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 300_000_000)
    pair.settle()
    pair.bob.does(CloseChannel(SCRIPT))
    pair.settle()
    agreed(pair)


def test_closing_without_a_connection_begins_with_the_next() -> None:
    pair = Pair.opened()
    pair.cut()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.restarts(pair.alice)
    pair.connect()
    pair.settle()
    agreed(pair)


@pytest.mark.parametrize("cut_at", range(8))
def test_cut_at_every_message_of_a_close(cut_at: int) -> None:
    pair = Pair.opened()
    pair.bob.adds(7_000_000)
    pair.settle()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.alice.settles_all()
    for _ in range(cut_at):
        pair.deliver(pair.alice)
        pair.deliver(pair.bob)
    pair.cut()
    pair.restarts(pair.bob)
    pair.connect()
    pair.settle()
    assert pair.alice.record.phase is pair.bob.record.phase is Phase.NEGOTIATING
    assert pair.alice.broadcasts[-1].txid == pair.bob.broadcasts[-1].txid


# --- scripts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code"),
    [(b"", "script_unsuitable"), (b"\x51", "script_unsuitable"), (b"\x6a\x06abcdef", "script_unsuitable")],
)
def test_scripts_that_cannot_be_closed_to(script: bytes, code: str) -> None:
    pair = Pair.opened()
    with pytest.raises(CommandRefused) as refusal:
        step(pair.alice.channel, CloseChannel(script), pair.alice.env)
    assert refusal.value.code == code


def test_a_promised_script_binds_us_and_the_peer() -> None:
    pair = Pair.opened()
    promise = replace(pair.alice.record.params.ours, upfront_shutdown_script=SCRIPT)
    ours = replace(pair.alice.record.params, ours=promise)
    pair.alice.state = replace(pair.alice.channel, record=replace(pair.alice.record, params=ours))
    theirs = replace(pair.bob.record.params, theirs=promise)
    pair.bob.state = replace(pair.bob.channel, record=replace(pair.bob.record, params=theirs))
    with pytest.raises(CommandRefused, match="promised"):
        step(pair.alice.channel, CloseChannel(OTHER), pair.alice.env)
    bob = End("bob", pair.bob.signer, pair.bob.env, pair.bob.state)
    bob.hears(Shutdown(channel_id=bob.record.channel_id, scriptpubkey=OTHER))
    assert any("promised" in e.reason for e in bob.effects if isinstance(e, Disconnect))
    pair.bob.does(CloseChannel(OTHER))
    pair.settle()
    assert SCRIPT in {output.script for output in agreed(pair).outputs}, "also when the peer begins"


@pytest.mark.parametrize("script", [b"", b"\x51", b"\x6a\x06abcdef", b"\x00\x14short"])
def test_a_peers_script_that_is_not_allowed(script: bytes) -> None:
    pair = Pair.opened()
    pair.alice.hears(Shutdown(channel_id=pair.alice.record.channel_id, scriptpubkey=script))
    assert any("not allowed" in e.reason for e in pair.alice.effects if isinstance(e, Disconnect))
    assert pair.alice.record.phase is Phase.NORMAL


def test_a_peer_does_not_change_its_script() -> None:
    pair = Pair.opened()
    pair.alice.hears(Shutdown(channel_id=pair.alice.record.channel_id, scriptpubkey=SCRIPT))
    pair.alice.hears(Shutdown(channel_id=pair.alice.record.channel_id, scriptpubkey=OTHER))
    assert any("than before" in e.reason for e in pair.alice.effects if isinstance(e, Disconnect))


def test_no_htlc_after_their_shutdown() -> None:
    pair = Pair.opened()
    pair.bob.adds(3_000_000)
    add = pair.bob.sent()[0]
    assert isinstance(add, UpdateAddHtlc)
    pair.alice.hears(Shutdown(channel_id=pair.alice.record.channel_id, scriptpubkey=SCRIPT), add)
    assert any("after shutdown" in e.reason for e in pair.alice.effects if isinstance(e, Disconnect)) or (
        pair.alice.record.phase is Phase.NEGOTIATING
    )
    assert not pair.alice.record.htlcs


def test_closing_twice_is_refused() -> None:
    pair = Pair.opened()
    pair.alice.does(CloseChannel(SCRIPT))
    with pytest.raises(CommandRefused) as refusal:
        step(pair.alice.channel, CloseChannel(SCRIPT), pair.alice.env)
    assert refusal.value.code == "closing_already"


# --- the fee ----------------------------------------------------------------------------------------------------------


def negotiating(pair: Pair) -> ClosingSigned:
    """Alice's first proposal, on its way to Bob."""
    pair.alice.does(CloseChannel(SCRIPT))
    pair.deliver(pair.alice)
    pair.deliver(pair.bob)
    (proposal,) = pair.alice.sent()
    assert isinstance(proposal, ClosingSigned)
    return proposal


def with_closing_feerate(pair: Pair, alice: int, bob: int) -> None:
    for end, rate in ((pair.alice, alice), (pair.bob, bob)):
        end.env = replace(end.env, feerates=Feerates(end.env.feerates.commitment, FeeratePerKw(rate)))


def test_the_users_feerate_is_used() -> None:
    pair = Pair.opened()
    pair.alice.does(CloseChannel(SCRIPT, FeeratePerKw(5000)))
    pair.settle()
    tx = agreed(pair)
    fee = 1_000_000 - sum(int(output.value) for output in tx.outputs)
    assert 5 * tx.weight <= fee <= 5 * tx.weight + 20


@pytest.mark.parametrize(("alice", "bob"), [(1000, 5000), (5000, 253), (253, 20_000)])
def test_different_ideas_of_the_fee_end_in_agreement(alice: int, bob: int) -> None:
    pair = Pair.opened()
    with_closing_feerate(pair, alice, bob)
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()
    agreed(pair)


def test_ranges_that_do_not_meet_end_in_a_warning() -> None:
    pair = Pair.opened()
    proposal = negotiating(pair)
    pair.alice.outbox.clear()
    pair.bob.hears(replace(proposal, fee_range=FeeRange(Sat(0), Sat(1))))
    (told,) = (m for m in pair.bob.sent() if isinstance(m, Warning))
    assert b"range" in told.data
    assert not pair.bob.broadcasts and pair.bob.is_connected


def test_ranges_that_meet_in_one_point_are_enough() -> None:
    pair = Pair.opened()
    proposal = negotiating(pair)
    pair.alice.outbox.clear()
    assert proposal.fee_range is not None and int(proposal.fee_range.min_fee_satoshis) < int(proposal.fee_satoshis)
    least = proposal.fee_range.min_fee_satoshis
    pair.bob.hears(replace(proposal, fee_range=FeeRange(Sat(0), least)))
    (answer,) = (m for m in pair.bob.sent() if isinstance(m, ClosingSigned))
    assert answer.fee_satoshis == least


def bobs_answer(pair: Pair, fee: int, fee_range: FeeRange | None) -> ClosingSigned:
    """A validly signed ``closing_signed`` of Bob with any fee."""
    from salama.channel.closing import _closing_tx, closing_digest
    from salama.channel.signing import OweClosingSigned, Signature

    record = pair.bob.record
    closing = _closing_tx(record, Sat(fee), signer_dust=record.params.ours.dust_limit)
    owed = OweClosingSigned(
        record.params.key_index, closing_digest(closing), record.channel_id, Sat(fee), (Sat(0), Sat(fee))
    )
    (answer,) = pair.bob.signer.answer([owed])
    assert isinstance(answer, Signature)
    return ClosingSigned(
        channel_id=record.channel_id, fee_satoshis=Sat(fee), signature=answer.signature, fee_range=fee_range
    )


def ready_to_answer() -> tuple[Pair, ClosingSigned]:
    pair = Pair.opened()
    proposal = negotiating(pair)
    pair.alice.outbox.clear()
    pair.bob.hears(Shutdown(channel_id=pair.bob.record.channel_id, scriptpubkey=SCRIPT))
    pair.bob.outbox.clear()
    return pair, proposal


def test_an_answer_within_both_ranges_is_taken_and_repeated() -> None:
    pair, proposal = ready_to_answer()
    fee = int(proposal.fee_satoshis) + 10
    assert proposal.fee_range is not None
    pair.alice.hears(bobs_answer(pair, fee, FeeRange(Sat(0), Sat(100_000))))
    assert closing_messages(pair.alice)[-1].fee_satoshis == Sat(fee)
    assert len(pair.alice.broadcasts) == 2


def test_an_answer_outside_our_range_closes_by_force() -> None:
    pair, proposal = ready_to_answer()
    assert proposal.fee_range is not None
    fee = int(proposal.fee_range.max_fee_satoshis) + 1
    pair.alice.hears(bobs_answer(pair, fee, FeeRange(Sat(0), Sat(fee))))
    assert pair.alice.record.phase is Phase.ON_CHAIN


def test_a_peer_without_ranges_is_met_half_way() -> None:
    pair, proposal = ready_to_answer()
    assert proposal.fee_range is not None
    first, most = int(proposal.fee_satoshis), int(proposal.fee_range.max_fee_satoshis)
    pair.alice.hears(bobs_answer(pair, most + 1000, None))
    answer = closing_messages(pair.alice)[-1]
    assert answer.fee_satoshis == Sat((first + most + 1000) // 2)
    pair.alice.hears(bobs_answer(pair, most + 1000, None))
    assert any("not between" in e.reason for e in pair.alice.effects if isinstance(e, Disconnect))


def test_a_signature_for_no_closing_transaction() -> None:
    pair, proposal = ready_to_answer()
    pair.alice.hears(replace(bobs_answer(pair, int(proposal.fee_satoshis), None), fee_satoshis=Sat(1)))
    assert any("no closing transaction" in e.reason for e in pair.alice.effects if isinstance(e, Disconnect))
    assert len(pair.alice.broadcasts) == 1


def test_a_fee_beyond_the_openers_balance() -> None:
    pair, _ = ready_to_answer()
    good = bobs_answer(pair, 1000, None)
    pair.alice.hears(replace(good, fee_satoshis=Sat(600_001)))
    assert any("no closing transaction" in e.reason for e in pair.alice.effects if isinstance(e, Disconnect))


def test_a_side_with_dust_gets_no_output() -> None:
    pair = Pair.opened(1_000_000, 300_000)
    pair.bob.does(CloseChannel(OTHER))
    pair.settle()
    (output,) = agreed(pair).outputs
    assert output.script == pair.alice.record.params.closing_script


# --- the end ----------------------------------------------------------------------------------------------------------


def test_a_confirmed_close_is_forgotten_when_deep() -> None:
    pair = Pair.opened()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()
    tx = agreed(pair)
    for end in (pair.alice, pair.bob):
        end.does(FundingSpent(tx, end.env.height))
        assert end.record.phase is Phase.NEGOTIATING
    pair.mines(98)
    assert pair.alice.record.phase is Phase.NEGOTIATING
    pair.mines(1)
    assert pair.alice.record.phase is pair.bob.record.phase is Phase.CLOSED


def test_a_restart_publishes_the_close_again() -> None:
    pair = Pair.opened()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()
    tx = agreed(pair)
    pair.restarts(pair.bob)
    assert pair.bob.broadcasts[-1] == tx


def test_the_peers_commitment_on_the_chain_ends_the_channel() -> None:
    from salama.channel.events import ForceClose

    pair = Pair.opened()
    pair.bob.does(ForceClose("bye"))
    (tx,) = pair.bob.broadcasts
    pair.alice.does(FundingSpent(tx, pair.alice.env.height))
    assert pair.alice.record.phase is Phase.ON_CHAIN and pair.alice.record.spend is not None
    assert pair.alice.record.spend.tx == tx


def test_amounts_are_conserved_with_fractions() -> None:
    pair = Pair.opened(1_000_000, 400_000_001)
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()
    tx = agreed(pair)
    assert int(pair.bob.record.funding.local.spec.our_balance) == int(Msat(400_000_001))
    assert {int(o.value) for o in tx.outputs} >= {400_000}


def test_an_error_after_the_agreement_is_no_second_close() -> None:
    """Peers that forgot a closed channel answer with an error."""
    from salama.channel.events import ForceClose
    from salama.wire.setup import Error

    pair = Pair.opened()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()
    count = len(pair.alice.broadcasts)
    pair.alice.hears(Error(channel_id=pair.alice.record.channel_id, data=b"unknown channel"))
    assert len(pair.alice.broadcasts) == count and pair.alice.record.phase is Phase.NEGOTIATING
    pair.alice.does(ForceClose("the fee was too low"))
    assert len(pair.alice.broadcasts) == count + 1 and pair.alice.record.phase is Phase.ON_CHAIN


def test_a_fee_that_would_leave_no_output_is_not_paid() -> None:
    pair = Pair.opened(100_000, 300_000)
    pair.alice.does(CloseChannel(SCRIPT, FeeratePerKw(500_000)))
    pair.settle()
    (output,) = agreed(pair).outputs
    assert int(output.value) == 354
    pair.alice.does(FundingSpent(agreed(pair), pair.alice.env.height))
    from salama.channel.events import ForceClose

    with pytest.raises(CommandRefused, match="on the chain"):
        step(pair.alice.channel, ForceClose("again"), pair.alice.env)
