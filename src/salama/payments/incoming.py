"""Receiving: one HTLC or a set of parts against an invoice of ours, all or nothing (BOLT 4: B4.05, B4.06)."""

from __future__ import annotations

from hmac import compare_digest

from salama.base.ids import PaymentHash
from salama.base.units import Msat
from salama.base.values import replace
from salama.channel.events import PublicEvent
from salama.onion.failures import make_failure
from salama.payments.events import HtlcArrived
from salama.payments.reasons import make
from salama.payments.records import Invoice, InvoiceStatus, PutInvoice
from salama.payments.resolving import fail, fail_unknown_details, fail_with, settle
from salama.payments.state import HeldPart, IncomingSet, Turn
from salama.wire.onion import PaymentPayload

FINAL_INCORRECT_CLTV_EXPIRY = 18
FINAL_INCORRECT_HTLC_AMOUNT = 19
MPP_TIMEOUT = 23


def is_held(work: Turn, htlc: HtlcArrived) -> bool:
    held = work.sets.get(htlc.payment_hash)
    return held is not None and htlc.ref in held.parts


def is_claimed(work: Turn, htlc: HtlcArrived) -> bool:
    """Whether the HTLC belongs to a set whose claim is durable."""
    invoice = work.invoice(htlc.payment_hash)
    return invoice is not None and htlc.ref in invoice.claiming


def settle_if_claimed(work: Turn, htlc: HtlcArrived) -> bool:
    """Settle an HTLC of a set whose claim is durable; True if it was one."""
    invoice = work.invoice(htlc.payment_hash)
    if invoice is None or htlc.ref not in invoice.claiming:
        return False
    settle(work, htlc.ref, invoice.preimage)
    return True


def receive(work: Turn, htlc: HtlcArrived, payload: PaymentPayload) -> None:
    """Judge one part; claim the set when it is complete."""
    assert payload.amt_to_forward is not None and payload.outgoing_cltv_value is not None
    assert payload.payment_data is not None and htlc.shared_secret is not None
    # An upstream node that took too much shows here: these two codes tell the sender that a node before us lied.
    if htlc.cltv_expiry < payload.outgoing_cltv_value:
        return fail(work, htlc, make(FINAL_INCORRECT_CLTV_EXPIRY, int(htlc.cltv_expiry).to_bytes(4, "big")))
    if htlc.amount < payload.amt_to_forward:
        return fail(work, htlc, make(FINAL_INCORRECT_HTLC_AMOUNT, int(htlc.amount).to_bytes(8, "big")))
    invoice = work.invoice(htlc.payment_hash)
    total = payload.payment_data.total_msat
    if invoice is None or not _fits(work, htlc, invoice, payload.payment_data.payment_secret, int(total)):
        return fail_unknown_details(work, htlc)
    held = work.sets.get(htlc.payment_hash)
    if held is not None and held.total != total:
        return fail_unknown_details(work, htlc)
    part = HeldPart(htlc.amount, htlc.cltv_expiry, htlc.shared_secret)
    held = IncomingSet(Msat(total), work.env.now, {}) if held is None else held
    held = replace(held, parts={**held.parts, htlc.ref: part})
    if invoice.amount is not None and held.received > 2 * int(invoice.amount):
        return fail_unknown_details(work, htlc)
    if held.received >= held.total:
        _claim(work, invoice, held)
    else:
        work.sets[htlc.payment_hash] = held
    return None


def _fits(work: Turn, htlc: HtlcArrived, invoice: Invoice, secret: bytes, total: int) -> bool:
    """Everything about which a payer gets one and the same answer."""
    due = int(invoice.amount) if invoice.amount is not None else 0
    return (
        invoice.status is InvoiceStatus.OPEN
        and compare_digest(invoice.payment_secret, secret)
        and work.env.now < invoice.expires
        and due <= total
        and (invoice.amount is None or total <= 2 * due)
        and total > 0
        and htlc.cltv_expiry >= work.env.height + invoice.min_final_cltv_expiry
    )


def _claim(work: Turn, invoice: Invoice, held: IncomingSet) -> None:
    """Write down that every part is claimed; only then, as effects, settle them."""
    work.sets.pop(invoice.payment_hash, None)
    refs = tuple(held.parts)
    paid = replace(invoice, status=InvoiceStatus.PAID, received=held.received, paid_at=work.env.now, claiming=refs)
    work.rows.append(PutInvoice(paid))
    work.invoices[invoice.payment_hash] = paid
    work.rows.append(
        PublicEvent(
            "invoice.paid",
            (("payment_hash", str(invoice.payment_hash)), ("received_msat", int(held.received)), ("parts", len(refs))),
        )
    )
    for ref in refs:
        settle(work, ref, invoice.preimage)


def expire_sets(work: Turn) -> None:
    """Fail sets that stayed incomplete for too long or whose first part nears its expiry."""
    for payment_hash, held in list(work.sets.items()):
        soonest = min(p.cltv_expiry for p in held.parts.values())
        if work.env.now - held.since >= work.env.mpp_timeout or soonest <= work.env.height + work.env.set_margin:
            _fail_set(work, payment_hash, held)


def _fail_set(work: Turn, payment_hash: PaymentHash, held: IncomingSet) -> None:
    del work.sets[payment_hash]
    for ref, part in held.parts.items():
        fail_with(work, ref, make_failure(part.shared_secret, make(MPP_TIMEOUT)))
