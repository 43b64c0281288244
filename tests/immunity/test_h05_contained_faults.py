"""H5 one peer's trouble is everybody's (lnd added recovery in 0.20.1, #10904)

What failed: an exception while one peer's message was handled ended the process.

Defence: node/peers.py:Peers._serve ends the connection in which something failed and nothing else;
node/actor.py:Actor.run freezes the one machine whose turn failed; only a disk that does not take a commit stops the
node (storage/errors.py:StorageFault). A frozen channel talks to its peer no more, but what the chain and the payments
tell it is handled all the same (node/channel_actor.py:ENDURED), or a peer that finds a mistake of ours could wait until
its deadlines have passed; node/node.py:Node writes no block down as read while something is frozen, so that a restart
reads it again.

Loss of power at any line of the shell is what make sim tries.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from immunity_world import FakePeer, Registry, Stranger, outpoint

from salama.base.ids import BlockHash, ChannelId, NodeId
from salama.base.machine import CommandRefused, Event
from salama.base.units import BlockHeight
from salama.bitcoin.chain_events import BlockConnected
from salama.channel.events import (
    BlockArrived,
    CloseChannel,
    Connected,
    ForceClose,
    FundingSpent,
    MessageReceived,
    SettleHtlc,
)
from salama.channel.state import Channel, ChannelRecord, LinkState, Phase
from salama.crypto.secp256k1 import ecdh, public_key
from salama.node.chain import TIP
from salama.node.channel_actor import ChannelActor
from salama.node.node import Node
from salama.node.peers import Peers
from salama.storage import queries
from salama.storage.journal import Journal
from salama.storage.writes import PutChannel
from salama.testing.pair import FEATURES, START, Pair, preimage_of
from salama.transport.noise import StaticKey
from salama.wire import Init, Stfu
from salama.wire.features import Features

SECRET = b"\x21" * 32
CHAIN = BlockHash(b"\x01" * 32)
INIT = Init(globalfeatures=Features(), features=Features(), networks=(CHAIN,))
HELLO = Stfu(channel_id=ChannelId(b"\x05" * 32), initiator=1)


class Line:
    """A connection that brings what it is given, then waits."""

    inbound = True
    address = "192.0.2.1:9735"

    def __init__(self, number: int) -> None:
        self.their_node_id = NodeId(public_key(bytes(31) + bytes([number])))
        self.inbox: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.sent: list[bytes] = []
        self.is_closed = False

    def send(self, messages: list[bytes]) -> None:
        self.sent += messages

    async def receive(self) -> list[bytes]:
        return await self.inbox.get()

    async def close(self) -> None:
        self.is_closed = True
        self.inbox.put_nowait([])

    def abort(self) -> None:
        self.is_closed = True
        self.inbox.put_nowait([])


@pytest.mark.parametrize("where", ["peer_ready", "message", "backlog", "peer_gone"])
def test_a_fault_ends_one_connection(where: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    async def main() -> None:
        victim, other = Line(1), Line(2)

        def fails(name: str) -> Any:
            def call(who: Any, *_: Any) -> Any:
                if name == where and who.node_id == victim.their_node_id:
                    raise RuntimeError("a mistake of ours")
                return 0

            return call

        names = ("peer_ready", "peer_gone", "message", "backlog")
        listeners: Any = SimpleNamespace(has_channel=lambda _: False, **{name: fails(name) for name in names})
        key = StaticKey(public_key(SECRET), lambda point: ecdh(SECRET, point))
        peers = Peers(key, INIT, listeners, 1.0)
        serving = [asyncio.create_task(peers._serve(line)) for line in (victim, other)]  # type: ignore[arg-type]
        for line in (victim, other):
            line.inbox.put_nowait([INIT.encode(), HELLO.encode()])
        await asyncio.sleep(0.05)
        victim.inbox.put_nowait([])
        await asyncio.wait(serving[:1], timeout=2)
        assert serving[0].done() and victim.is_closed
        serving[0].exception()
        assert list(peers.connected) == [other.their_node_id] and not other.is_closed and not serving[1].done()
        other.inbox.put_nowait([])
        await asyncio.wait_for(serving[1], 2)
        await peers.stop()

    asyncio.run(main())


def test_a_fault_in_one_channel_freezes_that_channel(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    async def story(node: Registry) -> None:
        strangers = [Stranger(n) for n in range(2)]
        for n, stranger in enumerate(strangers):
            await node.opened(stranger, outpoint(n))
        broken, healthy = node.channels.by_id.values()
        before = broken.record

        def fails(*_: Any) -> Any:
            raise AssertionError("a mistake of ours")

        broken.turn = fails  # type: ignore[method-assign]
        for actor in (broken, healthy):
            actor.tell(BlockArrived())
        await node.rests()
        assert broken.frozen and not healthy.frozen
        assert broken.record is before, "nothing is done on what failed, also no closing"
        peer = node.peers[broken.peer]
        assert peer.closed
        assert not node.peers[healthy.peer].closed
        broken.tell(BlockArrived())
        healthy.tell(BlockArrived())
        await node.rests()
        assert not healthy.frozen and healthy.task is not None and not healthy.task.done()

    Registry.run(tmp_path, story)


@dataclass
class Frozen:
    """A channel of ours with an HTLC in each direction, whose machine fails at every message."""

    node: Registry
    pair: Pair
    actor: ChannelActor

    @classmethod
    async def of(cls, node: Registry) -> Frozen:
        pair = Pair.opened()
        for end in (pair.alice, pair.bob):
            end.adds(30_000_000, expiry=int(START) + 100)
        pair.settle()
        record = pair.alice.record
        node.channels.signer = pair.alice.signer
        await node.journal.commit([PutChannel(None, record)])
        node.channels.load([record])
        (actor,) = node.channels.by_id.values()
        quick = actor.turn

        def fails_at_messages(state: Any, events: Any) -> Any:
            if any(isinstance(one, MessageReceived) for one in events):
                raise AssertionError("a mistake of ours")
            return quick(state, events)

        actor.turn = fails_at_messages  # type: ignore[method-assign]
        node.peers[actor.peer] = FakePeer(actor.peer)
        actor.state = Channel(record, pair.alice.link)
        return cls(node, pair, actor)

    async def freezes(self, *beside: Event) -> None:
        """What is ``beside`` the message that is too much for it comes in the same batch."""
        bad = Stfu(channel_id=self.pair.alice.record.channel_id, initiator=1)
        for event in (*beside[:1], MessageReceived(bad), *beside[1:]):
            self.actor.tell(event)
        await self.node.rests()
        assert self.actor.frozen and self.actor.link_state is LinkState.ABSENT

    @property
    def record(self) -> ChannelRecord:
        assert self.actor.record is not None
        return self.actor.record


def told(tmp_path: Path, story: Callable[[Frozen], Awaitable[None]]) -> None:
    async def whole(node: Registry) -> None:
        await story(await Frozen.of(node))

    Registry.run(tmp_path, whole)


def test_a_frozen_channel_still_minds_its_deadlines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    async def story(frozen: Frozen) -> None:
        await frozen.freezes()
        node = frozen.node
        for height, phase in ((101, Phase.NORMAL), (102, Phase.ON_CHAIN)):
            node.channels.height = BlockHeight(int(START) + height)
            frozen.actor.tell(BlockArrived())
            await node.rests()
            assert frozen.record.phase is phase, "its outgoing HTLC is past its deadline at the second"
        assert node.channels.broadcaster._waiting, "its commitment is out"

    told(tmp_path, story)


def test_what_the_chain_told_in_the_same_breath_is_not_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    async def story(frozen: Frozen) -> None:
        frozen.pair.bob.does(ForceClose("test"))
        spend = frozen.pair.bob.broadcasts[-1]
        await frozen.freezes(BlockArrived(), FundingSpent(spend, START))
        assert frozen.record.spend is not None and frozen.record.spend.tx == spend

    told(tmp_path, story)


def test_a_preimage_for_a_frozen_channel_is_kept_and_used_in_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    async def story(frozen: Frozen) -> None:
        await frozen.freezes()
        frozen.actor.tell(SettleHtlc(0, preimage_of(0)))
        await frozen.node.rests()
        assert list(frozen.record.resolutions) == [0] and not frozen.node.peers[frozen.actor.peer].sent
        frozen.node.channels.height = BlockHeight(int(START) + 82)
        frozen.actor.tell(BlockArrived())
        await frozen.node.rests()
        assert frozen.record.phase is Phase.ON_CHAIN

    told(tmp_path, story)


def test_nothing_is_gone_on_with_what_came_in_the_same_breath(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    async def story(frozen: Frozen) -> None:
        await frozen.freezes(SettleHtlc(0, preimage_of(0)))
        assert list(frozen.record.resolutions) == [0] and not frozen.record.is_awaiting_revocation
        assert not frozen.node.peers[frozen.actor.peer].sent

    told(tmp_path, story)


def test_a_frozen_channel_says_nothing_and_can_be_closed_by_hand(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    async def story(frozen: Frozen) -> None:
        await frozen.freezes()
        node, actor = frozen.node, frozen.actor
        before = frozen.record
        actor.tell(Connected(FEATURES, FEATURES))
        actor.tell(frozen.pair.alice.add_event(7, 1_000_000))
        await node.rests()
        assert frozen.record is before and actor.link_state is LinkState.ABSENT
        assert not node.peers[actor.peer].sent
        with pytest.raises(CommandRefused, match="frozen"):
            await node.channels.command(actor, CloseChannel(b"\x00\x14" + bytes(20)))
        await node.channels.command(actor, ForceClose("a person asked"))
        assert frozen.record.phase is Phase.ON_CHAIN

    told(tmp_path, story)


@pytest.mark.parametrize("frozen", ["", "wallet", "channel", "claims"])
def test_a_block_that_somebody_frozen_may_have_missed_is_read_again(tmp_path: Path, frozen: str) -> None:
    async def main(journal: Journal) -> None:
        def actor(name: str) -> Any:
            return SimpleNamespace(frozen="a mistake of ours" if name == frozen else "", tell=lambda _: None)

        async def nothing() -> None: ...

        def registry(name: str) -> Any:
            return SimpleNamespace(by_id={1: actor("other"), 2: actor(name)}, block_connected=lambda _: None)

        deaf = SimpleNamespace(tell=lambda _: None, block_seen=lambda: None, block_connected=lambda _: None)
        boxes = SimpleNamespace(block_connected=lambda _: [])
        parts = SimpleNamespace(
            wallet=actor("wallet"), channels=registry("channel"), onchain=registry("claims"), journal=journal,
            mempool=deaf, boxes=boxes, gossip=deaf, payments=deaf, broadcaster=deaf,
            chain=SimpleNamespace(feerate=None), backups=SimpleNamespace(renew=nothing), _all_settled=nothing,
            _has_birthday=True,
        )  # fmt: skip
        block: Any = SimpleNamespace(txs=())
        await Node._block(parts, BlockConnected(BlockHeight(7), BlockHash(b"\x07" * 32), block))  # type: ignore[arg-type]
        assert (journal.read_now(lambda db: queries.key_value(db, TIP)) is None) == bool(frozen)

    with Journal.open(tmp_path) as journal:
        asyncio.run(main(journal))
