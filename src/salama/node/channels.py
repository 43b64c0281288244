"""The channels' actors and the registry that finds them: by id, by short channel id, by peer."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

from salama.base.ids import BlockHash, ChannelId, NodeId, OutPoint, ShortChannelId
from salama.base.machine import CommandRefused, Effect, Event, Row, Transition
from salama.base.units import BlockHeight, FeeratePerKw, Msat, Sat
from salama.bitcoin.chain_events import BlockConnected, BlockDisconnected
from salama.bitcoin.tx import TxOut
from salama.channel.env import ChannelEnv, Feerates
from salama.channel.events import (
    AddDropped,
    AddRefused,
    AnnounceChannel,
    BlockArrived,
    Broadcast,
    CommandAnswered,
    Connected,
    Disconnect,
    Disconnected,
    FeeratesChanged,
    ForgetChannel,
    FundingConfirmed,
    FundingMade,
    FundingRefused,
    FundingSpent,
    FundingUnconfirmed,
    FundingUnspent,
    HtlcCommitted,
    HtlcFailed,
    MessageReceived,
    PreimageLearned,
    ReleaseFunding,
    RequestFunding,
    Send,
    WatchFunding,
)
from salama.channel.limits import exposures, receivable, spendable
from salama.channel.opening import InboundOpen, OpenRequest, accept_inbound, open_channel
from salama.channel.opening_rules import Offer, objection_to_open
from salama.channel.policy import Policy
from salama.channel.signing import complete
from salama.channel.state import AnyChannel, Channel, ChannelRecord, LinkState, Opening, OpeningStage, Phase
from salama.channel.step import resume, turn
from salama.node.actor import Actor
from salama.node.chain import Broadcaster, Watch
from salama.node.outside import Outside
from salama.node.peers import Peer, Peers
from salama.node.wallet import WalletActor
from salama.payments.views import ChannelView, RelayPolicy
from salama.signer.local import LocalSigner
from salama.signer.verifying import SharedVerifier
from salama.storage import queries
from salama.storage.journal import Journal
from salama.storage.writes import AnyWrite, PutChannel, PutKeyValue
from salama.wire import Error, FundingCreated, Message, OpenChannel
from salama.wire.features import OPTION_SCID_ALIAS, Features

log = logging.getLogger("salama.channels")

SIGN_IN_THREAD = 8
"""Signatures in one request from which on they are made off the event loop."""
OPENING_SECONDS = 120.0
"""Time for all messages of an opening, the work of the opener's wallet included."""
MAX_OPENINGS_PER_PEER = 8
MAX_OPENINGS = 200
"""Channels before their first signature, of all peers together (immunity A4)."""
MAX_UNFUNDED = 200
"""Channels offered to us whose funding nobody has seen; beyond it only peers with a funded channel may offer more."""
NEXT_KEY_INDEX = "channels.next_key_index"
ALIAS_HEIGHT = 16_000_000
"""Aliases name blocks that will not exist for centuries, so that none collides with a real id (B2.06)."""


class Surroundings(Protocol):
    """What channels report to."""

    def htlc_committed(self, htlc: HtlcCommitted) -> None: ...
    def offer_ended(self, effect: AddRefused | AddDropped) -> None: ...
    def handed_over(self, handoff: PreimageLearned | HtlcFailed) -> None: ...
    def announce(self, announcement: Message) -> None: ...
    def channel_changed(self, channel: Channel, old: ChannelRecord | None) -> None: ...


