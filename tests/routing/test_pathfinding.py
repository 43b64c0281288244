"""Path search: the BOLT's own figures, exact amounts, a plain reference search, and honest refusals (B7.11)."""

from __future__ import annotations

import heapq
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.base.ids import NodeId, ShortChannelId
from salama.base.units import BlockHeight, Msat, Sat
from salama.bitcoin.networks import REGTEST
from salama.gossip.graph import Graph
from salama.invoices.bolt11 import HintHop
from salama.routing.pathfinding import find_route
from salama.routing.routes import FEE_ONLY, Hop, NoRoute, OurChannel, Route, Weights
from salama.routing.scoring import TEMPORARY_CHANNEL_FAILURE, Scorer
from salama.testing.gossip import Author
from salama.testing.graphs import random_graph, unsigned_channel, unsigned_node_id, unsigned_update
from salama.wire.features import Features

EXAMPLE = json.loads((Path(__file__).parents[1] / "vectors" / "bolt07-routing-example.json").read_text())["cases"]
HEIGHT = BlockHeight(700_000)
US, A, B, C, D, E, STRANGER = (unsigned_node_id(1000 + n) for n in range(7))
PLENTY = Msat(10**12)


def scid(number: int) -> ShortChannelId:
    return ShortChannelId.of(100 + number, 0, 0)


class Net:
    """A graph in few words: ``net.channel(1, A, B, base, ppm)`` with the same terms in both directions."""

    def __init__(self) -> None:
        self.graph = Graph(REGTEST.chain_hash)
        self.ours: list[OurChannel] = []

    def channel(
        self,
        number: int,
        one: NodeId,
        other: NodeId,
        base: int = 0,
        ppm: int = 0,
        *,
        sat: int = 10_000_000,
        **terms: Any,
    ) -> Net:
        self.graph.add_channel(unsigned_channel(scid(number), one, other), Sat(sat))
        for direction in (0, 1):
            self.policy(
                number, direction, base=base, ppm=ppm, timestamp=1, **{"htlc_maximum_msat": sat * 1000, **terms}
            )
        return self

    def policy(
        self, number: int, direction: int, *, base: int = 0, ppm: int = 0, timestamp: int = 2, **terms: Any
    ) -> Net:
        terms = {"htlc_maximum_msat": 10**10, **terms}
        self.graph.apply_update(
            unsigned_update(
                scid(number),
                direction,
                timestamp=timestamp,
                fee_base_msat=base,
                fee_proportional_millionths=ppm,
                **terms,
            )
        )
        return self

    def our(self, number: int, peer: NodeId, msat: int = 10**10) -> Net:
        self.ours.append(OurChannel(scid(number), peer, Msat(msat)))
        return self

    def find(self, target: NodeId, amount: int = 1_000_000, **options: Any) -> Route | NoRoute:
        options = {"final_cltv_delta": 18, "max_fee": Msat(amount), "our_channels": self.ours, **options}
        return find_route(self.graph, US, target, Msat(amount), height=HEIGHT, **options)

    def way(self, target: NodeId, amount: int = 1_000_000, **options: Any) -> list[int]:
        """Numbers of the channels of the route."""
        found = self.find(target, amount, **options)
        assert isinstance(found, Route), found
        return [hop.short_channel_id.height - 100 for hop in found.hops]

    def refusal(self, target: NodeId, amount: int = 1_000_000, **options: Any) -> NoRoute:
        found = self.find(target, amount, **options)
        assert isinstance(found, NoRoute), found
        return found


