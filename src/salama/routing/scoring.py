"""What earlier attempts taught about the liquidity of other people's channels (left to the node by BOLT 7, B7.11).

For each channel an interval of what its ``node_1`` may be able to send. A hop that passed a payment on moves one end
for both directions at once, since what one side cannot send the other side can. Knowledge fades: each end drifts back
to "nothing known" with a half-life. The clock is passed in.

A mutable named exception like the graph it belongs to; bounded, the longest untouched channel is forgotten first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np

from salama.base.ids import NodeId, ShortChannelId
from salama.base.units import Msat
from salama.gossip.graph import Graph
from salama.gossip.snapshot import Ints

TEMPORARY_CHANNEL_FAILURE: Final = 0x1007
"""The one failure that says "not enough liquidity just now"."""


class Passed(Protocol):
    """One hop of an attempt: ``node_id`` was to be reached over ``short_channel_id`` with ``amount``."""

    @property
    def node_id(self) -> NodeId: ...
    @property
    def short_channel_id(self) -> ShortChannelId: ...
    @property
    def amount(self) -> Msat: ...


class Learned(NamedTuple):
    """What is kept of one channel, for storing: msat that ``node_1`` can send at least and at most, as of ``at``."""

    short_channel_id: ShortChannelId
    lower: int
    upper: int
    capacity: int
    at: float


@dataclass(frozen=True, slots=True)
class ScoringLimits:
    """``half_life`` in seconds; ``channels`` remembered at most."""

    half_life: float = 6 * 3600.0
    channels: int = 20_000


class Scorer:
    """Learned bounds of liquidity, ready to be laid over a snapshot of the graph."""

    def __init__(self, limits: ScoringLimits | None = None) -> None:
        self.limits = limits or ScoringLimits()
        self._place: dict[int, int] = {}
        """Insertion order is the order of last use."""
        self._free: list[int] = []
        self._lower = np.zeros(64)
        self._upper = np.zeros(64)
        self._capacity = np.zeros(64)
        self._at = np.zeros(64)
        self._rows_of: object = None
        self._rows: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._place)

    # --- learning ---------------------------------------------------------------------------------------------------

    def learn(
        self, graph: Graph, source: NodeId, hops: Sequence[Passed], failed_at: int | None, now: float, code: int = 0
    ) -> None:
        """Take in one attempt from ``source`` over ``hops``.

        ``failed_at`` is the index of the hop whose node did not pass the payment on, None if it was settled; ``code``
        is the failure that it gave. Our own channel (the first hop) and channels outside the graph teach nothing.
        """
        last = len(hops) - 1 if failed_at is None else min(failed_at, len(hops) - 1)
        for index in range(1, last + 1):
            hop = hops[index]
            self._passed(graph, hops[index - 1].node_id, hop, now, settled=failed_at is None)
        if failed_at is not None and last + 1 < len(hops) and code == TEMPORARY_CHANNEL_FAILURE:
            self._refused(graph, hops[last].node_id, hops[last + 1], now)

    def _passed(self, graph: Graph, sender: NodeId, hop: Passed, now: float, settled: bool) -> None:
        place = self._touch(graph, hop.short_channel_id, now)
        if place is None:
            return
        amount = float(int(hop.amount))
        # Settled money is on the other side now; a payment that failed later has come back.
        moved = amount if settled else 0.0
        capacity = self._capacity[place]
        if sender < hop.node_id:
            self._lower[place] = max(self._lower[place], amount) - moved
            self._upper[place] = max(self._upper[place], amount) - moved
        else:
            self._upper[place] = min(self._upper[place], capacity - amount) + moved
            self._lower[place] = min(self._lower[place], capacity - amount) + moved
        self._clip(place)

    def _refused(self, graph: Graph, sender: NodeId, hop: Passed, now: float) -> None:
        place = self._touch(graph, hop.short_channel_id, now)
        if place is None:
            return
        amount = float(int(hop.amount))
        capacity = self._capacity[place]
        if sender < hop.node_id:
            self._upper[place] = min(self._upper[place], amount - 1)
            self._lower[place] = min(self._lower[place], self._upper[place])
        else:
            self._lower[place] = max(self._lower[place], capacity - amount + 1)
            self._upper[place] = max(self._upper[place], self._lower[place])
        self._clip(place)

    def _clip(self, place: int) -> None:
        capacity = self._capacity[place]
        self._lower[place] = min(max(self._lower[place], 0.0), capacity)
        self._upper[place] = min(max(self._upper[place], self._lower[place]), capacity)

    def _touch(self, graph: Graph, scid: ShortChannelId, now: float) -> int | None:
        """The channel's place with its knowledge faded to ``now``; None for one that is not in the graph."""
        known = self._place.pop(scid, None)
        if known is None:
            channel = graph.channel(scid)
            if channel is None:
                return None
            known = self._new(float(int(channel.capacity.msat)), now)
        self._place[scid] = known
        fade = 0.5 ** (max(0.0, now - self._at[known]) / self.limits.half_life)
        self._lower[known] *= fade
        self._upper[known] = self._capacity[known] - (self._capacity[known] - self._upper[known]) * fade
        self._at[known] = now
        return known

    def _new(self, capacity: float, now: float) -> int:
        if len(self._place) >= self.limits.channels:
            oldest = next(iter(self._place))
            self._free.append(self._place.pop(oldest))
            self._rows.pop(oldest, None)
        place = self._free.pop() if self._free else len(self._place)
        if place >= len(self._lower):
            self._lower, self._upper, self._capacity, self._at = (
                np.concatenate((column, np.zeros(len(column)))) for column in self._columns()
            )
        self._lower[place], self._upper[place], self._capacity[place], self._at[place] = 0.0, capacity, capacity, now
        return place

    def _columns(self) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], ...]:
        return self._lower, self._upper, self._capacity, self._at

    # --- asking -----------------------------------------------------------------------------------------------------

    def bounds(self, scid: ShortChannelId, now: float) -> tuple[int, int] | None:
        """Msat that ``node_1`` can send at least and at most, faded to ``now``; None if nothing was learned."""
        place = self._place.get(scid)
        if place is None:
            return None
        fade = 0.5 ** (max(0.0, now - self._at[place]) / self.limits.half_life)
        capacity = self._capacity[place]
        return int(self._lower[place] * fade), int(capacity - (capacity - self._upper[place]) * fade)

    def lay_over(self, graph: Graph, now: float) -> tuple[Ints, Ints, Ints]:
        """Rows of the graph's snapshot about which something is known, with least and most liquidity in msat."""
        snapshot = graph.snapshot()
        if self._rows_of is not snapshot:
            self._rows_of, self._rows = snapshot, {}
        rows, places = self._rows, []
        pairs = []
        for scid, place in self._place.items():
            pair = rows.get(scid)
            if pair is None:
                edge = graph.edge_of(scid, 0)
                pair = (-1, -1) if edge is None else (int(snapshot.row_of[edge]), int(snapshot.row_of[edge + 1]))
                rows[scid] = pair
            if pair[0] >= 0:
                pairs.append(pair)
                places.append(place)
        if not places:
            nothing = np.empty(0, np.int64)
            return nothing, nothing, nothing
        at = np.array(places)
        row = np.array(pairs, np.int64)
        fade = 0.5 ** (np.maximum(0.0, now - self._at[at]) / self.limits.half_life)
        capacity = self._capacity[at]
        lower = self._lower[at] * fade
        upper = capacity - (capacity - self._upper[at]) * fade
        return (
            row.T.ravel(),
            np.concatenate((lower, capacity - upper)).astype(np.int64),
            np.concatenate((upper, capacity - lower)).astype(np.int64),
        )

    # --- storing ----------------------------------------------------------------------------------------------------

    def entries(self) -> list[Learned]:
        """Everything learned, the longest untouched first."""
        return [
            Learned(
                ShortChannelId(scid),
                int(self._lower[place]),
                int(self._upper[place]),
                int(self._capacity[place]),
                float(self._at[place]),
            )
            for scid, place in self._place.items()
        ]

    def restore(self, entries: Iterable[Learned]) -> None:
        """Take back what ``entries`` gave."""
        for entry in entries:
            if entry.short_channel_id in self._place:
                continue
            place = self._new(float(entry.capacity), entry.at)
            self._place[entry.short_channel_id] = place
            self._lower[place], self._upper[place] = entry.lower, entry.upper
            self._clip(place)
