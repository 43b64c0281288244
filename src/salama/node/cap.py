"""How much may stand in channels: on mainnet no more than somebody has decided to risk on young software."""

from __future__ import annotations

from collections.abc import Iterable

from salama.base.units import Sat
from salama.bitcoin.networks import MAINNET, Network
from salama.channel.state import AnyChannel, Opening, OpeningStage, Phase


def cap_of(network: Network, mainnet_cap: Sat) -> Sat | None:
    """The cap of a network; None for those whose coins are worth nothing."""
    return mainnet_cap if network == MAINNET else None


def in_channels(states: Iterable[AnyChannel]) -> int:
    """Satoshis in channels that are open, closing or being opened, whoever they belong to at the moment.

    Strangers' offers count before they are funded: they may all be funded at once.
    """
    total = 0
    for state in states:
        if isinstance(state, Opening):
            total += int(state.open.funding_satoshis) if state.stage is not OpeningStage.ABANDONED else 0
        elif state.record.phase is not Phase.CLOSED:
            total += int(state.record.funding.capacity)
    return total


def beyond(cap: Sat | None, states: Iterable[AnyChannel], more: Sat) -> str:
    """Why a channel of ``more`` would be one too many, for a person; empty if it would not."""
    if cap is None:
        return ""
    there = in_channels(states)
    if there + int(more) <= int(cap):
        return ""
    return f"channels on mainnet may hold {int(cap):,} sat together, {there:,} are there and {int(more):,} would come"