class ChannelActor(Actor[AnyChannel]):
    """One channel, from the first message of its opening to its end."""

    INSIDE = (HtlcCommitted, AddRefused, AddDropped, PreimageLearned, HtlcFailed)

    def __init__(self, registry: Channels, state: AnyChannel, peer: NodeId) -> None:
        super().__init__(f"channel {state.channel_id.hex()[:8]}", state, registry.journal)
        self.registry, self.peer = registry, peer
        self.answers: list[asyncio.Future[CommandAnswered]] = []
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.is_retired = False
        self.timer: asyncio.TimerHandle | None = None
        """Ends an opening that takes too long."""
        self.claimed: ChannelId | None = None
        """The id that an opening will have as a channel, reserved for it."""

    @property
    def record(self) -> ChannelRecord | None:
        return self.state.record

    @property
    def link_state(self) -> LinkState:
        return self.state.link_state if isinstance(self.state, Channel) else LinkState.ABSENT

    async def prepare(self, events: Sequence[Event]) -> Sequence[Event]:
        """An opening learns its channel's id from the funding; one that is taken ends it (immunity A3)."""
        if not isinstance(self.state, Opening) or self.claimed is not None:
            return events
        funding = next(((at, named) for at, one in enumerate(events) if (named := funding_of(one)) is not None), None)
        if funding is None:
            return events
        at, named = funding
        if self.registry.claim(self, ChannelId.v1(named)):
            return events
        return (*events[:at], ForgetChannel("this funding belongs to another channel"), *events[at + 1 :])

    def turn(self, state: AnyChannel, events: Sequence[Event]) -> Transition[AnyChannel]:
        return turn(state, events, self.registry.env())

    async def complete(self, done: Transition[AnyChannel]) -> Transition[AnyChannel]:
        owed = done.owed
        signatures = sum(1 + len(getattr(o, "htlc_digests", ())) for o in owed)
        signer = self.registry.signer
        if signatures >= SIGN_IN_THREAD:
            answers = await asyncio.to_thread(signer.answer, owed)
        else:
            answers = signer.answer(owed)
        return complete(done, answers)

    def writes(self, old: AnyChannel, done: Transition[AnyChannel]) -> list[AnyWrite]:
        new = done.state.record
        changed: list[AnyWrite] = [] if new is None or new is old.record else [PutChannel(old.record, new)]
        return [*changed, *done.rows]

    def installed(self, old: AnyChannel, done: Transition[AnyChannel]) -> None:
        self.registry.installed(self, old, done)
        self.changed.set()
        self.changed = asyncio.Event()

    def perform(self, effect: Effect) -> None:
        self.registry.perform(self, effect)

    def hand_over(self, told: Effect | Row) -> None:
        around = self.registry.around
        match told:
            case HtlcCommitted():
                around.htlc_committed(told)
            case AddRefused() | AddDropped():
                around.offer_ended(told)
            case PreimageLearned() | HtlcFailed():
                around.handed_over(told)

    def finished(self) -> None:
        self.registry.after_effects(self)

    def on_fault(self, error: Exception) -> None:
        """Freeze: nothing is closed by itself, the peer is disconnected, a person must look."""
        for answer in self.answers:
            if not answer.done():
                answer.set_exception(
                    CommandRefused("channel_frozen", f"The channel failed: {error}.", "Look into the log.")
                )
        peer = self.registry.peers.connected.get(self.peer)
        if peer is not None:
            peer.disconnect("internal error")


