"""What a channel on the chain is told, and what it asks of the shell (BOLT 5)."""

from __future__ import annotations

from dataclasses import dataclass, field

from salama.base.ids import ChannelId, Txid
from salama.base.machine import Effect, Event, Row
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.bitcoin.tx import Tx
from salama.channel.state import ChannelRecord
from salama.onchain.state import Sweep
from salama.wallet.coins import Coin


@dataclass(frozen=True, slots=True)
class RecordChanged(Event):
    """The channel's own record changed: an incoming HTLC was decided, or the channel was failed."""

    record: ChannelRecord


@dataclass(frozen=True, slots=True)
class BlockSeen(Event):
    """A block at ``height``; ``txs`` are those that spend an output of ``machine.watched``, or of one another."""

    height: BlockHeight
    txs: tuple[Tx, ...] = ()


@dataclass(frozen=True, slots=True)
class BlockUndone(Event):
    """The block at ``height`` left the best chain."""

    height: BlockHeight


@dataclass(frozen=True, slots=True)
class Woken(Event):
    """The node started: whatever is under way is offered to the network again."""


@dataclass(frozen=True, slots=True)
class SpendSeen(Event):
    """An unconfirmed transaction spends something of ``machine.awaited``; told again after each block while that is so.

    Its preimages count at once (immunity C14); a commitment of the peer's may be helped into a block (B5.03).
    """

    tx: Tx


@dataclass(frozen=True, slots=True)
class OutputsLeft(Row):
    """A channel is over, and ``amount`` of its outputs that are ours stays behind: to take it would cost more."""

    channel_id: ChannelId
    amount: Sat


@dataclass(frozen=True, slots=True)
class CoinsLeased(Event):
    """The wallet set ``coins`` aside for ``purpose``."""

    purpose: str
    coins: tuple[Coin, ...]


@dataclass(frozen=True, slots=True)
class CoinsMissing(Event):
    """The wallet has no coins for ``purpose``: it is asked again at the next block."""

    purpose: str
    reason: str


@dataclass(frozen=True, slots=True)
class ClaimRefused(Event):
    """Our back-end did not take a transaction of ours."""

    txid: Txid
    reason: str = field(repr=False)


# --- effects ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LeaseCoins(Effect):
    """Set confirmed coins worth ``amount`` satoshis and their own inputs at ``feerate`` aside; answered by
    ``CoinsLeased`` or ``CoinsMissing``."""

    purpose: str
    amount: Sat
    feerate: FeeratePerKw


@dataclass(frozen=True, slots=True)
class DropClaim(Effect):
    """A transaction of ours will not confirm any more: the wallet forgets it and frees its coins."""

    sweep: Sweep


@dataclass(frozen=True, slots=True)
class ReleaseCoins(Effect):
    """The lease of ``purpose`` is over."""

    purpose: str


@dataclass(frozen=True, slots=True)
class Resolved(Effect):
    """Nothing can change any more: the channel is closed for good."""