@pytest.mark.parametrize("case", EXAMPLE, ids=lambda case: str(case["name"]))
def test_the_bolts_example(case: dict[str, Any]) -> None:
    given_, expect = case["given"], case["expect"]
    ids = {name: unsigned_node_id(number) for number, name in enumerate("abcd")}
    graph = Graph(REGTEST.chain_hash)
    pairs = {"ab": 1, "bc": 2, "cd": 3, "da": 4}
    for pair, number in pairs.items():
        graph.add_channel(unsigned_channel(scid(number), ids[pair[0]], ids[pair[1]]), Sat(10**7))
        for name, other in (pair, pair[::-1]):
            terms = given_["policies"][name]
            graph.apply_update(
                unsigned_update(scid(number), int(ids[name] > ids[other]), htlc_maximum_msat=10**10, **terms)
            )
    way = given_["route"]
    source = ids[way[0]]
    first = pairs.get(way[0] + way[1]) or pairs[way[1] + way[0]]
    found = find_route(
        graph,
        source,
        ids["c"],
        Msat(given_["final_amount_msat"]),
        final_cltv_delta=given_["min_final_cltv_expiry_delta"] + given_["shadow_cltv"],
        max_fee=PLENTY,
        height=HEIGHT,
        our_channels=[OurChannel(scid(first), ids[way[1]], PLENTY)],
    )
    assert isinstance(found, Route)
    assert [hop.node_id for hop in found.hops] == [ids[name] for name in way[1:]]
    wanted = expect["first_htlc"]
    assert found.sent == wanted["amount_msat"]
    assert found.hops[0].cltv_expiry == HEIGHT + BlockHeight(wanted["cltv_delta_above_height"])
    last = found.hops[-1]
    assert last.amount == wanted["amt_to_forward"] == found.delivered
    assert last.cltv_expiry - found.hops[0].cltv_expiry.__class__(HEIGHT) == wanted["outgoing_cltv_delta_above_height"]
    if "fee_msat" in expect:
        assert found.fee == expect["fee_msat"]


def test_a_direct_payment_costs_nothing_and_needs_no_graph() -> None:
    net = Net().our(1, STRANGER)
    found = net.find(STRANGER, max_fee=Msat(0))
    assert found == Route((Hop(STRANGER, scid(1), Msat(1_000_000), found.hops[0].cltv_expiry),))  # type: ignore[union-attr]
    assert int(found.hops[0].cltv_expiry) == HEIGHT + BlockHeight(18)  # type: ignore[union-attr]


def test_of_two_ways_the_cheaper_one() -> None:
    net = Net().channel(1, US, A).channel(2, A, C, base=1000).channel(3, US, B).channel(4, B, C, base=900)
    net.our(1, A).our(3, B)
    assert net.way(C, weights=FEE_ONLY) == [3, 4]
    net.policy(4, int(B > C), base=1100)
    assert net.way(C, weights=FEE_ONLY) == [1, 2]


def test_fees_compound_backward_and_round_down() -> None:
    net = Net().channel(1, US, A).channel(2, A, B, base=1, ppm=333_333).channel(3, B, C, base=7, ppm=77_777).our(1, A)
    found = net.find(C, 1_000_003)
    assert isinstance(found, Route)
    at_b = 1_000_003 + 7 + 1_000_003 * 77_777 // 1_000_000
    at_a = at_b + 1 + at_b * 333_333 // 1_000_000
    assert [int(hop.amount) for hop in found.hops] == [at_a, at_b, 1_000_003]
    assert [int(hop.cltv_expiry) - int(HEIGHT) for hop in found.hops] == [98, 58, 18]


@pytest.mark.parametrize(
    "obstacle",
    [
        {"htlc_maximum_msat": 999_999},
        {"htlc_minimum_msat": 1_000_001},
        {"disabled": True},
        {"cltv_expiry_delta": 2000},
    ],
)
def test_a_channel_that_cannot_carry_the_payment_is_walked_round(obstacle: dict[str, Any]) -> None:
    net = Net().channel(1, US, A).channel(2, A, C).channel(3, A, B, base=5).channel(4, B, C, base=5).our(1, A)
    assert net.way(C) == [1, 2]
    net.policy(2, int(A > C), **obstacle)
    assert net.way(C) == [1, 3, 4]


def test_the_limit_of_a_channel_counts_the_fees_behind_it() -> None:
    net = Net().channel(1, US, A).channel(2, A, B, htlc_maximum_msat=1_000_099).channel(3, B, C, base=100).our(1, A)
    assert net.refusal(C).code == "insufficient_capacity"
    net.policy(2, int(A > B), htlc_maximum_msat=1_000_100)
    assert net.way(C) == [1, 2, 3]


