"""The two halves of a channel: the record that a restart must find, and the link that may be forgotten (BOLT 2).

    Opening   a negotiation before there is anything to lose: never written, abandoned with the connection
    Channel
      record  ChannelRecord  durable; the shell writes it whenever ``new.record is not old.record``
      link    Link | None    this connection only; derived again after the next ``channel_reestablish``

**How an HTLC's life is written.** No state name is stored. Each ``Htlc`` carries the numbers of the first and the last
commitment that holds it, one pair for each side's sequence of commitments, and everything else follows:

    in remote commitment n          first_remote <= n <= last_remote        (None is "not yet": never began, or no end)
    added irrevocably               in ours (first_local) and in a remote commitment whose predecessor is revoked
    removed irrevocably             gone from both, predecessors revoked: dropped from ``htlcs``

We only sign updates that we have sent in the same breath and only keep an update of the peer once the peer has signed
it, so a record never holds an update that a disconnect would have to take back. Numbers of the *remote* sequence
never change once written, which is what rebuilding a revoked commitment needs; numbers of the *local* sequence matter
only while the HTLC lives.

**For storage.** Every value is immutable, and a value that did not change stays the same object: comparing old and new
records by identity finds the changes (``record.htlcs`` is copied as a dict, its values are not). ``params`` never
changes. Of a commitment only number, fee rate and balances need to be written: ``htlcs_in_local`` and
``htlcs_in_remote`` give back the map of HTLCs of any commitment that is still held. When an HTLC has left ``htlcs``
its row stays, for penalties.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from salama.base.ids import ChannelId, HtlcRef, NodeId, OutPoint, PaymentHash, Preimage, ShortChannelId, Side
from salama.base.units import BlockHeight, CltvExpiry, FeeratePerKw, Msat, Sat
from salama.bitcoin.tx import Tx
from salama.channel.closing_forms import Form
from salama.channel.events import AddHtlc, Origin
from salama.channel.keys import Basepoints
from salama.channel.params import ChannelParams
from salama.channel.spec import CommitmentSpec, SpecHtlc
from salama.crypto.shachain import ShachainStore
from salama.wire.features import Features
from salama.wire.gossip import AnnouncementSignatures
from salama.wire.opening import AcceptChannel, OpenChannel


class Phase(Enum):
    """Where a channel stands; orthogonal to whether there is a link."""

    AWAITING_FUNDING = "awaiting_funding"
    """Both signatures are exchanged; depth or ``channel_ready`` of one side is missing."""
    NORMAL = "normal"
    SHUTTING_DOWN = "shutting_down"
    """At least one side asked to close; HTLCs or signatures are still pending."""
    NEGOTIATING = "negotiating"
    """Nothing is pending on either side: the closing fee is negotiated, or the agreed transaction waits to confirm."""
    ON_CHAIN = "on_chain"
    """A commitment transaction was published or seen, or the channel was failed; ``onchain`` takes over."""
    CLOSED = "closed"
    """Nothing is left to do: closed for good, or forgotten before it was funded."""


class LinkState(Enum):
    ABSENT = "absent"
    SYNCING = "syncing"
    """``channel_reestablish`` was sent, the peer's has not come."""
    READY = "ready"


# --- HTLCs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fulfilment:
    """An HTLC is paid: ``preimage`` is known to both."""

    preimage: Preimage


@dataclass(frozen=True, slots=True)
class Failure:
    """An HTLC goes back, with an encrypted reason of at most 32 KiB."""

    reason: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class MalformedFailure:
    """An HTLC goes back because its onion could not be read."""

    sha256_of_onion: bytes
    failure_code: int


Removal = Fulfilment | Failure | MalformedFailure


