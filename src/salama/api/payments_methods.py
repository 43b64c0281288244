"""What the methods about payments do. No decisions are made here."""

from __future__ import annotations

from salama.api import payments_schema as schema
from salama.api.area import Area, next_cursor, page_before
from salama.api.method import PageParams
from salama.base.amounts import parse_amount
from salama.base.ids import PaymentHash, Preimage
from salama.base.machine import CommandRefused
from salama.base.units import Msat
from salama.crypto.hashes import sha256
from salama.invoices import bolt11
from salama.node.features import FEATURES
from salama.payments.records import ForwardStatus, Invoice, Payment, PutInvoice
from salama.storage import queries
from salama.wire.features import BASIC_MPP, Context

FINAL_CLTV = 30
"""Blocks that our invoices ask the last HTLC to leave us: time to go to the chain, with room (B2.49)."""
FINAL_SLACK = 3
"""Blocks that we add to what a payee asks for: blocks may come while the payment is on its way."""


class PaymentMethods(Area):
    """Payments: asked for, made, relayed."""

    async def invoice(self, params: schema.InvoiceParams) -> schema.InvoiceCreated:
        node = self.node
        amount = None if params.amount == "any" else parse_amount(params.amount)
        if amount is not None and amount == 0:
            raise CommandRefused("bad_amount", "An invoice asks for more than nothing.", "Write an amount, or any.")
        preimage, payment_secret = Preimage(node.outside.entropy(32)), node.outside.entropy(32)
        payment_hash, now = PaymentHash(sha256(preimage)), int(node.outside.now())
        text = bolt11.sign(
            bolt11.Invoice(
                network=node.config.network,
                timestamp=now,
                payment_hash=payment_hash,
                payment_secret=payment_secret,
                payee=node.signer.node_id,
                amount_msat=amount,
                description=params.description,
                expiry=params.expiry,
                min_final_cltv_expiry=FINAL_CLTV,
                route_hints=node.switchboard.route_hints(),
                features=FEATURES.only(Context.INVOICE),
            ),
            node.signer.sign_recoverable,
        )
        invoice = Invoice(
            payment_hash=payment_hash,
            preimage=preimage,
            payment_secret=payment_secret,
            amount=amount,
            text=text,
            description=params.description,
            created=now,
            expires=now + params.expiry,
            min_final_cltv_expiry=FINAL_CLTV,
        )
        await node.journal.commit([PutInvoice(invoice)])
        return schema.InvoiceCreated(
            invoice=text, payment_hash=str(payment_hash), amount_msat=_maybe(amount), expires_at=invoice.expires
        )

    async def pay(self, params: schema.PayParams) -> schema.Paid:
        node, started = self.node, self.node.outside.monotonic()
        try:
            request = _bare(params.request)
            invoice = bolt11.parse(request, networks=(node.config.network,))
        except bolt11.InvalidInvoice as invalid:
            raise CommandRefused(
                "invalid_invoice", f"This is no invoice that can be paid: {invalid.reason}.", "Ask for a new one."
            ) from None
        now = int(node.outside.now())
        if invoice.is_expired(now):
            raise CommandRefused(
                "invoice_expired", f"The invoice expired {now - invoice.expires_at} seconds ago.", "Ask for a new one."
            )
        amount = _amount_of(invoice, params.amount)
        if invoice.payee == node.signer.node_id:
            raise CommandRefused("payment_to_self", "The invoice is our own.", "")
        payment = Payment(
            payment_hash=invoice.payment_hash,
            payee=invoice.payee,
            invoice=request,
            payment_secret=invoice.payment_secret,
            payment_metadata=invoice.metadata,
            amount=amount,
            max_fee=parse_amount(params.max_fee) if params.max_fee else _usual_fee_limit(amount),
            final_cltv_delta=invoice.min_final_cltv_expiry + FINAL_SLACK,
            created=now,
            deadline=now + params.timeout,
        )
        done = await node.payments.pay(payment, invoice.route_hints, multi_part=invoice.features.has(BASIC_MPP))
        return _paid(done, node.outside.monotonic() - started)

    async def payments(self, params: PageParams) -> schema.Payments:
        page = await self.node.journal.read(lambda db: queries.payments(db, page_before(params.cursor), params.limit))
        lines = [
            schema.PaymentLine(
                payment_hash=str(p.payment_hash),
                status=p.status.value,
                amount_msat=int(p.amount),
                fee_msat=int(p.fee),
                payee=str(p.payee),
                created=p.created,
                failure_code=p.failure_code,
            )
            for p in page.rows
        ]
        return schema.Payments(payments=lines, next_cursor=next_cursor(page.older))

    async def invoices(self, params: PageParams) -> schema.Invoices:
        page = await self.node.journal.read(lambda db: queries.invoices(db, page_before(params.cursor), params.limit))
        now = int(self.node.outside.now())
        lines = [
            schema.InvoiceLine(
                payment_hash=str(i.payment_hash),
                status="expired" if i.status.value == "open" and now >= i.expires else i.status.value,
                amount_msat=_maybe(i.amount),
                received_msat=int(i.received),
                description=i.description,
                created=i.created,
                expires_at=i.expires,
                invoice=i.text,
            )
            for i in page.rows
        ]
        return schema.Invoices(invoices=lines, next_cursor=next_cursor(page.older))

    async def forwards(self, params: PageParams) -> schema.Forwards:
        journal = self.node.journal
        page = await journal.read(lambda db: queries.forwards(db, page_before(params.cursor), params.limit))
        total = await journal.read(lambda db: queries.forwarded(db, 0))
        lines = [
            schema.Forward(
                in_channel=str(f.incoming.channel_id),
                out_channel=str(f.outgoing_channel),
                amount_in_msat=int(f.amount_in),
                amount_out_msat=int(f.amount_out),
                fee_msat=int(f.amount_in) - int(f.amount_out) if f.status is ForwardStatus.SETTLED else 0,
                status=f.status.value,
                at=f.at,
            )
            for f in page.rows
        ]
        return schema.Forwards(
            forwards=lines,
            next_cursor=next_cursor(page.older),
            total_fee_msat=int(total.fees),
            settled=total.count,
        )