def test_of_our_parallel_channels_the_tightest_that_fits() -> None:
    net = Net().channel(9, A, C).our(1, A, 5_000_000).our(2, A, 2_000_000).our(3, A, 999_999)
    assert net.way(C) == [2, 9]
    assert net.way(C, 3_000_000) == [1, 9]


def test_our_own_minimum_is_kept() -> None:
    net = Net().channel(9, A, C)
    net.ours = [OurChannel(scid(1), A, PLENTY, Msat(2_000_000))]
    assert isinstance(net.find(C, 1_000_000), NoRoute)
    assert net.way(C, 2_000_000) == [1, 9]


def test_the_graphs_word_on_our_own_channels_is_not_used() -> None:
    net = Net().channel(1, US, A, base=10**6).channel(2, A, C).our(1, A)
    found = net.find(C)
    assert isinstance(found, Route) and not found.fee
    assert Net().channel(1, US, A).channel(2, A, C).refusal(C).code == "no_channels"


def test_nothing_goes_through_ourselves() -> None:
    net = Net().channel(1, A, US).channel(2, US, C).our(1, A)
    assert net.refusal(C).code == "no_path"


def test_nothing_goes_through_a_node_that_requires_the_unknown() -> None:
    author = Author.of("odd")
    net = Net().channel(1, US, author.node_id).channel(2, author.node_id, C).our(1, author.node_id)
    assert net.way(C) == [1, 2]
    net.graph.apply_node(author.node(features=Features(1 << 100)))
    assert net.refusal(C).code == "no_path"
    assert net.way(author.node_id) == [1]


def test_what_is_to_be_avoided_is_avoided_in_its_direction_only() -> None:
    net = Net().channel(1, US, A).channel(2, A, C).channel(3, A, B, base=9).channel(4, B, C, base=9).our(1, A)
    assert net.way(C, avoid={(scid(2), A)}) == [1, 3, 4]
    assert net.way(C, avoid={(scid(2), C)}) == [1, 2]
    assert net.way(C, avoid={(scid(99), A)}) == [1, 2]
    assert net.way(C, avoid={(scid(2), A)}, avoid_nodes=[D]) == [1, 3, 4]
    assert net.refusal(C, avoid={(scid(2), A)}, avoid_nodes=[B]).code in ("no_path", "all_routes_failed")
    assert net.refusal(C, avoid={(scid(2), A), (scid(4), B)}).code == "all_routes_failed"
    assert net.refusal(C, avoid={(scid(1), US)}).code == "all_routes_failed"
    assert net.way(C, penalties={(scid(2), A): 10**9}) == [1, 3, 4]


def test_hop_limit() -> None:
    net = Net().our(0, unsigned_node_id(0))
    for number in range(1, 26):
        net.channel(number, unsigned_node_id(number - 1), unsigned_node_id(number), cltv_expiry_delta=10)
    assert len(net.way(unsigned_node_id(19))) == 20
    assert net.refusal(unsigned_node_id(20)).code == "no_path"
    assert net.refusal(unsigned_node_id(5), max_hops=5).code == "no_path"
    assert len(net.way(unsigned_node_id(4), max_hops=5)) == 5


# --- hints ----------------------------------------------------------------------------------------------------------


def hint(node: NodeId, number: int, base: int = 0, ppm: int = 0, delta: int = 40) -> HintHop:
    return HintHop(node, scid(number), base, ppm, delta)


def test_a_hint_leads_to_a_payee_outside_the_graph() -> None:
    net = Net().channel(1, US, A).channel(2, A, B, base=3).our(1, A)
    found = net.find(STRANGER, 1_000_000, hints=[[hint(B, 50, base=1000, ppm=100, delta=9)]])
    assert isinstance(found, Route)
    assert [(hop.node_id, int(hop.amount), int(hop.cltv_expiry) - int(HEIGHT)) for hop in found.hops] == [
        (A, 1_001_103, 18 + 9 + 40),
        (B, 1_001_100, 18 + 9),
        (STRANGER, 1_000_000, 18),
    ]


