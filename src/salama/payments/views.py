"""What payments may know of channels, invoices and routes: the Protocols and views that the floors above fill in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from salama.base.ids import ChannelId, NodeId, PaymentHash, ShortChannelId
from salama.base.units import BlockHeight, Msat
from salama.channel.events import HandoffKey
from salama.invoices.bolt11 import HintHop
from salama.payments.records import Invoice
from salama.routing.pathfinding import NoRoute, Route


@dataclass(frozen=True, slots=True)
class RelayPolicy:
    """What we ask for relaying over a channel (BOLT 7, B7.11). Fees in msat and millionths, delta in blocks."""

    fee_base_msat: int
    fee_proportional_millionths: int
    cltv_expiry_delta: int
    htlc_minimum: Msat
    htlc_maximum: Msat

    def fee(self, amount: Msat) -> int:
        """Fee in msat for relaying ``amount``, rounded down."""
        return self.fee_base_msat + int(amount) * self.fee_proportional_millionths // 1_000_000


@dataclass(frozen=True, slots=True)
class ChannelView:
    """One of our channels as payments see it now."""

    channel_id: ChannelId
    peer: NodeId
    ready: bool
    """The link is up, nothing forbids an HTLC."""
    spendable: Msat
    """Most that we could offer in one HTLC at this moment."""
    scids: tuple[ShortChannelId, ...]
    """The real short channel id and every alias that others may name it by (B2.06)."""
    policies: tuple[RelayPolicy, ...]
    """The announced policy first, then those that must still be honoured (10 minutes, B7.06)."""


class Router(Protocol):
    """Finds a path from us to ``target``; pure, on the graph and the channels of this moment."""

    def __call__(
        self,
        target: NodeId,
        amount: Msat,
        *,
        final_cltv_delta: int,
        max_fee: Msat,
        hints: Sequence[Sequence[HintHop]],
        avoid: frozenset[tuple[ShortChannelId, NodeId]],
        reserved: Mapping[ChannelId, int],
    ) -> Route | NoRoute: ...


@dataclass(frozen=True, slots=True)
class PaymentsEnv:
    """The world at the moment of a turn. ``now`` in unix seconds; ``entropy(n)`` gives n secret random bytes."""

    now: int
    height: BlockHeight
    our_node_id: NodeId
    channels: Mapping[ChannelId, ChannelView]
    by_scid: Mapping[ShortChannelId, ChannelId]
    invoices: Callable[[PaymentHash], Invoice | None]
    route: Router
    entropy: Callable[[int], bytes]
    is_waiting: Callable[[HandoffKey], bool]
    """Whether a handoff is on disk and nobody has consumed it."""
    chain_is_stale: bool = False
    """What we know of the chain is too old to relay anything new on (immunity G3)."""
    max_parts: int = 16
    mpp_timeout: int = 60
    """Seconds that an incomplete set may wait (B4.06)."""
    max_cltv_ahead: int = 2016
    """Longest that a relayed HTLC may lock our money, in blocks (B4.10)."""
    relay_margin: int = 20
    """A relayed HTLC must have more blocks than this left when we offer it (B2.49)."""
    set_margin: int = 10
    """Blocks before the expiry of a part at which an incomplete set is failed."""
