"""What path search takes and gives: our channels, weights, routes, and reasons why there is none (B7.11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from salama.base.ids import NodeId, ShortChannelId
from salama.base.units import CltvExpiry, Msat

MAX_HOPS: Final = 20
"""Hops whose payloads fit an onion of 1300 bytes when the last one carries ordinary data (BOLT 4)."""
MAX_CLTV: Final = 2016
"""Blocks that a first HTLC may lie ahead of the tip; peers refuse more (BOLT 4, B4.10)."""

_NOTHING: Final = Msat(0)


@dataclass(frozen=True, slots=True)
class OurChannel:
    """A usable channel of ours, public or private, under the name its peer knows it by."""

    short_channel_id: ShortChannelId
    peer: NodeId
    spendable: Msat
    """Most that one HTLC may carry at this moment."""
    htlc_minimum: Msat = _NOTHING


@dataclass(frozen=True, slots=True)
class Hop:
    """``node_id`` is reached over ``short_channel_id`` with an HTLC of ``amount`` that expires at ``cltv_expiry``."""

    node_id: NodeId
    short_channel_id: ShortChannelId
    amount: Msat
    cltv_expiry: CltvExpiry


@dataclass(frozen=True, slots=True)
class Route:
    """A way to the payee; the first hop is our own channel."""

    hops: tuple[Hop, ...]

    @property
    def sent(self) -> Msat:
        """What leaves us."""
        return self.hops[0].amount

    @property
    def delivered(self) -> Msat:
        """What arrives."""
        return self.hops[-1].amount

    @property
    def fee(self) -> Msat:
        return self.sent - self.delivered


@dataclass(frozen=True, slots=True)
class NoRoute:
    """Why there is no route. ``code`` is stable and snake_case, ``reason`` a sentence for a person.

    ``cheapest_fee`` is the least fee of any route, where only the fee limit stood in the way.
    """

    code: str
    reason: str
    cheapest_fee: Msat | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """What is weighed against a millisatoshi of fee. Only the order of routes depends on it, never their validity."""

    hop: float = 1_000.0
    """Msat that one hop more must save."""
    lock_billionths: float = 15.0
    """Per block and msat: what it costs us if the payment hangs until its expiry."""
    failure: float = 100_000.0
    """Msat we would give to be spared one failed attempt ..."""
    failure_millionths: float = 2_000.0
    """... and this share of the amount besides."""
    least_probability: float = 1e-4
    """Nothing is thought less likely, so that the last way left is still tried."""


FEE_ONLY: Final = Weights(0.001, 0.0, 0.0, 0.0)
"""Finds the cheapest route, however unlikely."""