@dataclass(frozen=True, slots=True)
class Htlc:
    """One HTLC of the channel with its place in both sequences of commitments."""

    terms: SpecHtlc
    """The same object in every commitment that holds it."""
    onion: bytes = field(repr=False)
    path_key: bytes | None = None
    origin: Origin | None = None
    """Outgoing only: who asked for it."""
    first_remote: int | None = None
    last_remote: int | None = None
    first_local: int | None = None
    last_local: int | None = None
    removal: Removal | None = None
    """Outgoing: what the peer answered and signed. Incoming: what we decided, durable before it is ever sent."""

    @property
    def key(self) -> int:
        return self.terms.key

    @property
    def side(self) -> Side:
        return self.terms.side

    @property
    def id(self) -> int:
        return self.terms.id

    @property
    def amount(self) -> Msat:
        return self.terms.amount

    @property
    def payment_hash(self) -> PaymentHash:
        return self.terms.payment_hash

    @property
    def cltv_expiry(self) -> CltvExpiry:
        return self.terms.cltv_expiry

    def is_in_remote(self, number: int) -> bool:
        return (
            self.first_remote is not None
            and self.first_remote <= number
            and (self.last_remote is None or number <= self.last_remote)
        )

    def is_in_local(self, number: int) -> bool:
        return (
            self.first_local is not None
            and self.first_local <= number
            and (self.last_local is None or number <= self.last_local)
        )


def htlcs_in_remote(htlcs: Mapping[int, Htlc], number: int) -> dict[int, SpecHtlc]:
    """The map of a ``CommitmentSpec`` for remote commitment ``number``."""
    return {key: htlc.terms for key, htlc in htlcs.items() if htlc.is_in_remote(number)}


def htlcs_in_local(htlcs: Mapping[int, Htlc], number: int) -> dict[int, SpecHtlc]:
    """The map of a ``CommitmentSpec`` for local commitment ``number``."""
    return {key: htlc.terms for key, htlc in htlcs.items() if htlc.is_in_local(number)}


# --- commitments -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LocalCommitment:
    """The commitment that we may publish, with the peer's signatures for it."""

    number: int
    spec: CommitmentSpec
    signature: bytes
    htlc_signatures: tuple[bytes, ...] = ()
    """In output order."""


@dataclass(frozen=True, slots=True)
class RemoteCommitment:
    """A commitment that the peer may publish; the peer's per-commitment point belongs to its number."""

    number: int
    spec: CommitmentSpec
    point: bytes


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Where in the chain a transaction stands."""

    height: BlockHeight
    index: int


@dataclass(frozen=True, slots=True)
class ActiveFunding:
    """One funding output and the commitments that spend it. There is one until splicing makes more."""

    outpoint: OutPoint
    capacity: Sat
    our_funding_pubkey: bytes
    their_funding_pubkey: bytes
    local: LocalCommitment
    remote: RemoteCommitment
    """The latest that the peer has acknowledged by revoking its predecessor."""
    next_remote: RemoteCommitment | None = None
    """Signed by us, its predecessor not yet revoked: the peer may publish either."""
    tx: Tx | None = None
    """Ours to publish until it confirms; None if the peer funds."""
    confirmation: Confirmation | None = None

    @property
    def latest_remote(self) -> RemoteCommitment:
        return self.next_remote or self.remote

    @property
    def short_channel_id(self) -> ShortChannelId | None:
        where = self.confirmation
        return None if where is None else ShortChannelId.of(where.height, where.index, self.outpoint.vout)


@dataclass(frozen=True, slots=True)
class PointWindow:
    """Our own per-commitment points for consecutive commitment numbers, oldest first.

    Two revoked ones (to check what a reconnecting peer claims), the current one and the next. The signer fills it up.
    """

    first: int
    points: tuple[bytes, ...]

    def at(self, number: int) -> bytes | None:
        """The point of ``number``, or None outside the window."""
        return self.points[number - self.first] if self.first <= number < self.first + len(self.points) else None

    def extended(self, number: int, point: bytes) -> PointWindow:
        """With the point of ``number``, the one after the last known; the same if it is known already."""
        if number < self.first + len(self.points):
            return self
        points = (*self.points, point)[-4:]
        return PointWindow(number + 1 - len(points), points)


# --- closing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MutualClose:
    """A closing transaction that both sides agreed on (unsigned) and the peer's signature for it."""

    tx: Tx
    their_signature: bytes


@dataclass(frozen=True, slots=True)
class ClosingTerms:
    """What the closer of a simple close chooses."""

    fee: Sat
    locktime: int


