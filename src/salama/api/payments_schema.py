"""Payments: asked for, made, relayed."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from salama.api.method import Method, PageParams, Params, Result


class InvoiceParams(Params, frozen=True, kw_only=True):
    amount: Annotated[str, Meta(description="with its unit, or `any`", max_length=40)]
    description: Annotated[str, Meta(max_length=639)] = ""
    expiry: Annotated[int, Meta(description="seconds", ge=1, le=31_536_000)] = 3600


class InvoiceCreated(Result, frozen=True, kw_only=True):
    invoice: str
    payment_hash: str
    amount_msat: int | None
    expires_at: int


class PayParams(Params, frozen=True, kw_only=True):
    request: Annotated[str, Meta(description="a BOLT 11 invoice", max_length=20_000)]
    amount: Annotated[str, Meta(description="needed, and allowed, only when the invoice names none", max_length=40)] = (
        ""
    )
    max_fee: Annotated[str, Meta(description="most to pay in fees; default 1 % + 10 sat", max_length=40)] = ""
    timeout: Annotated[int, Meta(description="seconds until no new attempt is made", ge=1, le=3600)] = 60


class Part(Result, frozen=True, kw_only=True):
    status: str
    delivered_msat: int
    fee_msat: int
    route: list[str]
    failure: str


class Paid(Result, frozen=True, kw_only=True):
    payment_hash: str
    status: str
    amount_msat: int
    fee_msat: int
    preimage: str
    failure_code: str
    failure_reason: str
    seconds: float
    parts: list[Part]


class Forward(Result, frozen=True, kw_only=True):
    in_channel: str
    out_channel: str
    amount_in_msat: int
    amount_out_msat: int
    fee_msat: int
    status: str
    at: int


class Forwards(Result, frozen=True, kw_only=True):
    forwards: list[Forward]
    next_cursor: str
    total_fee_msat: int
    settled: int


class PaymentLine(Result, frozen=True, kw_only=True):
    payment_hash: str
    status: str
    amount_msat: int
    fee_msat: int
    payee: str
    created: int
    failure_code: str


class Payments(Result, frozen=True, kw_only=True):
    payments: list[PaymentLine]
    next_cursor: str


class InvoiceLine(Result, frozen=True, kw_only=True):
    payment_hash: str
    status: str
    amount_msat: int | None
    received_msat: int
    description: str
    created: int
    expires_at: int
    invoice: str


class Invoices(Result, frozen=True, kw_only=True):
    invoices: list[InvoiceLine]
    next_cursor: str


METHODS: tuple[Method, ...] = (
    Method(
        "invoice",
        "Ask for a payment (BOLT 11).",
        InvoiceParams,
        InvoiceCreated,
        ("amount", "description"),
        aliases=("addinvoice", "createinvoice"),
    ),
    Method(
        "pay",
        "Pay an invoice and wait for the result.",
        PayParams,
        Paid,
        ("request",),
        aliases=("payinvoice", "xpay", "lnpay"),
    ),
    Method("payments", "Our payments, newest first.", PageParams, Payments, aliases=("listpays", "listpayments")),
    Method("invoices", "Our invoices, newest first.", PageParams, Invoices, aliases=("listinvoices",)),
    Method(
        "forwards",
        "What we relayed for others, newest first.",
        PageParams,
        Forwards,
        aliases=("listforwards", "fwdinghistory"),
    ),
)
