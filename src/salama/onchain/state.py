"""What a restart must find of a channel on the chain: confirmed transactions, claims under way, what was told upstream.

Everything else is worked out again from these facts at every block, never advanced, so that a reorganisation is only
another set of facts (BOLT 5, B5.02).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from salama.base.ids import ChannelId, OutPoint, Txid
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.bitcoin.tx import Tx
from salama.channel.state import ChannelRecord
from salama.wallet.coins import Coin


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A transaction in a block."""

    tx: Tx
    height: BlockHeight


@dataclass(frozen=True, slots=True)
class Sweep:
    """A transaction of ours under way, which claims outputs."""

    claims: tuple[OutPoint, ...]
    """What it is for; these are its first inputs, in this order."""
    coins: tuple[Coin, ...]
    """Of the wallet, for the fee; the inputs after them."""
    tx: Tx
    feerate: FeeratePerKw
    fee: Sat
    made_at: BlockHeight
    purpose: str
    """Name of the lease of ``coins``."""
    parent: Txid | None = None
    """Pays for this unconfirmed transaction, too."""
    deadline: int | None = None
    refused: str = ""
    """Why our back-end did not take it, the last time that it was asked."""


@dataclass(frozen=True, slots=True)
class OnchainRecord:
    """Facts of one closed channel."""

    channel_id: ChannelId
    confirmed: tuple[Confirmed, ...] = ()
    """What spent the funding, and what spends from there; in the order of the chain."""
    sweeps: tuple[Sweep, ...] = ()
    settled: tuple[int, ...] = ()
    """Ids of outgoing HTLCs whose preimage was handed over."""
    failed: tuple[int, ...] = ()
    """Ids of outgoing HTLCs that were given up upstream."""
    alone: tuple[OutPoint, ...] = ()
    """Outputs that were refused together with others, and are claimed singly from then on."""
    noted: tuple[str, ...] = ()
    """What the account tells already."""


@dataclass(frozen=True, slots=True)
class Rival:
    """An unconfirmed transaction that spends the funding, as the back-end's mempool showed it at ``height``."""

    tx: Tx
    height: BlockHeight


@dataclass(frozen=True, slots=True)
class OnchainState:
    """One closed channel: its record as the channel left it, and what the chain said since."""

    channel: ChannelRecord = field(repr=False)
    record: OnchainRecord
    rival: Rival | None = None
    """Never on disk: who needs it is told again."""
    floors: Mapping[OutPoint, int] = field(default_factory=dict)
    """Rates that outputs were claimed at (``bump.floors_after``); a restart knows those of what is in flight."""
    asked: frozenset[str] = frozenset()
    """Purposes for which the wallet is being asked for coins; never on disk, like ``offered``."""
    offered: Mapping[str, tuple[Coin, ...]] = field(default_factory=dict)
    """What it gave, and no transaction uses yet: answers come one by one, and some plans need several of them."""
    is_over: bool = False
    """Nothing is left that any reorganisation of ``irrevocable_depth`` blocks could change."""
