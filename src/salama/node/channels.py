"""The channels' actors and the registry that finds them: by id, by short channel id, by peer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from salama.base.ids import BlockHash, ChannelId, NodeId, OutPoint, ShortChannelId
from salama.base.machine import CommandRefused, Effect, Event, Transition
from salama.base.units import BlockHeight, FeeratePerKw, Msat
from salama.bitcoin.chain_events import BlockConnected, BlockDisconnected
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
    ForceClose,
    FundingConfirmed,
    FundingSpent,
    FundingUnconfirmed,
    FundingUnspent,
    HtlcCommitted,
    MessageReceived,
    ReleaseFunding,
    RequestFunding,
    Send,
    WatchFunding,
)
from salama.channel.limits import exposures, receivable, room_of_trust, spendable
from salama.channel.policy import Policy
from salama.channel.signing import complete
from salama.channel.state import AnyChannel, Channel, ChannelRecord, LinkState, Opening, Phase
from salama.channel.step import resume
from salama.node.chain import Broadcaster, Watch
from salama.node.channel_actor import ChannelActor, Surroundings, purpose_of
from salama.node.fees import HONOURED_SECONDS, KEY, Change, RelayTerms
from salama.node.openings import Openings
from salama.node.outside import Outside
from salama.node.wallet import WalletActor
from salama.payments.views import ChannelView, RelayPolicy
from salama.signer.local import LocalSigner
from salama.signer.verifying import SharedVerifier
from salama.storage.journal import Journal
from salama.storage.writes import PutKeyValue
from salama.wire import Message
from salama.wire.features import OPTION_SCID_ALIAS, Features

log = logging.getLogger("salama.channels")


async def _secure_enough() -> None:
    """Without a backup: the database has it."""


class Channels(Openings):
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
        super().__init__(
            journal, signer, wallet, broadcaster, policy, our_features, chain_hash, next_key_index, tasks, outside
        )
        self._verify = SharedVerifier()
        self.around: Surroundings
        self.height = BlockHeight(0)
        self.minds_deadlines = True
        self.secure: Callable[[], Awaitable[None]] = _secure_enough
        """Return once the backup holds the channels of this moment."""
        self.watch = Watch()
        self.terms = RelayTerms(policy)
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
            self._adopt(self._actor(Channel(record), record.params.their_node_id), record)

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

    def _actor(self, state: AnyChannel, peer: NodeId) -> ChannelActor:
        actor = ChannelActor(self, state, peer)
        if isinstance(state, Opening):  # begins on the connection of this moment, and ends with it
            actor.speaks_to = self.peers.connected.get(peer)
        return actor

    def _start(self, actor: ChannelActor) -> None:
        self.by_peer.setdefault(actor.peer, {})[actor] = None
        if actor.task is None:
            actor.task = self._tasks.create_task(actor.run(), name=actor.name)

    def _index(self, actor: ChannelActor, record: ChannelRecord) -> None:
        for scid in scids_of(record):
            self.by_scid[scid] = record.channel_id
        self._stale_views[record.channel_id] = None
        for funding in (*record.active, *record.inactive):
            self.watch.add(funding.outpoint, record.channel_id)

    def _forget_names(self, record: ChannelRecord) -> None:
        """Those that are not another channel's by now: a reorganisation may have had two of them change places."""
        for scid in scids_of(record):
            if self.by_scid.get(scid) == record.channel_id:
                del self.by_scid[scid]

    def _retire(self, actor: ChannelActor) -> None:
        """The channel is closed for good, or its opening came to nothing."""
        if actor.is_retired:
            return
        actor.is_retired = True
        actor.answer_all("channel_gone", "The channel is closed.")
        if actor.claimed is not None:
            self._claimed.discard(actor.claimed)
        if isinstance(actor.state, Opening):
            self._spare_scripts.append(actor.state.closing_script)
        record = actor.record
        if record is not None:
            self.by_id.pop(record.channel_id, None)
            self._views.pop(record.channel_id, None)
            self._stale_views.pop(record.channel_id, None)
            self._forget_names(record)
            for funding in (*record.active, *record.inactive):
                self.watch.remove(funding.outpoint)
        self._forget_opening(actor)
        siblings = self.by_peer.get(actor.peer, {})
        siblings.pop(actor, None)
        if not siblings:
            self.by_peer.pop(actor.peer, None)
            self.peers.let_go(actor.peer)
        if actor.task is not None:
            # Not at once: this may be called from within the actor's own turn.
            asyncio.get_running_loop().call_soon(actor.task.cancel)

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
        return ChannelView(record.channel_id, actor.peer, ready, most, scids_of(record), self.relay_policies(record))

    def can_receive(self, channel: Channel) -> Msat:
        """The largest HTLC that the peer could send now, in msat."""
        link = channel.link
        if link is None or link.state is not LinkState.READY or channel.record.phase is not Phase.NORMAL:
            return Msat(0)
        most = receivable(channel.record, exposures(channel.record, link))
        trusted = room_of_trust(channel.record, self.env())
        return most if trusted is None else min(most, Msat(trusted))

    def relay_policy(self, record: ChannelRecord) -> RelayPolicy:
        """What we announce for relaying over the channel."""
        return self.relay_policies(record)[0]

    def relay_policies(self, record: ChannelRecord) -> tuple[RelayPolicy, ...]:
        """What we announce for relaying over the channel, then what we announced until ten minutes ago (B7.06)."""
        theirs = record.params.theirs
        most = Msat(min(int(record.funding.capacity.msat), int(theirs.max_htlc_value_in_flight)))
        before = self.terms.before(record.channel_id, self.outside.now())
        return tuple(
            [
                RelayPolicy(terms.base_msat, terms.ppm, terms.cltv_delta, theirs.htlc_minimum, most)
                for terms in (self.terms.of(record.channel_id), *before)
            ]
        )

    async def ask_for(self, change: Change) -> list[ChannelRecord]:
        """Put new terms on disk and then in force; the channels that ask for something else now."""
        await self.journal.commit([PutKeyValue(KEY, change.row)])
        self.terms.install(change)
        self._renew_views()
        # Once more when the previous terms have had their time.
        asyncio.get_running_loop().call_later(HONOURED_SECONDS + 1, self._renew_views)
        actors = [self.by_id.get(channel_id) for channel_id in change.channels]
        return [actor.record for actor in actors if actor is not None and actor.record is not None]

    def _renew_views(self) -> None:
        self._stale_views.update(dict.fromkeys(self.by_id))

    # --- peers --------------------------------------------------------------------------------------------------------

    def peer_ready(self, node_id: NodeId, their_features: Features) -> None:
        peer = self.peers.connected.get(node_id)
        for actor in self._of(node_id):
            if actor.frozen:  # says nothing any more, on however many connections
                continue
            if peer is not None:
                actor.connections.append(peer)
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
                elif old.record is None or not are_named_alike(old.record, record):
                    if old.record is not None:
                        self._forget_names(old.record)
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
                if (peer := actor.hears(message)) is not None:
                    peer.send(message)
            case Disconnect(reason):
                peer = self.peers.connected.get(actor.peer)
                if peer is not None and peer is actor.speaks_to:
                    peer.disconnect(reason)
            case Broadcast(tx, why):
                self.wallet.seen(tx)
                self.broadcaster.publish(tx, why)
            case RequestFunding(amount, script, feerate):
                self._tasks.create_task(self._fund(actor, amount, script, feerate))
            case ReleaseFunding():
                self.wallet.release(purpose_of(actor))
            case WatchFunding(outpoint, _, _):
                self.watch.add(outpoint, actor.state.channel_id)
            case HtlcCommitted():
                self.around.htlc_committed(effect)
            case AddRefused() | AddDropped():
                self.around.offer_ended(effect)
            case CommandAnswered():
                actor.answer(effect)
            case AnnounceChannel(announcement):
                self.around.announce(announcement)
            case _:
                raise TypeError(f"nobody performs {type(effect).__name__}")

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
        self._renew_views()
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
        """The channel that a person names: by short channel id, alias, outpoint, id, or at least eight digits of its
        beginning, also with an end as tables show it. Raises CommandRefused.
        """
        found: set[ChannelActor] = set()
        head, _, tail = name.partition("…")
        for actor in self.by_id.values():
            record = actor.record
            if record is not None:
                names = {str(record.channel_id), str(record.funding.outpoint), *map(str, scids_of(record))}
                channel_id = str(record.channel_id)
                if name in names or (len(head) >= 8 and channel_id.startswith(head) and channel_id.endswith(tail)):
                    found.add(actor)
        if len(found) != 1:
            problem = "names several channels" if found else "is no channel of ours"
            raise CommandRefused("unknown_channel", f"{name[:80]!r} {problem}.", "`salama channels` lists them.")
        return found.pop()

    async def command(self, actor: ChannelActor, event: Event) -> None:
        """Give a user's command to a channel and wait for its answer. Raises CommandRefused."""
        if actor.frozen and not isinstance(event, ForceClose):
            raise CommandRefused(
                "channel_frozen", "The channel failed and is frozen.", "Look into the log; it can be closed by force."
            )
        if actor.is_retired:
            raise CommandRefused("channel_gone", "The channel is closed.")
        answer = actor.asked(event)
        actor.tell(event)
        answered = await answer
        if answered.code:
            raise CommandRefused(answered.code, answered.reason)


def _will_be(state: AnyChannel, channel_id: ChannelId) -> bool:
    return isinstance(state, Opening) and state.draft is not None and state.draft.channel_id == channel_id


def are_named_alike(old: ChannelRecord, new: ChannelRecord) -> bool:
    """Whether both have the same ``scids_of``; asked twice for each turn, which hardly ever changes any."""
    if old.our_alias is new.our_alias and old.params is new.params:
        if old.funding.confirmation is new.funding.confirmation:
            return True
    return scids_of(old) == scids_of(new)


def scids_of(record: ChannelRecord) -> tuple[ShortChannelId, ...]:
    """Names under which others may ask us to relay over the channel, the best known first (B2.06)."""
    real = record.funding.short_channel_id
    names: tuple[ShortChannelId, ...] = (record.our_alias,)
    if real is not None and not record.params.channel_type.has(OPTION_SCID_ALIAS):
        names = (real, *names)
    return names
