"""Being paid: one HTLC or a set of parts, all or nothing, and one answer for every refusal (BOLT 4, B4.05, B4.06)."""

from dataclasses import replace
from typing import Any

import pytest
from payment_world import HEIGHT, NOW, PAID, PREIMAGE, UPSTREAM, World, code_of, data_of, invoice

from salama.base.ids import HtlcRef, Side
from salama.base.units import BlockHeight, CltvExpiry
from salama.channel.events import PublicEvent
from salama.payments.events import Ticked, ToChannel
from salama.payments.records import PutInvoice


def waiting(amount: int | None = 100_000, **changes: Any) -> World:
    world = World()
    made = invoice(amount, **changes)
    world.invoices[made.payment_hash] = made
    return world


def test_one_htlc_pays_an_invoice() -> None:
    world = waiting()
    htlc = world.to_us(100_000, 100_000)
    world.does(htlc)
    (settle,) = world.settles
    assert (settle.id, settle.preimage, settle.consumes) == (htlc.ref.id, PREIMAGE, None)
    (row,) = [row for row in world.rows if isinstance(row, PutInvoice)]
    assert (row.invoice.status, row.invoice.claiming, row.invoice.received) == (PAID, (htlc.ref,), 100_000)
    assert [row.name for row in world.rows if isinstance(row, PublicEvent)] == ["invoice.paid"]


def test_no_part_is_settled_before_all_are_here() -> None:
    world = waiting()
    parts = [world.to_us(amount, 100_000) for amount in (50_000, 30_000, 19_999, 1)]
    for part in parts[:-1]:
        world.does(part)
        assert world.effects == []
        assert world.rows == []
    world.does(parts[-1])
    assert sorted(s.id for s in world.settles) == sorted(p.ref.id for p in parts)
    assert world.invoices[parts[0].payment_hash].claiming == tuple(p.ref for p in parts)


def test_a_part_reported_again_is_counted_once() -> None:
    world = waiting()
    part = world.to_us(50_000, 100_000)
    world.does(part, part)
    world.does(part)
    assert world.effects == []


def test_a_claim_is_on_record_with_the_first_settlement() -> None:
    """After a restart every part is settled, also one that nobody settled before."""
    world = waiting()
    parts = [world.to_us(50_000, 100_000) for _ in range(2)]
    world.does(*parts)
    world.restarts()
    world.forgets()
    for part in parts:
        # a restart reports it with the onion it saw, whatever the replay log and the dust rule say
        world.does(replace(part, must_fail=True, replay_of=HtlcRef(UPSTREAM, Side.INCOMING, 77)))
    assert [s.id for s in world.settles] == [p.ref.id for p in parts]
    assert world.fails == []


def test_an_invoice_is_paid_once() -> None:
    world = waiting()
    world.does(world.to_us(100_000, 100_000))
    second = world.to_us(100_000, 100_000)
    world.does(second)
    assert len(world.settles) == 1
    assert code_of(world.fails[0], second) == 0x400F


def test_an_invoice_is_paid_once_within_one_turn() -> None:
    world = waiting()
    first, second = (world.to_us(100_000, 100_000) for _ in range(2))
    world.does(first, second)
    assert [s.id for s in world.settles] == [first.ref.id]
    assert [f.id for f in world.fails] == [second.ref.id]


@pytest.mark.parametrize(
    ("invoice_changes", "htlc", "total"),
    [
        ({}, {"secret": bytes(32)}, 100_000),
        ({"expires": NOW}, {}, 100_000),
        ({"amount": 100_001}, {}, 100_000),
        ({"amount": 40_000}, {}, 100_000),
        ({"min_final_cltv_expiry": 41}, {}, 100_000),
        ({"payment_hash": None}, {}, 100_000),
        ({}, {"replay_of": HtlcRef(UPSTREAM, Side.INCOMING, 77)}, 100_000),
    ],
)
def test_every_refusal_looks_the_same(invoice_changes: dict[str, Any], htlc: dict[str, Any], total: int) -> None:
    world = World()
    if "payment_hash" not in invoice_changes:
        made = invoice(**invoice_changes)
        world.invoices[made.payment_hash] = made
    part = world.to_us(100_000, total, **htlc)
    world.does(part)
    assert world.settles == []
    (fail,) = world.fails
    assert code_of(fail, part) == 0x400F
    assert data_of(fail, part) == (100_000).to_bytes(8, "big") + int(HEIGHT).to_bytes(4, "big")


def test_twice_the_amount_is_the_most_that_is_taken() -> None:
    world = waiting(100_000)
    world.does(world.to_us(200_000, 200_000))
    assert len(world.settles) == 1
    world = waiting(100_000)
    world.does(world.to_us(200_001, 200_001))
    assert world.settles == []


def test_an_invoice_without_amount_takes_any() -> None:
    world = waiting(None)
    world.does(world.to_us(7, 7))
    assert len(world.settles) == 1


def test_parts_must_agree_on_the_total() -> None:
    world = waiting()
    world.does(world.to_us(50_000, 100_000))
    other = world.to_us(50_000, 150_000)
    world.does(other)
    assert [f.id for f in world.fails] == [other.ref.id]
    assert world.settles == []


def test_an_upstream_node_that_took_too_much_is_named() -> None:
    world = waiting()
    short = replace(world.to_us(100_000, 100_000), amount=type(world.to_us(1, 1).amount)(99_999))
    world.does(short)
    assert (code_of(world.fails[0], short), data_of(world.fails[0], short)) == (19, (99_999).to_bytes(8, "big"))
    late = replace(world.to_us(100_000, 100_000), cltv_expiry=CltvExpiry(int(HEIGHT) + 39))
    world.forgets()
    world.does(late)
    assert code_of(world.fails[0], late) == 18


def test_an_incomplete_set_is_failed_after_a_minute() -> None:
    world = waiting()
    parts = [world.to_us(30_000, 100_000) for _ in range(2)]
    world.does(*parts)
    world.now += 59
    world.does(Ticked())
    assert world.fails == []
    world.now += 1
    world.does(Ticked())
    assert [code_of(f, p) for f, p in zip(world.fails, parts, strict=True)] == [23, 23]
    # what comes later starts a new set
    world.forgets()
    world.does(world.to_us(70_000, 100_000))
    assert world.effects == []


def test_an_incomplete_set_is_failed_before_a_part_of_it_expires() -> None:
    world = waiting()
    world.does(world.to_us(30_000, 100_000))
    world.height = BlockHeight(int(HEIGHT) + 30)
    world.does(Ticked())
    assert len(world.fails) == 1


def test_dust_that_the_channel_wants_failed_gets_no_preimage() -> None:
    world = waiting()
    part = world.to_us(100_000, 100_000, must_fail=True)
    world.does(part)
    assert world.settles == []
    assert code_of(world.fails[0], part) == 0x1007


def test_commands_go_to_the_channel_of_the_htlc() -> None:
    world = waiting()
    world.does(world.to_us(100_000, 100_000))
    assert [e.channel_id for e in world.effects if isinstance(e, ToChannel)] == [UPSTREAM]


def test_a_part_that_makes_it_more_than_twice_the_amount_is_not_taken() -> None:
    world = waiting()
    first, second = world.to_us(90_000, 100_000), world.to_us(120_000, 100_000)
    world.does(first)
    world.does(second)
    assert [f.id for f in world.fails] == [second.ref.id]
    assert code_of(world.fails[0], second) == 0x400F
    # the others may still complete it
    world.does(world.to_us(10_000, 100_000))
    assert len(world.settles) == 2
    assert int(next(iter(world.invoices.values())).received) == 100_000
