"""What must hold: at every moment for each channel, and for everybody's money once all is quiet."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from salama.bitcoin.tx import Tx
from salama.channel.state import ChannelRecord, Phase
from salama.channel.transactions import decode_commitment_number, obscuring_factor
from salama.node.channels import scids_of
from salama.payments.records import ForwardStatus, InvoiceStatus, Payment, PaymentStatus
from salama.storage import ledger_check, queries

if TYPE_CHECKING:
    from salama.sim.machine import Machine
    from salama.sim.traffic import Tried
    from salama.sim.world import World


WORTH_CLAIMING = 5_000_000
"""Msat under which nobody need claim an HTLC on the chain, at the fee rates of this world."""


class Books:
    """Looks at every channel record once for each change."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[tuple[str, bytes], ChannelRecord] = {}

    def look(self, machine: Machine) -> None:
        """After each step of ``machine``."""
        if machine.node is None or not machine.is_up:
            return
        seen = self._seen
        for channel_id, actor in machine.node.channels.by_id.items():
            record = actor.state.record
            if record is not seen.get((machine.name, channel_id)) and record is not None:
                seen[machine.name, channel_id] = record
                _conserves(self._world, machine, record)
            if actor.frozen:
                self._world.problem(f"{machine.name}: {actor.name} is frozen: {actor.frozen}")
        for one in (machine.node.wallet, machine.node.payments, machine.node.gossip):
            if one.frozen:
                self._world.problem(f"{machine.name}: {one.name} is frozen: {one.frozen}")

    def look_at_all(self) -> None:
        for machine in self._world.machines:
            self.look(machine)


def _conserves(world: World, machine: Machine, record: ChannelRecord) -> None:
    for funding in record.active:
        capacity = funding.capacity.msat
        for commitment in (funding.local, funding.remote, funding.latest_remote):
            if commitment.spec.total != capacity:
                world.problem(f"{machine.name}: {record.channel_id} holds {commitment.spec.total}, not {capacity}")
    has_cause = bytes(record.channel_id) in world.forced or has_liar(world, record)
    if record.phase is Phase.ON_CHAIN and _exists(world, record) and not has_cause:
        world.problem(f"{machine.name}: {record.channel_id} was force-closed: {record.error}")


def check_offer(world: World, who: str, tx: Tx) -> None:
    """Nobody publishes a commitment that it has revoked: that would cost all its money.

    Whoever wants the peer's commitment confirmed offers it again, beside a child that pays for it: what another one
    offered first is no commitment of ours, for only its owner has both signatures before it is public.
    """
    node = world.by_name[who].node
    if world.first_offers.setdefault(tx.txid, who) != who:
        return
    if node is None or len(tx.inputs) != 1:
        return
    for actor in node.channels.by_id.values():
        record = actor.record
        if record is None or record.funding.outpoint != tx.inputs[0].outpoint:
            continue
        params = record.params
        factor = obscuring_factor(params.opener.basepoints.payment, params.accepter.basepoints.payment)
        number = decode_commitment_number(tx, factor)
        if number is not None and number < record.funding.local.number:
            world.problem(f"{who}: publishes the revoked commitment {number} of {record.channel_id}")


def check_refusals(world: World) -> None:
    """A transaction of ours may come too late or pay too little; it is never malformed or wrongly signed."""
    for who, tx, why in world.chain.refused:
        if any(word in why for word in ("script", "nonstandard", "bad-txns-in-belowout", "dust", "scriptpubkey")):
            world.problem(f"{who}: Bitcoin refuses {tx.txid}: {why}")


def is_not_worth_claiming(world: World, payment: Payment) -> bool:
    """Whether all that still holds the payment up is dust-like: outputs on the chain that cost more than they bring."""
    return all(bytes(p.channel_id) in world.forced and int(p.sent) < WORTH_CLAIMING for p in payment.in_flight)


def has_liar(world: World, record: ChannelRecord) -> bool:
    """Whether one end of the channel is hostile: then it may well be failed."""
    ends = (record.params.our_node_id, record.params.their_node_id)
    return any(machine.is_hostile for machine in world.machines if machine.node_id in ends)


def records_of(machine: Machine) -> list[ChannelRecord]:
    """Of all its channels, also those that are closed for good, as its disk has them."""
    assert machine.journal is not None
    live = machine.journal.read_now(queries.open_channels)
    return [*live, *machine.journal.read_now(lambda db: queries.closed_channels(db, None, 1000)).rows]


def _exists(world: World, record: ChannelRecord) -> bool:
    """Whether there is money in it: an opener that forgets what it never published leaves the other side waiting."""
    return record.funding.outpoint.txid in world.chain.state.places


