"""Closing with ``closing_complete`` and ``closing_sig`` (BOLT 2, ``option_simple_close``, B2.37, B2.38).

Each side offers a transaction that it pays for itself, and the other signs it: there is nothing to agree on, only two
transactions of which one will confirm. Whoever asked for the closing offers what it should cost; the other no more
than relays ask for, so that the fee of who asked wins. The user may offer again with a higher fee once the last offer
was answered. An offer belongs to its connection; its fee and its locktime are kept, so that the next connection offers
the same transaction again and not one more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from salama.base.machine import CommandRefused, Effect, PeerViolation, Transition
from salama.base.units import FeeratePerKw, Sat
from salama.base.values import replace
from salama.bitcoin.script import dust_limit, is_op_return
from salama.channel.closing import (
    CLOSING_WITNESS_WEIGHT,
    InvalidClosing,
    check_feerate,
    closing_digest,
    closing_row,
    entered,
    is_simple,
    owed_close,
)
from salama.channel.closing_forms import Form, affordable_fee, chosen_form, offered_forms
from salama.channel.closing_txs import ClosingImpossible, ClosingTx, make_simple_closing_tx
from salama.channel.dispatch import READY, on
from salama.channel.env import ChannelEnv
from salama.channel.events import CloseChannel, CommandAnswered, Disconnect, Send
from salama.channel.normal import linked
from salama.channel.opening_rules import is_closing_script
from salama.channel.scripts import funding_script
from salama.channel.signing import OweClosingComplete, OweClosingSig
from salama.channel.state import Channel, ChannelRecord, ClosingOffer, ClosingTerms, MutualClose, Phase
from salama.wire.closing import ClosingComplete, ClosingSig
from salama.wire.setup import Warning

MAX_CLOSES: Final = 20
"""Closing transactions that a channel keeps: a peer that offers more is told so, and nothing more is signed."""
ANSWER_SECONDS: Final = 60
"""A peer that leaves an offer unanswered for so long loses the connection (B2.37)."""


class StaleClosing(PeerViolation):
    """A ``closing_complete`` to a script that is not our latest: both sides say theirs again when they reconnect."""


class UnexpectedClosing(PeerViolation):
    """A message of a closing that does not go on this way."""


# --- our offer -------------------------------------------------------------------------------------------------------


def offer_if_due(channel: Channel, env: ChannelEnv) -> Transition[Channel] | None:
    """Offer once on each connection, with what was offered before; give up a peer that does not answer."""
    record, link = channel.record, channel.link
    if link is None or record.phase is not Phase.NEGOTIATING or not is_simple(link) or record.spend is not None:
        return None
    if not (link.is_shutdown_sent and link.is_shutdown_received):
        return None
    if link.offer is not None:
        is_late = not link.offer.is_answered and env.now - link.offer.made_at >= ANSWER_SECONDS
        return _given_up(channel) if is_late else None
    terms = record.closing_terms or _terms(record, env, record.closing_feerate)
    return None if terms is None else _offered(channel, terms, env)


@on(CloseChannel, phases=(Phase.NEGOTIATING,), links=READY)
def close_again(channel: Channel, event: CloseChannel, env: ChannelEnv) -> Transition[Channel]:
    """Offer a higher fee. The script stays: the peer may rely on it already."""
    record, link = channel.record, linked(channel)
    check_feerate(event, env)
    if not is_simple(link) or record.spend is not None:
        raise CommandRefused("closing_already", "the channel is already closing")
    if link.offer is not None and not link.offer.is_answered:
        raise CommandRefused("closing_already", "the peer has not answered our last offer yet", "try again soon")
    if len(record.closes) >= MAX_CLOSES:
        raise CommandRefused("closing_already", f"there are {MAX_CLOSES} closing transactions already")
    record = replace(record, wants_close=True, closing_feerate=event.feerate)
    terms = _terms(record, env, event.feerate)
    if terms is None:
        raise CommandRefused("balance_too_low", "our balance does not pay for a closing transaction")
    if record.closing_terms is not None and terms.fee <= record.closing_terms.fee:
        raise CommandRefused(
            "closing_already", f"a fee of {record.closing_terms.fee} sat is offered already", "ask for a higher feerate"
        )
    done = _offered(Channel(record, link), terms, env)
    return Transition(done.state, (*done.effects, CommandAnswered("", "closing")), done.rows)


def _terms(record: ChannelRecord, env: ChannelEnv, feerate: FeeratePerKw | None) -> ClosingTerms | None:
    """Fee and locktime of a new offer; None if our balance cannot pay what a relay asks for."""
    spec, script = record.funding.local.spec, record.our_shutdown
    assert script is not None
    least = env.policy.min_feerate
    free = ClosingTerms(Sat(0), int(env.height))
    largest = _tx(record, free, _forms(record, Sat(0))[-1], we_are_closer=True)
    weight = largest.tx.weight + CLOSING_WITNESS_WEIGHT
    fair = max(feerate or env.feerates.closing, least).fee(weight)
    # Who asked may be unable to pay: then it is we who see to it that the channel closes.
    is_ours_to_pay = record.wants_close or spec.their_balance.sat < fair
    wanted = fair if is_ours_to_pay else least.fee(weight)
    fee = affordable_fee(wanted, own=spec.our_balance, closee=spec.their_balance, own_dust=dust_limit(script))
    terms = replace(free, fee=fee)
    made = _tx(record, terms, _forms(record, fee)[-1], we_are_closer=True)
    return terms if _pays(made, least) else None


def _pays(closing: ClosingTx, feerate: FeeratePerKw) -> bool:
    return closing.fee >= feerate.fee(closing.tx.weight + CLOSING_WITNESS_WEIGHT)


def _forms(record: ChannelRecord, fee: Sat) -> tuple[Form, ...]:
    spec = record.funding.local.spec
    assert record.our_shutdown is not None and record.their_shutdown is not None
    return offered_forms(
        is_lesser=spec.our_balance < spec.their_balance,
        is_own_dust=_is_dust(int(spec.our_balance.sat) - int(fee), record.our_shutdown),
        is_closee_dust=_is_dust(int(spec.their_balance.sat), record.their_shutdown),
    )


def _is_dust(amount: int, script: bytes) -> bool:
    return not is_op_return(script) and amount < int(dust_limit(script))


def _offered(channel: Channel, terms: ClosingTerms, env: ChannelEnv) -> Transition[Channel]:
    record, link = channel.record, linked(channel)
    assert record.our_shutdown is not None and record.their_shutdown is not None
    forms = _forms(record, terms.fee)
    draft = ClosingComplete(
        channel_id=record.channel_id,
        closer_scriptpubkey=record.our_shutdown,
        closee_scriptpubkey=record.their_shutdown,
        fee_satoshis=terms.fee,
        locktime=terms.locktime,
    )
    digests = tuple([(form, closing_digest(_tx(record, terms, form, we_are_closer=True))) for form in forms])
    offer = ClosingOffer(terms, record.our_shutdown, record.their_shutdown, forms, env.now)
    record = replace(record, closing_terms=terms)
    owed = OweClosingComplete(record.params.key_index, draft, digests)
    row = closing_row("channel.close_offered", record, ("fee_sat", int(terms.fee)))
    return Transition(Channel(record, replace(link, offer=offer)), (owed,), (row,))


def _given_up(channel: Channel) -> Transition[Channel]:
    reason = "closing_complete was not answered"
    told = Send(Warning(channel_id=channel.record.channel_id, data=reason.encode()))
    return Transition(Channel(channel.record, None), (told, Disconnect(reason)))


def _tx(
    record: ChannelRecord, terms: ClosingTerms, form: Form, *, we_are_closer: bool, their_script: bytes | None = None
) -> ClosingTx:
    """Raises ClosingImpossible."""
    funding = record.funding
    spec, theirs = funding.local.spec, their_script or record.their_shutdown
    assert record.our_shutdown is not None and theirs is not None
    return make_simple_closing_tx(
        funding=funding.outpoint,
        capacity=funding.capacity,
        funding_script=funding_script(funding.our_funding_pubkey, funding.their_funding_pubkey),
        our_balance=spec.our_balance,
        their_balance=spec.their_balance,
        our_script=record.our_shutdown,
        their_script=theirs,
        fee=terms.fee,
        locktime=terms.locktime,
        we_are_closer=we_are_closer,
        with_closer=form.has_closer,
        with_closee=form.has_closee,
    )


# --- the peer's offer ------------------------------------------------------------------------------------------------


@on(ClosingComplete, phases=(Phase.SHUTTING_DOWN, Phase.NEGOTIATING), links=READY)
def receive_closing_complete(channel: Channel, message: ClosingComplete, env: ChannelEnv) -> Transition[Channel]:
    """Sign and publish what the peer pays for."""
    channel = entered(channel)
    record, link = channel.record, linked(channel)
    is_due = record.phase is Phase.NEGOTIATING and link.is_shutdown_sent and link.is_shutdown_received
    if not is_due or not is_simple(link) or record.our_shutdown is None:
        raise UnexpectedClosing("closing_complete before its time, or without option_simple_close")
    if record.spend is not None:
        return Transition(channel)
    script, terms = message.closer_scriptpubkey, ClosingTerms(message.fee_satoshis, message.locktime)
    spec = record.funding.local.spec
    if terms.fee > spec.their_balance.sat:
        raise InvalidClosing(f"a closing fee of {terms.fee} sat is more than you have")
    if message.closee_scriptpubkey != record.our_shutdown:
        raise StaleClosing("closing_complete to a script that is not our latest")
    _check_script(channel, script)
    form = chosen_form(
        is_own_dust=_is_dust(int(spec.our_balance.sat), record.our_shutdown),
        is_both_offered=message.closer_and_closee_outputs is not None,
    )
    signature: bytes | None = getattr(message, form.value)
    if signature is None:
        raise InvalidClosing(f"closing_complete without {form.value}")
    closing = _verified(record, terms, form, signature, env, we_are_closer=False, their_script=script)
    if terms.fee > env.policy.max_closing_feerate.fee(closing.tx.weight + CLOSING_WITNESS_WEIGHT):
        raise InvalidClosing(f"a closing fee of {terms.fee} sat is absurd")
    if _is_one_too_many(record, closing):
        told = f"we have signed {MAX_CLOSES} closing transactions already"
        return Transition(channel, (Send(Warning(channel_id=record.channel_id, data=told.encode())),))
    draft = ClosingSig(
        channel_id=record.channel_id,
        closer_scriptpubkey=script,
        closee_scriptpubkey=record.our_shutdown,
        fee_satoshis=terms.fee,
        locktime=terms.locktime,
    )
    answer = OweClosingSig(record.params.key_index, closing_digest(closing), draft, form)
    return _kept(Channel(replace(record, their_shutdown=script), link), closing, signature, env, (answer,))


def _check_script(channel: Channel, script: bytes) -> None:
    record, link = channel.record, linked(channel)
    if not is_closing_script(script, link.our_features, link.their_features):
        raise InvalidClosing("closing_complete to a script that is not allowed")
    promised = record.params.theirs.upfront_shutdown_script
    # An OP_RETURN gives the money to nobody who could have stolen the peer's keys.
    if promised is not None and script != promised and not is_op_return(script):
        raise InvalidClosing("closing_complete to another script than was promised")


def _verified(
    record: ChannelRecord,
    terms: ClosingTerms,
    form: Form,
    signature: bytes,
    env: ChannelEnv,
    *,
    we_are_closer: bool,
    their_script: bytes,
) -> ClosingTx:
    """The transaction, if the peer's signature of it is valid and low-S."""
    try:
        closing = _tx(record, terms, form, we_are_closer=we_are_closer, their_script=their_script)
    except ClosingImpossible as problem:
        raise InvalidClosing(str(problem)) from None
    if not env.verify([(record.funding.their_funding_pubkey, closing_digest(closing), signature)]):
        raise InvalidClosing(f"the signature of {form.value} is not valid")
    return closing