@dataclass(frozen=True, slots=True)
class FundingSpend:
    """The confirmed transaction that spends the funding output."""

    tx: Tx
    height: BlockHeight


# --- the record ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChannelRecord:
    """What a restart must find."""

    channel_id: ChannelId
    params: ChannelParams
    phase: Phase
    active: tuple[ActiveFunding, ...]
    opened_at: BlockHeight
    """Chain height at the first signature, or when a reorganisation took the funding away: for giving up on one that
    never confirms."""
    our_points: PointWindow
    their_next_point: bytes | None
    """For the remote commitment after the latest that we signed; None while the peer owes it."""
    our_alias: ShortChannelId
    their_alias: ShortChannelId | None = None
    their_secrets: ShachainStore = field(default_factory=ShachainStore)
    htlcs: Mapping[int, Htlc] = field(default_factory=dict)
    """By ``spec.htlc_key``, both sides; an HTLC is here while any unrevoked commitment holds it or will."""
    next_outgoing_id: int = 0
    next_incoming_id: int = 0
    owes_signature: bool = False
    """We have revoked for updates of the peer that our latest signature does not cover yet."""
    sent_after_local_number: int = 0
    """Number of our own commitment when we last sent ``commitment_signed``: decides the order of a retransmission."""
    our_ready: bool = False
    """``channel_ready`` was sent at least once."""
    their_ready: bool = False
    inactive: tuple[ActiveFunding, ...] = ()
    """Superseded fundings that a reorganisation could bring back."""
    their_announcement: tuple[bytes, bytes] | None = None
    """The peer's node and funding signature for ``channel_announcement``, verified."""
    our_shutdown: bytes | None = None
    """Script that we asked, or agreed, to close to; from then on nothing new is added."""
    their_shutdown: bytes | None = None
    wants_close: bool = False
    """Our user asked to close, and so pays what a closing transaction should cost; else the peer did."""
    closing_feerate: FeeratePerKw | None = None
    """Asked for by the user."""
    mutual_close: MutualClose | None = None
    """The closing transaction to expect on the chain: of several, the one that pays most for its size."""
    spend: FundingSpend | None = None
    error: str = ""
    """Why the channel was failed; sent again whenever the peer connects."""
    stale: bool = False
    """The peer proved that we lost data: our commitment is revoked and must never be published."""
    other_closes: tuple[MutualClose, ...] = ()
    """Further closing transactions that both sides signed (``option_simple_close``): any of them may confirm."""
    closing_terms: ClosingTerms | None = None
    """Of our latest ``closing_complete``."""
    restored: bool = False
    """Made from a backup: of the commitments nothing is known, and the peer is asked to publish its own."""

    @property
    def funding(self) -> ActiveFunding:
        """The funding that is confirmed, or will be: the first of the active ones."""
        return self.active[0]

    @property
    def is_awaiting_revocation(self) -> bool:
        """We have signed a commitment for which the peer's revocation is outstanding."""
        return self.active[0].next_remote is not None

    @property
    def closes(self) -> tuple[MutualClose, ...]:
        """Every closing transaction that both sides signed, the best first."""
        return self.other_closes if self.mutual_close is None else (self.mutual_close, *self.other_closes)

    def ref(self, htlc: Htlc) -> HtlcRef:
        return HtlcRef(self.channel_id, htlc.terms.side, htlc.terms.id)

    def is_added_irrevocably(self, htlc: Htlc) -> bool:
        return (
            htlc.first_local is not None
            and htlc.first_remote is not None
            and htlc.first_remote <= self.active[0].remote.number
        )

    @property
    def resolutions(self) -> dict[int, Removal]:
        """What we decided about incoming HTLCs that still live, by HTLC id."""
        return {
            htlc.id: htlc.removal
            for htlc in self.htlcs.values()
            if htlc.removal is not None and htlc.side is Side.INCOMING
        }


# --- the link --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exposure:
    """Running totals of one commitment as it will be: plain ints, millisatoshis unless said otherwise.

    Kept by ``limits`` so that checking an update costs the same however many HTLCs there are.
    """

    feerate: int
    ours: int
    """Our balance outside HTLCs."""
    theirs: int
    outgoing: int
    """Number of HTLCs that we offered."""
    outgoing_value: int
    incoming: int
    incoming_value: int
    untrimmed: int
    """Number of HTLCs that have an output."""
    dust: int
    """Value of the HTLCs that have none."""


