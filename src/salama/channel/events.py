"""What a channel is told, what it asks of the shell, and the facts that it hands to other machines (BOLT 2).

The channel reports HTLCs with an opaque ``origin``: it does not know whether one belongs to a payment of ours or to a
forward.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NewType

from salama.base.ids import ChannelId, HtlcRef, OutPoint, PaymentHash, Preimage
from salama.base.machine import Effect, Event, Row
from salama.base.units import BlockHeight, CltvExpiry, FeeratePerKw, Msat, Sat
from salama.bitcoin.tx import Tx
from salama.codec.message import Message
from salama.wire.features import Features

Origin = NewType("Origin", bytes)
"""Who asked for an outgoing HTLC: at most 64 bytes chosen by ``payments``, unique among live outgoing HTLCs of the
node."""


# --- told by the peer and by the connection -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MessageReceived(Event):
    """A message of the peer for this channel."""

    message: Message


@dataclass(frozen=True, slots=True)
class Connected(Event):
    """Both ``init`` messages are exchanged; features may differ from those of the last connection."""

    our_features: Features
    their_features: Features


@dataclass(frozen=True, slots=True)
class Disconnected(Event):
    """The connection is gone: the link is forgotten."""


# --- told by the chain ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BlockArrived(Event):
    """``env.height`` changed: depths and deadlines are looked at again."""


@dataclass(frozen=True, slots=True)
class FundingConfirmed(Event):
    """Our own copy of block ``height`` holds the funding transaction at position ``index``.

    The whole transaction is passed so that script and amount are checked (B2.06; never trust a txid alone).
    """

    tx: Tx
    height: BlockHeight
    index: int


@dataclass(frozen=True, slots=True)
class FundingUnconfirmed(Event):
    """A reorganisation took the funding transaction out of the chain."""


@dataclass(frozen=True, slots=True)
class FundingSpent(Event):
    """A confirmed transaction spends the funding output; again with another ``tx`` after a reorganisation."""

    tx: Tx
    height: BlockHeight


@dataclass(frozen=True, slots=True)
class FundingUnspent(Event):
    """A reorganisation took the transaction that spends the funding out of the chain."""


@dataclass(frozen=True, slots=True)
class ResolvedOnChain(Event):
    """``onchain`` has nothing left to do: every output that mattered is spent for good."""


@dataclass(frozen=True, slots=True)
class FeeratesChanged(Event):
    """``env.feerates`` changed enough to look at our commitment feerate."""


# --- asked by the user, the wallet and the payments -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FundingMade(Event):
    """The wallet built and signed the funding transaction that ``RequestFunding`` asked for, and leased its coins.

    ``publish`` False: it is not signed yet, and comes with ``PublishFunding`` when it may be published.
    """

    tx: Tx
    vout: int
    publish: bool = True


@dataclass(frozen=True, slots=True)
class PublishFunding(Event):
    """The funding that was held back is signed, and every peer of its outputs has signed too: publish it."""

    tx: Tx


@dataclass(frozen=True, slots=True)
class FundingRefused(Event):
    """The wallet cannot fund: the opening is abandoned."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class AddHtlc(Event):
    """Offer an HTLC. Refused with ``AddRefused`` while the link is not ready or a limit forbids it."""

    origin: Origin
    amount: Msat
    payment_hash: PaymentHash
    cltv_expiry: CltvExpiry
    onion: bytes = field(repr=False)
    path_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class SettleHtlc(Event):
    """Fulfil the incoming HTLC ``id``. Accepted in every phase, with or without a link; idempotent."""

    id: int
    preimage: Preimage
    consumes: HandoffKey | None = None


@dataclass(frozen=True, slots=True)
class FailHtlc(Event):
    """Fail the incoming HTLC ``id`` with an encrypted ``reason`` (at most 32 KiB). Accepted always; idempotent."""

    id: int
    reason: bytes = field(repr=False)
    consumes: HandoffKey | None = None


@dataclass(frozen=True, slots=True)
class FailMalformedHtlc(Event):
    """Fail the incoming HTLC ``id`` whose onion cannot be read. Accepted always; idempotent."""

    id: int
    sha256_of_onion: bytes
    failure_code: int
    consumes: HandoffKey | None = None


@dataclass(frozen=True, slots=True)
class CloseChannel(Event):
    """Close cooperatively to ``script`` (B2.35); the closing fee starts from ``feerate``."""

    script: bytes
    feerate: FeeratePerKw | None = None


@dataclass(frozen=True, slots=True)
class ForceClose(Event):
    """Publish our latest commitment transaction."""

    reason: str


