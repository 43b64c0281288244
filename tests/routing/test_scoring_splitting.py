"""What attempts teach, how it fades, and cutting a payment in parts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.base.ids import NodeId, ShortChannelId
from salama.base.units import CltvExpiry, Msat, Sat
from salama.bitcoin.networks import REGTEST
from salama.gossip.graph import Graph
from salama.routing.routes import Hop, NoRoute, Route
from salama.routing.scoring import TEMPORARY_CHANNEL_FAILURE, Scorer, ScoringLimits
from salama.routing.splitting import LEAST_PART, Plan, halve, may_split, split
from salama.testing.graphs import unsigned_channel, unsigned_node_id, unsigned_update

US, A, B, C = (unsigned_node_id(n) for n in range(4))
CAPACITY = 1_000_000_000
NOW = 1000.0
FIRST, AB, BC = (ShortChannelId.of(100 + n, 0, 0) for n in range(3))


def graph() -> Graph:
    made = Graph(REGTEST.chain_hash)
    for scid, one, other in ((FIRST, US, A), (AB, A, B), (BC, B, C)):
        made.add_channel(unsigned_channel(scid, one, other), Sat(CAPACITY // 1000))
        for direction in (0, 1):
            made.apply_update(unsigned_update(scid, direction, htlc_maximum_msat=CAPACITY))
    return made


def hops(amount: int) -> tuple[Hop, ...]:
    return tuple(Hop(node, scid, Msat(amount), CltvExpiry(1)) for node, scid in ((A, FIRST), (B, AB), (C, BC)))


def sendable(
    scorer: Scorer, scid: ShortChannelId, sender: NodeId, receiver: NodeId, now: float = NOW
) -> tuple[int, int]:
    """Least and most that ``sender`` can send."""
    bounds = scorer.bounds(scid, now)
    assert bounds is not None
    return bounds if sender < receiver else (CAPACITY - bounds[1], CAPACITY - bounds[0])


def test_a_failure_on_the_way_bounds_one_channel_from_below_and_one_from_above() -> None:
    scorer = Scorer()
    scorer.learn(graph(), US, hops(400_000_000), 1, NOW, TEMPORARY_CHANNEL_FAILURE)
    assert scorer.bounds(FIRST, NOW) is None
    assert sendable(scorer, AB, A, B) == (400_000_000, CAPACITY)
    assert sendable(scorer, BC, B, C) == (0, 399_999_999)
    assert sendable(scorer, BC, C, B) == (CAPACITY - 399_999_999, CAPACITY)


def test_another_failure_says_nothing_about_liquidity() -> None:
    scorer = Scorer()
    scorer.learn(graph(), US, hops(400_000_000), 1, NOW, 0x100C)
    assert scorer.bounds(BC, NOW) is None
    assert sendable(scorer, AB, A, B)[0] == 400_000_000


def test_a_refusal_by_the_payee_shows_that_the_way_was_free() -> None:
    scorer = Scorer()
    scorer.learn(graph(), US, hops(400_000_000), 2, NOW, 0x400F)
    assert sendable(scorer, AB, A, B)[0] == sendable(scorer, BC, B, C)[0] == 400_000_000


def test_a_settled_payment_has_moved() -> None:
    scorer = Scorer()
    scorer.learn(graph(), US, hops(400_000_000), None, NOW)
    assert sendable(scorer, AB, A, B) == (0, CAPACITY - 400_000_000)
    assert sendable(scorer, AB, B, A) == (400_000_000, CAPACITY)
    scorer.learn(graph(), US, hops(100_000_000), None, NOW)
    assert sendable(scorer, AB, B, A) == (500_000_000, CAPACITY)


def test_knowledge_fades_by_half_each_half_life() -> None:
    scorer = Scorer(ScoringLimits(half_life=100.0))
    scorer.learn(graph(), US, hops(400_000_000), 1, NOW, TEMPORARY_CHANNEL_FAILURE)
    assert sendable(scorer, AB, A, B, NOW + 100)[0] == 200_000_000
    assert sendable(scorer, BC, B, C, NOW + 200)[1] == pytest.approx(CAPACITY - 600_000_001 / 4, abs=2)
    # A clock that runs backward does not make it grow.
    assert sendable(scorer, AB, A, B, NOW - 500)[0] == 400_000_000


def test_the_overlay_agrees_with_the_bounds_in_both_directions() -> None:
    made, scorer = graph(), Scorer()
    assert not len(scorer.lay_over(made, NOW)[0])
    scorer.learn(made, US, hops(400_000_000), 1, NOW, TEMPORARY_CHANNEL_FAILURE)
    for change in range(3):
        rows, lower, upper = scorer.lay_over(made, NOW + 50)
        snapshot = made.snapshot()
        assert len(rows) == (4 if change < 2 else 2)
        for row, low, high in zip(rows, lower, upper, strict=True):
            sender, receiver = made.node_id(int(snapshot.source[row])), made.node_id(int(snapshot.target[row]))
            scid = made.edge_scid(int(snapshot.edge[row]))
            expected = sendable(scorer, scid, sender, receiver, NOW + 50)
            assert abs(int(low) - expected[0]) <= 1 and abs(int(high) - expected[1]) <= 1
        if change == 0:
            made.add_channel(unsigned_channel(ShortChannelId(5), US, C), Sat(5))
        else:
            made.remove_channel(AB)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, CAPACITY * 2),
            st.none() | st.integers(0, 2),
            st.sampled_from([TEMPORARY_CHANNEL_FAILURE, 0]),
            st.floats(0, 1e5),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_bounds_stay_in_order_whatever_is_learned(lessons: list[tuple[int, int | None, int, float, bool]]) -> None:
    made, scorer, now = graph(), Scorer(), NOW
    for amount, failed_at, code, later, backward in lessons:
        now += later
        way = hops(amount)
        if backward:
            way = tuple(Hop(n, s, Msat(amount), CltvExpiry(1)) for n, s in ((B, BC), (A, AB), (US, FIRST)))
        scorer.learn(made, C if backward else US, way, failed_at, now, code)
        for entry in scorer.entries():
            assert 0 <= entry.lower <= entry.upper <= CAPACITY


def test_memory_is_bounded_and_the_longest_untouched_goes_first() -> None:
    made = Graph(REGTEST.chain_hash)
    scids = [ShortChannelId.of(100 + n, 0, 0) for n in range(200)]
    for scid in scids:
        made.add_channel(unsigned_channel(scid, A, B), Sat(1000))
    scorer = Scorer(ScoringLimits(channels=100))
    for scid in [*scids[:100], scids[0], *scids[100:]]:
        way = (Hop(A, FIRST, Msat(1), CltvExpiry(1)), Hop(B, scid, Msat(5), CltvExpiry(1)))
        scorer.learn(made, US, way, None, NOW)
        assert len(scorer) <= 100
    assert [entry.short_channel_id for entry in scorer.entries()] == scids[100:]
    assert scorer.bounds(scids[0], NOW) is None


def test_what_was_learned_survives_storing() -> None:
    scorer, again = Scorer(), Scorer()
    scorer.learn(graph(), US, hops(400_000_000), 1, NOW, TEMPORARY_CHANNEL_FAILURE)
    again.restore(scorer.entries())
    again.restore(scorer.entries())
    assert again.entries() == scorer.entries()
    assert again.bounds(BC, NOW + 77) == scorer.bounds(BC, NOW + 77)


# --- splitting ------------------------------------------------------------------------------------------------------


def route(amount: Msat) -> Route:
    return Route((Hop(A, FIRST, Msat(int(amount) + 10), CltvExpiry(1)), Hop(B, AB, amount, CltvExpiry(1))))


NARROW = NoRoute("insufficient_capacity", "too narrow")


@given(st.integers(1, 10**12), st.integers(1, 10**9), st.integers(1, 16))
def test_parts_add_up_and_stay_within_their_number(amount: int, widest: int, most: int) -> None:
    asked: list[int] = []

    def find(part: Msat, earlier: tuple[Route, ...]) -> Route | NoRoute:
        asked.append(int(part))
        assert len(earlier) < most
        return route(part) if part <= Msat(widest) else NARROW

    plan = split(Msat(amount), find, max_parts=most)
    assert asked[0] == amount
    if isinstance(plan, Plan):
        assert sum(int(r.delivered) for r in plan.routes) == amount
        assert len(plan.routes) <= most
        assert int(plan.fee) == 10 * len(plan.routes)
    else:
        assert plan == NARROW
        assert widest < amount


def test_the_whole_is_tried_first_and_a_hopeless_reason_is_not_split() -> None:
    assert split(Msat(10**6), lambda part, _: route(part)) == Plan((route(Msat(10**6)),))
    unknown = NoRoute("unknown_destination", "")
    assert split(Msat(10**6), lambda *_: unknown) == unknown
    assert not may_split(NARROW, Msat(2 * LEAST_PART - 1), 16)
    assert not may_split(NARROW, Msat(10**6), 1)
    assert halve(Msat(7)) == (Msat(4), Msat(3))