@dataclass(frozen=True, slots=True)
class ClosingFees:
    """Where the negotiation of the closing fee stands (legacy ``closing_signed``); restarts with each connection."""

    our_fee: Sat
    our_range: tuple[Sat, Sat]
    their_fee: Sat | None = None


@dataclass(frozen=True, slots=True)
class ClosingOffer:
    """A ``closing_complete`` of ours on this connection."""

    terms: ClosingTerms
    our_script: bytes
    their_script: bytes
    forms: tuple[Form, ...]
    made_at: int
    """Unix seconds."""
    is_answered: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """What one connection knows beyond the record."""

    state: LinkState
    our_features: Features
    their_features: Features
    queued_adds: tuple[AddHtlc, ...] = ()
    """Taken, neither sent nor signed: they go out with our next ``commitment_signed``."""
    queued_removals: tuple[int, ...] = ()
    """Ids of incoming HTLCs whose decided removal goes out with our next ``commitment_signed``."""
    queued_fee: FeeratePerKw | None = None
    their_adds: tuple[Htlc, ...] = ()
    """Received, not yet signed by the peer; so are the next two."""
    their_removals: Mapping[int, Removal] = field(default_factory=dict)
    """By id of our outgoing HTLC."""
    their_fee: FeeratePerKw | None = None
    exposures: tuple[Exposure, Exposure, Exposure] | None = None
    """Of the next remote commitment, the next local one, and a local one with all of ours; None: to be counted
    again."""
    is_ready_sent: bool = False
    """``channel_ready`` was sent, or need not be sent, on this connection."""
    is_shutdown_sent: bool = False
    """On this connection; so for the next two."""
    is_shutdown_received: bool = False
    is_announcement_sent: bool = False
    early_announcement: AnnouncementSignatures | None = None
    """Came before the funding was deep enough for us to judge it."""
    closing: ClosingFees | None = None
    offer: ClosingOffer | None = None
    """Our latest; nothing new may be offered before it is answered."""


# --- both ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel: a record, and a link while the peer is connected."""

    record: ChannelRecord
    link: Link | None = None

    @property
    def channel_id(self) -> ChannelId:
        return self.record.channel_id

    @property
    def link_state(self) -> LinkState:
        return LinkState.ABSENT if self.link is None else self.link.state


class OpeningStage(Enum):
    """Where the exchange before ``funding_signed`` stands (B2.02 to B2.05)."""

    SENT_OPEN = "sent_open"
    AWAITING_WALLET = "awaiting_wallet"
    SENT_CREATED = "sent_created"
    SENT_ACCEPT = "sent_accept"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class OurKeys:
    """Our public keys of one channel, as the signer answers for a key index."""

    key_index: int
    basepoints: Basepoints
    first_point: bytes
    second_point: bytes


@dataclass(frozen=True, slots=True)
class Opening:
    """A channel before its first signature counts (BOLT 2, v1 opening). Lives on one connection and is never written.

    ``step.turn`` takes and returns these like channels; a finished opening comes back as a ``Channel``.
    """

    stage: OpeningStage
    temporary_id: ChannelId
    our_node_id: NodeId
    their_node_id: NodeId
    our_features: Features
    their_features: Features
    our_keys: OurKeys
    our_alias: ShortChannelId
    closing_script: bytes
    minimum_depth: int
    """Confirmations that we wait for."""
    open: OpenChannel
    accept: AcceptChannel | None = None
    funding_feerate: FeeratePerKw | None = None
    """For the wallet, if we open."""
    draft: ChannelRecord | None = None
    """As opener after the wallet's answer: the record as it will be, but for the peer's signature."""
    reason: str = ""
    """Why it was abandoned."""

    @property
    def channel_id(self) -> ChannelId:
        """The temporary one; the channel gets its own when the funding is known."""
        return self.temporary_id

    @property
    def record(self) -> None:
        """Nothing to write yet."""
        return None


AnyChannel = Opening | Channel
