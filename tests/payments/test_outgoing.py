"""Paying: a part is on record before its offer, every outcome finds it, no number is used twice (B4.05 to B4.08)."""

from dataclasses import replace

from payment_world import (
    DOWN_SCID,
    DOWNSTREAM,
    HASH,
    PREIMAGE,
    SIBLING_SCID,
    US,
    World,
    payment,
    route,
)

from salama.base.units import Msat
from salama.channel.events import Consumed, HandoffKey, HtlcFailed, PreimageLearned
from salama.onion.failures import make_failure, wrap_failure
from salama.onion.sphinx import shared_secrets_of
from salama.payments.events import OfferRefused, Pay, PaymentFinished, RouteLearned, Ticked
from salama.payments.origin import PartOrigin
from salama.payments.outgoing import MAX_ATTEMPTS
from salama.payments.records import PartStatus, PaymentStatus, PutPayment
from salama.routing.routes import NoRoute

KEY = HandoffKey(DOWNSTREAM, 3)


def paying(*routes: object, amount: int = 100_000, multi_part: bool = False) -> World:
    world = World(routes=list(routes))  # type: ignore[arg-type]
    world.does(Pay(payment(amount), multi_part=multi_part))
    return world


def finished(world: World) -> list[PaymentFinished]:
    return [e for e in world.effects if isinstance(e, PaymentFinished)]


def failure_of(world: World, code: int, hop: int = 0, data: bytes = b"", number: int = -1) -> bytes:
    """The packet that reaches us when ``hop`` of a part (the last one) reports ``code``."""
    part = world.payments[HASH].parts[number]
    secrets = shared_secrets_of([bytes(h.node_id) for h in part.hops], part.session_key)
    packet = make_failure(secrets[hop], code.to_bytes(2, "big") + data)
    for secret in reversed(secrets[:hop]):
        packet = wrap_failure(secret, packet)
    return packet


def test_a_part_is_on_record_in_the_same_turn_as_its_offer() -> None:
    world = paying(route(fee=1010, far=True))
    (add,) = world.adds
    assert (add.amount, add.payment_hash) == (101_010, HASH)
    assert add.origin == PartOrigin(HASH, 0).encode()
    (row,) = [row for row in world.rows if isinstance(row, PutPayment)]
    (part,) = row.payment.parts
    assert (part.number, part.status, part.delivered, part.fee) == (0, PartStatus.OFFERED, 100_000, 1010)
    assert row.payment.next_part == 1


def test_the_preimage_ends_the_payment() -> None:
    world = paying(route())
    world.hands_over(PreimageLearned(KEY, world.adds[0].origin, PREIMAGE))
    (end,) = finished(world)
    assert (end.payment.status, end.payment.preimage) == (PaymentStatus.SUCCEEDED, PREIMAGE)
    assert world.payments[HASH].preimage == PREIMAGE
    assert [row.key for row in world.rows if isinstance(row, Consumed)] == [KEY]
    assert world.state.payments == {}


def test_a_second_delivery_changes_nothing_but_is_consumed() -> None:
    world = paying(route())
    learned = PreimageLearned(KEY, world.adds[0].origin, PREIMAGE)
    world.hands_over(learned)
    world.restarts()
    world.forgets()
    world.hands_over(learned)
    assert world.effects == []
    assert world.rows == [Consumed(KEY)]


def test_after_a_restart_a_part_in_flight_is_not_sent_again() -> None:
    world = paying(route(), route())
    add = world.adds[0]
    world.restarts({add.origin: DOWNSTREAM})
    world.forgets()
    world.does(Ticked())
    assert world.effects == []
    world.hands_over(PreimageLearned(KEY, add.origin, PREIMAGE))
    assert finished(world)[0].payment.status is PaymentStatus.SUCCEEDED


def test_after_a_restart_a_part_that_was_never_signed_is_tried_again_under_another_number() -> None:
    world = paying(route(), route())
    world.restarts()
    world.forgets()
    world.does(Ticked())
    (add,) = world.adds
    assert add.origin == PartOrigin(HASH, 1).encode()
    assert [p.status for p in world.payments[HASH].parts] == [PartStatus.FAILED, PartStatus.OFFERED]


