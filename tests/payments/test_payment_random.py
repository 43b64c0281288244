"""Random histories of the payment machine: failures, refusals, restarts and second deliveries in any order.

The channels are a model: an offer is pending, then refused, forgotten by a restart, or signed; one that is signed has
an outcome, which is handed over again and again until it is consumed. What must hold is the same in all of them: a
payer pays once and within its limits, a relayed HTLC is offered once at a time and answered with what became of it, an
invoice is settled whole or not at all.
"""

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from payment_world import (
    DOWNSTREAM,
    HASH,
    HEIGHT,
    PAID,
    PREIMAGE,
    SIBLING,
    SIBLING_SCID,
    UPSTREAM,
    World,
    invoice,
    payment,
    route,
)

from salama.base.ids import ChannelId, HtlcRef
from salama.base.units import BlockHeight, CltvExpiry
from salama.channel.events import (
    AddHtlc,
    Consumed,
    FailHtlc,
    Handoff,
    HandoffKey,
    HtlcFailed,
    Origin,
    PreimageLearned,
    SettleHtlc,
)
from salama.onion.failures import make_failure
from salama.onion.sphinx import shared_secrets_of
from salama.payments.events import HandoffArrived, HtlcArrived, OfferRefused, Pay, PaymentFinished, Ticked, ToChannel
from salama.payments.origin import ForwardOrigin, PartOrigin, decode_origin
from salama.payments.records import PartStatus, Payment, PaymentStatus
from salama.routing.routes import NoRoute, Route

CODES = (0x1007, 0x2002, 0x6002, 0x400A, 0x100C, 0x100E, 0xC005, 0x400F, 23, 21, 18)


@dataclass
class Channels:
    """What the channels below know: offers in queues, HTLCs on record, outcomes that nobody has consumed."""

    queued: dict[Origin, tuple[ChannelId, AddHtlc]] = field(default_factory=dict)
    live: dict[Origin, tuple[ChannelId, AddHtlc]] = field(default_factory=dict)
    handoffs: dict[HandoffKey, Handoff] = field(default_factory=dict)
    ever: list[Origin] = field(default_factory=list)
    """Every origin that was signed, as often as it was."""
    _next: int = 0

    def take(self, world: World) -> None:
        """Take over what the machine said in its last turn."""
        for effect in world.effects:
            if isinstance(effect, ToChannel) and isinstance(effect.event, AddHtlc):
                add = effect.event
                # The database allows one live outgoing HTLC for each origin.
                assert add.origin not in self.queued
                assert add.origin not in self.live
                assert all(h.origin != add.origin for h in self.handoffs.values())
                self.queued[add.origin] = (effect.channel_id, add)
            elif isinstance(effect, ToChannel):
                consumes = getattr(effect.event, "consumes", None)
                if consumes is not None:
                    self.handoffs.pop(consumes, None)
        for row in world.rows:
            if isinstance(row, Consumed):
                self.handoffs.pop(row.key, None)

    def sign(self, origin: Origin) -> None:
        self.live[origin] = self.queued.pop(origin)
        self.ever.append(origin)

    def end(self, origin: Origin, *, reason: bytes = b"", malformed: int | None = None, paid: bool = False) -> Handoff:
        channel_id, _ = self.live.pop(origin)
        self._next += 1
        key = HandoffKey(channel_id, self._next)
        made: Handoff = (
            PreimageLearned(key, origin, PREIMAGE)
            if paid
            else HtlcFailed(key, origin, reason, malformed, bytes(32) if malformed else b"")
        )
        self.handoffs[key] = made
        return made

    def told_again(self) -> list[HandoffArrived]:
        """As a restart does."""
        return [HandoffArrived(handoff) for handoff in self.handoffs.values()]

    def restart(self, world: World) -> None:
        """Queues are lost; what was signed is found again."""
        self.queued.clear()
        origins = {origin: channel for origin, (channel, _) in self.live.items()}
        origins |= {h.origin: h.key.channel_id for h in self.handoffs.values()}
        world.restarts(origins)
        world.forgets()


def random_route(dice: Random, amount: int, fee_limit: int) -> Route | NoRoute:
    if dice.random() < 0.15:
        return NoRoute("no_route", "There is no way.")
    fee = dice.randint(0, fee_limit)
    if dice.random() < 0.5:
        return route(amount, scid=SIBLING_SCID)
    return route(amount, fee=fee, far=True)


class Paying(World):
    """A world whose router finds random ways of just the amount asked for, within the limit given."""

    dice: Random

    def _route(self, target: Any, amount: Any, *, max_fee: Any, **_: Any) -> Route | NoRoute:
        if int(amount) > 40_000_000:
            return NoRoute("no_route", "No channel is that large.")
        return random_route(self.dice, int(amount), int(max_fee))