def _maybe(amount: Msat | None) -> int | None:
    return None if amount is None else int(amount)


def _bare(request: str) -> str:
    """A payment request without what links and copying put round it."""
    request = request.strip()
    return request[10:] if request[:10].lower() == "lightning:" else request


def _amount_of(invoice: bolt11.Invoice, given: str) -> Msat:
    if invoice.amount_msat is None:
        if not given:
            raise CommandRefused("amount_missing", "The invoice leaves the amount to you.", "Add --amount.")
        amount = parse_amount(given)
    elif given:
        raise CommandRefused("amount_given", "The invoice says how much it wants.", "Leave --amount away.")
    else:
        amount = invoice.amount_msat
    if amount == 0:
        raise CommandRefused("bad_amount", "A payment must carry an amount.", "")
    return amount


def _usual_fee_limit(amount: Msat) -> Msat:
    """1 % and 10 sat."""
    return Msat(int(amount) // 100 + 10_000)


def _paid(payment: Payment, seconds: float) -> schema.Paid:
    return schema.Paid(
        payment_hash=str(payment.payment_hash),
        status=payment.status.value,
        amount_msat=int(payment.amount),
        fee_msat=int(payment.fee),
        preimage=payment.preimage.hex() if payment.preimage is not None else "",
        failure_code=payment.failure_code,
        failure_reason=payment.failure_reason,
        seconds=round(seconds, 4),
        parts=[
            schema.Part(
                status=part.status.value,
                delivered_msat=int(part.delivered),
                fee_msat=int(part.fee),
                route=[f"{hop.short_channel_id}>{str(hop.node_id)[:12]}" for hop in part.hops],
                failure=part.failure,
            )
            for part in payment.parts
        ],
    )
