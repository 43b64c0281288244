"""Paying: routes, parts, retries, and an end that a person understands (BOLT 4, B4.05-B4.08).

A part is on record before its HTLC is offered, so that no restart can forget one that may still be claimed.
"""

from __future__ import annotations

from salama.base.ids import PaymentHash
from salama.base.units import CltvExpiry, Msat
from salama.base.values import replace
from salama.channel.events import AddHtlc, Consumed, HtlcFailed, PreimageLearned, PublicEvent
from salama.onion.sphinx import OnionTooLong, make_onion
from salama.payments.events import OfferRefused, Pay, PaymentFinished, RouteLearned, ToChannel
from salama.payments.learning import learn
from salama.payments.origin import PartOrigin
from salama.payments.records import Part, PartStatus, Payment, PaymentStatus, PutPayment, RouteHop
from salama.payments.state import Outgoing, Turn
from salama.routing.pathfinding import NoRoute, Route
from salama.wire.onion import PaymentData, PaymentPayload

SMALLEST_PART = 10_000_000
"""Msat under which a payment is not split further: each part costs a fee and a slot."""
MAX_ATTEMPTS = 60
"""Parts tried in all before a payment is given up; bounds work and the record's size."""


def pay(work: Turn, command: Pay) -> None:
    """Take a payment on. The shell has refused a hash that is pending or paid already."""
    if command.payment.payment_hash in work.payments:
        return
    _advance(work, Outgoing(command.payment, command.hints, command.multi_part))


def _advance(work: Turn, outgoing: Outgoing) -> None:
    """Offer parts for whatever is not under way, all of it or nothing, or end the payment."""
    payment = outgoing.payment
    planned, refusal = _plan(work, outgoing)
    if refusal is not None:
        if not payment.in_flight:
            _fail(work, outgoing, refusal)
            return
        # A part of what is missing would only lie at the payee until its time is up. The rest is awaited.
        planned = []
    for part, add in planned:
        payment = replace(payment, parts=(*payment.parts, part), next_part=part.number + 1)
        work.origins[add.origin] = part.channel_id
        work.reserved[part.channel_id] = work.reserved.get(part.channel_id, 0) + int(part.sent)
        work.effects.append(ToChannel(part.channel_id, add))
    work.payments[payment.payment_hash] = replace(outgoing, payment=payment)
    work.rows.append(PutPayment(payment))


Refusal = tuple[str, str]
"""Code and sentence."""


def _plan(work: Turn, outgoing: Outgoing) -> tuple[list[tuple[Part, AddHtlc]], Refusal | None]:
    """Parts that together carry what is missing, or why they cannot be found."""
    payment = outgoing.payment
    planned: list[tuple[Part, AddHtlc]] = []
    reserved = dict(work.reserved)
    alive = [p for p in payment.parts if p.status is not PartStatus.FAILED]
    missing = int(payment.amount) - sum(int(p.delivered) for p in alive)
    budget = int(payment.max_fee) - sum(int(p.fee) for p in alive)
    part_size = missing
    while missing > 0:
        refusal = _limit(work, outgoing, len(planned))
        if refusal is not None:
            return [], refusal
        route = work.env.route(
            payment.payee,
            Msat(min(part_size, missing)),
            final_cltv_delta=payment.final_cltv_delta,
            max_fee=Msat(max(0, budget)),
            hints=outgoing.hints,
            avoid=outgoing.avoid,
            reserved=reserved,
        )
        if isinstance(route, NoRoute):
            part_size = min(part_size, missing) // 2
            if not outgoing.multi_part or part_size < SMALLEST_PART:
                return [], outgoing.last_failure or (route.code, route.reason)
            continue
        part = _part_of(work, route, payment.next_part + len(planned))
        try:
            planned.append((part, _add_of(payment, part)))
        except OnionTooLong:
            # Only a giant payment_metadata can do this; no other route would be shorter by enough to bother.
            return [], ("onion_too_long", "What the payee wants to be told does not fit into a payment's onion.")
        reserved[part.channel_id] = reserved.get(part.channel_id, 0) + int(part.sent)
        missing -= int(part.delivered)
        budget -= int(part.fee)
    return planned, None


