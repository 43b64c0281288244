"""Channels before their first signature counts: what begins one, what bounds them, how they end (B2.01 to B2.05)."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable

from salama.base.ids import BlockHash, ChannelId, NodeId, OutPoint, ShortChannelId, Txid
from salama.base.machine import CommandRefused, Effect
from salama.base.units import FeeratePerKw, Msat, Sat
from salama.bitcoin.tx import TxOut
from salama.channel.env import ChannelEnv
from salama.channel.events import (
    CommandAnswered,
    ForgetChannel,
    FundingMade,
    FundingRefused,
)
from salama.channel.limits import room_of_trust
from salama.channel.opening import InboundOpen, OpenRequest, accept_inbound, open_channel
from salama.channel.opening_rules import Offer, objection_to_open
from salama.channel.policy import Policy
from salama.channel.state import AnyChannel, ChannelRecord, Opening, OpeningStage, Phase
from salama.node.cap import beyond
from salama.node.chain import Broadcaster
from salama.node.channel_actor import ChannelActor, purpose_of
from salama.node.outside import Outside
from salama.node.peers import Peer, Peers
from salama.node.reserve import exposure_of_new, exposures, is_paid_for, missing, terms_of
from salama.node.wallet import WalletActor
from salama.signer.local import LocalSigner
from salama.storage import queries
from salama.storage.journal import Journal
from salama.storage.writes import PutKeyValue
from salama.wallet.reserve import required
from salama.wire import Error, OpenChannel
from salama.wire.features import Features

log = logging.getLogger("salama.channels")

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


class Openings(ABC):
    """The part of the registry of channels that begins them; the rest is ``channels``."""

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
        self.outside = outside or Outside()
        self._next_key_index = next_key_index
        self.peers: Peers
        self.chain_trouble: Callable[[], str] = lambda: ""
        """Why our view of the chain is too old to open channels; empty while all is well (immunity G3)."""
        self.cap: Sat | None = None
        """Most that all channels together may hold."""
        self.feerate = policy.min_feerate
        self.by_id: dict[ChannelId, ChannelActor] = {}
        self._openings: dict[tuple[NodeId, ChannelId], ChannelActor] = {}
        self._claimed: set[ChannelId] = set()
        self._judged: Counter[NodeId] = Counter()
        """Offers of peers that are being answered and are not among the openings yet."""
        self._spare_scripts: list[bytes] = []
        """Closing scripts of openings that came to nothing: nobody has seen them."""
        self.by_peer: dict[NodeId, dict[ChannelActor, None]] = {}
        """In the order of their beginning: that of a set would be another at every start."""
        self.by_scid: dict[ShortChannelId, ChannelId] = {}

    # --- what the rest does -------------------------------------------------------------------------------------------

    @abstractmethod
    def env(self) -> ChannelEnv:
        """What a channel may know at this moment."""

    @abstractmethod
    def perform(self, actor: ChannelActor, effect: Effect) -> None:
        """Do what a channel asks for."""

    @abstractmethod
    def _actor(self, state: AnyChannel, peer: NodeId) -> ChannelActor: ...

    @abstractmethod
    def _start(self, actor: ChannelActor) -> None: ...

    @abstractmethod
    def _retire(self, actor: ChannelActor) -> None: ...

    # --- opening ------------------------------------------------------------------------------------------------------

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
        """Openings of a peer, and its channels whose funding it could still spend elsewhere, used already or not."""
        env = self.env()
        waiting = (
            a
            for a in self.by_peer.get(node_id, ())
            if a.record is None
            or a.record.phase is Phase.AWAITING_FUNDING
            or (a.record.phase is not Phase.CLOSED and room_of_trust(a.record, env) is not None)
        )
        return sum(1 for _ in waiting)

    async def open(
        self,
        node_id: NodeId,
        funding: Sat,
        push: Msat,
        *,
        announce: bool,
        feerate: FeeratePerKw | None,
        zero_conf: bool = False,
        funder: Callable[[TxOut], Awaitable[FundingMade]] | None = None,
        of_ours: Sat | None = None,
        seconds: float | None = None,
    ) -> tuple[ChannelId, OutPoint]:
        """Open a channel with a connected peer; returns when its funding transaction is signed for and published.

        ``funder`` makes the funding in place of the wallet; ``of_ours`` of it comes from our coins that nobody has
        promised yet (all if None). The peer has ``seconds`` to agree.
        """
        peer = self.peers.connected.get(node_id)
        if peer is None:
            raise CommandRefused("not_connected", "The peer is not connected.", "Connect to it first.")
        if trouble := self.chain_trouble():
            raise CommandRefused(
                "chain_stale", f"We do not see the chain as it is: {trouble}.", "Mend the back-end, then open."
            )
        keys = self.signer.channel_keys(await self._new_keys())
        script = await self._closing_script()
        if self.peers.connected.get(node_id) is not peer:
            self._spare_scripts.append(script)
            raise CommandRefused("disconnected", "The peer has gone away.", "Connect to it again.")
        # After the last wait: of two openings at a time the second sees the first.
        if excess := beyond(self.cap, self.states(), funding):
            self._spare_scripts.append(script)
            raise CommandRefused("mainnet_cap", f"{excess[0].upper()}{excess[1:]}.", "Open less, or raise mainnet_cap.")
        of_ours = funding if of_ours is None else of_ours
        if lack := self._lacks_reserve(funding, of_ours):
            self._spare_scripts.append(script)
            raise CommandRefused(
                "reserve_missing", f"After this channel {lack}.", "Deposit more bitcoin, or open a smaller channel."
            )
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
                zero_conf=zero_conf,
                funding_feerate=feerate or self.feerate,
            ),
            self.env(),
        )
        actor = self._begin(node_id, begun.state, seconds)
        actor.funder = funder
        actor.leased = self.wallet.promise(of_ours)
        answer = actor.asked(None)
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
            Offer(
                message,
                self.chain_hash,
                self.our_features,
                peer.features,
                pending,
                self.env(),
                is_trusted=str(node_id) in self.policy.zero_conf_peers,
            )
        )
        if not objection and not self.has_funded(node_id) and self._unfunded() >= MAX_UNFUNDED:
            objection = "too many channels wait for their funding"
        if not objection and self.chain_trouble():
            objection = "our view of the chain is out of date, try again later"
        if not objection and (lack := self._lacks_reserve(message.funding_satoshis)):
            log.warning("a channel of %s sat was not accepted: %s", message.funding_satoshis, lack)
            objection = "we have too few coins for the fees of another channel"
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

    def funded_by(self, funder: object) -> ChannelActor | None:
        """The opening, or the channel that became of it, whose funding ``funder`` makes."""
        everything = (*self._openings.values(), *self.by_id.values())
        return next((actor for actor in everything if actor.funder is funder), None)

    def funds_channel(self, txid: Txid) -> bool:
        """Whether a channel, or an opening that has named its funding, spends from this transaction."""
        records = [state.draft if isinstance(state, Opening) else state.record for state in self.states()]
        fundings = [funding for record in records if record is not None for funding in record.active]
        return any(funding.outpoint.txid == txid for funding in fundings)

    def states(self) -> list[AnyChannel]:
        """Every channel, and every opening."""
        return [actor.state for actor in {*self.by_id.values(), *self._openings.values()}]

    def records(self) -> list[ChannelRecord]:
        """What is on record of every channel."""
        return [actor.record for actor in self.by_id.values() if actor.record is not None]

    def fee_reserve(self) -> Sat:
        """What the wallet must keep for closing every channel by force (immunity C20)."""
        return required(exposures(self.states(), self.policy), terms_of(self.policy))

    def _lacks_reserve(self, capacity: Sat, of_ours: Sat = Sat(0)) -> str:  # noqa: B008 (units are immutable)
        """Why the wallet could not pay for closing every channel with one more of ``capacity`` (immunity C20)."""
        channels = [*exposures(self.states(), self.policy), exposure_of_new(capacity, self.policy)]
        return missing(channels, self.policy, self.wallet.spendable() - int(of_ours))

    async def _accept(self, peer: Peer, message: OpenChannel, pending: int) -> None:
        keys = self.signer.channel_keys(await self._new_keys())
        script = await self._closing_script()
        if self.peers.connected.get(peer.node_id) is not peer:
            # Nobody would ever tell this opening that its peer is gone.
            self._spare_scripts.append(script)
            return
        if excess := beyond(self.cap, self.states(), message.funding_satoshis):
            self._spare_scripts.append(script)
            log.warning("a channel was not accepted: %s", excess)
            peer.send(Error(channel_id=message.temporary_channel_id, data=b"we take no more channels for now"))
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
        return sum(actor.record is None or not is_paid_for(actor.record) for actor in self.by_id.values())

    def has_funded(self, node_id: NodeId) -> bool:
        """Whether the peer has a channel with us that cost somebody something."""
        records = (actor.record for actor in self.by_peer.get(node_id, ()))
        return any(record is not None and is_paid_for(record) for record in records)

    def _begin(self, node_id: NodeId, state: AnyChannel, seconds: float | None = None) -> ChannelActor:
        actor = self._actor(state, node_id)
        self._openings[(node_id, state.channel_id)] = actor
        self._start(actor)
        actor.timer = asyncio.get_running_loop().call_later(
            OPENING_SECONDS if seconds is None else seconds, self._give_up, actor
        )
        return actor

    @staticmethod
    def _give_up(actor: ChannelActor) -> None:
        """Nothing counts before the funding is signed for: an opening that takes too long is forgotten."""
        if isinstance(actor.state, Opening):
            actor.tell(ForgetChannel("it was not agreed on in time"))

    def _drop_abandoned(self, actor: ChannelActor) -> None:
        state = actor.state
        if isinstance(state, Opening) and state.stage is OpeningStage.ABANDONED:
            actor.answer(CommandAnswered("opening_failed", f"The channel was not opened: {state.reason}."))
            self._retire(actor)

    async def _fund(self, actor: ChannelActor, amount: Sat, script: bytes, feerate: FeeratePerKw | None) -> None:
        try:
            if actor.funder is not None:
                actor.tell(await actor.funder(TxOut(amount, script)))
                return
            purpose = purpose_of(actor)
            funded = await self.wallet.draft((TxOut(amount, script),), feerate or self.feerate, purpose)
            actor.leased()
            tx = self.wallet.sign(funded, purpose)
        except CommandRefused as refused:
            actor.tell(FundingRefused(refused.code, refused.reason))
            return
        if actor.is_retired:
            # It ended in the very turn that asked for the coins: nobody else would ever free them (immunity C24).
            self.wallet.release(purpose)
            return
        actor.tell(FundingMade(tx, funded.index_of(0)))

    def _forget_opening(self, actor: ChannelActor) -> None:
        actor.leased()
        if actor.timer is not None:
            # It would keep all of the actor alive until its time comes.
            actor.timer.cancel()
            actor.timer = None
        for key in [key for key, one in self._openings.items() if one is actor]:
            del self._openings[key]
