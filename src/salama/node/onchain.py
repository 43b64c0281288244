"""Channels on the chain: an actor for each, the outputs they watch, and their way to the network (BOLT 5).

Beside every channel whose funding is, or is about to be, spent stands an actor with the machine of ``salama.onchain``.
The channel's own actor goes on deciding HTLCs; this one reads its record before each turn and hands over what becomes
of the HTLCs that we offered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from salama.base.ids import ChannelId, OutPoint, Txid
from salama.base.machine import CommandRefused, Effect, Event, Transition
from salama.base.units import BlockHeight
from salama.bitcoin.chain_events import BlockConnected, BlockDisconnected
from salama.bitcoin.tx import Tx
from salama.chain.backend import BackendError, BackendUnavailable, ChainBackend
from salama.channel.commitments import local_commitment_tx
from salama.channel.events import Broadcast, HtlcFailed, Origin, PreimageLearned, PublicEvent, ResolvedOnChain
from salama.channel.spec import SpecHtlc, htlc_key
from salama.channel.state import Channel, ChannelRecord, Phase
from salama.node.actor import Actor
from salama.node.chain import Broadcaster
from salama.node.channel_actor import ChannelActor
from salama.node.channels import Channels
from salama.node.wallet import WalletActor
from salama.onchain.bump import CLAIM
from salama.onchain.coins import choose_coins
from salama.onchain.events import (
    BlockSeen,
    BlockUndone,
    ClaimRefused,
    CoinsLeased,
    CoinsMissing,
    DropClaim,
    LeaseCoins,
    RecordChanged,
    ReleaseCoins,
    Resolved,
    SpendSeen,
    Woken,
)
from salama.onchain.machine import OnchainEnv, awaited, complete, follow, new_state, turn, watched
from salama.onchain.signing import OweClaim, PublishClaim
from salama.onchain.state import Confirmed, OnchainState, Sweep
from salama.payments.origin import ForwardOrigin, MalformedOrigin, decode_origin
from salama.signer.local import LocalSigner
from salama.storage import queries
from salama.storage.journal import Journal
from salama.storage.writes import AnyWrite, PutOnchain
from salama.wallet.coins import Coin
from salama.wallet.keys import KeyPath

log = logging.getLogger("salama.onchain")


class Listener(Protocol):
    """Whom the outcomes of HTLCs are handed to."""

    def handed_over(self, handoff: PreimageLearned | HtlcFailed) -> None: ...


class OnchainActor(Actor[OnchainState]):
    """One channel on the chain."""

    def __init__(self, registry: Onchain, state: OnchainState) -> None:
        super().__init__(f"on chain {state.channel.channel_id.hex()[:8]}", state, registry.journal)
        self.registry = registry
        self.channel_id = state.channel.channel_id
        self.task: asyncio.Task[None] | None = None
        self.publishing = asyncio.Lock()
        """Claims go out in their order: where one takes the place of several, the others come after it."""
        self.asking: set[str] = set()
        """Purposes for which the wallet is being asked for coins."""

    async def prepare(self, events: Sequence[Event]) -> Sequence[Event]:
        """The channel's record as it is now, before anything else."""
        record = self.registry.record_of(self.channel_id)
        if record is None or record is self.state.channel:
            return events
        return (RecordChanged(record), *events)

    def turn(self, state: OnchainState, events: Sequence[Event]) -> Transition[OnchainState]:
        return turn(state, events, self.registry.env(self.channel_id))

    async def complete(self, done: Transition[OnchainState]) -> Transition[OnchainState]:
        signer = self.registry.signer
        answers = [
            signer.sign_claim(one) if isinstance(one, OweClaim) else signer.answer((one,))[0] for one in done.owed
        ]
        return complete(done, answers, self.registry.secret_of)

    def writes(self, old: OnchainState, done: Transition[OnchainState]) -> list[AnyWrite]:
        new = done.state
        if new.record is old.record:
            return [*done.rows]
        return [PutOnchain(new.record, old.record, new.channel), *done.rows]

    def installed(self, old: OnchainState, done: Transition[OnchainState]) -> None:
        self.registry.installed(self, old, done)

    def perform(self, effect: Effect) -> None:
        self.registry.perform(self, effect)

    def on_fault(self, error: Exception) -> None:
        log.critical("%s is frozen: its outputs are not claimed any more until a restart: %s", self.name, error)