def _limit(work: Turn, outgoing: Outgoing, planned: int) -> Refusal | None:
    """Why no further part may be offered."""
    payment = outgoing.payment
    if payment.failure_code:
        return payment.failure_code, payment.failure_reason
    if work.env.now >= payment.deadline:
        last = f" The last attempt: {outgoing.last_failure[1]}" if outgoing.last_failure else ""
        return "timeout", f"No way was found in the time allowed.{last}"
    if len(payment.parts) + planned >= MAX_ATTEMPTS:
        return "too_many_attempts", f"{MAX_ATTEMPTS} attempts did not get through."
    if len(payment.in_flight) + planned >= work.env.max_parts:
        return "too_many_parts", f"The amount does not fit into {work.env.max_parts} parts."
    return None


def _part_of(work: Turn, route: Route, number: int) -> Part:
    hops = tuple(RouteHop(h.node_id, h.short_channel_id, h.amount, CltvExpiry(int(h.cltv_expiry))) for h in route.hops)
    channel_id = work.env.by_scid[hops[0].short_channel_id]
    return Part(number, channel_id, hops, session_key=_session_key(work), delivered=hops[-1].amount)


def _add_of(payment: Payment, part: Part) -> AddHtlc:
    """The HTLC of ``part``. Raises OnionTooLong."""
    onion = make_onion(_payloads(payment, part), part.session_key, payment.payment_hash).packet
    origin = PartOrigin(payment.payment_hash, part.number).encode()
    return AddHtlc(origin, part.sent, payment.payment_hash, part.hops[0].cltv_expiry, onion)


def _session_key(work: Turn) -> bytes:
    """A random scalar; the chance of an invalid one is 2^-128 and would only fail this part."""
    return work.env.entropy(32)


def _payloads(payment: Payment, part: Part) -> list[tuple[bytes, bytes]]:
    """For each hop its key and what it shall do: pass on to the next one, or take the payment."""
    payloads = []
    for hop, following in zip(part.hops, part.hops[1:], strict=False):
        relay = PaymentPayload(
            amt_to_forward=following.amount,
            outgoing_cltv_value=int(following.cltv_expiry),
            short_channel_id=following.short_channel_id,
        )
        payloads.append((bytes(hop.node_id), relay.encode()))
    last = part.hops[-1]
    final = PaymentPayload(
        amt_to_forward=last.amount,
        outgoing_cltv_value=int(last.cltv_expiry),
        payment_data=PaymentData(payment_secret=payment.payment_secret, total_msat=payment.amount),
        payment_metadata=payment.payment_metadata,
    )
    payloads.append((bytes(last.node_id), final.encode()))
    return payloads


def settled(work: Turn, origin: PartOrigin, learned: PreimageLearned) -> None:
    """One preimage proves the whole payment: the payee holds every part or loses them."""
    work.rows.append(Consumed(learned.key))
    found = _part(work, origin)
    if found is None:
        return
    outgoing, part = found
    payment = _with_part(outgoing.payment, replace(part, status=PartStatus.SETTLED))
    work.effects.append(RouteLearned(part, None))
    if payment.preimage is None:
        payment = replace(payment, preimage=learned.preimage, failure_code="", failure_reason="")
        payment = _finish(work, payment, PaymentStatus.SUCCEEDED)
    _keep_or_close(work, replace(outgoing, payment=payment))


def failed(work: Turn, origin: PartOrigin, failure: HtlcFailed) -> None:
    """A part came back: learn from it, then try another way or give up."""
    work.rows.append(Consumed(failure.key))
    found = _part(work, origin)
    if found is None:
        return
    outgoing, part = found
    outgoing, why, final = learn(work, outgoing, part, failure)
    payment = _with_part(outgoing.payment, replace(part, status=PartStatus.FAILED, failure=why[0]))
    outgoing = replace(outgoing, payment=payment, last_failure=why)
    _continue(work, outgoing, give_up=final)