# --- the answer to ours ----------------------------------------------------------------------------------------------


@on(ClosingSig, phases=(Phase.NEGOTIATING,), links=READY)
def receive_closing_sig(channel: Channel, message: ClosingSig, env: ChannelEnv) -> Transition[Channel]:
    """Publish what we pay for, if it is what we offered."""
    record, link = channel.record, linked(channel)
    offer = link.offer
    if offer is None or offer.is_answered:
        raise UnexpectedClosing("closing_sig without a closing_complete to answer")
    said = (message.closer_scriptpubkey, message.closee_scriptpubkey, message.fee_satoshis, message.locktime)
    if said != (offer.our_script, offer.their_script, offer.terms.fee, offer.terms.locktime):
        raise InvalidClosing("closing_sig is not for what we offered")
    signed = [form for form in Form if getattr(message, form.value) is not None]
    if len(signed) != 1 or signed[0] not in offer.forms:
        raise InvalidClosing("closing_sig signs none of the forms that we offered, or several")
    (form,) = signed
    signature: bytes = getattr(message, form.value)
    closing = _verified(record, offer.terms, form, signature, env, we_are_closer=True, their_script=offer.their_script)
    link = replace(link, offer=replace(offer, is_answered=True))
    return _kept(Channel(record, link), closing, signature, env, ())


