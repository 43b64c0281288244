"""What a restart must find of invoices and payments, and the rows that carry it to the journal."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from salama.base.ids import ChannelId, HtlcRef, NodeId, PaymentHash, Preimage, ShortChannelId
from salama.base.machine import Row
from salama.base.units import CltvExpiry, Msat


class InvoiceStatus(Enum):
    OPEN = "open"
    PAID = "paid"
    """All parts are here and the decision to claim every one of them is durable."""


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice of ours (BOLT 11). ``amount`` None lets the payer choose."""

    payment_hash: PaymentHash
    preimage: Preimage
    payment_secret: bytes = field(repr=False)
    amount: Msat | None
    text: str
    description: str
    created: int
    expires: int
    min_final_cltv_expiry: int
    status: InvoiceStatus = InvoiceStatus.OPEN
    received: Msat = field(default=Msat(0))
    paid_at: int = 0
    claiming: tuple[HtlcRef, ...] = ()
    """Every HTLC of the set: once any may be settled, all are, after any restart (architecture, ``Claiming``)."""


class PartStatus(Enum):
    OFFERED = "offered"
    SETTLED = "settled"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RouteHop:
    """``node_id`` reached over ``short_channel_id`` with an HTLC of ``amount`` expiring at ``cltv_expiry``."""

    node_id: NodeId
    short_channel_id: ShortChannelId
    amount: Msat
    cltv_expiry: CltvExpiry


@dataclass(frozen=True, slots=True)
class Part:
    """One HTLC of a payment of ours; ``number`` is unique within the payment for ever."""

    number: int
    channel_id: ChannelId
    hops: tuple[RouteHop, ...]
    session_key: bytes = field(repr=False)
    delivered: Msat
    """What arrives at the payee."""
    status: PartStatus = PartStatus.OFFERED
    failure: str = ""

    @property
    def sent(self) -> Msat:
        """What leaves us, fees included."""
        return self.hops[0].amount

    @property
    def fee(self) -> Msat:
        return self.sent - self.delivered


class PaymentStatus(Enum):
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment of ours, from the decision to its end."""

    payment_hash: PaymentHash
    payee: NodeId
    invoice: str
    payment_secret: bytes = field(repr=False)
    payment_metadata: bytes | None
    amount: Msat
    max_fee: Msat
    final_cltv_delta: int
    created: int
    deadline: int
    """Unix seconds after which no new part is sent; parts in flight still decide the result."""
    status: PaymentStatus = PaymentStatus.PENDING
    preimage: Preimage | None = None
    failure_code: str = ""
    failure_reason: str = ""
    finished: int = 0
    parts: tuple[Part, ...] = ()
    next_part: int = 0

    @property
    def in_flight(self) -> tuple[Part, ...]:
        return tuple(p for p in self.parts if p.status is PartStatus.OFFERED)

    @property
    def fee(self) -> Msat:
        """Fees of the settled parts."""
        return Msat.total(p.fee for p in self.parts if p.status is PartStatus.SETTLED)


class ForwardStatus(Enum):
    SETTLED = "settled"
    FAILED = "failed"
    LOST = "lost"
    """Paid downstream, failed upstream: the preimage came after the failure had been taken."""


# --- rows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PutInvoice(Row):
    """Insert or replace an invoice of ours."""

    invoice: Invoice


@dataclass(frozen=True, slots=True)
class PutPayment(Row):
    """Insert or replace a payment of ours with its parts."""

    payment: Payment


@dataclass(frozen=True, slots=True)
class PutForward(Row):
    """The outcome of a relayed HTLC, keyed by the incoming one; writing it twice changes nothing."""

    incoming: HtlcRef
    outgoing_channel: ChannelId
    outgoing_id: int
    amount_in: Msat
    amount_out: Msat
    status: ForwardStatus
    at: int
