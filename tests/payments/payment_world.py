"""The payment machine with an upstream and a downstream channel, real onions and real keys, no I/O."""

from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from salama.base.ids import ChannelId, HtlcRef, NodeId, PaymentHash, Preimage, ShortChannelId, Side
from salama.base.machine import Effect, Event, Row
from salama.base.units import BlockHeight, CltvExpiry, Msat
from salama.channel.events import AddHtlc, FailHtlc, FailMalformedHtlc, Handoff, HandoffKey, SettleHtlc
from salama.crypto.secp256k1 import public_key
from salama.onion.failures import read_failure
from salama.onion.sphinx import Onion, ephemeral_key, make_onion
from salama.payments.events import HandoffArrived, HtlcArrived, ToChannel
from salama.payments.machine import resume, turn
from salama.payments.records import Invoice, InvoiceStatus, Payment, PutInvoice, PutPayment
from salama.payments.state import Outgoing, PaymentsState
from salama.payments.views import ChannelView, PaymentsEnv, RelayPolicy
from salama.routing.routes import Hop, NoRoute, Route
from salama.signer.local import LocalSigner
from salama.wire.onion import PaymentData, PaymentPayload

NOW = 1_700_000_000
HEIGHT = BlockHeight(800_000)
US = LocalSigner(b"a node that relays" * 2)
PAYER_KEY = b"\x11" * 32
NEXT_KEY = b"\x22" * 32
NEXT = NodeId(public_key(NEXT_KEY))
UPSTREAM, DOWNSTREAM, SIBLING = (ChannelId(bytes([n]) * 32) for n in (1, 2, 3))
DOWN_SCID, SIBLING_SCID = ShortChannelId.of(700_000, 1, 0), ShortChannelId.of(700_001, 1, 0)
POLICY = RelayPolicy(1000, 100, 80, Msat(1000), Msat(400_000_000))
PREIMAGE = Preimage(sha256(b"a preimage").digest())
HASH = PaymentHash(sha256(PREIMAGE).digest())
SECRET = sha256(b"a payment secret").digest()


def invoice(amount: int | None = 100_000, **changes: Any) -> Invoice:
    made = Invoice(
        payment_hash=HASH,
        preimage=PREIMAGE,
        payment_secret=SECRET,
        amount=None if amount is None else Msat(amount),
        text="lnbcrt1...",
        description="",
        created=NOW,
        expires=NOW + 3600,
        min_final_cltv_expiry=18,
    )
    return replace(made, **changes)


def payment(amount: int = 100_000) -> Payment:
    return Payment(
        payment_hash=HASH,
        payee=NEXT,
        invoice="lnbcrt1...",
        payment_secret=SECRET,
        payment_metadata=None,
        amount=Msat(amount),
        max_fee=Msat(10_000),
        final_cltv_delta=18,
        created=NOW,
        deadline=NOW + 60,
    )


