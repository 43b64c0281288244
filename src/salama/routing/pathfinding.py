"""The way to a payee: cheapest in fee, lock-up and risk of failing, exact in amounts and expiries (BOLT 7, B7.11).

The search runs backward from the payee, because fees and expiries add up in that direction. Labels are corrected in
rounds, one more hop a round, over whole arrays at once: on 100,000 edges that is several times faster in Python than a
heap, and small graphs do not notice. A node keeps the one label of least cost, with the exact amount and expiry that it
stands for.

Private ways (invoice hints) and our own channels are laid over the graph for one search. Pure; the graph is only read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from salama.base.ids import NodeId, ShortChannelId
from salama.base.units import BlockHeight, CltvExpiry, Msat
from salama.gossip.graph import Graph
from salama.gossip.snapshot import Flags, Ints
from salama.routing.routes import FEE_ONLY, MAX_CLTV, MAX_HOPS, Hop, NoRoute, OurChannel, Route, Weights
from salama.routing.scoring import Scorer

__all__ = ["Hint", "Hop", "NoRoute", "OurChannel", "Route", "Weights", "find_route"]

MAX_HINT_HOPS: Final = 256
"""Hint hops looked at; a payment request with more is trying something else."""
_MOST_FEE: Final = 9_000_000_000_000
"""Msat (90 BTC): bounds fee arithmetic to 63 bits."""
_ATTEMPTS: Final = 4

_ALL_FAILED: Final = NoRoute("all_routes_failed", "Every route that could carry the payment has just failed.")

DirectedChannel = tuple[ShortChannelId, NodeId]
"""A channel and the node that sends over it."""


class Hint(Protocol):
    """One hop of a route hint: ``node_id`` charges this for forwarding over ``short_channel_id`` (BOLT 11)."""

    @property
    def node_id(self) -> NodeId: ...
    @property
    def short_channel_id(self) -> ShortChannelId: ...
    @property
    def fee_base_msat(self) -> int: ...
    @property
    def fee_proportional_millionths(self) -> int: ...
    @property
    def cltv_expiry_delta(self) -> int: ...


class _Extra(NamedTuple):
    """A directed channel that is laid over the graph."""

    source: int
    target: int
    short_channel_id: ShortChannelId
    fee_base: int
    fee_ppm: int
    cltv_delta: int
    penalty: float


class _Bounds(NamedTuple):
    """Limits of one search."""

    amount: int
    final_cltv_delta: int
    max_fee: int
    max_cltv: int
    max_hops: int


def find_route(
    graph: Graph,
    source: NodeId,
    target: NodeId,
    amount: Msat,
    *,
    final_cltv_delta: int,
    max_fee: Msat,
    height: BlockHeight,
    our_channels: Sequence[OurChannel],
    max_cltv: int = MAX_CLTV,
    max_hops: int = MAX_HOPS,
    hints: Sequence[Sequence[Hint]] = (),
    avoid: Collection[DirectedChannel] = (),
    avoid_nodes: Collection[NodeId] = (),
    penalties: Mapping[DirectedChannel, int] | None = None,
    scorer: Scorer | None = None,
    now: float = 0.0,
    weights: Weights | None = None,
) -> Route | NoRoute:
    """The best way for ``amount`` from ``source`` (us) to ``target``, or why there is none.

    ``final_cltv_delta`` is what the payee wants plus whatever the caller adds to hide it; ``max_cltv`` bounds the sum
    of all deltas in blocks. ``avoid`` and ``avoid_nodes`` are not used at all, ``penalties`` (msat) only if they are
    worth it. ``now`` is for the scorer, in unix seconds.
    """
    if not amount:
        return NoRoute("amount_zero", "A payment must carry an amount.")
    if source == target:
        return NoRoute("payment_to_self", "The payee is this node itself.")
    bounds = _Bounds(
        int(amount), final_cltv_delta, min(int(max_fee), _MOST_FEE), min(max_cltv, 1 << 30), min(max_hops, MAX_HOPS)
    )
    direct = _direct(source, target, bounds, our_channels, avoid)
    if direct is not None:
        return Route((Hop(target, direct.short_channel_id, amount, CltvExpiry(int(height) + final_cltv_delta)),))
    search = _Search(graph, source, target, our_channels, hints, avoid, avoid_nodes, penalties or {}, scorer, now)
    early = search.hopeless(bounds)
    if early is not None:
        return early
    route = search.run(bounds, height, weights or Weights())
    return route if route is not None else search.explain(bounds, height)


def _direct(
    source: NodeId, target: NodeId, bounds: _Bounds, ours: Sequence[OurChannel], avoid: Collection[DirectedChannel]
) -> OurChannel | None:
    """A channel of ours with the payee itself: no fee, no relay, no risk, so nothing can be better."""
    if bounds.final_cltv_delta > bounds.max_cltv:
        return None
    fitting = [
        c
        for c in ours
        if c.peer == target
        and int(c.htlc_minimum) <= bounds.amount <= int(c.spendable)
        and (c.short_channel_id, source) not in avoid
    ]
    return min(fitting, key=lambda c: c.spendable, default=None)


class _Search:
    """Everything about one question that does not depend on its limits."""

    def __init__(
        self,
        graph: Graph,
        source: NodeId,
        target: NodeId,
        our_channels: Sequence[OurChannel],
        hints: Sequence[Sequence[Hint]],
        avoid: Collection[DirectedChannel],
        avoid_nodes: Collection[NodeId],
        penalties: Mapping[DirectedChannel, int],
        scorer: Scorer | None,
        now: float,
    ) -> None:
        self.graph, self.snapshot = graph, graph.snapshot()
        self.source, self.target_id = source, target
        self._added: dict[NodeId, int] = {}
        self._added_ids: list[NodeId] = []
        self.target = self._index(target)
        avoided, shunned = frozenset(avoid), frozenset(avoid_nodes)
        self.ours: dict[int, list[OurChannel]] = {}
        self.usable_ours = [
            c
            for c in our_channels
            if (c.short_channel_id, source) not in avoided and (c.peer == target or c.peer not in shunned)
        ]
        self.given_ours = our_channels
        self.extras = self._lay_hints(hints, avoided, shunned, penalties)
        for channel in self.usable_ours:
            index = self._known(channel.peer)
            if index is not None:
                self.ours.setdefault(index, []).append(channel)
        self.barred = self._bar(shunned)
        self.shut_rows = self._rows_of(avoided)
        self.penalty_rows = {
            row: float(penalty) for pair, penalty in penalties.items() for row in self._rows_of((pair,))
        }
        self.learned = None if scorer is None or not len(scorer) else scorer.lay_over(graph, now)
        self.nodes = self.snapshot.nodes + len(self._added_ids)

    # --- laying things over the graph -------------------------------------------------------------------------------

    def _known(self, node_id: NodeId) -> int | None:
        index = self.graph.node_index(node_id)
        return self._added.get(node_id) if index is None else index

    def _index(self, node_id: NodeId) -> int:
        index = self._known(node_id)
        if index is None:
            index = self.snapshot.nodes + len(self._added_ids)
            self._added[node_id] = index
            self._added_ids.append(node_id)
        return index

    def _id(self, index: int) -> NodeId:
        known = self.snapshot.nodes
        return self._added_ids[index - known] if index >= known else self.graph.node_id(index)

    def _lay_hints(
        self,
        hints: Sequence[Sequence[Hint]],
        avoided: frozenset[DirectedChannel],
        shunned: frozenset[NodeId],
        penalties: Mapping[DirectedChannel, int],
    ) -> list[_Extra]:
        extras: list[_Extra] = []
        for path in hints:
            for at, hint in enumerate(path):
                if len(extras) >= MAX_HINT_HOPS:
                    return extras
                following = path[at + 1].node_id if at + 1 < len(path) else self.target_id
                pair = (hint.short_channel_id, hint.node_id)
                # A hint through ourselves names a channel of ours, and those we know better.
                if hint.node_id in (self.source, following) or following == self.source or pair in avoided:
                    continue
                if hint.node_id in shunned or (following in shunned and following != self.target_id):
                    continue
                extras.append(
                    _Extra(
                        self._index(hint.node_id),
                        self._index(following),
                        hint.short_channel_id,
                        hint.fee_base_msat,
                        hint.fee_proportional_millionths,
                        hint.cltv_expiry_delta,
                        float(penalties.get(pair, 0)),
                    )
                )
        return extras

    def _bar(self, shunned: frozenset[NodeId]) -> Flags:
        """By node of the graph: nothing goes through it."""
        barred = self.snapshot.barred.copy()
        for node_id in (self.source, *shunned):
            index = self.graph.node_index(node_id)
            if index is not None:
                barred[index] = True
        if self.target < len(barred):
            barred[self.target] = False
        return barred

    def _rows_of(self, channels: Collection[DirectedChannel]) -> list[int]:
        rows = []
        for scid, sender in channels:
            pair = self.graph.nodes_of(scid)
            if pair is not None and sender in pair:
                edge = self.graph.edge_of(scid, pair.index(sender))
                if edge is not None:
                    rows.append(int(self.snapshot.row_of[edge]))
        return rows

    # --- searching --------------------------------------------------------------------------------------------------

    def run(self, bounds: _Bounds, height: BlockHeight, weights: Weights, *, use_avoided: bool = False) -> Route | None:
        """The best route within ``bounds``.

        A label can go stale when the one it was built on improves; where that matters, its channel is shut for another
        look.
        """
        shut = [] if use_avoided else list(self.shut_rows)
        for _ in range(_ATTEMPTS):
            labels = _Labels(self, bounds, weights, shut)
            first = labels.solve()
            if first is None:
                return None
            route, bad_row = self._materialise(labels, first, bounds, height)
            if route is not None:
                return route
            if bad_row is None:
                return None
            shut.append(bad_row)
        return None

    def _materialise(
        self, labels: _Labels, first: int, bounds: _Bounds, height: BlockHeight
    ) -> tuple[Route | None, int | None]:
        """Follow the labels from our peer ``first`` to the payee and compute everything again, exactly."""
        snapshot = self.snapshot
        nodes = [first]
        via: list[int] = []
        while nodes[-1] != self.target and len(via) < bounds.max_hops:
            step = int(labels.via[nodes[-1]])
            via.append(step)
            nodes.append(int(snapshot.target[step]) if step >= 0 else self.extras[-1 - step].target)
        if nodes[-1] != self.target:
            return None, None
        amount, delta = bounds.amount, bounds.final_cltv_delta
        hops: list[tuple[NodeId, ShortChannelId, int, int]] = []
        for at in range(len(via) - 1, -1, -1):
            step, following = via[at], self._id(nodes[at + 1])
            if step >= 0:
                if not int(snapshot.minimum[step]) <= amount <= int(snapshot.maximum[step]):
                    return None, step
                hops.append((following, self.graph.edge_scid(int(snapshot.edge[step])), amount, delta))
                fee_base, fee_ppm = int(snapshot.fee_base[step]), int(snapshot.fee_ppm[step])
                delta += int(snapshot.cltv_delta[step])
            else:
                extra = self.extras[-1 - step]
                hops.append((following, extra.short_channel_id, amount, delta))
                fee_base, fee_ppm = extra.fee_base, extra.fee_ppm
                delta += extra.cltv_delta
            amount += fee_base + amount * fee_ppm // 1_000_000
        channel = self.first_channel(first, amount)
        if channel is None or amount - bounds.amount > bounds.max_fee or delta > bounds.max_cltv:
            return None, next((step for step in via if step >= 0), None)
        hops.append((channel.peer, channel.short_channel_id, amount, delta))
        return (
            Route(
                tuple(
                    Hop(node_id, scid, Msat(carried), CltvExpiry(int(height) + blocks))
                    for node_id, scid, carried, blocks in reversed(hops)
                )
            ),
            None,
        )

    def first_channel(self, peer: int, amount: int) -> OurChannel | None:
        """The tightest of our channels to ``peer`` that carries ``amount``: the roomy ones are kept for later."""
        fitting = [c for c in self.ours.get(peer, ()) if int(c.htlc_minimum) <= amount <= int(c.spendable)]
        return min(fitting, key=lambda c: c.spendable, default=None)

    # --- explaining -------------------------------------------------------------------------------------------------

    def hopeless(self, bounds: _Bounds) -> NoRoute | None:
        """What needs no search."""
        if bounds.final_cltv_delta > bounds.max_cltv:
            return NoRoute(
                "expiry_too_far",
                f"The payee asks for {bounds.final_cltv_delta} blocks, and at most {bounds.max_cltv} are allowed.",
            )
        if not self.given_ours:
            return NoRoute("no_channels", "This node has no usable channel to pay from.")
        if (
            not any(extra.target == self.target for extra in self.extras)
            and self.target >= self.snapshot.nodes
            and not any(c.peer == self.target_id for c in self.given_ours)
        ):
            return NoRoute(
                "unknown_destination",
                "The payee is not in the network graph, and the payment request names no way to it.",
            )
        if max(int(c.spendable) for c in self.given_ours) < bounds.amount:
            return self._poor(f"{bounds.amount} msat")
        if not any(int(c.spendable) >= bounds.amount for c in self.usable_ours):
            return _ALL_FAILED
        return None

    def _poor(self, what: str) -> NoRoute:
        balances = [int(c.spendable) for c in self.given_ours]
        return NoRoute(
            "insufficient_balance",
            f"No channel of ours can send {what} at once: "
            f"the best can send {max(balances)} msat, all together {sum(balances)} msat.",
        )

    def explain(self, bounds: _Bounds, height: BlockHeight) -> NoRoute:
        """Why the search found nothing: drop one limit after the other until it does."""
        anything = bounds._replace(max_fee=_MOST_FEE)
        cheapest = self.run(anything, height, FEE_ONLY)
        if cheapest is not None:
            return NoRoute(
                "fee_limit_exceeded",
                f"The cheapest route found costs {cheapest.fee} msat, and the limit is {bounds.max_fee} msat.",
                cheapest.fee,
            )
        anything = anything._replace(max_cltv=1 << 30)
        if self.run(anything, height, FEE_ONLY) is not None:
            return NoRoute(
                "expiry_too_far", f"Every route would lock the payment for more than {bounds.max_cltv} blocks."
            )
        if self.shut_rows and self.run(anything, height, FEE_ONLY, use_avoided=True) is not None:
            return _ALL_FAILED
        if _Labels(self, anything, FEE_ONLY, self.shut_rows, any_balance=True).solve() is not None:
            return self._poor(f"{bounds.amount} msat and the fees of a route")
        if _Labels(self, anything, FEE_ONLY, (), any_amount=True).solve() is not None:
            return NoRoute(
                "insufficient_capacity",
                f"The payee can be reached, but no way there takes {bounds.amount} msat in one part.",
            )
        return NoRoute("no_path", "There is no path of usable channels to the payee.")


class _Labels:
    """One search: for every node the least cost to the payee, with the amount and blocks that go with it."""

    def __init__(
        self,
        search: _Search,
        bounds: _Bounds,
        weights: Weights,
        shut: Sequence[int],
        *,
        any_amount: bool = False,
        any_balance: bool = False,
    ) -> None:
        self.search, self.bounds, self.weights, self.any_amount = search, bounds, weights, any_amount
        self.any_balance = any_balance or any_amount
        nodes, known = search.nodes, search.snapshot.nodes
        self.cost = np.full(nodes, np.inf)
        self.cost[:known][search.barred] = -np.inf
        self.cost[search.target] = 0.0
        self.amount: Ints = np.zeros(nodes, np.int64)
        self.amount[search.target] = bounds.amount
        self.delta: Ints = np.zeros(nodes, np.int64)
        self.delta[search.target] = bounds.final_cltv_delta
        self.via: Ints = np.zeros(nodes, np.int64)
        """Row of the snapshot, or -1 - index of an extra channel, over which the node sends."""
        self.claim: Ints = np.zeros(nodes, np.int64)
        self.round = np.full(nodes, -1, np.int64)
        self.usable = search.snapshot.usable
        if shut:
            self.usable = self.usable.copy()
            self.usable[list(shut)] = False
        self.best = np.inf
        self.first: int | None = None
        self.unlikely = weights.failure + weights.failure_millionths * bounds.amount / 1e6
        self.lower: npt.NDArray[np.float64] | None = None
        self.upper: npt.NDArray[np.float64] | None = None
        if self.unlikely and search.learned is not None:
            rows, lower, upper = search.learned
            self.lower = np.zeros(len(self.usable))
            self.upper = search.snapshot.capacity.astype(np.float64)
            self.lower[rows], self.upper[rows] = lower, upper
        self.penalty: npt.NDArray[np.float64] | None = None
        if self.unlikely and search.penalty_rows:
            self.penalty = np.zeros(len(self.usable))
            self.penalty[list(search.penalty_rows)] = list(search.penalty_rows.values())

    def solve(self) -> int | None:
        """Our peer at which the best route begins."""
        frontier: Ints = np.array([self.search.target], np.int64)
        self.round[frontier] = 0
        self._reach_us(frontier)
        for number in range(1, self.bounds.max_hops):
            changed = [self._spread(frontier), self._spread_extras(number - 1)]
            frontier = np.concatenate(changed)
            if not len(frontier):
                break
            self.round[frontier] = number
            self._reach_us(frontier)
        return self.first

    def _reach_us(self, frontier: Ints) -> None:
        for peer in self.search.ours:
            # Only labels of this round are news.
            if self.round[peer] != self.round[frontier[0]] or self.cost[peer] >= self.best:
                continue
            if self.any_balance or self.search.first_channel(peer, int(self.amount[peer])) is not None:
                self.best, self.first = float(self.cost[peer]), peer

    def _spread(self, frontier: Ints) -> Ints:
        """Offer every sender to a node of ``frontier`` the way over it; the nodes that took it."""
        snapshot, bounds = self.search.snapshot, self.bounds
        inside = frontier[frontier < snapshot.nodes]
        begin, end = snapshot.start[inside], snapshot.start[inside + 1]
        counts = end - begin
        total = int(counts.sum())
        if not total:
            return np.empty(0, np.int64)
        # All rows of all frontier nodes, one after the other.
        offsets = np.repeat(begin - np.concatenate(([0], counts.cumsum()[:-1])), counts)
        rows: Ints = np.arange(total, dtype=np.int64) + offsets
        rows = rows[self.usable[rows]]
        following = snapshot.target[rows]
        amount = self.amount[following]
        if not self.any_amount:
            fits = (amount >= snapshot.minimum[rows]) & (amount <= snapshot.maximum[rows])
            rows, following, amount = rows[fits], following[fits], amount[fits]
        delta = self.delta[following] + snapshot.cltv_delta[rows]
        base, ppm = snapshot.fee_base[rows], snapshot.fee_ppm[rows]
        room = bounds.max_fee + bounds.amount - amount
        # Approximate first: what passes fits 63 bits below.
        cheap = (base + amount * (ppm / 1e6) <= room + 1.0) & (delta <= bounds.max_cltv)
        rows, following, amount, delta = rows[cheap], following[cheap], amount[cheap], delta[cheap]
        fee = base[cheap] + amount * ppm[cheap] // 1_000_000
        source = snapshot.source[rows]
        cost = self.cost[following] + fee + self.weights.hop
        if self.weights.lock_billionths:
            cost += amount * (snapshot.cltv_delta[rows] * (self.weights.lock_billionths / 1e9))
        better = (cost < np.minimum(self.cost[source], self.best)) & (amount + fee - bounds.amount <= bounds.max_fee)
        rows, amount, delta, fee, source, cost = (a[better] for a in (rows, amount, delta, fee, source, cost))
        if self.unlikely:
            cost += self.unlikely * self._surprise(rows, amount)
            if self.penalty is not None:
                cost += self.penalty[rows]
            better = cost < np.minimum(self.cost[source], self.best)
            rows, amount, delta, fee, source, cost = (a[better] for a in (rows, amount, delta, fee, source, cost))
        np.minimum.at(self.cost, source, cost)
        won = np.flatnonzero(cost == self.cost[source])
        # Of equals one wins.
        self.claim[source[won]] = won
        won = won[self.claim[source[won]] == won]
        changed: Ints = source[won].astype(np.int64)
        self.amount[changed] = amount[won] + fee[won]
        self.delta[changed] = delta[won]
        self.via[changed] = rows[won]
        return changed

    def _surprise(self, rows: Ints, amount: Ints) -> npt.NDArray[np.float64]:
        """Minus the logarithm of the probability that each row can carry the amount."""
        if self.lower is None or self.upper is None:
            capacity = self.search.snapshot.capacity[rows]
            likely = (capacity - amount) / np.maximum(capacity, 1)
        else:
            lower, upper = self.lower[rows], self.upper[rows]
            likely = np.where(amount <= lower, 1.0, (upper - amount) / np.maximum(upper - lower, 1.0))
        return -np.log(np.maximum(likely, self.weights.least_probability))

    def _spread_extras(self, number: int) -> Ints:
        """The same for the few channels that are laid over the graph."""
        changed: dict[int, None] = {}
        # Labels of this round must not be built upon in the same round.
        ready = [(at, e) for at, e in enumerate(self.search.extras) if self.round[e.target] == number]
        offers = []
        for at, extra in ready:
            amount = int(self.amount[extra.target])
            fee = extra.fee_base + amount * extra.fee_ppm // 1_000_000
            delta = int(self.delta[extra.target]) + extra.cltv_delta
            if amount + fee - self.bounds.amount > self.bounds.max_fee or delta > self.bounds.max_cltv:
                continue
            cost = float(self.cost[extra.target]) + fee + self.weights.hop + extra.penalty
            cost += amount * extra.cltv_delta * self.weights.lock_billionths / 1e9
            offers.append((cost, at, extra.source, amount + fee, delta))
        for cost, at, node, amount, delta in offers:
            if cost < self.cost[node] and cost < self.best:
                self.cost[node], self.amount[node], self.delta[node], self.via[node] = cost, amount, delta, -1 - at
                changed[node] = None
        return np.array(list(changed), np.int64)