class Onchain:
    """Every channel on the chain that is not resolved for good."""

    def __init__(
        self,
        journal: Journal,
        signer: LocalSigner,
        secret_of: Callable[[KeyPath], bytes],
        wallet: WalletActor,
        channels: Channels,
        broadcaster: Broadcaster,
        backend: ChainBackend,
        listener: Listener,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.journal, self.signer, self.secret_of = journal, signer, secret_of
        self._wallet, self._channels, self._broadcaster = wallet, channels, broadcaster
        self._backend, self._listener, self._tasks = backend, listener, tasks
        self.by_id: dict[ChannelId, OnchainActor] = {}
        self._watched: dict[OutPoint, ChannelId] = {}
        self._outpoints: dict[ChannelId, set[OutPoint]] = {}
        self._leasing = asyncio.Lock()
        """One asks for coins at a time: two would choose the same one, and the second wait for the next block."""

    # --- start and growth ---------------------------------------------------------------------------------------------

    def load(self, records: Iterable[ChannelRecord]) -> None:
        """At start-up: every channel that is on the chain goes on where it stood.

        Coins that a crash left leased for a claim that was never written down are free again (immunity C24).
        """
        for record in records:
            if record.phase is Phase.ON_CHAIN or record.spend is not None:
                self._begin(record)
        using = {sweep.purpose for actor in self.by_id.values() for sweep in actor.state.record.sweeps}
        for purpose in sorted(set(self._wallet.state.leases.values()) - using):
            if purpose.startswith(CLAIM):
                self._wallet.release(purpose)

    def _begin(self, record: ChannelRecord) -> OnchainActor:
        channel_id = record.channel_id
        kept = self.journal.read_now(lambda db: queries.onchain(db, channel_id))
        state = new_state(record, kept)
        if kept is None and record.spend is not None:
            # Told to the channel, and lost by a crash before it was told here.
            spend = Confirmed(record.spend.tx, record.spend.height)
            state = OnchainState(record, type(state.record)(channel_id, (spend,)))
        actor = OnchainActor(self, state)
        self.by_id[channel_id] = actor
        self._watch(actor)
        actor.tell(Woken())
        actor.task = self._tasks.create_task(actor.run(), name=actor.name)
        return actor

    def _watch(self, actor: OnchainActor) -> None:
        self._add_watches(actor.channel_id, watched(actor.state))

    def _add_watches(self, channel_id: ChannelId, outpoints: Iterable[OutPoint]) -> None:
        mine = self._outpoints.setdefault(channel_id, set())
        for outpoint in outpoints:
            mine.add(outpoint)
            self._watched[outpoint] = channel_id

    def _retire(self, actor: OnchainActor) -> None:
        self.by_id.pop(actor.channel_id, None)
        for outpoint in self._outpoints.pop(actor.channel_id, ()):
            self._watched.pop(outpoint, None)
        if actor.task is not None:
            asyncio.get_running_loop().call_soon(actor.task.cancel)

    def channel_changed(self, channel: Channel) -> None:
        """A channel's record is on disk: it may have gone to the chain, or decided an HTLC there."""
        record = channel.record
        actor = self.by_id.get(record.channel_id)
        if actor is not None and record.phase is Phase.CLOSED and record.spend is None:
            self._let_go(actor, record)
        elif actor is not None:
            actor.tell(RecordChanged(record))
        elif record.phase is Phase.ON_CHAIN:
            self._begin(record)

    def _let_go(self, actor: OnchainActor, record: ChannelRecord) -> None:
        """The channel was never funded, so that nothing of it will ever be on the chain (immunity A5)."""
        for sweep in actor.state.record.sweeps:
            self._wallet.dropped(sweep.tx)
            if sweep.coins:
                self._wallet.release(sweep.purpose)
        if not record.stale:
            self._broadcaster.forget(local_commitment_tx(record, record.funding, record.funding.local).tx.txid)
        self._retire(actor)

    # --- the world of a turn ------------------------------------------------------------------------------------------

    def record_of(self, channel_id: ChannelId) -> ChannelRecord | None:
        actor = self._channels.by_id.get(channel_id)
        return actor.record if actor is not None else None

    def env(self, channel_id: ChannelId) -> OnchainEnv:
        def htlcs_at(number: int) -> list[SpecHtlc]:
            return self.journal.read_now(lambda db: queries.htlcs_at(db, channel_id, number))

        return OnchainEnv(
            self._channels.height,
            self._channels.feerate,
            htlcs_at,
            self._upstream_expiry,
            self._channels.policy.irrevocable_depth,
        )

    def _upstream_expiry(self, origin: Origin) -> int | None:
        """Expiry of the incoming HTLC that an outgoing one relays, while it lives."""
        try:
            decoded = decode_origin(origin)
        except MalformedOrigin:
            return None
        if not isinstance(decoded, ForwardOrigin):
            return None
        record = self.record_of(decoded.incoming.channel_id)
        htlc = None if record is None else record.htlcs.get(htlc_key(decoded.incoming.side, decoded.incoming.id))
        return None if htlc is None else int(htlc.cltv_expiry)

    # --- the mempool --------------------------------------------------------------------------------------------------

    def awaited(self) -> set[OutPoint]:
        """Outputs whose unconfirmed spending matters to some channel now."""
        return {outpoint for actor in self.by_id.values() for outpoint in awaited(actor.state)}

    def transaction_heard(self, tx: Tx) -> None:
        """An unconfirmed transaction, of anybody: channels on the chain learn what it reveals (immunity C14)."""
        for channel_id in self._owners(tx):
            actor = self.by_id.get(channel_id)
            if actor is not None and any(one.outpoint in awaited(actor.state) for one in tx.inputs):
                actor.tell(SpendSeen(tx))

    # --- the chain ----------------------------------------------------------------------------------------------------

    def block_connected(self, event: BlockConnected) -> None:
        """Give every channel on the chain the transactions of a block that concern it."""
        fundings = self._channels.watch.outpoints
        found: dict[ChannelId, list[Tx]] = {}
        for tx in event.block.txs:
            for channel_id in self._owners(tx):
                found.setdefault(channel_id, []).append(tx)
                spent_fundings = {i.outpoint for i in tx.inputs if fundings.get(i.outpoint) == channel_id}
                mine = self._outpoints.get(channel_id, set())
                self._add_watches(channel_id, follow(tx, mine, spent_fundings))
        for channel_id in found:
            record = self.record_of(channel_id)
            if channel_id not in self.by_id and record is not None:
                self._begin(record)
        for channel_id, actor in list(self.by_id.items()):
            actor.tell(BlockSeen(event.height, tuple(found.get(channel_id, ()))))

    def _owners(self, tx: Tx) -> list[ChannelId]:
        """Channels of which it spends something, in an order that is the same in every process."""
        return sorted({owner for one in tx.inputs if (owner := self._owner(one.outpoint)) is not None})

    def _owner(self, outpoint: OutPoint) -> ChannelId | None:
        owner = self._watched.get(outpoint) or self._channels.watch.outpoints.get(outpoint)
        return None if owner is None else ChannelId(owner)

    def block_disconnected(self, event: BlockDisconnected) -> None:
        for actor in list(self.by_id.values()):
            actor.tell(BlockUndone(event.height))

    async def settled(self) -> None:
        """Until every actor has handled what it was told."""
        for actor in list(self.by_id.values()):
            await actor.settled()

    # --- after a commit -----------------------------------------------------------------------------------------------

    def installed(self, actor: OnchainActor, old: OnchainState, done: Transition[OnchainState]) -> None:
        if done.state.record.confirmed is not old.record.confirmed:
            self._watch(actor)
        for row in done.rows:
            if isinstance(row, PreimageLearned | HtlcFailed):
                self._listener.handed_over(row)
            elif isinstance(row, PublicEvent):
                fields = ", ".join(f"{name} {value}" for name, value in row.fields[1:])
                log.info("%s: %s: %s", actor.name, row.name.partition(".")[2], fields)

    def perform(self, actor: OnchainActor, effect: Effect) -> None:
        match effect:
            case Broadcast(tx, why):
                self._wallet.seen(tx)
                self._broadcaster.publish(tx, why)
            case PublishClaim(sweep, why):
                self._wallet.seen(sweep.tx)
                self._spawn(self._publish(actor, sweep, why), f"claim {sweep.tx.txid}")
            case LeaseCoins():
                if effect.purpose not in actor.asking:
                    actor.asking.add(effect.purpose)
                    self._spawn(self._lease(actor, effect), f"coins for {effect.purpose}")
            case ReleaseCoins(purpose):
                self._wallet.release(purpose)
            case DropClaim(sweep):
                self._wallet.dropped(sweep.tx)
            case Resolved():
                self._resolved(actor)
            case _:
                raise TypeError(f"nobody performs {type(effect).__name__}")

    def _spawn(self, work: object, name: str) -> None:
        self._tasks.create_task(work, name=name)  # type: ignore[arg-type]

    def _resolved(self, actor: OnchainActor) -> None:
        channel: ChannelActor | None = self._channels.by_id.get(actor.channel_id)
        if channel is not None:
            channel.tell(ResolvedOnChain())
        self._retire(actor)

    async def _publish(self, actor: OnchainActor, sweep: Sweep, why: str) -> None:
        tx = sweep.tx
        try:
            async with actor.publishing:
                parent = None if sweep.parent is None else self._parent(actor, sweep.parent)
                if parent is not None:
                    result = await self._backend.submit_package((parent, tx))
                else:
                    result = await self._backend.broadcast(tx)
        except (BackendUnavailable, BackendError) as error:
            # It is offered again at the next block.
            log.warning("%s: %s %s was not published yet: %s", actor.name, why, tx.txid, error)
            return
        if not result.accepted:
            log.warning("%s: %s %s was refused: %s", actor.name, why, tx.txid, result.reason)
            self._refused(actor, tx.txid, result.reason)
        elif not result.already_known:
            log.info("%s: published %s %s", actor.name, why, tx.txid)

    def _parent(self, actor: OnchainActor, txid: Txid) -> Tx | None:
        """The commitment that a child pays for: ours, or the peer's as the mempool showed it."""
        rival = actor.state.rival
        return rival.tx if rival is not None and rival.tx.txid == txid else self._broadcaster.waiting(txid)

    def _refused(self, actor: OnchainActor, txid: Txid, reason: str) -> None:
        known = next((one for one in actor.state.record.sweeps if one.tx.txid == txid), None)
        if known is not None and known.refused != reason[:200]:
            actor.tell(ClaimRefused(txid, reason))

    async def _lease(self, actor: OnchainActor, wanted: LeaseCoins) -> None:
        try:
            async with self._leasing:
                chosen = choose_coins(self._free_coins(wanted.purpose), wanted.amount, wanted.feerate)
                if not chosen:
                    log.warning("%s: no coins of %s sat for a fee", actor.name, wanted.amount)
                    actor.tell(CoinsMissing(wanted.purpose, "the wallet has no confirmed coins for the fee"))
                    return
                try:
                    await self._wallet.lease(tuple(coin.outpoint for coin in chosen), wanted.purpose)
                except CommandRefused as refused:
                    actor.tell(CoinsMissing(wanted.purpose, refused.reason))
                    return
                actor.tell(CoinsLeased(wanted.purpose, chosen))
        finally:
            actor.asking.discard(wanted.purpose)

    def _free_coins(self, purpose: str) -> list[Coin]:
        """Confirmed coins that nobody else has set aside; those leased for ``purpose`` already may be spent again by a
        replacement until one of their spenders is confirmed."""
        state = self._wallet.state
        height: BlockHeight = self._channels.height
        free = {coin.outpoint: coin for coin in state.spendable(height)}
        for outpoint in state.leased_to(purpose):
            coin = state.coins.get(outpoint)
            spender = state.recent.get(state.spenders[outpoint]) if outpoint in state.spenders else None
            if coin is not None and coin.height is not None and (spender is None or spender.height is None):
                free[outpoint] = coin
        return list(free.values())
