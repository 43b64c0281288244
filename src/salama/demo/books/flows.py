"""What moved inside channels: each HTLC as both of its ends wrote it down, and whether it was paid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from salama.demo.books.databases import HtlcEntry, HtlcId, NodeBooks

FORWARD: Final = b"F"
PART: Final = b"P"
SETTLED: Final = "settled"
FAILED: Final = "failed"
LOST: Final = "lost"
"""Of a relay: settled downstream, failed upstream."""


@dataclass(slots=True)
class Flows:
    """Millisatoshis that went through each channel, and everything that does not fit."""

    paid: dict[tuple[bytes, str], int] = field(default_factory=dict)
    """(channel, node) to what the node received over the channel, less what it sent."""
    htlcs: int = 0
    problems: list[str] = field(default_factory=list)


def follow(nodes: Mapping[str, NodeBooks]) -> Flows:
    """Walk over every HTLC of every node; both ends must agree on its amount and its end."""
    flows = Flows()
    owners = {
        channel: sorted(n.name for n in nodes.values() if channel in n.channels)
        for n in nodes.values()
        for channel in n.channels
    }
    for sender in nodes.values():
        for key, sent in sender.outgoing.items():
            others = [name for name in owners.get(key.channel, ()) if name != sender.name]
            if len(others) != 1:
                flows.problems.append(f"{sender.name}: {_name(key)} is in a channel that nobody else has")
                continue
            receiver = nodes[others[0]]
            flows.htlcs += 1
            got = receiver.incoming.get(key)
            if got is None or (got.amount, got.payment_hash) != (sent.amount, sent.payment_hash):
                flows.problems.append(
                    f"{_name(key)}: {sender.name} sent {_amount(sent)}, {receiver.name} got {_amount(got)}"
                )
                continue
            if sent.is_live or got.is_live:
                flows.problems.append(f"{_name(key)} from {sender.name} to {receiver.name} is still under way")
            end = _end(flows, key, sender, sent, receiver, got)
            if end == SETTLED:
                for name, amount in ((sender.name, -sent.amount), (receiver.name, got.amount)):
                    flows.paid[key.channel, name] = flows.paid.get((key.channel, name), 0) + amount
        for key, got in sender.incoming.items():
            if not any(key in n.outgoing for n in nodes.values() if n is not sender):
                flows.problems.append(f"{sender.name}: {_name(key)} over {_amount(got)} was sent by nobody")
    for node in nodes.values():
        _check_sums(flows, node)
    _check_pairs(flows, nodes.values())
    return flows


def _name(key: HtlcId) -> str:
    return f"HTLC {key.number} of channel {key.channel.hex()[:8]}"


def _amount(entry: HtlcEntry | None) -> str:
    return "nothing" if entry is None else f"{entry.amount:,} msat"


def _end(flows: Flows, key: HtlcId, sender: NodeBooks, sent: HtlcEntry, receiver: NodeBooks, got: HtlcEntry) -> str:
    """Whether the HTLC was paid: what both ends wrote down about it."""
    there = _receiver_says(receiver, key, got)
    here = _sender_says(sender, key, sent)
    if here and here != there:
        flows.problems.append(f"{_name(key)}: {here} says {sender.name}, {there} says {receiver.name}")
    return there


def _receiver_says(node: NodeBooks, key: HtlcId, entry: HtlcEntry) -> str:
    forward = node.forwards.get(key)
    if forward is not None:
        return FAILED if forward.status == LOST else forward.status
    invoice = node.invoices.get(entry.payment_hash)
    return SETTLED if invoice is not None and key in invoice.claimed else FAILED


def _sender_says(node: NodeBooks, key: HtlcId, entry: HtlcEntry) -> str:
    """Empty if nothing is left that tells: a payment that was tried again keeps only its last parts."""
    if entry.origin[:1] == FORWARD:
        came = HtlcId(entry.origin[1:33], int.from_bytes(entry.origin[33:], "big"))
        forward = node.forwards.get(came)
        if forward is None or forward.went != key:
            return ""
        return SETTLED if forward.status == LOST else forward.status
    payment = node.payments.get(entry.payment_hash)
    part = payment.parts.get(int.from_bytes(entry.origin[33:], "big")) if payment else None
    return part[1] if part else ""


def _check_sums(flows: Flows, node: NodeBooks) -> None:
    """The node's lists of payments, invoices and forwards against its HTLCs."""
    sent: dict[bytes, dict[int, int]] = {}
    for entry in node.outgoing.values():
        if entry.origin[:1] == PART:
            sent.setdefault(entry.payment_hash, {})[int.from_bytes(entry.origin[33:], "big")] = entry.amount
    for payment_hash, payment in node.payments.items():
        what = f"{node.name}'s payment {payment_hash.hex()[:8]}"
        if payment.status not in ("succeeded", FAILED):
            flows.problems.append(f"{what} is still {payment.status}")
        settled = [number for number, (_, status) in payment.parts.items() if status == SETTLED]
        left = sum(sent.get(payment_hash, {}).get(number, 0) for number in settled)
        due = payment.amount + payment.fee if payment.status == "succeeded" else 0
        if left != due:
            flows.problems.append(f"{what} says {due:,} msat, its HTLCs {left:,} msat")
    for payment_hash, invoice in node.invoices.items():
        came = sum(node.incoming[key].amount for key in invoice.claimed if key in node.incoming)
        if came != invoice.received:
            what = f"{node.name}'s invoice {payment_hash.hex()[:8]}"
            flows.problems.append(f"{what} says {invoice.received:,} msat, its HTLCs {came:,} msat")
    for came_from, forward in node.forwards.items():
        came_in, went_out = node.incoming.get(came_from), node.outgoing.get(forward.went)
        amounts = (came_in.amount if came_in else 0, went_out.amount if went_out else 0)
        if forward.status == SETTLED and amounts != (forward.amount_in, forward.amount_out):
            what = f"{node.name} relayed {forward.amount_in:,} to {forward.amount_out:,} msat"
            flows.problems.append(f"{what}, its HTLCs say {amounts[0]:,} to {amounts[1]:,} msat")


def _check_pairs(flows: Flows, nodes: Iterable[NodeBooks]) -> None:
    """What one paid, another received, once."""
    paid: dict[bytes, int] = {}
    received: dict[bytes, int] = {}
    for node in nodes:
        for payment_hash, payment in node.payments.items():
            if payment.status == "succeeded":
                paid[payment_hash] = paid.get(payment_hash, 0) + payment.amount
        for payment_hash, invoice in node.invoices.items():
            if invoice.received:
                received[payment_hash] = received.get(payment_hash, 0) + invoice.received
    for payment_hash in sorted(paid.keys() | received.keys()):
        out, into = paid.get(payment_hash, 0), received.get(payment_hash, 0)
        if out != into:
            flows.problems.append(f"payment {payment_hash.hex()[:8]}: {out:,} msat paid, {into:,} msat received")
