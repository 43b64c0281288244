"""What happens to the wallet, what it is asked for, and what it answers. Blocks come as ``bitcoin.chain_events``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from salama.base.ids import OutPoint, Txid
from salama.base.machine import Effect, Event, Row
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.bitcoin.tx import Tx, TxOut
from salama.wallet.funding import Funded
from salama.wallet.keys import KeyPath, Kind


@dataclass(frozen=True, slots=True)
class WalletEnv:
    """What one turn may know of the world: the height of the tip, and 32 fresh bytes for what must be unpredictable."""

    height: BlockHeight
    entropy: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TxSeen(Event):
    """A transaction was accepted by our mempool, or is about to be broadcast by us."""

    tx: Tx


@dataclass(frozen=True, slots=True)
class TxDropped(Event):
    """An unconfirmed transaction will not confirm: evicted, replaced, or given up by its maker."""

    txid: Txid


@dataclass(frozen=True, slots=True)
class NewAddress(Event):
    """Issue a fresh script of ours; answered by ``AddressIssued``."""

    kind: Kind = "wpkh"
    change: bool = False


@dataclass(frozen=True, slots=True)
class Lease(Event):
    """Set coins aside for ``purpose``, all or none. Asking again for the same purpose is harmless.

    ``until``: height at which all leases of that purpose end by themselves; None leaves that as it is.
    """

    outpoints: tuple[OutPoint, ...]
    purpose: str
    until: BlockHeight | None = None


@dataclass(frozen=True, slots=True)
class Release(Event):
    """Free every coin set aside for ``purpose``; harmless if there is none."""

    purpose: str


@dataclass(frozen=True, slots=True)
class FundTransaction(Event):
    """Choose coins for ``outputs``, lease them to ``purpose`` and issue a change script, in one step.

    Answered by ``TransactionFunded``. Two of these in flight can never use the same coin. ``everything``: send all that
    is spendable to the script of the only output, whose value is ignored.
    """

    outputs: tuple[TxOut, ...]
    feerate: FeeratePerKw
    purpose: str
    everything: bool = False
    min_depth: int = 1
    own_change: bool = False
    change_kind: Kind = "tr"
    only: tuple[OutPoint, ...] = ()
    """Choose among these coins alone, if any are named."""
    until: BlockHeight | None = None
    """Height at which the lease ends by itself."""


@dataclass(frozen=True, slots=True)
class BumpFee(Event):
    """Make an unconfirmed transaction of ours confirm sooner; answered by ``TransactionFunded``.

    It is replaced where that harms nobody, else a child pays for it; ``how`` insists on one. ``subtract``: where there
    is nothing else to take the fee from, take it from the only output.
    """

    txid: Txid
    feerate: FeeratePerKw
    purpose: str
    how: Literal["auto", "rbf", "cpfp"] = "auto"
    subtract: bool = False
    until: BlockHeight | None = None
    funds_channel: bool = False
    """It must keep its txid, whoever holds its coins: the commitments of a channel spend from it."""


@dataclass(frozen=True, slots=True)
class Freeze(Event):
    """Leave coins alone until told otherwise, or with ``frozen`` False no longer."""

    outpoints: tuple[OutPoint, ...]
    frozen: bool = True


@dataclass(frozen=True, slots=True)
class LabelCoin(Event):
    """Call a coin ``text``; an empty one takes the label away."""

    outpoint: OutPoint
    text: str


@dataclass(frozen=True, slots=True)
class AddressIssued(Effect):
    """A script of ours that was never issued before."""

    script: bytes
    key: KeyPath


@dataclass(frozen=True, slots=True)
class TransactionFunded(Effect):
    """An unsigned transaction whose coins are leased to ``purpose``."""

    purpose: str
    funded: Funded
    replaces: Txid | None = None
    """The transaction that cannot confirm any more once this one does."""


@dataclass(frozen=True, slots=True)
class WalletTxConfirmed(Row):
    """A block took a transaction of ours: amounts that came to us and that left our coins with it."""

    txid: Txid
    height: BlockHeight
    received: Sat
    spent: Sat
    fee: Sat | None = field(default=None, compare=False)
    """Known if every input was ours, and not kept with the row."""


@dataclass(frozen=True, slots=True)
class WalletTxUnconfirmed(Row):
    """A reorg took the confirmation of this transaction back."""

    txid: Txid