def judge(world: World, tried: list[Tried]) -> None:
    """When all is quiet."""
    check_refusals(world)
    flows = {machine.name: 0 for machine in world.machines}
    for one in tried:
        assert one.payer.journal is not None and one.payee.journal is not None
        payment = one.payer.journal.read_now(partial(queries.payment, payment_hash=one.payment_hash))
        invoice = one.payee.journal.read_now(partial(queries.invoice, payment_hash=one.payment_hash))
        name = f"payment {str(one.payment_hash)[:12]} of {one.amount} msat from {one.payer.name} to {one.payee.name}"
        is_paid = invoice is not None and invoice.status is InvoiceStatus.PAID
        is_sent = payment is not None and payment.status is PaymentStatus.SUCCEEDED
        if invoice is None:
            world.problem(f"{name}: the invoice was forgotten")
        if payment is not None and payment.in_flight and is_not_worth_claiming(world, payment):
            world.count("payments stuck in an output not worth claiming")
            continue
        if payment is not None and payment.in_flight and not any(m.is_hostile for m in world.machines):
            world.problem(f"{name}: still in flight")
        if is_paid != is_sent and not _excused(world, one, payment):
            world.problem(f"{name}: the payer says {payment and payment.status.value}, the payee paid={is_paid}")
        world.count("payments")
        if is_paid and invoice is not None:
            world.count("succeeded")
            flows[one.payee.name] += int(invoice.received)
            if int(invoice.received) < one.amount:
                world.problem(f"{name}: received only {invoice.received}")
        if is_sent and payment is not None:
            settled = [p for p in payment.parts if p.status.value == "settled"]
            cost = sum(int(p.sent) for p in settled)
            if len(settled) > 1:
                world.count("succeeded in parts")
            flows[one.payer.name] -= cost
            if cost > one.amount + int(payment.max_fee):
                world.problem(f"{name}: cost {cost} msat")
    for machine in world.machines:
        assert machine.journal is not None
        page = machine.journal.read_now(lambda db: queries.forwards(db, None, 1000))
        for forward in page.rows:
            if forward.status is ForwardStatus.SETTLED:
                world.count("forwards settled")
                flows[machine.name] += int(forward.amount_in) - int(forward.amount_out)
    if not world.forced and not any(machine.is_hostile for machine in world.machines):
        _balances(world, flows)
    for machine in world.machines:
        check_ledger(world, machine, deep=True)
        check_names(world, machine)


def check_names(world: World, machine: Machine) -> None:
    """A channel goes by its names of today: what a reorganisation took away may be the name of another by now."""
    if machine.node is None:
        return
    channels, peers = machine.node.channels, machine.node.gossip.state.own_names
    records = [one.record for one in channels.by_id.values() if one.record is not None]
    named = {scid: record for record in records for scid in scids_of(record)}
    if channels.by_scid != {scid: record.channel_id for scid, record in named.items()}:
        world.problem(f"{machine.name}: channels are looked for under {sorted(channels.by_scid)}, not {sorted(named)}")
    if peers != {scid: record.params.their_node_id for scid, record in named.items()}:
        world.problem(f"{machine.name}: gossip takes {sorted(peers)} for our channels, not {sorted(named)}")


def check_ledger(world: World, machine: Machine, *, deep: bool = False) -> None:
    """The ledger of ``machine`` holds what its coins, channels and claims hold; ``deep``: and every line counts."""
    assert machine.journal is not None
    report = machine.journal.read_now(partial(ledger_check.check, deep=deep))
    for problem in report.problems:
        world.problem(f"{machine.name}: ledger: {problem}")


def _excused(world: World, one: Tried, payment: Payment | None) -> bool:
    """With a liar among us a payment may still wait for the chain, and the liar's own word counts for nothing; of an
    HTLC without an output, or not worth its output, a channel that goes to the chain, by force or because of the liar,
    leaves each side its own opinion."""
    has_liar_among_us = any(machine.is_hostile for machine in world.machines)
    if (world.forced or has_liar_among_us) and one.amount < WORTH_CLAIMING:
        return True
    if one.payer.is_hostile or one.payee.is_hostile:
        return True
    return has_liar_among_us and payment is not None and bool(payment.in_flight)


def _balances(world: World, flows: dict[str, int]) -> None:
    """What each node holds in its channels is what it began with and what it earned, to the millisatoshi."""
    records: dict[bytes, list[tuple[Machine, ChannelRecord]]] = {}
    held = {machine.name: 0 for machine in world.machines}
    for machine in world.machines:
        for record in records_of(machine):
            if not _exists(world, record):
                continue
            records.setdefault(bytes(record.channel_id), []).append((machine, record))
            params = record.params
            spec = record.funding.local.spec
            pushed = push_of(int(record.funding.capacity)) * 1000
            mine = int(record.funding.capacity.msat) - pushed if params.is_opener else pushed
            held[machine.name] += int(spec.our_balance) - mine
    for name, change in held.items():
        if change != flows[name]:
            world.problem(f"{name}: its channels changed by {change} msat, its payments account for {flows[name]}")
    for channel_id, sides in records.items():
        if len(sides) != 2:
            world.problem(f"channel {channel_id.hex()[:12]} is known to {[m.name for m, _ in sides]} only")
            continue
        (_, a), (_, b) = sides
        ours, theirs = a.funding.local.spec, b.funding.remote.spec
        if (ours.our_balance, ours.their_balance) != (theirs.their_balance, theirs.our_balance):
            seen = (int(ours.our_balance), int(ours.their_balance), int(theirs.our_balance), int(theirs.their_balance))
            world.problem(f"channel {channel_id.hex()[:12]}: the two sides disagree: {seen}")


def push_of(capacity: int) -> int:
    """Satoshis that every opener of the world gives away at once: known from the capacity alone, for the books."""
    return capacity * (10 + capacity // 1000 % 40) // 100