class Channels:
    """Every channel of the node that is not closed for good."""

    def __init__(
        self,
        journal: Journal,
        signer: LocalSigner,
        wallet: WalletActor,
        broadcaster: Broadcaster,
        policy: Policy,
        our_features: Features,
        chain_hash: BlockHash,
        next_key_index: int,
        tasks: asyncio.TaskGroup,
        outside: Outside | None = None,
    ) -> None:
        self.journal, self.signer, self.wallet, self.broadcaster = journal, signer, wallet, broadcaster
        self.policy, self.our_features, self.chain_hash = policy, our_features, chain_hash
        self._tasks = tasks
        self._verify = SharedVerifier()
        self.outside = outside or Outside()
        self._next_key_index = next_key_index
        self.peers: Peers
        self.around: Surroundings
        self.height = BlockHeight(0)
        self.feerate = policy.min_feerate
        self.minds_deadlines = True
        self.watch = Watch()
        self.by_id: dict[ChannelId, ChannelActor] = {}
        self._openings: dict[tuple[NodeId, ChannelId], ChannelActor] = {}
        self._claimed: set[ChannelId] = set()
        self._judged: Counter[NodeId] = Counter()
        """Offers of peers that are being answered and are not among the openings yet."""
        self._spare_scripts: list[bytes] = []
        """Closing scripts of openings that came to nothing: nobody has seen them."""
        self.by_peer: dict[NodeId, set[ChannelActor]] = {}
        self.by_scid: dict[ShortChannelId, ChannelId] = {}
        self._views: dict[ChannelId, ChannelView] = {}
        self._stale_views: dict[ChannelId, None] = {}

    # --- the world of a turn ------------------------------------------------------------------------------------------

    def env(self) -> ChannelEnv:
        """What a channel may know at this moment."""
        return ChannelEnv(
            int(self.outside.now()),
            self.height,
            Feerates(self.feerate, self.feerate),
            self.policy,
            self._verify,
            minds_deadlines=self.minds_deadlines,
        )

    def mind_deadlines(self) -> None:
        """From now on an HTLC that is about to cost money goes to the chain; what is overdue goes now."""
        if not self.minds_deadlines:
            self.minds_deadlines = True
            for actor in self.by_id.values():
                actor.tell(BlockArrived())

    # --- start and growth ---------------------------------------------------------------------------------------------

    def load(self, records: Iterable[ChannelRecord]) -> None:
        """Put all channels in place at start-up, before anything is announced to anyone."""
        for record in records:
            self._adopt(ChannelActor(self, Channel(record), record.params.their_node_id), record)

    async def resume(self) -> None:
        """Repeat what a restart may have lost: watches, broadcasts, HTLCs that nobody has decided about."""
        for actor in list(self.by_id.values()):
            record = actor.record
            assert record is not None
            # The signer forgets nothing that this record knows: the last remote commitment signed, the last revoked.
            funding = record.funding
            self.signer.remember(
                record.params.key_index,
                signed_remote=funding.latest_remote.number,
                revoked=funding.local.number - 1,
            )
            done = resume(record, self.env())
            if done.owed:
                done = complete(done, self.signer.answer(done.owed))
            for effect in done.effects:
                self.perform(actor, effect)

    def _adopt(self, actor: ChannelActor, record: ChannelRecord) -> None:
        self.by_id[record.channel_id] = actor
        actor.name = f"channel {record.channel_id.hex()[:8]}"
        self._index(actor, record)
        self._start(actor)

    def _start(self, actor: ChannelActor) -> None:
        self.by_peer.setdefault(actor.peer, set()).add(actor)
        if actor.task is None:
            actor.task = self._tasks.create_task(actor.run(), name=actor.name)

    def _index(self, actor: ChannelActor, record: ChannelRecord) -> None:
        for scid in scids_of(record):
            self.by_scid[scid] = record.channel_id
        self._stale_views[record.channel_id] = None
        for funding in (*record.active, *record.inactive):
            self.watch.add(funding.outpoint, record.channel_id)

    def claim(self, actor: ChannelActor, channel_id: ChannelId) -> bool:
        """Give ``actor`` the id for its channel, unless any other has it, will have it or had it.

        Zeros are refused too: in an error they mean all channels.
        """
        if (
            not any(channel_id)
            or channel_id in self.by_id
            or channel_id in self._claimed
            or self.journal.read_now(lambda db: queries.has_channel(db, channel_id))
        ):
            return False
        actor.claimed = channel_id
        self._claimed.add(channel_id)
        return True

    def _retire(self, actor: ChannelActor) -> None:
        """The channel is closed for good, or its opening came to nothing."""
        if actor.is_retired:
            return
        actor.is_retired = True
        if actor.claimed is not None:
            self._claimed.discard(actor.claimed)
        if isinstance(actor.state, Opening):
            self._spare_scripts.append(actor.state.closing_script)
        record = actor.record
        if record is not None:
            self.by_id.pop(record.channel_id, None)
            self._views.pop(record.channel_id, None)
            self._stale_views.pop(record.channel_id, None)
            for scid in scids_of(record):
                self.by_scid.pop(scid, None)
            for funding in (*record.active, *record.inactive):
                self.watch.remove(funding.outpoint)
        self._forget_opening(actor)
        siblings = self.by_peer.get(actor.peer, set())
        siblings.discard(actor)
        if not siblings:
            self.by_peer.pop(actor.peer, None)
            self.peers.let_go(actor.peer)
        if actor.task is not None:
            # Not at once: this may be called from within the actor's own turn.
            asyncio.get_running_loop().call_soon(actor.task.cancel)

    def _forget_opening(self, actor: ChannelActor) -> None:
        if actor.timer is not None:
            # It would keep all of the actor alive until its time comes.
            actor.timer.cancel()
            actor.timer = None
        for key in [key for key, one in self._openings.items() if one is actor]:
            del self._openings[key]

    # --- views for payments -------------------------------------------------------------------------------------------

    def views(self) -> dict[ChannelId, ChannelView]:
        """All channels as payments see them, those renewed that have changed since the last call."""
        if self._stale_views:
            env = self.env()
            for channel_id in self._stale_views:
                actor = self.by_id.get(channel_id)
                if actor is not None and isinstance(actor.state, Channel):
                    self._views[channel_id] = self._view(actor, actor.state, env)
            self._stale_views.clear()
        return self._views

    def _view(self, actor: ChannelActor, channel: Channel, env: ChannelEnv) -> ChannelView:
        record, link = channel.record, channel.link
        ready = (
            link is not None
            and link.state is LinkState.READY
            and record.phase is Phase.NORMAL
            and record.our_shutdown is None
            and record.their_shutdown is None
            and not actor.frozen
        )
        most = spendable(record, exposures(record, link), env) if ready and link is not None else Msat(0)
        return ChannelView(record.channel_id, actor.peer, ready, most, scids_of(record), (self.relay_policy(record),))

    def can_receive(self, channel: Channel) -> Msat:
        """The largest HTLC that the peer could send now, in msat."""
        link = channel.link
        if link is None or link.state is not LinkState.READY or channel.record.phase is not Phase.NORMAL:
            return Msat(0)
        return receivable(channel.record, exposures(channel.record, link))

    def relay_policy(self, record: ChannelRecord) -> RelayPolicy:
        """What we announce for relaying over the channel."""
        theirs = record.params.theirs
        most = min(int(record.funding.capacity.msat), int(theirs.max_htlc_value_in_flight))
        return RelayPolicy(
            int(self.policy.fee_base),
            self.policy.fee_proportional_millionths,
            self.policy.cltv_expiry_delta,
            theirs.htlc_minimum,
            Msat(most),
        )

    # --- peers --------------------------------------------------------------------------------------------------------

    def peer_ready(self, node_id: NodeId, their_features: Features) -> None:
        for actor in self._of(node_id):
            actor.tell(Connected(self.our_features, their_features))

    def peer_gone(self, node_id: NodeId) -> None:
        for actor in self._of(node_id):
            actor.tell(Disconnected())

    def _of(self, node_id: NodeId) -> list[ChannelActor]:
        return sorted(self.by_peer.get(node_id, ()), key=lambda a: a.state.channel_id)

    def backlog(self, node_id: NodeId) -> int:
        """Events that wait in the peer's channels."""
        return sum(actor.waiting for actor in self.by_peer.get(node_id, ()))

    def message(self, node_id: NodeId, channel_id: ChannelId | None, message: Message) -> bool:
        """Give a message to its channel; False if there is none. ``channel_id`` None means all of the peer's."""
        if channel_id is None:
            addressed = self._of(node_id)
        else:
            found = self.find(node_id, channel_id)
            addressed = [found] if found is not None else []
        for actor in addressed:
            actor.tell(MessageReceived(message))
        return channel_id is None or bool(addressed)

    def find(self, node_id: NodeId, channel_id: ChannelId) -> ChannelActor | None:
        """The peer's channel of this id, final or temporary."""
        actor = self.by_id.get(channel_id) or self._openings.get((node_id, channel_id))
        if actor is None:
            # `funding_signed` names the channel by the id that it will have once we accept that very message.
            actor = next((one for one in self.by_peer.get(node_id, ()) if _will_be(one.state, channel_id)), None)
        return actor if actor is not None and actor.peer == node_id else None

    # --- opening ------------------------------------------------------------------------------------------------------

    async def _new_keys(self) -> int:
        """A key index that no channel has ever had: on disk before it is used."""
        index = self._next_key_index
        self._next_key_index += 1
        await self.journal.commit([PutKeyValue(NEXT_KEY_INDEX, self._next_key_index.to_bytes(8, "big"))])
        return index

    def _new_alias(self) -> ShortChannelId:
        while True:
            height = ALIAS_HEIGHT + self.outside.below((1 << 24) - ALIAS_HEIGHT)
            alias = ShortChannelId.of(height, self.outside.below(1 << 24), self.outside.below(1 << 16))
            if alias not in self.by_scid:
                return alias

    def _pending(self, node_id: NodeId) -> int:
        waiting = (
            a for a in self.by_peer.get(node_id, ()) if a.record is None or a.record.phase is Phase.AWAITING_FUNDING
        )
        return sum(1 for _ in waiting)

    async def open(
        self, node_id: NodeId, funding: Sat, push: Msat, *, announce: bool, feerate: FeeratePerKw | None
    ) -> tuple[ChannelId, OutPoint]:
        """Open a channel with a connected peer; returns when its funding transaction is signed for and published."""
        peer = self.peers.connected.get(node_id)
        if peer is None:
            raise CommandRefused("not_connected", "The peer is not connected.", "Connect to it first.")
        keys = self.signer.channel_keys(await self._new_keys())
        script = await self._closing_script()
        if self.peers.connected.get(node_id) is not peer:
            self._spare_scripts.append(script)
            raise CommandRefused("disconnected", "The peer has gone away.", "Connect to it again.")
        begun = open_channel(
            OpenRequest(
                our_node_id=self.signer.node_id,
                their_node_id=node_id,
                our_features=self.our_features,
                their_features=peer.features,
                chain_hash=self.chain_hash,
                temporary_id=ChannelId(self.outside.entropy(32)),
                keys=keys,
                alias=self._new_alias(),
                closing_script=script,
                funding=funding,
                push=push,
                announce=announce,
                funding_feerate=feerate or self.feerate,
            ),
            self.env(),
        )
        actor = self._begin(node_id, begun.state)
        answer: asyncio.Future[CommandAnswered] = asyncio.get_running_loop().create_future()
        actor.answers.append(answer)
        for effect in begun.effects:
            self.perform(actor, effect)
        answered = await answer
        if answered.code:
            raise CommandRefused(answered.code, answered.reason)
        record = actor.record
        assert record is not None
        # Whoever mines or looks right after this expects the funding to be in the mempool.
        await self.broadcaster.attempted(record.funding.outpoint.txid)
        return record.channel_id, record.funding.outpoint

    async def open_received(self, node_id: NodeId, message: OpenChannel) -> None:
        """A peer proposes a channel. What it may cost us is judged before anything waits or is spent."""
        peer = self.peers.connected.get(node_id)
        if peer is None:
            return
        pending = self._pending(node_id) + self._judged[node_id]
        if len(self._openings) + self._judged.total() >= MAX_OPENINGS or pending >= MAX_OPENINGS_PER_PEER:
            peer.disconnect("too many channels are being opened")
            return
        objection = objection_to_open(
            Offer(message, self.chain_hash, self.our_features, peer.features, pending, self.env())
        )
        if not objection and not self.has_funded(node_id) and self._unfunded() >= MAX_UNFUNDED:
            objection = "too many channels wait for their funding"
        if objection:
            peer.send(Error(channel_id=message.temporary_channel_id, data=objection.encode()))
            return
        self._judged[node_id] += 1
        try:
            await self._accept(peer, message, pending)
        finally:
            self._judged[node_id] -= 1
            if not self._judged[node_id]:
                del self._judged[node_id]

    async def _accept(self, peer: Peer, message: OpenChannel, pending: int) -> None:
        keys = self.signer.channel_keys(await self._new_keys())
        script = await self._closing_script()
        if self.peers.connected.get(peer.node_id) is not peer:
            # Nobody would ever tell this opening that its peer is gone.
            self._spare_scripts.append(script)
            return
        if (old := self._openings.get((peer.node_id, message.temporary_channel_id))) is not None:
            self._retire(old)
        begun = accept_inbound(
            InboundOpen(
                message=message,
                our_node_id=self.signer.node_id,
                their_node_id=peer.node_id,
                chain_hash=self.chain_hash,
                our_features=self.our_features,
                their_features=peer.features,
                keys=keys,
                alias=self._new_alias(),
                closing_script=script,
                pending=pending,
            ),
            self.env(),
        )
        actor = self._begin(peer.node_id, begun.state)
        for effect in begun.effects:
            self.perform(actor, effect)
        self._drop_abandoned(actor)

    async def _closing_script(self) -> bytes:
        return self._spare_scripts.pop() if self._spare_scripts else await self.wallet.new_script()

    def _unfunded(self) -> int:
        """Channels offered to us whose funding is in no block."""
        return sum(not _is_funded(actor.record) for actor in self.by_id.values())

    def has_funded(self, node_id: NodeId) -> bool:
        """Whether the peer has a channel with us that cost somebody something."""
        return any(_is_funded(actor.record) for actor in self.by_peer.get(node_id, ()))

    def _begin(self, node_id: NodeId, state: AnyChannel) -> ChannelActor:
        actor = ChannelActor(self, state, node_id)
        self._openings[(node_id, state.channel_id)] = actor
        self._start(actor)
        actor.timer = asyncio.get_running_loop().call_later(OPENING_SECONDS, self._give_up, actor)
        return actor

    @staticmethod
    def _give_up(actor: ChannelActor) -> None:
        """Nothing counts before the funding is signed for: an opening that takes too long is forgotten."""
        if isinstance(actor.state, Opening):
            actor.tell(ForgetChannel("it was not agreed on in time"))

    def _drop_abandoned(self, actor: ChannelActor) -> None:
        state = actor.state
        if isinstance(state, Opening) and state.stage is OpeningStage.ABANDONED:
            self._answer(actor, CommandAnswered("opening_failed", f"The channel was not opened: {state.reason}."))
            self._retire(actor)

    # --- after a commit -----------------------------------------------------------------------------------------------

    def installed(self, actor: ChannelActor, old: AnyChannel, done: Transition[AnyChannel]) -> None:
        """A turn's state is on disk: bring the indexes up to date and hand over what others must learn."""
        new = done.state
        if isinstance(new, Channel):
            record = new.record
            if record is not old.record:
                if record.channel_id not in self.by_id:
                    self._forget_opening(actor)
                    self._adopt(actor, record)
                    self.peers.keep(actor.peer)
                elif old.record is None or scids_of(old.record) != scids_of(record):
                    self._index(actor, record)
            self._stale_views[record.channel_id] = None
            self.around.channel_changed(new, old.record)

    def after_effects(self, actor: ChannelActor) -> None:
        """Retire what is over, once its last messages are out."""
        state = actor.state
        if isinstance(state, Channel) and state.record.phase is Phase.CLOSED:
            self._retire(actor)
        else:
            self._drop_abandoned(actor)

    def perform(self, actor: ChannelActor, effect: Effect) -> None:
        match effect:
            case Send(message):
                peer = self.peers.connected.get(actor.peer)
                if peer is not None and peer.ready.is_set():
                    peer.send(message)
            case Disconnect(reason):
                peer = self.peers.connected.get(actor.peer)
                if peer is not None:
                    peer.disconnect(reason)
            case Broadcast(tx, why):
                self.wallet.seen(tx)
                self.broadcaster.publish(tx, why)
            case RequestFunding(amount, script, feerate):
                self._tasks.create_task(self._fund(actor, amount, script, feerate))
            case ReleaseFunding():
                self.wallet.release(_purpose(actor))
            case WatchFunding(outpoint, _, _):
                self.watch.add(outpoint, actor.state.channel_id)
            case HtlcCommitted():
                self.around.htlc_committed(effect)
            case AddRefused() | AddDropped():
                self.around.offer_ended(effect)
            case CommandAnswered():
                self._answer(actor, effect)
            case AnnounceChannel(announcement):
                self.around.announce(announcement)
            case _:
                raise TypeError(f"nobody performs {type(effect).__name__}")

    def _answer(self, actor: ChannelActor, answer: CommandAnswered) -> None:
        waiting, actor.answers = actor.answers, []
        for future in waiting:
            if not future.done():
                future.set_result(answer)

    async def _fund(self, actor: ChannelActor, amount: Sat, script: bytes, feerate: FeeratePerKw | None) -> None:
        try:
            tx, _ = await self.wallet.fund((TxOut(amount, script),), feerate or self.feerate, _purpose(actor))
        except CommandRefused as refused:
            actor.tell(FundingRefused(refused.code, refused.reason))
            return
        vout = next(i for i, output in enumerate(tx.outputs) if output == TxOut(amount, script))
        actor.tell(FundingMade(tx, vout))

    # --- the chain ----------------------------------------------------------------------------------------------------

    def block_connected(self, event: BlockConnected) -> list[ChannelActor]:
        """Tell the channels that a block concerns; returns every actor that got something to do."""
        self.height = event.height
        for index, tx in enumerate(event.block.txs):
            for outpoint in self.watch.outputs_of(tx.txid):
                self._tell(outpoint, FundingConfirmed(tx, event.height, index))
            for one in tx.inputs:
                if one.outpoint in self.watch.outpoints:
                    self._tell(one.outpoint, FundingSpent(tx, event.height))
        actors = [*self.by_id.values(), *self._openings.values()]
        for actor in actors:
            actor.tell(BlockArrived())
        self._stale_views.update(dict.fromkeys(self.by_id))
        return actors

    def block_disconnected(self, event: BlockDisconnected) -> list[ChannelActor]:
        self.height = BlockHeight(max(0, int(event.height) - 1))
        actors = list(self.by_id.values())
        for actor in actors:
            record = actor.record
            if record is None:
                continue
            where = record.funding.confirmation
            if where is not None and where.height >= event.height:
                actor.tell(FundingUnconfirmed())
            if record.spend is not None and record.spend.height >= event.height:
                actor.tell(FundingUnspent())
        return actors

    def _tell(self, outpoint: OutPoint, event: Event) -> None:
        channel_id = self.watch.outpoints.get(outpoint)
        actor = self.by_id.get(ChannelId(channel_id)) if channel_id is not None else None
        if actor is not None:
            actor.tell(event)

    def feerate_changed(self, feerate: FeeratePerKw) -> None:
        if feerate != self.feerate:
            self.feerate = feerate
            for actor in self.by_id.values():
                actor.tell(FeeratesChanged())

    async def settled(self) -> None:
        """Until every channel has handled what it was told."""
        for actor in [*self.by_id.values(), *self._openings.values()]:
            await actor.settled()

    # --- commands -----------------------------------------------------------------------------------------------------

    def by_name(self, name: str) -> ChannelActor:
        """The channel that a person names: by id, short channel id, alias or outpoint. Raises CommandRefused."""
        found: set[ChannelActor] = set()
        for actor in self.by_id.values():
            record = actor.record
            if record is not None:
                names = {str(record.channel_id), str(record.funding.outpoint), *map(str, scids_of(record))}
                if name in names or (len(name) >= 8 and str(record.channel_id).startswith(name)):
                    found.add(actor)
        if len(found) != 1:
            problem = "is the beginning of several channels" if found else "is no channel of ours"
            raise CommandRefused("unknown_channel", f"{name[:80]!r} {problem}.", "`salama channels` lists them.")
        return found.pop()

    async def command(self, actor: ChannelActor, event: Event) -> None:
        """Give a user's command to a channel and wait for its answer. Raises CommandRefused."""
        answer: asyncio.Future[CommandAnswered] = asyncio.get_running_loop().create_future()
        actor.answers.append(answer)
        actor.tell(event)
        answered = await answer
        if answered.code:
            raise CommandRefused(answered.code, answered.reason)


