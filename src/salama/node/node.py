"""The one file that constructs everything: a node from its configuration, running until it is stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from salama.base.ids import BlockHash
from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight
from salama.bitcoin.chain_events import BlockConnected, BlockDisconnected
from salama.channel.state import ChannelRecord
from salama.gossip.events import BlockArrived, BlockRemoved
from salama.node.actor import Actor
from salama.node.addresses import parse_host_port, parse_peer
from salama.node.backup import BIRTHDAY, Backups, found_at, places_of
from salama.node.cap import cap_of
from salama.node.chain import TIP, Broadcaster, ChainFollower, Tip
from salama.node.channels import Channels, scids_of
from salama.node.config import Config
from salama.node.features import features_of
from salama.node.fees import KEY as RELAY_TERMS
from salama.node.fees import Change, RelayTerms
from salama.node.graph import GossipActor, node_addresses
from salama.node.joint_funding import JointFunding
from salama.node.mainnet import caution, lacks_estimate
from salama.node.mempool import MempoolWatch
from salama.node.news import News
from salama.node.onchain import Onchain
from salama.node.openings import NEXT_KEY_INDEX
from salama.node.outside import Outside
from salama.node.payments import PaymentsActor
from salama.node.peer_storage import PeerBoxes
from salama.node.peers import Peers, short
from salama.node.psbts import Psbts
from salama.node.recover import BROUGHT, check_ours, is_recovering, merged, prepare
from salama.node.rescan import block_before
from salama.node.spending import Spending
from salama.node.switchboard import Switchboard
from salama.node.wallet import WalletActor
from salama.payments.events import HandoffArrived, Ticked
from salama.routing.scoring import Scorer
from salama.signer.local import LocalSigner
from salama.signer.wallet import WalletKeys
from salama.storage import queries
from salama.storage.backup import BackupKey
from salama.storage.writes import LEDGER_BEGUN, AnyWrite, BeginLedger, ForgetOnions, PutKeyValue, PutPeer
from salama.transport.noise import StaticKey
from salama.wallet.coins import new_wallet
from salama.wire import (
    Init,
)
from salama.wire.features import Context, Features

log = logging.getLogger("salama.node")

GENESIS = "chain.genesis"
TICK_SECONDS = 1.0
STEP_SECONDS = 5.0
"""While the chain is read: how often somebody is told how far it is."""
DEADLINE_GRACE_SECONDS = 20.0
"""After a start: how long an overdue HTLC may wait for its peer to come back. Margins are hours, not seconds."""


class Node:
    """A node: ``run`` it, ``stop`` it."""

    def __init__(self, config: Config, outside: Outside | None = None) -> None:
        self.config, self.outside = config, outside or Outside()
        self.started = self.outside.now()
        self._stop = asyncio.Event()
        self.failure: BaseException | None = None
        self.listening = ""
        self.on_step: Callable[[str], None] = lambda step: log.info("starting: %s", step)
        """Told of each step of the start."""
        self._blocks = 0
        """Height of the chain at our start."""
        self._has_birthday = True
        self.recovers = False
        """Begin in an empty directory from ``restore``, or from what peers kept for us."""
        self.restore: bytes | None = None
        """A sealed backup."""
        self.former_peers: tuple[str, ...] = ()
        """Where to recover from: ``NODE_ID@host:port``."""
        self.starts_again = False
        """What is wanted is on disk, and takes a start to be put in place."""
        self._chain_trouble = ""

    async def run(self, on_ready: asyncio.Future[None] | None = None) -> None:
        """Start, serve, and return after ``stop``. Raises StorageFault, BackendUnavailable or CommandRefused."""
        if words := caution(self.config):
            log.warning("%s", words)
        self.journal = self.outside.journal(self.config)
        self.journal.on_failure(lambda failure: self._fail(failure))
        self.news = News(self.journal)
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._build(tasks)
                if on_ready is not None and not on_ready.done():
                    on_ready.set_result(None)
                log.info(
                    "ready: %s on %s, listening on %s", self.signer.node_id, self.config.network.name, self.listening
                )
                await self._stop.wait()
                raise _Stopped
        except* _Stopped:
            pass
        except* Exception as faults:
            # A task group reports in groups; whoever runs us wants the one reason. The first to be told stands.
            self.failure = self.failure or first_of(faults)
        finally:
            await self._shut_down()
            self.journal.close()
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """Stop in good order."""
        self._stop.set()

    def _fail(self, failure: BaseException) -> None:
        """Stop at once because nothing can be written any more: nothing is said from now on."""
        self.failure = failure
        log.critical("stopping: %s", failure)
        if hasattr(self, "peers"):
            for peer in self.peers.connected.values():
                peer.connection.abort()
        self._stop.set()

    # --- putting it together ------------------------------------------------------------------------------------------

    async def _build(self, tasks: asyncio.TaskGroup) -> None:
        config, journal, outside = self.config, self.journal, self.outside
        seed = outside.seed(config)
        self.signer, keys = LocalSigner(seed), WalletKeys(seed, config.network)
        self.backend = outside.backend(config)
        self.switchboard = Switchboard(tasks, outside.monotonic)
        await self._check_backend()
        brought = journal.read_now(lambda db: queries.key_value(db, BROUGHT))
        # Words that are older than an empty directory had channels perhaps, whose keys must not be used again.
        birthday = outside.birthday(config) if self.recovers else outside.rescan_from(config)
        is_empty = journal.read_now(lambda db: queries.key_value(db, TIP)) is None
        if self.recovers or brought or (is_empty and birthday is not None):
            await self._recover(BackupKey.of_seed(seed), keys, brought or b"")
        tip = _decode_tip(journal.read_now(lambda db: queries.key_value(db, TIP)))
        if tip is None and birthday is not None:
            tip = await block_before(self.backend, birthday)
            log.info("restored from words: looking through the chain from block %d", tip.height)
        self._has_birthday = journal.read_now(lambda db: queries.key_value(db, BIRTHDAY)) is not None
        wallet = journal.read_now(queries.wallet) or new_wallet(keys.accounts)
        self.wallet = WalletActor(wallet, journal, keys, lambda: self.chain.height, outside)
        self.broadcaster = Broadcaster(self.backend)
        self.chain = ChainFollower(
            self.backend,
            tip,
            config.poll_seconds,
            self._block,
            self._reorg,
            longest_silence=config.network.longest_silence,
            clock=outside.now,
        )
        key_index = journal.read_now(lambda db: queries.number(db, NEXT_KEY_INDEX))
        self.channels = Channels(
            journal,
            self.signer,
            self.wallet,
            self.broadcaster,
            config.policy,
            features_of(config.policy),
            BlockHash(config.network.chain_hash),
            key_index,
            tasks,
            outside,
        )
        self.spending = Spending(
            self.wallet,
            self.backend,
            self.broadcaster,
            lambda: self.channels.feerate,
            lambda: self.chain.height,
            outside,
            self.channels.fee_reserve,
            self.channels.funds_channel,
        )
        self.joint = JointFunding(self.channels, self.wallet, self.backend, outside)
        self.psbts = Psbts(self.wallet, self.backend, self.spending, self.joint, config.network, outside)
        self.gossip = GossipActor(
            journal,
            self.signer,
            self.backend,
            lambda: self.peers,
            lambda: self.chain.height,
            chain_hash=BlockHash(config.network.chain_hash),
            alias=config.alias or short(self.signer.node_id),
            features=features_of(config.policy).only(Context.NODE_ANNOUNCEMENT),
            flush_seconds=config.gossip_flush_seconds,
            outside=outside,
        )
        self.gossip.load()
        records = journal.read_now(queries.open_channels)
        self.on_step(f"putting {len(records)} channels in place")
        handoffs = journal.read_now(queries.handoffs)
        origins = {h.origin: r.channel_id for r in records for h in r.htlcs.values() if h.origin is not None}
        origins |= {handoff.origin: handoff.key.channel_id for handoff in handoffs}
        self.payments = PaymentsActor(
            journal,
            self.signer,
            self.gossip.graph,
            Scorer(),
            pending=journal.read_now(queries.unfinished_payments),
            origins=origins,
            height=lambda: self.chain.height,
            channels=self.channels.views,
            by_scid=lambda: self.channels.by_scid,
            to_channel=self.switchboard.to_channel,
            chain_is_stale=lambda: bool(self.chain.trouble),
            outside=outside,
        )
        self.onchain = Onchain(
            journal,
            self.signer,
            keys.secret,
            self.wallet,
            self.channels,
            self.broadcaster,
            self.backend,
            self.switchboard,
            tasks,
        )
        self.mempool = MempoolWatch(
            self.backend, self.onchain.awaited, self.onchain.transaction_heard, config.poll_seconds
        )
        static_key = StaticKey(bytes(self.signer.node_id), self.signer.ecdh)
        init = Init(
            globalfeatures=Features.of(),
            features=features_of(config.policy).only(Context.INIT),
            networks=(BlockHash(config.network.chain_hash),),
        )
        self.peers = Peers(static_key, init, self.switchboard, config.reconnect_seconds, outside)
        self.channels.peers, self.channels.around = self.peers, self.switchboard
        self.channels.chain_trouble = lambda: self.chain.trouble or lacks_estimate(config.network, self.chain.feerate)
        self.backups = Backups(
            config,
            BackupKey.of_seed(seed),
            self.signer.node_id,
            journal,
            lambda: self.wallet.state,
            self.channels.records,
            lambda node_id: node_addresses(self.gossip.graph, node_id),
            outside,
        )
        self.channels.secure = self.backups.renew
        self.backups.check()
        self.boxes = PeerBoxes(
            journal,
            self.backups,
            lambda: self.peers.connected,
            self.channels.has_funded,
            outside,
            is_recovering=self.is_recovering,
            on_brought=self._brought,
            on_behind=self._fail,
        )
        self.switchboard.join(self.channels, self.payments, self.gossip, self.onchain, self.boxes)

        if tip is not None:
            self.channels.height = tip.height
        self._release_forgotten_openings(records)
        for actor in (self.wallet, self.payments, self.gossip):
            tasks.create_task(self._supervise(actor.run()), name=actor.name)
        # Every channel is in place, with its HTLCs, before anything is announced to anyone; unresolved incoming HTLCs
        # come before the handoffs, so that these find how to answer upstream.
        self.channels.load(records)
        for record in records:
            self.gossip.channel_known(record, scids_of(record))
        self.channels.cap = cap_of(config.network, config.mainnet_cap)
        await self._ask_for_terms()
        self.channels.minds_deadlines = not records
        if journal.read_now(lambda db: queries.key_value(db, LEDGER_BEGUN)) is None:
            await journal.commit([BeginLedger(tuple(records), journal.read_now(queries.wallet))])
        # A crash may have come between a channel's record and its backup: nothing of it was said yet.
        await self.backups.renew()
        await self.channels.resume()
        self.joint.resume()
        self.onchain.load(records)
        for handoff in handoffs:
            self.payments.tell(HandoffArrived(handoff))
        self.payments.tell(Ticked())
        self._publish_unconfirmed()
        feed = await outside.feed(self.backend, self.onchain.transaction_heard)
        if feed is not None:
            tasks.create_task(self._supervise(feed.run()), name="feed")
        tasks.create_task(self._supervise(self.chain.run()), name="chain")
        await self._caught_up()
        if self.chain.feerate is not None:
            # No block need have come since the last run: without this the floor would be our idea of a fair fee.
            self.channels.feerate_changed(self.chain.feerate)
        if config.listen is not None:
            address = await self.peers.listen(config.listen)
            self.listening = str(address)
            self.gossip.addresses = (address,)
        self._remember_peers(records)
        tasks.create_task(self._supervise(self.gossip.tick()), name="gossip tick")
        tasks.create_task(self._supervise(self._tick()), name="tick")
        tasks.create_task(self._supervise(self._mind_deadlines()), name="deadlines")
        tasks.create_task(self._supervise(self.mempool.run()), name="mempool")

    async def _check_backend(self) -> None:
        """The right chain, and the same as ever (immunity G4)."""
        self.on_step("asking the chain back-end")
        info = await self.backend.info()
        self._blocks = int(info.height)
        network = self.config.network
        if bytes(info.genesis_hash) != network.chain_hash:
            raise CommandRefused(
                "wrong_chain",
                f"The back-end at {self.config.bitcoind} serves {info.network_name}, not {network.name}.",
                "Point --bitcoind at the right node.",
            )
        if not self.backend.is_local:
            log.warning("bitcoind is on another machine: questions and the password cross the network unencrypted")
        known = self.journal.read_now(lambda db: queries.key_value(db, GENESIS))
        if known is None:
            await self.journal.commit([PutKeyValue(GENESIS, bytes(info.genesis_hash))])
        elif known != bytes(info.genesis_hash):
            raise CommandRefused("wrong_chain", "This data directory belongs to another chain.", "Use another --dir.")

    async def _recover(self, key: BackupKey, keys: WalletKeys, brought: bytes) -> None:
        """Raises CommandRefused, or BackupUnusable."""
        found = [key.open(one) for one in (self.restore, brought) if one]
        if self.recovers:
            found += found_at(places_of(self.config), key)
        for one in found:
            check_ours(one, self.signer.node_id, self.config.network)
        backup = merged(found) if found else None
        outside, network = self.outside, self.config.network
        restored = await prepare(
            self.journal,
            self.signer,
            keys,
            network,
            backup,
            self.backend.block_hash,
            outside.below,
            int(outside.now()),
        )
        for name in self.former_peers:
            node_id, address = parse_peer(name)
            if address is not None:
                await self.journal.commit([PutPeer(node_id, (str(address),), int(outside.now()))])
        log.warning("recovering %d channels over %s sat", restored.channels, restored.capacity)

    def is_recovering(self) -> bool:
        """Whether a peer may still bring channels that we do not know."""
        return is_recovering(self.journal, self.channels.records())

    def _brought(self, sealed: bytes) -> None:
        if not self.starts_again:
            self.starts_again = True
            self._take_up = asyncio.create_task(self._start_again_with(sealed))

    async def _start_again_with(self, sealed: bytes) -> None:
        """Everything is put in place by a start, also what a peer brought."""
        await self.journal.commit([PutKeyValue(BROUGHT, sealed)])
        self.stop()

    async def _caught_up(self) -> None:
        """Serve nobody before we stand where the chain stands."""
        ends = asyncio.create_task(self.chain.caught_up.wait()), asyncio.create_task(self._stop.wait())
        try:
            while not any(end.done() for end in ends):
                self.on_step(f"reading the chain, at block {int(self.chain.height)} of {self._blocks}")
                await asyncio.wait(ends, timeout=STEP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()

    async def _ask_for_terms(self) -> None:
        """The terms for relaying that were set by hand, or what the settings say now."""
        row = self.journal.read_now(lambda db: queries.key_value(db, RELAY_TERMS))
        self.channels.terms = RelayTerms(self.config.policy, row)
        change = self.channels.terms.settled(self.channels.by_id, self.outside.now())
        if change.row != row:
            await self.ask_for(change)

    async def ask_for(self, change: Change) -> None:
        """Ask for other terms from now on, and tell whoever pays through us (B7.06)."""
        for record in await self.channels.ask_for(change):
            scid, policy = record.funding.short_channel_id, self.channels.relay_policy(record)
            if scid is not None and scid in self.gossip.graph:
                self.gossip.update(record, policy)
            else:
                self.gossip.tell_peer(record, policy)

    def _release_forgotten_openings(self, records: list[ChannelRecord]) -> None:
        """Coins set aside for openings that a restart ended before anything was signed."""
        funded = {i.outpoint for r in records for f in r.active if f.tx is not None for i in f.tx.inputs}
        for purpose in {p for o, p in self.wallet.state.leases.items() if o not in funded}:
            if purpose.startswith("open "):
                self.wallet.release(purpose)

    def _remember_peers(self, records: list[ChannelRecord]) -> None:
        wanted = {record.params.their_node_id for record in records}
        anybody = is_recovering(self.journal, records)
        for known in self.journal.read_now(queries.peers):
            if known.addresses:
                first, *others = map(parse_host_port, known.addresses)
                self.peers.addresses[known.node_id], self.peers.elsewhere[known.node_id] = first, tuple(others)
                if anybody or known.node_id in wanted:
                    self.peers.keep(known.node_id)

    async def _supervise(self, work: object) -> None:
        """Run a part of the node that must not end; if it fails, the node stops in safe order."""
        try:
            await work  # type: ignore[misc]
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("a part of the node failed")
            self._fail(error)

    async def _mind_deadlines(self) -> None:
        """Peers that come back after our restart may still resolve what would else go to the chain (B2.49)."""
        if not self.channels.minds_deadlines:
            await asyncio.sleep(DEADLINE_GRACE_SECONDS)
            self.channels.mind_deadlines()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.payments.tell(Ticked())
            self._mind_chain()
            await self.boxes.tick()

    def warnings(self) -> list[str]:
        """What a person should look at, in sentences."""
        found = [words] if (words := caution(self.config)) else []
        if trouble := self.chain.trouble:
            found.append(f"We do not see the chain as it is: {trouble}. Nothing new is relayed, no channel is opened.")
        elif trouble := lacks_estimate(self.config.network, self.chain.feerate):
            found.append(f"No channel is opened: {trouble}.")
        if not self.backend.is_local:
            found.append("Questions to bitcoind and their password cross a network unencrypted; use a tunnel.")
        if waiting := ", ".join(map(str, self.joint.waiting())):
            found.append(
                "These channels wait for their funding; `salama openfinish` brings it, `salama openabort` ends one: "
                f"{waiting}."
            )
        return found

    def _mind_chain(self) -> None:
        """Say when our view of the chain grows old, and when it is whole again."""
        trouble = self.chain.trouble
        if trouble and not self._chain_trouble:
            log.error("nothing new is relayed and no channel is opened: %s", trouble)
        elif self._chain_trouble and not trouble:
            log.warning("the chain back-end is back: relaying again")
            self.broadcaster.again()
        self._chain_trouble = trouble

    async def _shut_down(self) -> None:
        for part in ("peers", "gossip", "broadcaster"):
            if hasattr(self, part):
                await getattr(self, part).stop()
        if hasattr(self, "backend"):
            await self.backend.close()

    # --- the chain ----------------------------------------------------------------------------------------------------

    async def _block(self, event: BlockConnected) -> None:
        """Give a block to everybody; the tip is written when all of them have it on disk."""
        self.wallet.tell(event)
        self.channels.block_connected(event)
        self.onchain.block_connected(event)
        self.mempool.block_seen()
        spent = tuple(i.outpoint for tx in event.block.txs for i in tx.inputs)
        self.gossip.tell(BlockArrived(spent))
        self.payments.tell(Ticked())
        self.broadcaster.block_connected(event.block)
        if self.chain.feerate is not None:
            self.channels.feerate_changed(self.chain.feerate)
        await self._all_settled()
        writes: list[AnyWrite] = [ForgetOnions(event.height)]
        readers: list[Actor[Any]] = [self.wallet, *self.channels.by_id.values(), *self.onchain.by_id.values()]
        if not any(one.frozen for one in readers):
            # Else a restart reads it again, for those who may have missed it (immunity H5).
            writes.append(PutKeyValue(TIP, int(event.height).to_bytes(4, "big") + event.hash))
        if not self._has_birthday:
            self._has_birthday = True
            writes.append(PutKeyValue(BIRTHDAY, int(event.height).to_bytes(4, "big")))
        await self.backups.renew()
        writes += self.boxes.block_connected(event.height)
        await self.journal.commit(writes)

    async def _reorg(self, event: BlockDisconnected) -> None:
        log.warning("block %d was reorganised away", event.height)
        self.channels.block_disconnected(event)
        self.onchain.block_disconnected(event)
        self.wallet.tell(event)
        self.gossip.tell(BlockRemoved(int(event.height)))
        await self._all_settled()
        self._publish_unconfirmed()

    def _publish_unconfirmed(self) -> None:
        """What the wallet has under way; a back-end need not remember what a reorganisation left without a block."""
        for one in self.wallet.state.unconfirmed():
            if one.tx is not None:
                self.broadcaster.publish(one.tx, "wallet transaction")

    async def _all_settled(self) -> None:
        await self.wallet.settled()
        await self.channels.settled()
        await self.onchain.settled()
        await self.gossip.settled()


def first_of(faults: BaseExceptionGroup[Exception]) -> Exception:
    """The first fault of a group that may hold groups."""
    one: BaseException = faults
    while isinstance(one, BaseExceptionGroup):
        one = one.exceptions[0]
    assert isinstance(one, Exception)
    return one


class _Stopped(Exception):
    """Ends the task group in good order."""


def _decode_tip(value: bytes | None) -> Tip | None:
    if value is None:
        return None
    return Tip(BlockHeight(int.from_bytes(value[:4], "big")), BlockHash(value[4:]))
