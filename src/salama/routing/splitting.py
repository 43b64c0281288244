"""Cutting a payment into parts (basic_mpp; BOLT 4, B4.05): whole first, then halves of whatever found no way.

Deliberately simple: no part is made smaller than pays for its own hops, and the caller bounds the number of parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from salama.base.units import Msat
from salama.routing.routes import NoRoute, Route

LEAST_PART: Final = 10_000
"""Msat below which no part is cut: base fees would eat it."""
SPLITTABLE: Final = frozenset(
    {"insufficient_balance", "insufficient_capacity", "fee_limit_exceeded", "all_routes_failed"}
)
"""Reasons that a smaller amount may get around."""


def may_split(refusal: NoRoute, amount: Msat, parts_left: int) -> bool:
    """Whether cutting ``amount`` in two may help against ``refusal``."""
    return parts_left >= 2 and refusal.code in SPLITTABLE and int(amount) >= 2 * LEAST_PART


def halve(amount: Msat) -> tuple[Msat, Msat]:
    """Two parts that add up to ``amount``, the larger first."""
    small = int(amount) // 2
    return Msat(int(amount) - small), Msat(small)


@dataclass(frozen=True, slots=True)
class Plan:
    """Routes that together deliver the whole amount."""

    routes: tuple[Route, ...]

    @property
    def fee(self) -> Msat:
        return Msat.total(route.fee for route in self.routes)


def split(
    amount: Msat, find: Callable[[Msat, tuple[Route, ...]], Route | NoRoute], *, max_parts: int = 16
) -> Plan | NoRoute:
    """Routes for ``amount`` in at most ``max_parts`` parts, or why there are none.

    ``find(part, earlier)`` looks for a route for one part; ``earlier`` are the routes already planned, whose amounts it
    must count as gone.
    """
    waiting = [amount]
    routes: tuple[Route, ...] = ()
    while waiting:
        part = waiting.pop()
        found = find(part, routes)
        if isinstance(found, Route):
            routes = (*routes, found)
        elif may_split(found, part, max_parts - len(routes) - len(waiting)):
            larger, smaller = halve(part)
            waiting += [smaller, larger]
        else:
            return found
    return Plan(routes)