def reason_for(dice: Random, paid: Payment, number: int) -> bytes:
    """What a part's failure may look like when it reaches us."""
    part = next(p for p in paid.parts if p.number == number)
    secrets = shared_secrets_of([bytes(h.node_id) for h in part.hops], part.session_key)
    if dice.random() < 0.2:
        return bytes(dice.randint(0, 300))
    # The first hop speaks: what the others say would only be wrapped once more.
    return make_failure(secrets[0], dice.choice(CODES).to_bytes(2, "big") + bytes(dice.randint(0, 20)))


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32), amount=st.sampled_from([1, 100_000, 60_000_000, 150_000_000]))
def test_a_payment_is_made_once_within_its_limits_or_not_at_all(seed: int, amount: int) -> None:
    dice = Random(seed)
    world = Paying()
    world.dice = dice
    channels = Channels()
    honest_payee = dice.random() < 0.7
    answers: list[Payment] = []
    released = False

    def does(*events: Any) -> None:
        world.forgets()
        world.does(*events)
        channels.take(world)
        answers.extend(e.payment for e in world.effects if isinstance(e, PaymentFinished))
        check()

    def check() -> None:
        record = world.payments[HASH]
        alive = [p for p in record.parts if p.status is not PartStatus.FAILED]
        assert sum(int(p.delivered) for p in alive) <= amount
        assert sum(int(p.fee) for p in alive) <= int(record.max_fee)
        assert len(record.in_flight) <= 16
        assert len(record.parts) <= 60
        assert len({p.number for p in record.parts}) == len(record.parts)
        # Behind every offer there is its record, and no number has been offered twice.
        for origin in (*channels.queued, *channels.live):
            decoded = decode_origin(origin)
            assert isinstance(decoded, PartOrigin)
            assert any(p.number == decoded.number and p.status is PartStatus.OFFERED for p in record.parts)
        assert len(set(channels.ever)) == len(channels.ever)

    does(Pay(payment(amount), multi_part=True))
    for _ in range(40):
        choice = dice.random()
        if choice < 0.35 and channels.queued:
            channels.sign(dice.choice(list(channels.queued)))
        elif choice < 0.45 and channels.queued:
            origin = dice.choice(list(channels.queued))
            del channels.queued[origin]
            does(OfferRefused(origin, dice.choice(["insufficient_balance", "disconnected"]), "No."))
        elif choice < 0.7 and channels.live:
            origin = dice.choice(list(channels.live))
            decoded = decode_origin(origin)
            assert isinstance(decoded, PartOrigin)
            record = world.payments[HASH]
            whole = sum(int(p.delivered) for p in record.parts if p.status is not PartStatus.FAILED) == amount
            if (whole or released or not honest_payee) and dice.random() < 0.5:
                released = True
                handoff = channels.end(origin, paid=True)
            elif dice.random() < 0.2:
                handoff = channels.end(origin, malformed=0xC005)
            else:
                handoff = channels.end(origin, reason=reason_for(dice, record, decoded.number))
            if dice.random() < 0.8:
                does(HandoffArrived(handoff))
        elif choice < 0.8:
            channels.restart(world)
            does(*channels.told_again(), Ticked())
        elif choice < 0.9:
            world.now += dice.randint(0, 20)
            does(Ticked())
        elif channels.handoffs:
            does(HandoffArrived(dice.choice(list(channels.handoffs.values()))))
    # The end of every story: restarts are over, what is under way comes home.
    for _ in range(200):
        if not (channels.queued or channels.live or channels.handoffs):
            break
        for origin in list(channels.queued):
            channels.sign(origin)
        handoffs = list(channels.handoffs.values())
        if channels.live:
            handoffs.append(
                channels.end(dice.choice(list(channels.live)), paid=released, malformed=None if released else 0xC005)
            )
        does(*map(HandoffArrived, handoffs))
    record = world.payments[HASH]
    assert world.state.payments == {}
    assert world.state.origins == {}
    assert record.in_flight == ()
    assert (record.status is PaymentStatus.SUCCEEDED) == released
    assert (record.preimage == PREIMAGE) == released
    assert len(answers) <= 1
    if released:
        assert (record.failure_code, record.failure_reason) == ("", "")
        assert int(record.fee) <= int(record.max_fee)
    else:
        assert record.status is PaymentStatus.FAILED
        assert record.failure_code


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_relayed_htlcs_are_offered_once_at_a_time_and_answered_with_what_became_of_them(seed: int) -> None:
    dice = Random(seed)
    world = World(spendable=500_000_000)
    channels = Channels()
    arrived: dict[HtlcRef, HtlcArrived] = {}
    answered: dict[int, Any] = {}
    outcome: dict[int, str] = {}

    def does(*events: Any) -> None:
        world.forgets()
        world.does(*events)
        channels.take(world)
        for effect in world.effects:
            if isinstance(effect, ToChannel) and isinstance(effect.event, SettleHtlc | FailHtlc):
                # The upstream channel keeps its first decision; a preimage overrules a failure.
                decision = effect.event
                assert effect.channel_id == UPSTREAM
                kept = answered.get(decision.id)
                assert kept is None or isinstance(kept, type(decision)), "told two different things"
                answered.setdefault(decision.id, decision)
        for origin, (channel_id, add) in channels.queued.items():
            decoded = decode_origin(origin)
            assert isinstance(decoded, ForwardOrigin)
            assert decoded.incoming.id not in answered
            assert channel_id in (DOWNSTREAM, SIBLING)
            assert int(add.amount) < int(arrived[decoded.incoming].amount)

    for _ in range(40):
        choice = dice.random()
        if choice < 0.3:
            htlc = world.to_relay(dice.randint(1000, 90_000_000))
            arrived[htlc.ref] = htlc
            does(*[htlc] * dice.randint(1, 2))
        elif choice < 0.5 and channels.queued:
            channels.sign(dice.choice(list(channels.queued)))
        elif choice < 0.6 and channels.queued:
            origin = dice.choice(list(channels.queued))
            del channels.queued[origin]
            decoded = decode_origin(origin)
            assert isinstance(decoded, ForwardOrigin)
            outcome[decoded.incoming.id] = "failed"
            does(OfferRefused(origin, "insufficient_balance", "No."))
        elif choice < 0.75 and channels.live:
            origin = dice.choice(list(channels.live))
            decoded = decode_origin(origin)
            assert isinstance(decoded, ForwardOrigin)
            paid = dice.random() < 0.5
            outcome[decoded.incoming.id] = "paid" if paid else "failed"
            handoff = channels.end(origin, paid=paid, malformed=None if paid else dice.choice([None, 0xC005]))
            if dice.random() < 0.7:
                does(*[HandoffArrived(handoff)] * dice.randint(1, 2))
        elif choice < 0.9:
            channels.restart(world)
            again = [replace(h, must_fail=dice.random() < 0.3) for r, h in arrived.items() if r.id not in answered]
            does(*again, *channels.told_again())
        elif channels.handoffs:
            does(HandoffArrived(dice.choice(list(channels.handoffs.values()))))
    for origin in list(channels.queued):
        channels.sign(origin)
    for origin in list(channels.live):
        decoded = decode_origin(origin)
        assert isinstance(decoded, ForwardOrigin)
        outcome[decoded.incoming.id] = "paid"
        channels.end(origin, paid=True)
    does(*channels.told_again())
    assert set(answered) == {ref.id for ref in arrived}
    for htlc_id, what in outcome.items():
        if what == "paid":
            assert isinstance(answered[htlc_id], SettleHtlc)
    for htlc_id, decision in answered.items():
        if isinstance(decision, SettleHtlc):
            assert outcome[htlc_id] == "paid"
    assert len(set(channels.ever)) == len(channels.ever), "signed downstream twice"
    assert (world.state.relays, world.state.origins, channels.handoffs) == ({}, {}, {})


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_an_invoice_is_settled_whole_or_not_at_all(seed: int) -> None:
    dice = Random(seed)
    world = World()
    made = invoice(100_000)
    world.invoices[HASH] = made
    arrived: dict[HtlcRef, HtlcArrived] = {}
    settled: set[int] = set()
    failed: set[int] = set()

    def does(*events: Any) -> None:
        world.forgets()
        world.does(*events)
        for settle in world.settles:
            assert settle.preimage == PREIMAGE
            settled.add(settle.id)
        failed.update(fail.id for fail in world.fails)
        assert not settled & failed
        claim = world.invoices[HASH]
        # The first settlement and the decision to make all of them are one turn.
        assert settled <= {ref.id for ref in claim.claiming}
        assert (claim.status is PAID) == bool(claim.claiming)
        if claim.claiming:
            assert 100_000 <= sum(int(arrived[r].amount) for r in claim.claiming) <= 200_000
            assert int(claim.received) == sum(int(arrived[r].amount) for r in claim.claiming)

    for _ in range(25):
        choice = dice.random()
        if choice < 0.6:
            total = dice.choice([100_000, 100_000, 100_000, 100_000, 150_000, 99_999, 200_001])
            secret = {"secret": bytes(32)} if dice.random() < 0.05 else {}
            part = world.to_us(dice.choice([10_000, 25_000, 50_000, 60_000, 100_000]), total, **secret)
            part = replace(part, cltv_expiry=CltvExpiry(int(part.cltv_expiry) + dice.randint(0, 3)))
            arrived[part.ref] = part
            does(*[part] * dice.randint(1, 2))
        elif choice < 0.75:
            # A crash between the decision and the first settlement: the channels know nothing of it.
            if dice.random() < 0.5:
                settled.clear()
            world.restarts()
            does(*(h for r, h in arrived.items() if r.id not in settled | failed))
        elif choice < 0.9:
            world.now += dice.randint(0, 40)
            does(Ticked())
        else:
            world.height = BlockHeight(min(int(world.height) + dice.randint(0, 3), int(HEIGHT) + 60))
            does(Ticked())
    world.restarts()
    does(*(h for r, h in arrived.items() if r.id not in settled | failed))
    world.now += 60
    does(Ticked())
    assert {r.id for r in arrived} == settled | failed
    assert settled == {r.id for r in world.invoices[HASH].claiming}
    assert world.state.sets == {}