def test_a_failure_on_the_way_is_learned_from_and_another_way_is_tried() -> None:
    world = paying(route(fee=1000, far=True), route(scid=SIBLING_SCID))
    first = world.adds[0]
    world.hands_over(HtlcFailed(KEY, first.origin, failure_of(world, 0x1007, data=b"\0\0")))
    assert len(world.adds) == 2
    assert world.adds[1].origin != first.origin
    (learned,) = [e for e in world.effects if isinstance(e, RouteLearned)]
    assert (learned.failed_at, learned.code) == (0, 0x1007)
    assert not finished(world)


def test_the_payee_has_the_last_word() -> None:
    world = paying(route(fee=1000, far=True), route())
    data = bytes(12)
    world.hands_over(HtlcFailed(KEY, world.adds[0].origin, failure_of(world, 0x400F, hop=1, data=data)))
    (end,) = finished(world)
    assert end.payment.status is PaymentStatus.FAILED
    assert end.payment.failure_code == "incorrect_or_unknown_payment_details"
    assert end.payment.failure_reason.startswith("The payee ")
    assert len(world.adds) == 1


def test_no_way_at_all() -> None:
    world = paying(NoRoute("no_route", "There is no way."))
    (end,) = finished(world)
    assert (end.payment.status, end.payment.failure_code) == (PaymentStatus.FAILED, "no_route")
    assert world.payments[HASH].status is PaymentStatus.FAILED


def test_a_report_that_nobody_signed() -> None:
    world = paying(route(fee=1000, far=True))
    world.hands_over(HtlcFailed(KEY, world.adds[0].origin, bytes(292)))
    (end,) = finished(world)
    assert end.payment.failure_code in ("unreadable_failure", "no_route")


def test_our_own_channel_refuses() -> None:
    world = paying(route(), route(scid=SIBLING_SCID))
    world.does(OfferRefused(world.adds[0].origin, "too_many_htlcs", "full"))
    assert [a.origin for a in world.adds] == [PartOrigin(HASH, n).encode() for n in (0, 1)]


def test_an_amount_too_large_for_one_way_goes_in_parts() -> None:
    none = NoRoute("no_route", "There is no way.")
    world = paying(none, route(30_000_000), route(30_000_000), amount=60_000_000, multi_part=True)
    assert [int(a.amount) for a in world.adds] == [30_000_000, 30_000_000]
    first, second = world.adds
    world.hands_over(PreimageLearned(KEY, first.origin, PREIMAGE))
    assert len(finished(world)) == 1
    # it stays on record until its last part has come home, so that the fee on record is the fee paid
    assert HASH in world.state.payments
    world.hands_over(PreimageLearned(HandoffKey(DOWNSTREAM, 4), second.origin, PREIMAGE))
    assert world.state.payments == {}
    assert len(finished(world)) == 1


def test_a_payment_under_way_is_not_started_again() -> None:
    world = paying(route(), route())
    world.does(Pay(payment()))
    assert len(world.adds) == 1


def test_no_new_part_after_the_deadline() -> None:
    world = paying(route(), route())
    world.now += 60
    world.hands_over(HtlcFailed(KEY, world.adds[0].origin, failure_of(world, 0x2002)))
    assert len(world.adds) == 1
    assert finished(world)[0].payment.status is PaymentStatus.FAILED


def test_the_sum_of_parts_is_never_more_than_the_amount() -> None:
    none = NoRoute("no_route", "There is no way.")
    world = paying(none, route(30_000_000), route(30_000_000), route(30_000_000), amount=60_000_000, multi_part=True)
    alive = [p for p in world.payments[HASH].parts if p.status is PartStatus.OFFERED]
    assert Msat.total(p.delivered for p in alive) == 60_000_000
    assert all(p.hops[0].short_channel_id == DOWN_SCID for p in alive)


def test_attempts_at_the_same_invoice_before_do_not_count() -> None:
    """Part numbers go on from there, so that none is used twice; the patience starts anew."""
    world = World(routes=[route()])
    world.does(Pay(replace(payment(), next_part=MAX_ATTEMPTS)))
    (add,) = world.adds
    assert add.origin == PartOrigin(HASH, MAX_ATTEMPTS).encode()