def refused(work: Turn, origin: PartOrigin, refusal: OfferRefused) -> None:
    """Our own channel did not take the part: nothing left the house."""
    found = _part(work, origin)
    if found is None:
        return
    outgoing, part = found
    payment = _with_part(outgoing.payment, replace(part, status=PartStatus.FAILED, failure=refusal.code))
    avoid = outgoing.avoid | {(part.hops[0].short_channel_id, work.env.our_node_id)}
    # A channel gives its reasons in lower case; this one goes to a person.
    why = (refusal.code, refusal.reason[:1].upper() + refusal.reason[1:].removesuffix(".") + ".")
    _continue(work, replace(outgoing, payment=payment, avoid=avoid, last_failure=why), give_up=False)


def tick(work: Turn) -> None:
    """Look at payments that the channels know nothing of: their last part was never signed before a restart."""
    for outgoing in list(work.payments.values()):
        lost = [
            p
            for p in outgoing.payment.in_flight
            if PartOrigin(outgoing.payment.payment_hash, p.number).encode() not in work.origins
        ]
        if not lost:
            continue
        payment = outgoing.payment
        if work.env.now < payment.deadline and not any(view.ready for view in work.env.channels.values()):
            continue  # nobody is on the line yet
        for part in lost:
            payment = _with_part(payment, replace(part, status=PartStatus.FAILED, failure="not_sent"))
        _continue(work, replace(outgoing, payment=payment), give_up=False)


def _continue(work: Turn, outgoing: Outgoing, *, give_up: bool) -> None:
    payment = outgoing.payment
    if payment.status is PaymentStatus.SUCCEEDED:
        _keep_or_close(work, outgoing)
    elif not give_up:
        _advance(work, outgoing)
    elif payment.in_flight:
        # No new part, but each that is under way must come home before the payment is over.
        code, reason = outgoing.last_failure or ("failed", "The payment failed.")
        payment = replace(payment, failure_code=code, failure_reason=reason)
        work.payments[payment.payment_hash] = replace(outgoing, payment=payment)
        work.rows.append(PutPayment(payment))
    else:
        _fail(work, outgoing, outgoing.last_failure or ("failed", "The payment failed."))


def _keep_or_close(work: Turn, outgoing: Outgoing) -> None:
    """Write the record; a successful payment stays until its last part has settled, so that the fee on record is the
    fee paid.
    """
    payment = outgoing.payment
    work.rows.append(PutPayment(payment))
    if payment.in_flight:
        work.payments[payment.payment_hash] = outgoing
    else:
        work.payments.pop(payment.payment_hash, None)


def _finish(work: Turn, payment: Payment, status: PaymentStatus) -> Payment:
    """The payment has its result: answer who waits. Its record is written by the caller."""
    payment = replace(payment, status=status, finished=work.env.now)
    name = "payment.succeeded" if status is PaymentStatus.SUCCEEDED else "payment.failed"
    fields = (("payment_hash", str(payment.payment_hash)), ("amount_msat", int(payment.amount)))
    work.rows.append(PublicEvent(name, fields))
    work.effects.append(PaymentFinished(payment))
    return payment


def _fail(work: Turn, outgoing: Outgoing, why: tuple[str, str]) -> None:
    payment = replace(outgoing.payment, failure_code=why[0], failure_reason=why[1])
    _keep_or_close(work, replace(outgoing, payment=_finish(work, payment, PaymentStatus.FAILED)))


def _part(work: Turn, origin: PartOrigin) -> tuple[Outgoing, Part] | None:
    """The part that ``origin`` names, if it still waits for its outcome."""
    outgoing = work.payments.get(PaymentHash(origin.payment_hash))
    if outgoing is None:
        return None
    for part in outgoing.payment.parts:
        if part.number == origin.number and part.status is PartStatus.OFFERED:
            return outgoing, part
    return None


def _with_part(payment: Payment, part: Part) -> Payment:
    return replace(payment, parts=tuple(part if p.number == part.number else p for p in payment.parts))
