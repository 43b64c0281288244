"""What the payment machine is told and what it asks for. Handoffs of channels arrive as they are."""

from __future__ import annotations

from dataclasses import dataclass, field

from salama.base.ids import ChannelId, HtlcRef, PaymentHash
from salama.base.machine import Effect, Event
from salama.base.units import CltvExpiry, Msat
from salama.channel.events import FailHtlc, Handoff, Origin, SettleHtlc
from salama.invoices.bolt11 import HintHop
from salama.payments.records import Part, Payment


@dataclass(frozen=True, slots=True)
class HtlcArrived(Event):
    """An incoming HTLC is irrevocably committed. May come again (start-up): nothing is done twice.

    ``shared_secret`` is our key's ECDH with the onion's ephemeral key, None where that key is no point.
    ``replay_of`` names an earlier HTLC that carried the same onion (B4.03), found in the journal.
    """

    ref: HtlcRef
    amount: Msat
    payment_hash: PaymentHash
    cltv_expiry: CltvExpiry
    onion: bytes = field(repr=False)
    shared_secret: bytes | None = field(repr=False)
    path_key: bytes | None = None
    replay_of: HtlcRef | None = None
    must_fail: bool = False
    """Its channel asks for this: it would take the dust over our limit (B2.50)."""


@dataclass(frozen=True, slots=True)
class HandoffArrived(Event):
    """A channel handed over the outcome of an outgoing HTLC; again after a restart until it is consumed."""

    handoff: Handoff


@dataclass(frozen=True, slots=True)
class OfferRefused(Event):
    """A channel did not take, or dropped unsigned, the HTLC of ``origin``: it will never be committed."""

    origin: Origin
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class ChannelGone(Event):
    """There is no channel any more for ``answer`` to ``incoming``: it ended without it."""

    incoming: HtlcRef
    answer: SettleHtlc | FailHtlc


@dataclass(frozen=True, slots=True)
class Pay(Event):
    """Start a payment that the shell has checked against earlier ones of the same hash."""

    payment: Payment
    hints: tuple[tuple[HintHop, ...], ...] = ()
    multi_part: bool = False


@dataclass(frozen=True, slots=True)
class Ticked(Event):
    """Time passed: sets that waited too long are failed (B4.06)."""


# --- effects --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToChannel(Effect):
    """Give ``event`` (AddHtlc, SettleHtlc, FailHtlc, FailMalformedHtlc) to a channel."""

    channel_id: ChannelId
    event: Event


@dataclass(frozen=True, slots=True)
class PaymentFinished(Effect):
    """A payment of ours has its result; who waits for it is answered."""

    payment: Payment


@dataclass(frozen=True, slots=True)
class RouteLearned(Effect):
    """What a part taught about its route: ``failed_at`` is the index of the hop that did not pass it on, None on
    success.
    """

    part: Part
    failed_at: int | None
    code: int = 0
