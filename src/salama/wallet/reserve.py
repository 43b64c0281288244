"""What the wallet must keep so that every channel can be closed by force at once, in a dear market (immunity C20).

With anchors neither a commitment nor an HTLC transaction pays a market's fee by itself (B3.06): the wallet pays, at the
worst moment. The worst case of a channel is a child for its commitment, and a transaction for each of some HTLCs, all
at the rate of ``Terms``; never more than half of the capacity, since no claim may cost more than half of what it brings
(``onchain.bump``). A node of small channels alone may do without: it is told so, and risks no more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from salama.base.units import FeeratePerKw, Sat
from salama.wallet.selection import fee_for

MOST_PERCENT: Final = 50
"""Of a channel's capacity."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """One channel, as far as fees are concerned."""

    capacity: Sat
    weight_to_confirm: int
    """Of the commitment with the HTLCs that are reckoned with, and of the child that pays for it."""
    already_paid: Sat
    """By the commitment itself."""
    weight_to_claim: int
    """Of the transactions that claim those HTLCs."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How much is enough."""

    feerate: FeeratePerKw
    unreserved: Sat
    """Channels of this capacity all together need no reserve."""


def worst_case(one: Exposure, feerate: FeeratePerKw) -> Sat:
    """Satoshis of the wallet that closing ``one`` by force may take at ``feerate``."""
    child = max(0, fee_for(feerate, one.weight_to_confirm) - int(one.already_paid))
    return Sat(min(child + fee_for(feerate, one.weight_to_claim), int(one.capacity) * MOST_PERCENT // 100))


def required(channels: Sequence[Exposure], terms: Terms) -> Sat:
    """What the wallet must keep for all of ``channels`` together."""
    if sum(int(one.capacity) for one in channels) <= int(terms.unreserved):
        return Sat(0)
    return Sat(sum(int(worst_case(one, terms.feerate)) for one in channels))