@dataclass(frozen=True, slots=True)
class ForgetChannel(Event):
    """Abandon an opening whose funding was never signed or broadcast."""

    reason: str


# --- effects: done after the commit ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send(Effect):
    """Send a message to the peer."""

    message: Message


@dataclass(frozen=True, slots=True)
class Disconnect(Effect):
    """Drop the connection (after what was sent before)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Broadcast(Effect):
    """Publish a transaction and again at every block until it is confirmed or replaced."""

    tx: Tx
    why: str


@dataclass(frozen=True, slots=True)
class RequestFunding(Effect):
    """The wallet shall build, sign and lease (not broadcast) a transaction paying ``amount`` to ``script``."""

    amount: Sat
    script: bytes
    feerate: FeeratePerKw | None


@dataclass(frozen=True, slots=True)
class ReleaseFunding(Effect):
    """The opening is abandoned before its funding could be broadcast: the wallet releases the coins."""


@dataclass(frozen=True, slots=True)
class WatchFunding(Effect):
    """Report confirmations and spends of this output from now on (a start-up repeats it from the record)."""

    outpoint: OutPoint
    script: bytes
    amount: Sat


@dataclass(frozen=True, slots=True)
class HtlcCommitted(Effect):
    """An incoming HTLC is irrevocably committed on both sides and has no resolution yet.

    Emitted again for each such HTLC at start-up (``step.resume``): the consumer is idempotent.
    """

    ref: HtlcRef
    amount: Msat
    payment_hash: PaymentHash
    cltv_expiry: CltvExpiry
    onion: bytes = field(repr=False)
    path_key: bytes | None = None
    must_fail: bool = False
    """It takes the channel's dust over our limit: fail it, and reveal no preimage for it (B2.50)."""


@dataclass(frozen=True, slots=True)
class AddRefused(Effect):
    """An ``AddHtlc`` was not taken; nothing was sent. ``code`` is stable, ``reason`` a sentence."""

    origin: Origin
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class AddDropped(Effect):
    """An ``AddHtlc`` was taken but a disconnect dropped it before it was signed: it will never be signed."""

    origin: Origin


@dataclass(frozen=True, slots=True)
class CommandAnswered(Effect):
    """Answer to a user's command (open, close): ``code`` empty on success."""

    code: str
    reason: str
    command: Event | None = field(default=None, compare=False, repr=False)
    """The very event that is answered (``step.turn`` puts it there); None answers who began the opening."""


@dataclass(frozen=True, slots=True)
class AnnounceChannel(Effect):
    """Both sides' announcement signatures are here: the assembled ``channel_announcement`` goes to gossip."""

    announcement: Message


# --- rows: written with the record ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HandoffKey:
    """Names a handoff: an outgoing HTLC has at most one outcome."""

    channel_id: ChannelId
    htlc_id: int


@dataclass(frozen=True, slots=True)
class PreimageLearned(Row):
    """Handoff: the peer fulfilled our outgoing HTLC. Written at receipt, before anything is signed (B2.48)."""

    key: HandoffKey
    origin: Origin
    preimage: Preimage


@dataclass(frozen=True, slots=True)
class HtlcFailed(Row):
    """Handoff: the removal of our outgoing HTLC is irrevocable; ``reason`` is the peer's encrypted packet.

    A malformed report carries ``malformed_code`` and the hash that the peer saw instead of a reason.
    """

    key: HandoffKey
    origin: Origin
    reason: bytes = field(default=b"", repr=False)
    malformed_code: int | None = None
    sha256_of_onion: bytes = b""


Handoff = PreimageLearned | HtlcFailed


@dataclass(frozen=True, slots=True)
class Consumed(Row):
    """The consumer of a handoff has written its own decision: the handoff is deleted in the same transaction."""

    key: HandoffKey


@dataclass(frozen=True, slots=True)
class LatePreimage(Row):
    """The preimage of what was offered on as ``outgoing`` came when the HTLC ``incoming`` had been failed already.

    ``is_used``: the failure had not been taken, and we are paid all the same; else what left us is lost, unless it had
    been settled before: a preimage may be heard twice.
    """

    incoming: HtlcRef
    outgoing: HandoffKey
    is_used: bool


@dataclass(frozen=True, slots=True)
class PublicEvent(Row):
    """A line of the event feed: ``name`` such as ``channel.opened``, ``fields`` of JSON-able scalars."""

    name: str
    fields: tuple[tuple[str, str | int | bool], ...] = ()
