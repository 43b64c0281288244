"""The payment machine's actor: gives it shared secrets, replay checks, views and routes; answers who waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from salama.base.ids import ChannelId, NodeId, PaymentHash, ShortChannelId
from salama.base.machine import CommandRefused, Effect, Event, Row, Transition
from salama.base.units import BlockHeight, Msat
from salama.channel.events import HtlcCommitted, Origin
from salama.crypto.hashes import sha256
from salama.crypto.secp256k1 import InvalidPoint
from salama.gossip.graph import Graph
from salama.invoices import bolt11
from salama.invoices.bolt11 import HintHop
from salama.node.actor import Actor
from salama.node.outside import Outside
from salama.onion.sphinx import OnionRefused, ephemeral_key
from salama.payments.arrival import ONIONS_REMEMBERED, read_onion
from salama.payments.events import HtlcArrived, Pay, PaymentFinished, RouteLearned, ToChannel
from salama.payments.machine import resume, turn
from salama.payments.records import Invoice, Payment
from salama.payments.state import Outgoing, PaymentsState
from salama.payments.views import ChannelView, PaymentsEnv, Router
from salama.routing.pathfinding import NoRoute, OurChannel, Route, find_route
from salama.routing.scoring import Scorer
from salama.signer.local import LocalSigner
from salama.storage import queries
from salama.storage.journal import Journal
from salama.storage.writes import AnyWrite, RememberOnion
from salama.wire import UpdateAddHtlc
from salama.wire.features import BASIC_MPP

log = logging.getLogger("salama.payments")


def found_pending(payment: Payment) -> Outgoing:
    """A payment that start-up finds, with what its invoice says about ways to the payee."""
    try:
        invoice = bolt11.parse(payment.invoice)
    except bolt11.InvalidInvoice:
        return Outgoing(payment)
    return Outgoing(payment, invoice.route_hints, invoice.features.has(BASIC_MPP))


@dataclass(frozen=True, slots=True)
class Committed(Event):
    """A channel's HtlcCommitted on its way to becoming an HtlcArrived."""

    htlc: HtlcCommitted


class _AsNeeded(Mapping[ChannelId, ChannelView]):
    """The channels, looked at once somebody asks: a turn that only settles does not, and a look counts everything."""

    def __init__(self, look: Callable[[], Mapping[ChannelId, ChannelView]]) -> None:
        self._look = look
        self._seen: Mapping[ChannelId, ChannelView] | None = None

    def _all(self) -> Mapping[ChannelId, ChannelView]:
        if self._seen is None:
            self._seen = self._look()
        return self._seen

    def __getitem__(self, channel_id: ChannelId) -> ChannelView:
        return self._all()[channel_id]

    def __iter__(self) -> Iterator[ChannelId]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


