"""Closing with ``closing_complete`` and ``closing_sig``: shapes, races, retries, lies (B2.37, B2.38)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from bolt3_bench import verifies

from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.bitcoin.script import p2wpkh, p2wsh
from salama.bitcoin.tx import Tx
from salama.channel.events import CloseChannel, CommandAnswered, Disconnect, FundingSpent, FundingUnspent, Send
from salama.channel.simple_close import ANSWER_SECONDS, MAX_CLOSES
from salama.channel.state import Phase
from salama.channel.step import step
from salama.onchain.identify import CloseKind, identify
from salama.testing.pair import FEATURES, End, Pair
from salama.wire.closing import ClosingComplete, ClosingSig, ClosingSigned, Shutdown
from salama.wire.features import (
    OPTION_ANCHORS,
    OPTION_SCID_ALIAS,
    OPTION_SHUTDOWN_ANYSEGWIT,
    OPTION_SIMPLE_CLOSE,
    OPTION_STATIC_REMOTEKEY,
    Features,
)
from salama.wire.setup import Error, Warning

SIMPLE = Features.of(
    mandatory=(OPTION_STATIC_REMOTEKEY,),
    optional=(OPTION_ANCHORS, OPTION_SCID_ALIAS, OPTION_SHUTDOWN_ANYSEGWIT, OPTION_SIMPLE_CLOSE),
)
SCRIPT = p2wpkh(b"\x02" + bytes(31) + b"\x0c")
OTHER = p2wsh(b"anything")
BURN = b"\x6a\x06salama"


def opened(capacity: int = 1_000_000, push: int = 400_000_000) -> Pair:
    return Pair.opened(capacity, push, features=SIMPLE)


def said(end: End, kind: type) -> list[Any]:
    return [e.message for e in end.effects if isinstance(e, Send) and isinstance(e.message, kind)]


def published(pair: Pair, end: End) -> dict[bytes, Tx]:
    """Every closing transaction that ``end`` published; each must be one that Bitcoin Core accepts."""
    assert pair.funding_tx is not None
    outpoint = pair.alice.record.funding.outpoint
    closes = {bytes(tx.txid): tx for tx in end.broadcasts if tx.inputs[0].outpoint == outpoint}
    for tx in closes.values():
        assert verifies(tx, 0, pair.funding_tx.outputs[outpoint.vout])
        assert tx.inputs[0].sequence == 0xFFFFFFFD
    return closes


def agreed(pair: Pair) -> list[Tx]:
    """What both sides published, which must be the same."""
    ours, theirs = published(pair, pair.alice), published(pair, pair.bob)
    assert ours.keys() == theirs.keys() and ours
    for end in (pair.alice, pair.bob):
        assert {bytes(close.tx.txid) for close in end.record.closes} == set(ours)
        assert not said(end, ClosingSigned)
        assert not said(end, Warning) and not said(end, Error)
    return list(ours.values())


def paid(tx: Tx) -> dict[bytes, int]:
    return {output.script: int(output.value) for output in tx.outputs}


def reasons(end: End) -> list[str]:
    return [e.reason for e in end.effects if isinstance(e, Disconnect)]


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closers", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("push", [400_000_000, 500_000_000, 600_000_001, 999])
def test_each_side_pays_for_its_own_transaction(push: int, closers: tuple[bool, bool]) -> None:
    pair = opened(push=push)
    scripts = []
    for end, asks, script in ((pair.alice, closers[0], SCRIPT), (pair.bob, closers[1], OTHER)):
        if asks:
            end.does(CloseChannel(script))
            assert CommandAnswered("", "closing") in end.effects
        scripts.append(script if asks else end.record.params.closing_script)
    pair.settle()
    txs = agreed(pair)
    assert len(txs) == (2 if push > 1000 else 1), "who has nothing pays for nothing"
    balances = dict(zip(scripts, ((1_000_000_000 - push) // 1000, push // 1000), strict=True))
    for tx in txs:
        assert tx.locktime == int(pair.alice.env.height)
        short = {script: balances[script] - paid(tx).get(script, 0) for script in scripts}
        payers = [script for script, amount in short.items() if amount]
        assert len(payers) == 1, "one side pays, and the other gets all that it has"
        asked = closers[scripts.index(payers[0])] or len(txs) == 1
        rate = 1000 if asked else 253
        assert rate * tx.weight // 1000 <= short[payers[0]] <= rate * (tx.weight + 8) // 1000, "sat/kw"
    for end in (pair.alice, pair.bob):
        assert end.record.phase is Phase.NEGOTIATING and end.record.mutual_close is not None


@pytest.mark.parametrize("push", [0, 200_000, 293_999, 294_000, 500_000, 800_000, 1_000_000, 1_100_000])
def test_small_balances_leave_no_dust_behind(push: int) -> None:
    pair = opened(push=push)
    pair.bob.does(CloseChannel(SCRIPT))
    pair.settle()
    txs = agreed(pair)
    for tx in txs:
        assert all(int(output.value) >= 294 for output in tx.outputs)
        assert 1_000_000 - sum(paid(tx).values()) >= 253 * tx.weight // 1000
    assert max(paid(tx).get(SCRIPT, 0) for tx in txs) == (push // 1000 if push >= 294_000 else 0)


def test_a_fee_beyond_the_balance_is_what_the_balance_allows() -> None:
    pair = opened(200_000, 5_000_000)
    pair.bob.does(CloseChannel(SCRIPT, FeeratePerKw(500_000)))
    pair.settle()
    txs = agreed(pair)
    assert [SCRIPT in paid(tx) for tx in txs].count(False) == 1, "all of it went to the fee, and no dust remains"
    pair = opened(200_000, 5_000_000)
    pair.alice.does(CloseChannel(SCRIPT, FeeratePerKw(500_000)))
    pair.settle()
    assert {paid(tx)[SCRIPT] for tx in agreed(pair)} >= {294}, "who has more keeps an output"


@pytest.mark.parametrize("push", [400_000_000, 600_000_000, 500_000])
def test_closing_to_nothing(push: int) -> None:
    """An OP_RETURN carries nothing: all that its owner had goes to fees."""
    pair = opened(push=push)
    pair.bob.does(CloseChannel(BURN))
    pair.settle()
    for tx in agreed(pair):
        assert paid(tx)[BURN] == 0
        assert sum(paid(tx).values()) <= 1_000_000 - push // 1000


def test_closing_waits_for_htlcs() -> None:
    pair = opened()
    pair.alice.adds(50_000_000)
    pair.settle()
    pair.bob.does(CloseChannel(SCRIPT))
    pair.settle()
    assert not said(pair.alice, ClosingComplete) and not said(pair.bob, ClosingComplete)
    pair.bob.settles_all()
    pair.settle()
    assert max(paid(tx)[SCRIPT] for tx in agreed(pair)) == 450_000


def test_closing_before_the_channel_is_ready() -> None:
    pair = Pair.of(features=SIMPLE)
    pair.opens(1_000_000, 300_000_000)
    pair.settle()
    pair.bob.does(CloseChannel(SCRIPT))
    pair.settle()
    assert len(agreed(pair)) == 2


@pytest.mark.parametrize("features", [FEATURES, SIMPLE])
@pytest.mark.parametrize("most", [2, 9])
def test_several_messages_at_once(most: int, features: Features) -> None:
    """The peer may begin in the same breath as the shutdown that makes it possible."""
    pair = Pair.opened(features=features)
    pair.bob.adds(7_000_000)
    pair.settle(most)
    pair.bob.does(CloseChannel(SCRIPT))
    pair.alice.settles_all()
    pair.settle(most)
    assert not reasons(pair.alice) and not reasons(pair.bob)
    for end in (pair.alice, pair.bob):
        assert end.record.mutual_close is not None and len(end.record.closes) == (2 if features is SIMPLE else 1)


# --- again ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("cut_at", range(10))
def test_cut_at_every_message(cut_at: int, restart: bool, both: bool) -> None:
    pair = opened()
    pair.bob.adds(7_000_000)
    pair.settle()
    pair.alice.does(CloseChannel(SCRIPT))
    if both:
        pair.bob.does(CloseChannel(OTHER))
    pair.alice.settles_all()
    for _ in range(cut_at):
        pair.deliver(pair.alice)
        pair.deliver(pair.bob)
    pair.cut()
    if restart:
        pair.restarts(pair.alice)
        pair.restarts(pair.bob)
    pair.mines(1)
    pair.connect()
    pair.settle()
    assert len(agreed(pair)) == 2, "the same two again, although the height has changed"
    assert len(said(pair.alice, Shutdown)) + len(said(pair.bob, Shutdown)) >= 2


def test_reconnecting_for_ever_makes_no_new_transactions() -> None:
    pair = opened()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()
    for _ in range(5):
        pair.cut()
        pair.mines(1)
        pair.connect()
        pair.settle()
    assert len(agreed(pair)) == 2
    assert len(said(pair.alice, ClosingComplete)) == 6


def test_a_higher_fee() -> None:
    pair = opened()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()
    pair.mines(1)
    with pytest.raises(CommandRefused, match="offered already"):
        step(pair.alice.channel, CloseChannel(SCRIPT), pair.alice.env)
    pair.alice.does(CloseChannel(OTHER, FeeratePerKw(5000)))
    pair.settle()
    txs = agreed(pair)
    assert len(txs) == 3
    assert all(paid(tx).keys() == paid(txs[0]).keys() for tx in txs), "to the same scripts"
    for end in (pair.alice, pair.bob):
        best = end.record.mutual_close
        assert best is not None and paid(best.tx)[SCRIPT] == min(paid(tx)[SCRIPT] for tx in txs)
        kinds = {close.kind for tx in txs if (close := identify(end.record, tx, lambda _: ())) is not None}
        assert kinds == {CloseKind.MUTUAL}
    pair.restarts(pair.bob)
    assert {bytes(tx.txid) for tx in pair.bob.broadcasts[-3:]} == set(published(pair, pair.bob))


def test_who_was_asked_may_pay_more() -> None:
    """The peer began, and its fee is too low for our taste."""
    pair = opened()
    pair.bob.does(CloseChannel(OTHER))
    pair.settle()
    before = {bytes(tx.txid) for tx in agreed(pair)}
    pair.alice.does(CloseChannel(SCRIPT, FeeratePerKw(9000)))
    pair.settle()
    (tx,) = [tx for tx in agreed(pair) if bytes(tx.txid) not in before]
    assert paid(tx)[OTHER] == 400_000, "at our expense"
    assert all(end.record.mutual_close.tx.txid == tx.txid for end in (pair.alice, pair.bob))  # type: ignore[union-attr]


def test_the_fee_may_be_named_while_htlcs_hold_the_closing_up() -> None:
    pair = opened()
    pair.alice.adds(50_000_000)
    pair.settle()
    pair.bob.does(CloseChannel(OTHER))
    pair.settle()
    assert not pair.alice.record.wants_close
    pair.alice.does(CloseChannel(SCRIPT, FeeratePerKw(7000)))
    with pytest.raises(CommandRefused, match="already closing"):
        step(pair.alice.channel, CloseChannel(SCRIPT, FeeratePerKw(7000)), pair.alice.env)
    pair.restarts(pair.alice)
    pair.connect()
    pair.settle()
    pair.bob.fails_all()
    pair.settle()
    (ours,) = said(pair.alice, ClosingComplete)
    assert int(ours.fee_satoshis) > 7 * 550, "what was asked for survives a restart"


def test_a_higher_fee_waits_for_the_answer() -> None:
    pair = opened()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.deliver(pair.alice)
    pair.deliver(pair.bob)
    assert said(pair.alice, ClosingComplete)
    with pytest.raises(CommandRefused, match="not answered"):
        step(pair.alice.channel, CloseChannel(SCRIPT, FeeratePerKw(5000)), pair.alice.env)


def test_a_peer_that_never_answers_is_left() -> None:
    pair = opened()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.deliver(pair.alice)
    pair.deliver(pair.bob)
    pair.alice.env = replace(pair.alice.env, now=pair.alice.env.now + ANSWER_SECONDS - 1)
    pair.mines(1)
    assert pair.alice.is_connected
    pair.alice.env = replace(pair.alice.env, now=pair.alice.env.now + 1)
    pair.mines(1)
    assert not pair.alice.is_connected and "not answered" in reasons(pair.alice)[0]
    pair.cut()
    pair.connect()
    pair.settle()
    assert len(published(pair, pair.alice)) == 2


def test_a_confirmed_close_ends_it_whichever_it_is() -> None:
    for index in range(2):
        pair = opened()
        pair.alice.does(CloseChannel(SCRIPT))
        pair.settle()
        tx = agreed(pair)[index]
        for end in (pair.alice, pair.bob):
            end.does(FundingSpent(tx, end.env.height))
            assert end.record.phase is Phase.NEGOTIATING
        pair.cut()
        pair.connect()
        pair.settle()
        assert len(said(pair.alice, ClosingComplete)) == 1, "nothing is left to offer"
        count = len(pair.bob.broadcasts)
        pair.bob.does(FundingUnspent())
        assert len(pair.bob.broadcasts) == count + 2
        pair.bob.does(FundingSpent(tx, pair.bob.env.height))
        pair.mines(99)
        assert pair.alice.record.phase is pair.bob.record.phase is Phase.CLOSED


def test_an_error_afterwards_is_no_second_close() -> None:
    pair = opened()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()
    pair.alice.hears(Error(channel_id=pair.alice.record.channel_id, data=b"unknown channel"))
    assert pair.alice.record.phase is Phase.NEGOTIATING


# --- the peer as closer -----------------------------------------------------------------------------------------------


def bobs_offer() -> tuple[Pair, ClosingComplete]:
    """Both have said shutdown; Bob's offer is on its way and Alice's is lost."""
    pair = opened()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.deliver(pair.alice)
    pair.deliver(pair.bob)
    (offer,) = said(pair.bob, ClosingComplete)
    pair.bob.outbox.clear()
    return pair, offer


def bob_signs(pair: Pair, **changes: Any) -> ClosingComplete:
    """A validly signed offer of Bob with other terms."""
    from salama.base.machine import Transition
    from salama.channel.closing import closing_digest
    from salama.channel.closing_forms import Form
    from salama.channel.signing import ClosingSignatures, OweClosingComplete, complete
    from salama.channel.simple_close import _forms, _tx
    from salama.channel.state import ClosingTerms

    script = changes.pop("script", pair.bob.record.our_shutdown)
    record = replace(pair.bob.record, our_shutdown=script)
    terms = ClosingTerms(Sat(changes.pop("fee", 1000)), changes.pop("locktime", 0))
    forms: tuple[Form, ...] = changes.pop("forms", None) or _forms(record, terms.fee)
    draft = ClosingComplete(
        channel_id=record.channel_id,
        closer_scriptpubkey=script,
        closee_scriptpubkey=SCRIPT,
        fee_satoshis=terms.fee,
        locktime=terms.locktime,
    )
    digests = tuple((form, closing_digest(_tx(record, terms, form, we_are_closer=True))) for form in forms)
    owed = OweClosingComplete(record.params.key_index, draft, digests)
    answers = pair.bob.signer.answer([owed])
    assert isinstance(answers[0], ClosingSignatures)
    (effect,) = complete(Transition(pair.bob.channel, (owed,)), answers).effects
    assert isinstance(effect, Send) and isinstance(effect.message, ClosingComplete)
    return effect.message


LIES: dict[str, Callable[[ClosingComplete], ClosingComplete]] = {
    "not our latest": lambda m: replace(m, closee_scriptpubkey=OTHER),
    "more than you have": lambda m: replace(m, fee_satoshis=Sat(400_001)),
    "not allowed": lambda m: replace(m, closer_scriptpubkey=b"\x51"),
    "without closee_output_only": lambda m: replace(m, closer_and_closee_outputs=None),
    "signature of closer_and_closee_outputs is not valid": lambda m: replace(m, fee_satoshis=Sat(1)),
}


@pytest.mark.parametrize("reason", LIES)
def test_an_offer_that_cannot_be_signed(reason: str) -> None:
    pair, offer = bobs_offer()
    pair.alice.hears(LIES[reason](offer))
    assert reason in reasons(pair.alice)[0]
    assert said(pair.alice, Warning) and not said(pair.alice, ClosingSig)
    assert not pair.alice.record.closes and pair.alice.record.phase is Phase.NEGOTIATING
    pair.cut()
    pair.connect()
    pair.settle()
    assert len(published(pair, pair.alice)) == 2, "the next connection makes it good"


def test_an_absurd_fee_is_a_mistake_whoever_pays() -> None:
    pair = opened()
    for feerate in (500_001, 1 << 31):
        with pytest.raises(CommandRefused, match="at most"):
            step(pair.alice.channel, CloseChannel(SCRIPT, FeeratePerKw(feerate)), pair.alice.env)
    pair, _ = bobs_offer()
    pair.alice.hears(bob_signs(pair, fee=399_000))
    assert "absurd" in reasons(pair.alice)[0] and not pair.alice.record.closes


def test_a_high_s_signature_is_refused() -> None:
    pair, offer = bobs_offer()
    assert offer.closer_and_closee_outputs is not None
    r, s = offer.closer_and_closee_outputs[:32], int.from_bytes(offer.closer_and_closee_outputs[32:], "big")
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    pair.alice.hears(replace(offer, closer_and_closee_outputs=r + (order - s).to_bytes(32, "big")))
    assert "not valid" in reasons(pair.alice)[0]


def test_the_peer_may_change_its_script() -> None:
    pair, _ = bobs_offer()
    pair.alice.hears(bob_signs(pair, script=OTHER))
    (answer,) = said(pair.alice, ClosingSig)
    assert answer.closer_scriptpubkey == OTHER and pair.alice.record.their_shutdown == OTHER
    (tx,) = published(pair, pair.alice).values()
    assert paid(tx) == {SCRIPT: 600_000, OTHER: 399_000}


def test_a_promised_script_is_kept_to() -> None:
    for script, is_kept in ((OTHER, False), (BURN, True)):
        pair, offer = bobs_offer()
        params = pair.alice.record.params
        theirs = replace(params.theirs, upfront_shutdown_script=offer.closer_scriptpubkey)
        record = replace(pair.alice.record, params=replace(params, theirs=theirs))
        pair.alice.state = replace(pair.alice.channel, record=record)
        pair.alice.hears(bob_signs(pair, script=script))
        assert bool(said(pair.alice, ClosingSig)) is is_kept
        assert is_kept or "promised" in reasons(pair.alice)[0]


def test_what_cannot_be_published_yet_is_signed_but_closes_nothing() -> None:
    for terms in ({"locktime": 900_000}, {"locktime": 1_900_000_000}, {"fee": 0}):
        pair, _ = bobs_offer()
        pair.alice.hears(bob_signs(pair, **terms))
        assert said(pair.alice, ClosingSig) and len(pair.alice.record.closes) == 1
        assert pair.alice.record.mutual_close is None
        assert bool(published(pair, pair.alice)) is ("fee" in terms)
        pair.alice.hears(Error(channel_id=pair.alice.record.channel_id, data=b"gone"))
        assert pair.alice.record.phase is Phase.ON_CHAIN


def test_a_peer_cannot_make_us_keep_transactions_without_end() -> None:
    pair, _ = bobs_offer()
    for fee in range(1000, 1000 + MAX_CLOSES + 5):
        pair.alice.hears(bob_signs(pair, fee=fee))
    assert len(pair.alice.record.closes) == MAX_CLOSES - 1 == len(said(pair.alice, ClosingSig))
    assert len(said(pair.alice, Warning)) == 6 and pair.alice.is_connected
    pair.alice.hears(bob_signs(pair, fee=1000))
    assert len(said(pair.alice, ClosingSig)) == MAX_CLOSES, "what is known is signed again"


def test_the_older_closing_is_out_of_place() -> None:
    pair, _ = bobs_offer()
    message = ClosingSigned(channel_id=pair.alice.record.channel_id, fee_satoshis=Sat(1), signature=bytes(64))
    pair.alice.hears(message)
    assert "no fee is negotiated" in reasons(pair.alice)[0]
    pair = Pair.opened()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()
    _, offer = bobs_offer()
    pair.alice.hears(replace(offer, channel_id=pair.alice.record.channel_id))
    assert "before its time" in reasons(pair.alice)[0]


# --- the answer to ours -----------------------------------------------------------------------------------------------


def bobs_answer() -> tuple[Pair, ClosingSig]:
    pair = opened()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.deliver(pair.alice)
    pair.deliver(pair.bob)
    pair.deliver(pair.alice)
    (answer,) = said(pair.bob, ClosingSig)
    pair.bob.outbox.clear()
    return pair, answer


WRONG: dict[str, Callable[[ClosingSig], ClosingSig]] = {
    "fee": lambda m: replace(m, fee_satoshis=Sat(int(m.fee_satoshis) + 1)),
    "locktime": lambda m: replace(m, locktime=m.locktime + 1),
    "closer": lambda m: replace(m, closer_scriptpubkey=OTHER),
    "closee": lambda m: replace(m, closee_scriptpubkey=OTHER),
    "none": lambda m: replace(m, closer_and_closee_outputs=None),
    "two": lambda m: replace(m, closer_output_only=m.closer_and_closee_outputs),
    "not offered": lambda m: replace(m, closer_and_closee_outputs=None, closee_output_only=m.closer_and_closee_outputs),
    "other form": lambda m: replace(m, closer_and_closee_outputs=None, closer_output_only=m.closer_and_closee_outputs),
    "invalid": lambda m: replace(m, closer_and_closee_outputs=b"\x01" * 64),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_answer_that_is_none(what: str) -> None:
    pair, answer = bobs_answer()
    pair.alice.hears(WRONG[what](answer))
    assert reasons(pair.alice) and said(pair.alice, Warning)
    assert not pair.alice.record.closes and pair.alice.record.phase is Phase.NEGOTIATING


def test_an_answer_counts_once() -> None:
    pair, answer = bobs_answer()
    pair.alice.hears(answer)
    assert len(published(pair, pair.alice)) == 1 and not reasons(pair.alice)
    pair.alice.hears(answer)
    assert "without a closing_complete" in reasons(pair.alice)[0]


def test_a_relay_too_far_in_the_future_is_not_ours() -> None:
    """Our own offer is always for the next block."""
    pair = opened()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()
    terms = pair.alice.record.closing_terms
    assert terms is not None and BlockHeight(terms.locktime) == pair.alice.env.height