def test_a_hint_of_several_hops_and_of_our_peer() -> None:
    net = Net().channel(1, US, A).our(1, A)
    assert net.way(STRANGER, hints=[[hint(A, 50), hint(D, 51), hint(E, 52)]]) == [1, 50, 51, 52]
    # Of two hints the better one.
    assert net.way(STRANGER, hints=[[hint(A, 50, base=500)], [hint(A, 51, base=400)]]) == [1, 51]
    assert net.way(STRANGER, hints=[[hint(A, 50)], [hint(A, 51)]], avoid={(scid(50), A)}) == [1, 51]


@pytest.mark.parametrize(
    "hints",
    [
        [[hint(US, 50)]],
        [[hint(STRANGER, 50)]],
        [[hint(A, 50), hint(A, 51)]],
        [[hint(A, 50), hint(B, 51), hint(A, 52), hint(B, 53)]],
        [[hint(B, 50), hint(US, 51)]],
        [[hint(A, 50, base=2**32 - 1, ppm=2**32 - 1, delta=65535)] * 12] * 40,
        [[]],
        [[hint(unsigned_node_id(n), n) for n in range(300)]],
    ],
    ids=["us", "payee", "loop", "circle", "through us", "dear", "empty", "long"],
)
def test_hints_that_lead_nowhere_or_in_circles_do_no_harm(hints: Any) -> None:
    net = Net().channel(1, US, A).channel(2, A, STRANGER, base=1).our(1, A)
    way = net.way(STRANGER, hints=hints)
    assert way in ([1, 2], [1, 51], [1, 53], [1, 52, 53], [1, 50, 51, 52, 53], [1, 50, 53])
    net = Net().channel(1, US, A).our(1, A)
    found = net.find(STRANGER, hints=hints)
    assert isinstance(found, Route | NoRoute)


def test_our_own_channel_in_a_hint_is_taken_from_us() -> None:
    net = Net().our(1, STRANGER)
    assert net.way(STRANGER, hints=[[hint(US, 1, base=5000)]]) == [1]


# --- refusals -------------------------------------------------------------------------------------------------------


def test_refusals_say_what_is_the_matter() -> None:
    net = Net().channel(1, US, A).channel(2, A, C, base=5000).our(1, A, 2_000_000)
    assert net.refusal(US).code == "payment_to_self"
    assert net.refusal(C, 0).code == "amount_zero"
    assert net.refusal(STRANGER).code == "unknown_destination"
    poor = net.refusal(C, 3_000_000)
    assert poor.code == "insufficient_balance" and "2000000 msat" in poor.reason and "3000000 msat" in poor.reason
    assert net.refusal(C, 1_999_000).code == "insufficient_balance"
    dear = net.refusal(C, max_fee=Msat(4999))
    assert dear.code == "fee_limit_exceeded" and dear.cheapest_fee == Msat(5000)
    assert "5000 msat" in dear.reason and "4999 msat" in dear.reason
    assert net.way(C, max_fee=Msat(5000)) == [1, 2]
    assert net.refusal(C, max_cltv=57).code == "expiry_too_far"
    assert net.way(C, max_cltv=58) == [1, 2]
    assert net.refusal(C, final_cltv_delta=3000).code == "expiry_too_far"
    small = Net().channel(1, US, A).channel(2, A, C, sat=500).our(1, A)
    assert small.refusal(C).code == "insufficient_capacity"
    assert Net().channel(2, A, C).our(1, B).refusal(C).code == "no_path"
    assert Net().channel(2, A, C).refusal(C).code == "no_channels"


def test_the_cheapest_fee_is_found_even_on_an_unlikely_way() -> None:
    net = Net().channel(1, US, A).channel(2, A, C, base=9000, sat=10**8).channel(3, A, C, base=4000, sat=1001).our(1, A)
    assert net.refusal(C, max_fee=Msat(100)).cheapest_fee == Msat(4000)