# --- what was signed -------------------------------------------------------------------------------------------------


def _is_one_too_many(record: ChannelRecord, closing: ClosingTx) -> bool:
    known = {close.tx.txid for close in record.closes}
    # One place is kept for our own offer.
    return closing.tx.txid not in known and len(known) >= MAX_CLOSES - 1


def _kept(
    channel: Channel, closing: ClosingTx, signature: bytes, env: ChannelEnv, answer: Sequence[Effect]
) -> Transition[Channel]:
    """Remember the transaction and publish it."""
    record = channel.record
    close = MutualClose(closing.tx, signature)
    is_new = all(known.tx.txid != closing.tx.txid for known in record.closes)
    # DEVIATION: the BOLT has everything published that we sign. What its locktime keeps away from the mempool stays
    # with the peer, and is no reason to think the channel closed.
    is_timely = closing.tx.locktime <= int(env.height) + 1
    if is_new:
        best = record.mutual_close
        is_better = is_timely and _pays(closing, env.policy.min_feerate) and (best is None or _is_better(record, close))
        if is_better:
            others = record.other_closes if best is None else (*record.other_closes, best)
            record = replace(record, mutual_close=close, other_closes=others)
        else:
            record = replace(record, other_closes=(*record.other_closes, close))
    effects = [*answer, owed_close(record, close)] if is_timely else list(answer)
    row = closing_row("channel.close_agreed", record, ("txid", str(closing.tx.txid)), ("fee_sat", int(closing.fee)))
    return Transition(Channel(record, channel.link), tuple(effects), (row,) if is_new else ())


def _is_better(record: ChannelRecord, close: MutualClose) -> bool:
    """Whether it pays more for its size than the best so far: what mempools keep."""
    assert record.mutual_close is not None
    capacity = int(record.funding.capacity)
    fees, weights = [], []
    for tx in (close.tx, record.mutual_close.tx):
        fees.append(capacity - sum(int(output.value) for output in tx.outputs))
        weights.append(tx.weight + CLOSING_WITNESS_WEIGHT)
    return fees[0] * weights[1] > fees[1] * weights[0]