@dataclass
class World:
    """State, the world around it, and everything the machine has said so far."""

    state: PaymentsState = field(default_factory=lambda: resume((), {}))
    now: int = NOW
    height: BlockHeight = HEIGHT
    invoices: dict[PaymentHash, Invoice] = field(default_factory=dict)
    payments: dict[PaymentHash, Payment] = field(default_factory=dict)
    spendable: int = 300_000_000
    chain_is_stale: bool = False
    ready: bool = True
    sibling_ready: bool = True
    policies: tuple[RelayPolicy, ...] = (POLICY,)
    handoffs: set[HandoffKey] = field(default_factory=set)
    """What no channel has consumed yet."""
    routes: list[Route | NoRoute] = field(default_factory=list)
    """What the router finds, in turn."""
    fee_limits: list[int] = field(default_factory=list)
    """What it was told that it may cost (msat)."""
    effects: list[Effect] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    _ids: int = 0

    def env(self) -> PaymentsEnv:
        views = {
            DOWNSTREAM: ChannelView(DOWNSTREAM, NEXT, self.ready, Msat(self.spendable), (DOWN_SCID,), self.policies),
            SIBLING: ChannelView(SIBLING, NEXT, self.sibling_ready, Msat(50_000_000), (SIBLING_SCID,), (POLICY,)),
        }
        return PaymentsEnv(
            now=self.now,
            height=self.height,
            our_node_id=US.node_id,
            channels=views,
            by_scid={DOWN_SCID: DOWNSTREAM, SIBLING_SCID: SIBLING},
            invoices=self.invoices.get,
            route=self._route,
            entropy=lambda n: bytes(n - 1) + bytes([7]),
            is_waiting=self.handoffs.__contains__,
            chain_is_stale=self.chain_is_stale,
        )

    def _route(self, *_: Any, max_fee: Msat, **__: Any) -> Route | NoRoute:
        self.fee_limits.append(int(max_fee))
        return self.routes.pop(0) if self.routes else NoRoute("no_route", "There is no way.")

    def does(self, *events: Event) -> list[Effect]:
        """One turn; what it wrote is on disk afterwards."""
        done = turn(self.state, events, self.env())
        self.state = done.state
        for row in done.rows:
            if isinstance(row, PutInvoice):
                self.invoices[row.invoice.payment_hash] = row.invoice
            elif isinstance(row, PutPayment):
                self.payments[row.payment.payment_hash] = row.payment
        self.effects += done.effects
        self.rows += done.rows
        return list(done.effects)

    def restarts(self, origins: dict[Any, ChannelId] | None = None) -> None:
        """Only what is on disk survives: invoices, pending payments, and the origins that channels know."""
        pending = [Outgoing(p) for p in self.payments.values() if p.finished == 0 or p.in_flight]
        self.state = resume(pending, origins or {})

    def hands_over(self, handoff: Handoff) -> list[Effect]:
        return self.does(HandoffArrived(handoff))

    # --- HTLCs that come in ---

    def to_relay(
        self, amount: int = 100_000, *, fee: int | None = None, delta: int = 80, **changes: Any
    ) -> HtlcArrived:
        """An HTLC whose onion says: pass ``amount`` on over the downstream channel."""
        out_expiry = int(HEIGHT) + 200
        relay = PaymentPayload(amt_to_forward=Msat(amount), outgoing_cltv_value=out_expiry, short_channel_id=DOWN_SCID)
        final = self._final(amount, amount, out_expiry)
        onion = self.onion(relay, final)
        fee = POLICY.fee(Msat(amount)) if fee is None else fee
        return self.arrived(onion, amount + fee, out_expiry + delta, **changes)

    def to_us(self, amount: int, total: int, *, secret: bytes = SECRET, **changes: Any) -> HtlcArrived:
        """An HTLC whose onion says that it pays us ``amount`` of ``total``."""
        expiry = int(HEIGHT) + 40
        return self.arrived(self.onion(self._final(amount, total, expiry, secret)), amount, expiry, **changes)

    def _final(self, amount: int, total: int, expiry: int, secret: bytes = SECRET) -> PaymentPayload:
        return PaymentPayload(
            amt_to_forward=Msat(amount),
            outgoing_cltv_value=expiry,
            payment_data=PaymentData(payment_secret=secret, total_msat=Msat(total)),
        )

    def onion(self, ours: PaymentPayload, *following: PaymentPayload) -> Onion:
        self._ids += 1
        session = sha256(b"session %d" % self._ids).digest()
        hops = [(bytes(US.node_id), ours.encode()), *((bytes(NEXT), payload.encode()) for payload in following)]
        return make_onion(hops, session, HASH)

    def arrived(self, onion: Onion, amount: int, expiry: int, **changes: Any) -> HtlcArrived:
        htlc = HtlcArrived(
            ref=HtlcRef(UPSTREAM, Side.INCOMING, self._ids),
            amount=Msat(amount),
            payment_hash=HASH,
            cltv_expiry=CltvExpiry(expiry),
            onion=onion.packet,
            shared_secret=US.ecdh(ephemeral_key(onion.packet)),
        )
        return replace(htlc, **changes)

    # --- what was said ---

    def of(self, kind: type) -> list[Any]:
        """Commands of that kind to channels, in their order."""
        return [e.event for e in self.effects if isinstance(e, ToChannel) and isinstance(e.event, kind)]

    @property
    def adds(self) -> list[AddHtlc]:
        return self.of(AddHtlc)

    @property
    def settles(self) -> list[SettleHtlc]:
        return self.of(SettleHtlc)

    @property
    def fails(self) -> list[FailHtlc]:
        return self.of(FailHtlc)

    @property
    def malformed(self) -> list[FailMalformedHtlc]:
        return self.of(FailMalformedHtlc)

    def forgets(self) -> None:
        self.effects.clear()
        self.rows.clear()


def code_of(fail: FailHtlc, htlc: HtlcArrived) -> int:
    """The failure code that the payer reads."""
    assert htlc.shared_secret is not None
    read = read_failure([htlc.shared_secret], fail.reason)
    assert read is not None
    return int.from_bytes(read.message[:2], "big")


def data_of(fail: FailHtlc, htlc: HtlcArrived) -> bytes:
    assert htlc.shared_secret is not None
    read = read_failure([htlc.shared_secret], fail.reason)
    assert read is not None
    return read.message[2:]


def route(amount: int = 100_000, *, fee: int = 0, scid: ShortChannelId = DOWN_SCID, far: bool = False) -> Route:
    """To NEXT over a channel of ours, or one hop further to a node behind it."""
    first = Hop(NEXT, scid, Msat(amount + fee), CltvExpiry(int(HEIGHT) + 120))
    if not far:
        return Route((first,))
    last = Hop(NodeId(public_key(b"\x33" * 32)), ShortChannelId.of(1, 1, 1), Msat(amount), CltvExpiry(int(HEIGHT) + 40))
    return Route((first, last))


PAID = InvoiceStatus.PAID
