"""The graph as path search wants it: every directed channel in native numbers, grouped by the node it leads to (B7.11).

Search runs backward from the payee, so what is asked again and again is "who can send to this node". Updates of a known
channel are patched in place; a channel that comes or goes makes the graph build a new one when it is next asked for.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from salama.gossip.tables import IN_USE, UNROUTABLE, Records

Ints = npt.NDArray[np.int64]
Indexes = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

DISABLED: Final = 2
"""Bit of ``channel_flags``; bit 0 is the direction."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Row ``i`` is one direction of one channel. Amounts in msat. Do not change the arrays.

    The rows that lead to node ``n`` are ``start[n]`` to ``start[n + 1]``.
    """

    start: Indexes
    source: Indexes
    target: Indexes
    edge: Indexes
    """Place of the channel times two, plus the direction."""
    row_of: Indexes
    """The way back from an edge to its row; -1 for places not in use."""
    usable: Flags
    """There is an update, it is sane, not disabled, and nothing unknown is required."""
    fee_base: Ints
    fee_ppm: Ints
    cltv_delta: Ints
    minimum: Ints
    maximum: Ints
    """The smaller of ``htlc_maximum_msat`` and the capacity."""
    capacity: Ints
    barred: Flags
    """By node: requires a feature that we do not know, so nothing may be sent through it (B7.04)."""

    @property
    def nodes(self) -> int:
        return len(self.start) - 1


def build(channels: Records, updates: Records, nodes: int, barred_nodes: Collection[int]) -> Snapshot:
    """From the first places of both tables; ``nodes`` is one more than the highest node index."""
    in_use = np.flatnonzero(channels["flags"] & IN_USE)
    node_1, node_2 = channels["node_1"][in_use], channels["node_2"][in_use]
    # Direction 0 is what node_1 says about sending to node_2.
    source = np.concatenate((node_1, node_2))
    target = np.concatenate((node_2, node_1))
    edge = np.concatenate((2 * in_use, 2 * in_use + 1)).astype(np.int32)
    order = np.argsort(target, kind="stable")
    source, target, edge = source[order], target[order], edge[order]
    start = np.zeros(nodes + 1, np.int32)
    np.cumsum(np.bincount(target, minlength=nodes), out=start[1:])
    row_of = np.full(2 * len(channels), -1, np.int32)
    row_of[edge] = np.arange(len(edge), dtype=np.int32)
    policies = updates[edge]
    capacity = channels["capacity"][edge >> 1].astype(np.int64)
    barred = np.zeros(nodes, np.bool_)
    barred[list(barred_nodes)] = True
    minimum = _clipped(policies["htlc_minimum_msat"])
    maximum = np.minimum(_clipped(policies["htlc_maximum_msat"]), capacity)
    return Snapshot(
        start=start,
        source=source,
        target=target,
        edge=edge,
        row_of=row_of,
        usable=(policies["timestamp"] != 0)
        & ((policies["channel_flags"] & DISABLED) == 0)
        & ((channels["flags"][edge >> 1] & UNROUTABLE) == 0)
        & (_clipped(policies["htlc_maximum_msat"]) <= capacity)
        & (minimum <= maximum),
        fee_base=policies["fee_base_msat"].astype(np.int64),
        fee_ppm=policies["fee_proportional_millionths"].astype(np.int64),
        cltv_delta=policies["cltv_expiry_delta"].astype(np.int64),
        minimum=minimum,
        maximum=maximum,
        capacity=capacity,
        barred=barred,
    )


def _clipped(amounts: npt.NDArray[np.uint64]) -> Ints:
    return np.minimum(amounts, np.uint64(2**63 - 1)).astype(np.int64)


def patch(snapshot: Snapshot, edge: int, channel: np.void, update: np.void) -> None:
    """Take over the one update that changed."""
    row = int(snapshot.row_of[edge])
    capacity = int(channel["capacity"])
    minimum, maximum = int(update["htlc_minimum_msat"]), int(update["htlc_maximum_msat"])
    snapshot.fee_base[row] = int(update["fee_base_msat"])
    snapshot.fee_ppm[row] = int(update["fee_proportional_millionths"])
    snapshot.cltv_delta[row] = int(update["cltv_expiry_delta"])
    snapshot.minimum[row] = min(minimum, 2**63 - 1)
    snapshot.maximum[row] = min(maximum, capacity)
    snapshot.usable[row] = (
        not int(update["channel_flags"]) & DISABLED
        and not int(channel["flags"]) & UNROUTABLE
        and minimum <= maximum <= capacity
    )