def funding_of(event: Event) -> OutPoint | None:
    """The funding output that an event brings to an opening."""
    if isinstance(event, FundingMade):
        return OutPoint(event.tx.txid, event.vout)
    if isinstance(event, MessageReceived) and isinstance(event.message, FundingCreated):
        return OutPoint(event.message.funding_txid, event.message.funding_output_index)
    return None


def _is_funded(record: ChannelRecord | None) -> bool:
    """Whether a channel's funding was paid for: it is in a block, or it is ours."""
    return record is not None and (record.funding.confirmation is not None or record.params.is_opener)


def _will_be(state: AnyChannel, channel_id: ChannelId) -> bool:
    return isinstance(state, Opening) and state.draft is not None and state.draft.channel_id == channel_id


def _purpose(actor: ChannelActor) -> str:
    """Name of the wallet's lease for an opening."""
    state = actor.state
    return f"open {state.channel_id}" if isinstance(state, Opening) else f"channel {state.channel_id}"


def scids_of(record: ChannelRecord) -> tuple[ShortChannelId, ...]:
    """Names under which others may ask us to relay over the channel, the best known first (B2.06)."""
    real = record.funding.short_channel_id
    names: tuple[ShortChannelId, ...] = (record.our_alias,)
    if real is not None and not record.params.channel_type.has(OPTION_SCID_ALIAS):
        names = (real, *names)
    return names
