"""Two channel machines facing each other, with real keys and no I/O.

    pair = Pair.opened()
    pair.alice.adds(5_000)
    pair.settle()                       # messages go back and forth until nobody has anything to say
    pair.bob.settles_all()
    pair.cut(); pair.connect()          # whatever was under way is lost; both sides take the channel up again

Messages travel as bytes. After every turn a side checks that the record it had before was not touched, and *uses the
record as it would be read back from disk*, so every test with a pair is also a test of persistence. Effects come in
the order in which a node would do them: owed signatures first, then the commit, then the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import count

from salama.base.ids import BlockHash, ChannelId, OutPoint, PaymentHash, Preimage, ShortChannelId, Txid
from salama.base.machine import Effect, Event, Row
from salama.base.units import BlockHeight, CltvExpiry, FeeratePerKw, Msat, Sat
from salama.bitcoin.script import p2wpkh
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.channel.env import ChannelEnv, Feerates
from salama.channel.events import (
    AddHtlc,
    AddRefused,
    BlockArrived,
    Broadcast,
    Connected,
    Disconnect,
    Disconnected,
    FailHtlc,
    FundingConfirmed,
    FundingMade,
    HtlcCommitted,
    HtlcFailed,
    MessageReceived,
    Origin,
    PreimageLearned,
    RequestFunding,
    Send,
    SettleHtlc,
)
from salama.channel.signing import complete
from salama.channel.state import AnyChannel, Channel, ChannelRecord, Link, Opening
from salama.channel.step import InboundOpen, OpenRequest, accept_inbound, open_channel, resume, turn
from salama.codec.message import Message, decode_message
from salama.signer.local import LocalSigner
from salama.storage.records import decode_channel, encode_channel
from salama.wire.features import (
    OPTION_ANCHORS,
    OPTION_SCID_ALIAS,
    OPTION_SHUTDOWN_ANYSEGWIT,
    OPTION_STATIC_REMOTEKEY,
    Features,
)
from salama.wire.opening import OpenChannel

CHAIN = BlockHash(bytes(31) + b"\x01")
FEATURES = Features.of(
    mandatory=(OPTION_STATIC_REMOTEKEY,), optional=(OPTION_ANCHORS, OPTION_SCID_ALIAS, OPTION_SHUTDOWN_ANYSEGWIT)
)
START = BlockHeight(800_000)
ONION = bytes(1366)


def default_env() -> ChannelEnv:
    return ChannelEnv(now=1_700_000_000, height=START, feerates=Feerates(FeeratePerKw(1000), FeeratePerKw(1000)))


def preimage_of(number: int) -> Preimage:
    """A preimage that both sides of a test can work out."""
    return Preimage(sha256(b"preimage %d" % number).digest())


def hash_of(number: int) -> PaymentHash:
    return PaymentHash(sha256(preimage_of(number)).digest())


def through_disk(record: ChannelRecord) -> ChannelRecord:
    """The record as a restart would find it."""
    return decode_channel(encode_channel(record))


@dataclass(eq=False)
class End:
    """One side: a machine, its signer, and what it has said, asked and learned."""

    name: str
    signer: LocalSigner
    env: ChannelEnv = field(default_factory=default_env)
    state: AnyChannel | None = None
    outbox: deque[bytes] = field(default_factory=deque)
    """Messages on their way to the other side."""
    effects: list[Effect] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    pending: dict[int, HtlcCommitted] = field(default_factory=dict)
    """Incoming HTLCs by id that wait for a decision."""
    is_connected: bool = True
    keeps: Callable[[ChannelRecord], ChannelRecord] | None = through_disk
    numbers: count[int] = field(default_factory=count)

    @property
    def channel(self) -> Channel:
        assert isinstance(self.state, Channel)
        return self.state

    @property
    def record(self) -> ChannelRecord:
        return self.channel.record

    @property
    def link(self) -> Link:
        assert self.channel.link is not None
        return self.channel.link

    def does(self, *events: Event) -> list[Effect]:
        """One turn with ``events``; returns its effects."""
        assert self.state is not None
        before = self.state
        kept = None if before.record is None or self.keeps is None else encode_channel(before.record)
        done = turn(before, events, self.env)
        done = complete(done, self.signer.answer(done.owed))
        if kept is not None:
            assert before.record is not None
            assert encode_channel(before.record) == kept, "a turn changed the record it was given"
        state = done.state
        if isinstance(state, Channel) and state.record is not before.record and self.keeps is not None:
            again = self.keeps(state.record)
            assert again == state.record, "the record does not survive the disk"
            state = Channel(again, state.link)
        self.state = state
        self.rows += done.rows
        self.performs(done.effects)
        return list(done.effects)

    def performs(self, effects: Sequence[Effect]) -> None:
        self.effects += effects
        for effect in effects:
            if isinstance(effect, Send):
                if self.is_connected:
                    self.outbox.append(effect.message.encode())
            elif isinstance(effect, HtlcCommitted):
                self.pending[effect.ref.id] = effect
            elif isinstance(effect, Disconnect):
                self.is_connected = False

    def hears(self, *messages: Message) -> list[Effect]:
        return self.does(*map(MessageReceived, messages))

    def sent(self) -> list[Message]:
        """The messages on their way, decoded."""
        return [decode_message(data) for data in self.outbox]

    # --- orders ---

    def adds(self, *amounts: int, expiry: int = int(START) + 500) -> list[int]:
        """Offer HTLCs of ``amounts`` (msat), in one turn; the numbers of their preimages (``preimage_of``)."""
        numbers = [next(self.numbers) for _ in amounts]
        self.does(*(self.add_event(n, amount, expiry) for n, amount in zip(numbers, amounts, strict=True)))
        return numbers

    def add_event(self, number: int, amount: int, expiry: int = int(START) + 500) -> AddHtlc:
        origin = Origin(f"{self.name} {number}".encode())
        return AddHtlc(origin, Msat(amount), hash_of(number), CltvExpiry(expiry), ONION)

    def settles_all(self) -> None:
        """Settle every HTLC that waits for a decision, in one turn."""
        known = {bytes(hash_of(n)): n for n in range(4096)} if self.pending else {}
        self.does(*(SettleHtlc(id, preimage_of(known[bytes(htlc.payment_hash)])) for id, htlc in self.pending.items()))
        self.pending.clear()

    def fails_all(self) -> None:
        self.does(*(FailHtlc(id, b"reason") for id in self.pending))
        self.pending.clear()

    # --- what was learned ---

    def of(self, kind: type[Effect]) -> list[Effect]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    @property
    def refused(self) -> list[AddRefused]:
        return [effect for effect in self.effects if isinstance(effect, AddRefused)]

    @property
    def learned(self) -> list[PreimageLearned]:
        return [row for row in self.rows if isinstance(row, PreimageLearned)]

    @property
    def failed(self) -> list[HtlcFailed]:
        return [row for row in self.rows if isinstance(row, HtlcFailed)]

    @property
    def broadcasts(self) -> list[Tx]:
        return [effect.tx for effect in self.effects if isinstance(effect, Broadcast)]

    @property
    def balance(self) -> int:
        """Ours in our own commitment, in msat."""
        return int(self.record.funding.local.spec.our_balance)


def wallet_tx(amount: Sat, script: bytes) -> tuple[Tx, int]:
    """What a wallet would make: the funding output after a change output."""
    spent = TxIn(OutPoint(Txid(sha256(b"coin").digest()), 7), witness=(b"signature", b"key"))
    change = TxOut(Sat(1234), p2wpkh(bytes((2,)) + bytes(31) + b"\x01"))
    return Tx(2, (spent,), (change, TxOut(amount, script)), 0), 1


@dataclass(eq=False)
class Pair:
    """Alice, who opens, and Bob."""

    alice: End
    bob: End
    funding_tx: Tx | None = None
    features: Features = FEATURES
    """Of both, on every connection."""

    @classmethod
    def of(
        cls,
        env: ChannelEnv | None = None,
        *,
        keeps: Callable[[ChannelRecord], ChannelRecord] | None = through_disk,
        features: Features = FEATURES,
    ) -> Pair:
        env = env or default_env()
        return cls(
            End("alice", LocalSigner(b"alice" * 5), env, keeps=keeps),
            End("bob", LocalSigner(b"bobby" * 5), env, keeps=keeps),
            features=features,
        )

    @classmethod
    def opened(
        cls,
        capacity: int = 1_000_000,
        push: int = 400_000_000,
        *,
        announce: bool = False,
        env: ChannelEnv | None = None,
        keeps: Callable[[ChannelRecord], ChannelRecord] | None = through_disk,
        features: Features = FEATURES,
    ) -> Pair:
        """A channel of ``capacity`` sat with ``push`` msat on Bob's side, in normal operation."""
        pair = cls.of(env, keeps=keeps, features=features)
        pair.opens(capacity, push, announce=announce)
        pair.settle()
        pair.confirms()
        pair.settle()
        return pair

    def opens(self, capacity: int, push: int, *, announce: bool = False) -> None:
        alice = self.alice
        done = open_channel(self.request(capacity, push, announce=announce), alice.env)
        alice.state = done.state
        alice.performs(done.effects)

    def request(self, capacity: int, push: int, *, announce: bool = False) -> OpenRequest:
        return OpenRequest(
            temporary_id=ChannelId(sha256(b"temporary").digest()),
            our_node_id=self.alice.signer.node_id,
            their_node_id=self.bob.signer.node_id,
            chain_hash=CHAIN,
            our_features=self.features,
            their_features=self.features,
            keys=self.alice.signer.channel_keys(1),
            alias=ShortChannelId(0xA11CE),
            closing_script=p2wpkh(b"\x02" + bytes(31) + b"\x0a"),
            funding=Sat(capacity),
            push=Msat(push),
            announce=announce,
        )

    def inbound(self, message: OpenChannel) -> InboundOpen:
        return InboundOpen(
            message=message,
            our_node_id=self.bob.signer.node_id,
            their_node_id=self.alice.signer.node_id,
            chain_hash=CHAIN,
            our_features=self.features,
            their_features=self.features,
            keys=self.bob.signer.channel_keys(1),
            alias=ShortChannelId(0xB0B),
            closing_script=p2wpkh(b"\x03" + bytes(31) + b"\x0b"),
        )

    def other(self, end: End) -> End:
        return self.bob if end is self.alice else self.alice

    # --- messages ---

    def deliver(self, end: End, most: int = 1) -> bool:
        """Bring up to ``most`` messages of ``end`` to the other side, as one batch; False if there was none."""
        if not end.outbox:
            return False
        other = self.other(end)
        batch = [decode_message(end.outbox.popleft()) for _ in range(min(most, len(end.outbox)))]
        if other.state is None:
            assert isinstance(batch[0], OpenChannel) and len(batch) == 1
            done = accept_inbound(self.inbound(batch[0]), other.env)
            other.state = done.state
            other.performs(done.effects)
        else:
            other.hears(*batch)
        self._funds()
        if not other.is_connected:
            self.cut()
        return True

    def _funds(self) -> None:
        """Play the wallet."""
        alice = self.alice
        if isinstance(alice.state, Opening) and alice.effects and isinstance(alice.effects[-1], RequestFunding):
            wanted = alice.effects[-1]
            tx, vout = wallet_tx(wanted.amount, wanted.script)
            self.funding_tx = tx
            alice.does(FundingMade(tx, vout))

    def settle(self, most: int = 1, limit: int = 10_000) -> int:
        """Deliver in turns until both outboxes are empty; the number of deliveries."""
        deliveries = 0
        while self.alice.outbox or self.bob.outbox:
            for end in (self.alice, self.bob):
                deliveries += self.deliver(end, most)
            assert deliveries < limit, "the two sides never stop talking"
        return deliveries

    # --- the chain ---

    def confirms(self, blocks: int = 6) -> None:
        """The funding is in a block with ``blocks`` confirmations; both sides see it."""
        assert self.funding_tx is not None
        height = BlockHeight(int(self.alice.env.height) + 1)
        for end in (self.alice, self.bob):
            end.does(FundingConfirmed(self.funding_tx, height, 3))
        self.mines(blocks)

    def mines(self, blocks: int) -> None:
        for end in (self.alice, self.bob):
            end.env = replace(end.env, height=BlockHeight(int(end.env.height) + blocks))
            end.does(BlockArrived())

    # --- connections ---

    def cut(self) -> None:
        """The connection is lost with everything on its way."""
        for end in (self.alice, self.bob):
            end.outbox.clear()
            end.is_connected = False
            if end.state is not None:
                end.does(Disconnected())

    def connect(self) -> None:
        for end in (self.alice, self.bob):
            end.is_connected = True
        for end in (self.alice, self.bob):
            end.does(Connected(self.features, self.features))

    def restarts(self, end: End) -> None:
        """``end`` crashes and comes back with nothing but its record; not connected."""
        record = through_disk(end.record)
        end.pending.clear()
        done = resume(record, end.env)
        done = complete(done, end.signer.answer(done.owed))
        end.state = done.state
        end.performs(done.effects)

    # --- what must always hold ---

    def check(self) -> None:
        """Money is conserved in every commitment, and where nothing is under way both sides agree on both."""
        for end in (self.alice, self.bob):
            for funding in end.record.active:
                capacity = funding.capacity.msat
                for spec in (funding.local.spec, funding.remote.spec, funding.latest_remote.spec):
                    assert spec.total == capacity
        a, b = self.alice.record.funding, self.bob.record.funding
        for mine, other in ((a, b), (b, a)):
            if mine.next_remote is None and mine.remote.number == other.local.number:
                ours, theirs = mine.remote.spec, other.local.spec
                assert ours.feerate == theirs.feerate
                assert (ours.our_balance, ours.their_balance) == (theirs.their_balance, theirs.our_balance)
                assert {(h.id, h.side, h.amount) for h in ours.htlcs.values()} == {
                    (h.id, h.side.other, h.amount) for h in theirs.htlcs.values()
                }

    def is_quiet(self) -> bool:
        return not (self.alice.outbox or self.bob.outbox)