def test_attempts_are_bounded() -> None:
    world = paying(*(route(fee=1000, far=True) for _ in range(MAX_ATTEMPTS + 5)))
    while not finished(world):
        add = world.adds[-1]
        world.hands_over(HtlcFailed(KEY, add.origin, failure_of(world, 0x1007, data=b"\0\0")))
    assert len(world.adds) == MAX_ATTEMPTS
    assert finished(world)[0].payment.failure_code == "too_many_attempts"


def test_what_the_payee_said_is_the_result_when_the_other_parts_are_home() -> None:
    none = NoRoute("no_route", "There is no way.")
    world = paying(none, route(30_000_000), route(30_000_000), route(), amount=60_000_000, multi_part=True)
    first, second = world.adds
    world.hands_over(HtlcFailed(KEY, first.origin, failure_of(world, 0x400F, data=bytes(12))))
    assert finished(world) == []
    # also when a restart lies between
    world.restarts({second.origin: DOWNSTREAM})
    world.hands_over(HtlcFailed(HandoffKey(DOWNSTREAM, 4), second.origin, failure_of(world, 23)))
    (end,) = finished(world)
    assert end.payment.failure_code == "incorrect_or_unknown_payment_details"
    assert len(world.adds) == 2


def test_a_payee_that_spoils_its_answer_is_not_asked_the_same_way_again() -> None:
    """The next hop is the payee and says that it cannot read the onion: the same channel would only say so again."""
    world = paying(route(), route(scid=SIBLING_SCID))
    world.hands_over(HtlcFailed(KEY, world.adds[0].origin, malformed_code=0xC005, sha256_of_onion=bytes(32)))
    (outgoing,) = world.state.payments.values()
    assert (DOWN_SCID, US.node_id) in outgoing.avoid
    assert len(world.adds) == 2


def test_a_payee_that_waited_in_vain_for_the_other_parts_may_be_asked_again() -> None:
    world = paying(route(), route())
    world.hands_over(HtlcFailed(KEY, world.adds[0].origin, failure_of(world, 23)))
    (outgoing,) = world.state.payments.values()
    assert outgoing.avoid == frozenset()
    assert len(world.adds) == 2


def test_the_fee_limit_holds_for_all_parts_together() -> None:
    none = NoRoute("no_route", "There is no way.")
    world = paying(
        none, route(30_000_000, fee=7000, far=True), route(30_000_000, fee=3000, far=True),
        amount=60_000_000, multi_part=True,
    )  # fmt: skip
    assert world.fee_limits == [10_000, 10_000, 3000]
    # what a failed part would have cost is free again
    world.routes.append(route(30_000_000, fee=7000, far=True))
    world.hands_over(HtlcFailed(KEY, world.adds[0].origin, failure_of(world, 0x1007, data=b"\0\0", number=0)))
    assert world.fee_limits[-1] == 7000


def test_a_giant_metadata_ends_the_payment_at_once() -> None:
    world = World(routes=[route() for _ in range(3)])
    world.does(Pay(replace(payment(), payment_metadata=bytes(1400))))
    (end,) = finished(world)
    assert end.payment.status is PaymentStatus.FAILED
    assert end.payment.failure_code == "onion_too_long"
    assert world.adds == []
    assert world.state.origins == {}


def test_what_cannot_be_paid_in_full_is_not_begun() -> None:
    """A part of it would only lie at the payee until its time is up."""
    none = NoRoute("no_route", "There is no way.")
    world = paying(none, route(30_000_000), none, none, none, amount=60_000_000, multi_part=True)
    (end,) = finished(world)
    assert end.payment.failure_code == "no_route"
    assert (world.adds, world.state.origins) == ([], {})
    assert (end.payment.parts, end.payment.next_part) == ((), 0)


def test_after_a_restart_a_lost_part_waits_for_the_channels_to_come_back() -> None:
    world = paying(route(), route())
    world.restarts()
    world.ready = world.sibling_ready = False
    world.forgets()
    world.does(Ticked())
    assert world.effects == []
    world.ready = True
    world.does(Ticked())
    assert [a.origin for a in world.adds] == [PartOrigin(HASH, 1).encode()]


def test_a_lost_part_does_not_wait_beyond_the_deadline() -> None:
    world = paying(route(), route())
    world.restarts()
    world.ready = world.sibling_ready = False
    world.now += 60
    world.does(Ticked())
    assert finished(world)[0].payment.failure_code == "timeout"