# --- against a plain search -----------------------------------------------------------------------------------------


def reference(
    graph: Graph, source: NodeId, target: NodeId, amount: int, ours: list[OurChannel], max_hops: int = 20
) -> int | None:
    """Least fee by an exhaustive label-setting search on (fee, hops): slow and obvious."""
    incoming: dict[NodeId, list[tuple[NodeId, Any]]] = {}
    for name in graph.scids():
        info = graph.channel(name)
        assert info is not None
        for direction, policy in enumerate(info.policies):
            if (
                policy is None
                or policy.disabled
                or not policy.htlc_minimum_msat <= policy.htlc_maximum_msat <= info.capacity.msat
            ):
                continue
            sender, receiver = (info.node_1, info.node_2) if not direction else (info.node_2, info.node_1)
            incoming.setdefault(receiver, []).append((sender, policy))
    heap = [(amount, 0, target)]
    best: int | None = None
    done: dict[NodeId, int] = {}
    while heap:
        carried, hops, node = heapq.heappop(heap)
        if node in done and done[node] <= hops:
            continue
        done[node] = hops
        if any(c.peer == node and carried <= c.spendable for c in ours) and (best is None or carried < best):
            best = carried
        if hops + 1 >= max_hops:
            continue
        for sender, policy in incoming.get(node, ()):
            if sender == source or not policy.htlc_minimum_msat <= carried <= policy.htlc_maximum_msat:
                continue
            fee = policy.fee_base_msat + carried * policy.fee_proportional_millionths // 1_000_000
            heapq.heappush(heap, (carried + fee, hops + 1, sender))
    return None if best is None else best - amount


def check(graph: Graph, route: Route, source: NodeId, amount: int, ours: list[OurChannel]) -> None:
    """Every hop of a route against the policies, by hand."""
    assert int(route.delivered) == amount
    assert any(c.short_channel_id == route.hops[0].short_channel_id and c.spendable >= route.sent for c in ours)
    assert len({hop.node_id for hop in route.hops} | {source}) == len(route.hops) + 1
    for before, hop in zip(route.hops, route.hops[1:], strict=False):
        info = graph.channel(hop.short_channel_id)
        assert info is not None
        direction = (info.node_1, info.node_2).index(before.node_id)
        assert (info.node_2, info.node_1)[direction] == hop.node_id
        policy = info.policies[direction]
        assert policy is not None and not policy.disabled
        assert policy.htlc_minimum_msat <= hop.amount <= min(policy.htlc_maximum_msat, info.capacity.msat)
        fee = policy.fee_base_msat + int(hop.amount) * policy.fee_proportional_millionths // 1_000_000
        assert int(before.amount) - int(hop.amount) == fee
        assert int(before.cltv_expiry) - int(hop.cltv_expiry) == policy.cltv_expiry_delta


