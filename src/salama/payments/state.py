"""What the payment machine holds between turns: nothing that the journal and the channels could not tell again."""

from __future__ import annotations

from dataclasses import dataclass, field

from salama.base.ids import ChannelId, HtlcRef, NodeId, PaymentHash, ShortChannelId
from salama.base.machine import Effect, Row, Transition
from salama.base.units import CltvExpiry, Msat
from salama.channel.events import HandoffKey, Origin, PreimageLearned
from salama.invoices.bolt11 import HintHop
from salama.payments.records import Invoice, Payment
from salama.payments.views import PaymentsEnv


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A pending payment and what this run has learned about routes for it."""

    payment: Payment
    hints: tuple[tuple[HintHop, ...], ...] = ()
    multi_part: bool = False
    avoid: frozenset[tuple[ShortChannelId, NodeId]] = frozenset()
    last_failure: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class HeldPart:
    """One HTLC of an incomplete set."""

    amount: Msat
    cltv_expiry: CltvExpiry
    shared_secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class IncomingSet:
    """Parts of one invoice that wait for the rest (B4.06)."""

    total: Msat
    since: int
    parts: dict[HtlcRef, HeldPart]

    @property
    def received(self) -> Msat:
        return Msat.total(p.amount for p in self.parts.values())


@dataclass(frozen=True, slots=True)
class Relay:
    """An incoming HTLC that we offered on; ``shared_secret`` encrypts what comes back."""

    outgoing_channel: ChannelId
    amount_in: Msat
    amount_out: Msat
    cltv_expiry: CltvExpiry
    """Of the incoming HTLC."""
    shared_secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PaymentsState:
    """Everything pending. The dictionaries are never changed in place: a turn works on copies."""

    payments: dict[PaymentHash, Outgoing] = field(default_factory=dict)
    sets: dict[PaymentHash, IncomingSet] = field(default_factory=dict)
    relays: dict[HtlcRef, Relay] = field(default_factory=dict)
    origins: dict[Origin, ChannelId] = field(default_factory=dict)
    """Every outgoing HTLC that was offered and has no outcome yet: an origin found here is never offered again."""
    late: dict[HandoffKey, PreimageLearned] = field(default_factory=dict)
    """Preimages of HTLCs that we had failed upstream already: told again until their handoffs are consumed."""


class Turn:
    """One batch in the making. Works on copies of the dictionaries and is gone when the turn ends."""

    def __init__(self, state: PaymentsState, env: PaymentsEnv) -> None:
        self.env = env
        self.payments = dict(state.payments)
        self.sets = dict(state.sets)
        self.relays = dict(state.relays)
        self.origins = dict(state.origins)
        self.late = dict(state.late)
        self.was_late = state.late
        """What is younger may not be on disk yet."""
        self.effects: list[Effect] = []
        self.rows: list[Row] = []
        self.invoices: dict[PaymentHash, Invoice | None] = {}
        """Those looked at in this turn, for nobody else writes one meanwhile; and those paid in it, which
        ``env.invoices`` does not show yet."""
        self.reserved: dict[ChannelId, int] = {}
        """Msat offered in this turn per channel: the views do not show it yet."""

    def invoice(self, payment_hash: PaymentHash) -> Invoice | None:
        """The invoice as this turn has left it."""
        if payment_hash not in self.invoices:
            self.invoices[payment_hash] = self.env.invoices(payment_hash)
        return self.invoices[payment_hash]

    def finish(self) -> Transition[PaymentsState]:
        state = PaymentsState(self.payments, self.sets, self.relays, self.origins, self.late)
        return Transition(state, tuple(self.effects), tuple(self.rows))