class PaymentsActor(Actor[PaymentsState]):
    """One for the node: payments cross channels."""

    INSIDE = (ToChannel,)

    def __init__(
        self,
        journal: Journal,
        signer: LocalSigner,
        graph: Graph,
        scorer: Scorer,
        *,
        pending: Sequence[Payment],
        origins: Mapping[Origin, ChannelId],
        height: Callable[[], BlockHeight],
        channels: Callable[[], Mapping[ChannelId, ChannelView]],
        by_scid: Callable[[], Mapping[ShortChannelId, ChannelId]],
        to_channel: Callable[[ChannelId, Event], None],
        chain_is_stale: Callable[[], bool] = lambda: False,
        outside: Outside | None = None,
    ) -> None:
        super().__init__("payments", resume([found_pending(p) for p in pending], origins), journal)
        self._signer, self.graph, self.scorer = signer, graph, scorer
        self._outside = outside or Outside()
        self._chain_is_stale = chain_is_stale
        self._height, self._channels, self._by_scid, self._to_channel = height, channels, by_scid, to_channel
        self._waiting: dict[PaymentHash, list[asyncio.Future[Payment]]] = {}
        self._onions: list[RememberOnion] = []
        self._secrets_ahead: dict[bytes, bytes | None] = {}
        """By onion; an HTLC that is never committed leaves its own behind, until there are too many."""
        self._commanded: set[PaymentHash] = set()

    # --- commands -----------------------------------------------------------------------------------------------------

    async def pay(self, payment: Payment, hints: tuple[tuple[HintHop, ...], ...], *, multi_part: bool) -> Payment:
        """Take a payment on and wait for its result. Raises CommandRefused for a hash that is paid or under way."""
        payment_hash = payment.payment_hash
        earlier = self.journal.look_up(lambda db: queries.payment(db, payment_hash))
        if payment_hash in self._commanded or payment_hash in self.state.payments:
            raise CommandRefused("payment_in_flight", "A payment of this invoice is under way.", "Wait for its result.")
        if earlier is not None and earlier.preimage is not None:
            raise CommandRefused("already_paid", "This invoice was paid before.", "Ask the payee for a new one.")
        if earlier is not None:
            # Part numbers are never used twice, also not by another attempt at the same invoice.
            payment = replace(payment, next_part=earlier.next_part)
        answer: asyncio.Future[Payment] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(payment_hash, []).append(answer)
        self._commanded.add(payment_hash)
        self.tell(Pay(payment, hints, multi_part))
        try:
            return await answer
        finally:
            self._commanded.discard(payment_hash)

    def invoice(self, payment_hash: PaymentHash) -> Invoice | None:
        """An invoice of ours as it is on disk."""
        return self.journal.look_up(lambda db: queries.invoice(db, payment_hash))

    # --- the actor ----------------------------------------------------------------------------------------------------

    async def prepare(self, events: Sequence[Event]) -> Sequence[Event]:
        """Turn committed HTLCs into arrivals: our key's half of the onion, and whether we saw it before (B4.03)."""
        committed = [e for e in events if isinstance(e, Committed)]
        if not committed:
            return events
        found = [self._secret(e.htlc.onion) for e in committed]
        marks = [None if secret is None else sha256(secret) for secret in found]
        owners = self.journal.read_now(lambda db: queries.onion_owners(db, [m for m in marks if m is not None]))
        arrivals: dict[int, HtlcArrived] = {}
        for event, secret, mark in zip(committed, found, marks, strict=True):
            htlc = event.htlc
            owner = owners.setdefault(mark, htlc.ref) if mark is not None else htlc.ref
            if mark is not None and owner == htlc.ref:
                self._onions.append(RememberOnion(mark, htlc.ref.channel_id, htlc.ref.id, htlc.cltv_expiry))
            arrivals[id(event)] = HtlcArrived(
                htlc.ref,
                htlc.amount,
                htlc.payment_hash,
                htlc.cltv_expiry,
                htlc.onion,
                secret,
                htlc.path_key,
                None if owner == htlc.ref else owner,
                htlc.must_fail,
            )
        return [arrivals.get(id(e), e) for e in events]

    def look_ahead(self, offered: Sequence[UpdateAddHtlc]) -> None:
        """Open the onions of HTLCs that may be committed soon; nothing is decided about them before they are."""
        if len(self._secrets_ahead) + len(offered) > ONIONS_REMEMBERED:
            self._secrets_ahead.clear()
        for add in offered:
            secret = self._secrets_ahead[add.onion_routing_packet] = self._work_out(add.onion_routing_packet)
            if secret is not None:
                read_onion(add.onion_routing_packet, secret, add.payment_hash)

    def _secret(self, onion: bytes) -> bytes | None:
        return self._secrets_ahead.pop(onion) if onion in self._secrets_ahead else self._work_out(onion)

    def _work_out(self, onion: bytes) -> bytes | None:
        try:
            return self._signer.ecdh(ephemeral_key(onion))
        except (OnionRefused, InvalidPoint, ValueError):
            return None

    def turn(self, state: PaymentsState, events: Sequence[Event]) -> Transition[PaymentsState]:
        return turn(state, events, self._env())

    def _env(self) -> PaymentsEnv:
        return PaymentsEnv(
            now=int(self._outside.now()),
            height=self._height(),
            our_node_id=self._signer.node_id,
            channels=_AsNeeded(self._channels),
            by_scid=self._by_scid(),
            invoices=self.invoice,
            route=self._router(),
            entropy=self._outside.entropy,
            is_waiting=lambda key: self.journal.look_up(lambda db: queries.has_handoff(db, key)),
            chain_is_stale=self._chain_is_stale(),
        )

    def _router(self) -> Router:
        def route(
            target: NodeId,
            amount: Msat,
            *,
            final_cltv_delta: int,
            max_fee: Msat,
            hints: Sequence[Sequence[HintHop]],
            avoid: frozenset[tuple[ShortChannelId, NodeId]],
            reserved: Mapping[ChannelId, int],
        ) -> Route | NoRoute:
            ours = [
                OurChannel(
                    view.scids[0], view.peer, Msat(max(0, int(view.spendable) - reserved.get(view.channel_id, 0)))
                )
                for view in self._channels().values()
                if view.ready and view.scids
            ]
            return find_route(
                self.graph,
                self._signer.node_id,
                target,
                amount,
                final_cltv_delta=final_cltv_delta,
                max_fee=max_fee,
                height=self._height(),
                our_channels=ours,
                hints=hints,
                avoid=avoid,
                scorer=self.scorer,
                now=self._outside.now(),
            )

        return route

    def writes(self, old: PaymentsState, done: Transition[PaymentsState]) -> list[AnyWrite]:
        onions, self._onions = self._onions, []
        return [*onions, *done.rows]

    def hand_over(self, told: Effect | Row) -> None:
        if isinstance(told, ToChannel):
            self._to_channel(told.channel_id, told.event)

    def perform(self, effect: Effect) -> None:
        match effect:
            case PaymentFinished(payment):
                self._commanded.discard(payment.payment_hash)
                for answer in self._waiting.pop(payment.payment_hash, ()):
                    if not answer.done():
                        answer.set_result(payment)
            case RouteLearned(part, failed_at, code):
                self.scorer.learn(self.graph, self._signer.node_id, part.hops, failed_at, self._outside.now(), code)

    def on_fault(self, error: Exception) -> None:
        for waiting in self._waiting.values():
            for answer in waiting:
                if not answer.done():
                    answer.set_exception(
                        CommandRefused(
                            "payments_frozen", "The payment machine failed and was stopped.", "Restart the node."
                        )
                    )