def ours_of(graph: Graph, node: NodeId) -> list[OurChannel]:
    channels = []
    for name in graph.channels_of(node):
        info = graph.channel(name)
        assert info is not None
        peer = info.node_2 if info.node_1 == node else info.node_1
        channels.append(OurChannel(name, peer, Msat(int(info.capacity.msat) // 2)))
    return channels


GRAPHS = [random_graph(seed, nodes=60, channels=150) for seed in range(3)]


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(GRAPHS), st.integers(0, 10**6), st.sampled_from([1_000, 3_000_000, 200_000_000, 3_000_000_000]))
def test_routes_are_exact_and_the_cheapest_is_as_cheap_as_a_plain_search_finds(
    graph: Graph, seed: int, amount: int
) -> None:
    dice = random.Random(seed)
    source, target = dice.sample(sorted(graph.nodes()), 2)
    ours = ours_of(graph, source)
    common: dict[str, Any] = {
        "final_cltv_delta": 18,
        "max_fee": Msat(9 * 10**12),
        "height": HEIGHT,
        "our_channels": ours,
        "max_cltv": 100_000,
    }
    cheapest = find_route(graph, source, target, Msat(amount), weights=FEE_ONLY, **common)
    usual = find_route(graph, source, target, Msat(amount), **common)
    expected = reference(graph, source, target, amount, ours)
    if expected is None:
        assert isinstance(cheapest, NoRoute) and isinstance(usual, NoRoute)
        return
    assert isinstance(cheapest, Route) and isinstance(usual, Route)
    check(graph, cheapest, source, amount, ours)
    check(graph, usual, source, amount, ours)
    # No amount here is below a minimum, so the least fee is never a hindrance further up.
    assert expected <= int(cheapest.fee) <= expected + 20
    assert usual.fee >= cheapest.fee


@pytest.mark.parametrize("seed", range(3))
def test_a_graph_changed_in_place_gives_the_same_routes_as_one_built_anew(seed: int) -> None:
    graph = random_graph(50 + seed, nodes=40, channels=90)
    graph.snapshot()
    dice = random.Random(seed)
    for name in dice.sample(graph.scids(), 30):
        graph.apply_update(
            unsigned_update(
                name, dice.randrange(2), timestamp=2 * 10**9, htlc_maximum_msat=10**7, fee_base_msat=dice.randrange(99)
            )
        )
    nodes = sorted(graph.nodes())

    def routes() -> list[Route | NoRoute]:
        return [
            find_route(
                graph,
                nodes[0],
                target,
                Msat(5_000_000),
                final_cltv_delta=18,
                max_fee=Msat(10**6),
                height=HEIGHT,
                our_channels=ours_of(graph, nodes[0]),
            )
            for target in nodes[1:]
        ]

    patched = routes()
    graph._snapshot = None
    assert routes() == patched


def test_risk_and_likelihood_outweigh_a_small_fee() -> None:
    net = (
        Net().channel(1, US, A).channel(2, A, C, sat=1_100, base=1).channel(3, A, C, sat=10_000_000, base=400).our(1, A)
    )
    assert net.way(C, weights=FEE_ONLY) == [1, 2]
    assert net.way(C) == [1, 3]
    slow = (
        Net()
        .channel(1, US, A)
        .channel(2, A, C, cltv_expiry_delta=1000)
        .channel(3, A, C, base=100, cltv_expiry_delta=10)
    )
    slow.our(1, A)
    assert slow.way(C, 100_000_000, weights=Weights(lock_billionths=15)) == [1, 3]


def test_what_was_learned_leads_the_next_search() -> None:
    net = Net().channel(1, US, A).channel(2, A, C).channel(3, A, B, base=50).channel(4, B, C, base=50).our(1, A)
    scorer = Scorer()
    route = net.find(C)
    assert isinstance(route, Route) and len(route.hops) == 2
    scorer.learn(net.graph, US, route.hops, 0, now=1000.0, code=TEMPORARY_CHANNEL_FAILURE)
    assert net.way(C, scorer=scorer, now=1000.0) == [1, 3, 4]
    assert net.way(C, 1000, scorer=scorer, now=1000.0) == [1, 2]
    assert net.way(C, scorer=scorer, now=1000.0 + 30 * 86_400) == [1, 2]


def test_sums_beyond_63_bits_are_no_accident() -> None:
    net = Net().channel(1, US, A, sat=20_999_999_000_000_00 // 100).our(1, A, Msat.MAX)
    net.channel(2, A, C, base=2**32 - 1, ppm=2**32 - 1, sat=20_000_000_0000_0000)
    found = net.find(C, 10**18, max_fee=PLENTY)
    assert isinstance(found, NoRoute)
    assert isinstance(net.find(C, Msat.MAX, max_fee=PLENTY), NoRoute)
    assert isinstance(net.find(C, Msat.MAX, max_fee=Msat(Msat.MAX)), NoRoute)


def test_a_thousand_channels_of_ours() -> None:
    net = Net().channel(2, A, C)
    net.ours = [replace(OurChannel(scid(n), A, Msat(1_000_000 + n))) for n in range(1000)]
    assert net.way(C) == [0, 2]
