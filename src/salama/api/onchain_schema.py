"""Closing by force: what it would take."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from salama.api.method import Method, Params, Result


class StressParams(Params, frozen=True, kw_only=True):
    feerate: Annotated[
        int, Meta(description="sat per virtual byte (sat/vB); other commands take sat per 1000 weight", ge=1, le=2_000)
    ]


class StressedChannel(Result, frozen=True, kw_only=True):
    channel_id: str
    peer: str
    state: str
    fees_msat: int
    """Of every transaction that closing it by force would take and that is worth its fee."""
    from_wallet_msat: int
    """The part of them that coins of the wallet pay."""
    uneconomic_msat: int
    """What would not be worth claiming at this rate, or could only wait for a cheaper time."""
    commitment_is_economic: bool
    """False: our commitment would offer less than this rate, and wait."""
    lines: list[str]


class Stress(Result, frozen=True, kw_only=True):
    feerate_per_kw: int
    answer: str
    can_close_all: bool
    fees_msat: int
    from_wallet_msat: int
    available_msat: int
    """In the wallet for such fees."""
    missing_msat: int
    uneconomic_msat: int
    channels: list[StressedChannel]


METHODS: tuple[Method, ...] = (
    Method(
        "stress",
        "Whether every channel could be closed by force at a fee rate (in sat/vB), and at what cost.",
        StressParams,
        Stress,
        columns=("channel_id", "state", "fees_msat", "from_wallet_msat", "lines"),
    ),
)
