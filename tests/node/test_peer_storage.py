"""Sealed boxes that peers keep for each other (B1.10; immunity J1, J5): what is taken, what is kept, what is given
back, and a node that has nothing left but its words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from recovery_world import (
    MARGIN,
    commitments_of,
    connect,
    lose_disk,
    make_world,
    mine,
    owned,
    pay,
    recover,
    share_channel,
    up,
    watch_offers,
)

from salama.base.ids import ChannelId, NodeId
from salama.base.units import BlockHeight
from salama.channel.backup import backup_of
from salama.crypto.hashes import sha256
from salama.node.features import FEATURES
from salama.node.peer_storage import KEEP_BLOCKS, STORE_SECONDS, PeerBoxes
from salama.signer.local import LocalSigner
from salama.storage import queries
from salama.storage.backup import BackupKey, StaticBackup
from salama.storage.journal import Journal
from salama.testing.pair import CHAIN, Pair
from salama.wire import PeerStorage, PeerStorageRetrieval
from salama.wire.features import OPTION_PROVIDE_STORAGE, Features
from salama.wire.setup import MAX_PEER_STORAGE

KEY = BackupKey.of_seed(bytes(32))
CAROL, DAVE = (LocalSigner(bytes([n]) * 32).node_id for n in (1, 2))


@dataclass(eq=False)
class Speaker:
    node_id: NodeId
    features: Features = FEATURES
    sent: list[Any] = field(default_factory=list)

    def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def last(self) -> Any:
        return self.sent[-1]


def backup(generation: int, channels: int = 1) -> StaticBackup:
    pair = Pair.opened()
    one = backup_of(pair.alice.record, ("10.0.0.1:9735",))
    ids = sorted(ChannelId(sha256(b"%d" % n)) for n in range(channels))
    kept = tuple(replace(one, channel_id=i, closing_script=b"\x00\x20" + sha256(i)) for i in ids)
    return StaticBackup(generation, 0, pair.alice.signer.node_id, CHAIN, BlockHeight(1), {}, kept)


@dataclass(eq=False)
class Desk:
    """A node's boxes on a real journal, with clocks that stand still until told."""

    journal: Journal
    now: float = 1000.0
    generation: int = 5
    friends: set[NodeId] = field(default_factory=lambda: {CAROL})
    peers: dict[NodeId, Any] = field(default_factory=dict)
    recovers: bool = False
    brought: list[bytes] = field(default_factory=list)
    behind: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        outside: Any = SimpleNamespace(
            now=lambda: self.now, monotonic=lambda: self.now, entropy=lambda size: bytes(size)
        )
        self.backups: Any = SimpleNamespace(key=KEY, generation=self.generation, latest=backup(self.generation))
        self.boxes = PeerBoxes(
            self.journal,
            self.backups,
            lambda: self.peers,
            lambda node_id: node_id in self.friends,
            outside,
            is_recovering=lambda: self.recovers,
            on_brought=self.brought.append,
            on_behind=self.behind.append,
        )

    def meets(self, node_id: NodeId, features: Features = FEATURES) -> Any:
        peer = self.peers[node_id] = Speaker(node_id, features)
        self.boxes.peer_ready(peer)
        return peer

    def leaves(self, peer: Any) -> None:
        del self.peers[peer.node_id]
        self.boxes.peer_gone(peer)

    async def after(self, seconds: float) -> None:
        self.now += seconds
        await self.boxes.tick()

    def on_disk(self, node_id: NodeId) -> bytes | None:
        return self.journal.read_now(lambda db: queries.kept_blob(db, node_id))

    def changes(self) -> None:
        self.backups.generation += 1
        self.backups.latest = replace(self.backups.latest, generation=self.backups.generation)
        self.boxes.changed()


def at_desk(tmp_path: Path, story: Callable[[Desk], Awaitable[None]]) -> None:
    async def told() -> None:
        with Journal.open(tmp_path) as journal:
            await story(Desk(journal))

    asyncio.run(told())


def box(content: bytes) -> PeerStorage:
    return PeerStorage(blob=content)


# --- theirs -----------------------------------------------------------------------------------------------------------


def test_we_offer_to_keep() -> None:
    assert FEATURES.has(OPTION_PROVIDE_STORAGE) and not FEATURES.requires(OPTION_PROVIDE_STORAGE)


def test_what_is_kept_is_given_back_first(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        carol = desk.meets(CAROL)
        desk.boxes.received(carol, box(b"sealed by carol"))
        await desk.after(0)
        assert desk.on_disk(CAROL) == b"sealed by carol"
        desk.leaves(carol)
        again = Desk(desk.journal)  # after a restart
        assert again.meets(CAROL).sent == [PeerStorageRetrieval(blob=b"sealed by carol")]

    at_desk(tmp_path, story)


def test_only_what_is_on_disk_is_given_back(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        carol = desk.meets(CAROL)
        desk.boxes.received(carol, box(b"one"))
        await desk.after(0)
        desk.boxes.received(carol, box(b"two"))
        await desk.after(1)  # too soon for the disk
        desk.leaves(carol)
        assert desk.meets(CAROL).sent == [PeerStorageRetrieval(blob=b"one")]
        await desk.after(STORE_SECONDS)
        assert desk.on_disk(CAROL) == b"two"

    at_desk(tmp_path, story)


def test_one_write_a_minute_and_one_box_each(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        carol = desk.meets(CAROL)
        await desk.after(0)
        before = desk.journal.counters.commits
        for n in range(600):
            desk.boxes.received(carol, box(b"%d" % n * 1000))
            await desk.after(0.5)
        assert desk.journal.counters.commits - before <= 6
        assert desk.on_disk(CAROL) is not None and len(desk.boxes._waiting) <= 1

    at_desk(tmp_path, story)


def test_strangers_are_not_served(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        dave = desk.meets(DAVE)
        desk.boxes.received(dave, box(b"x" * MAX_PEER_STORAGE))
        await desk.after(100)
        assert desk.on_disk(DAVE) is None and not dave.sent

    at_desk(tmp_path, story)


def test_a_box_outlives_the_last_channel_by_two_weeks(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.boxes.received(desk.meets(CAROL), box(b"sealed by carol"))
        await desk.after(0)
        desk.friends.clear()
        await desk.journal.commit(desk.boxes.block_connected(BlockHeight(100)))
        again = Desk(desk.journal, friends=set())
        await desk.journal.commit(again.boxes.block_connected(BlockHeight(100 + KEEP_BLOCKS)))
        assert desk.on_disk(CAROL) == b"sealed by carol"
        await desk.journal.commit(again.boxes.block_connected(BlockHeight(101 + KEEP_BLOCKS)))
        assert desk.on_disk(CAROL) is None
        assert not again.meets(CAROL).sent

    at_desk(tmp_path, story)


def test_a_block_puts_no_older_box_back(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        carol = desk.meets(CAROL)
        desk.boxes.received(carol, box(b"one"))
        await desk.after(0)
        desk.boxes.received(carol, box(b"two"))
        desk.friends.clear()
        desk.now += STORE_SECONDS
        storing = asyncio.create_task(desk.boxes.tick())
        await asyncio.sleep(0)
        await desk.journal.commit(desk.boxes.block_connected(BlockHeight(100)))
        await storing
        assert desk.on_disk(CAROL) == b"two"
        assert desk.journal.read_now(queries.kept_blobs) == {CAROL: 100}

    at_desk(tmp_path, story)


# --- ours -------------------------------------------------------------------------------------------------------------


def test_ours_goes_to_those_who_offer_it_and_have_a_channel(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        carol, dave = desk.meets(CAROL), desk.meets(DAVE)
        await desk.after(0)
        assert len(carol.last.blob) == MAX_PEER_STORAGE and not dave.sent
        assert KEY.open(carol.last.blob) == desk.backups.latest
        desk.leaves(carol)
        none = Features.of_bits(set(FEATURES.bits()) - {OPTION_PROVIDE_STORAGE.odd})
        desk.changes()
        carol = desk.meets(CAROL, none)
        await desk.after(20)
        assert not carol.sent

    at_desk(tmp_path, story)


def test_ours_is_renewed_and_not_sent_in_vain(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        carol = desk.meets(CAROL)
        await desk.after(0)
        for _ in range(5):
            desk.changes()
            await desk.after(1)
        await desk.after(10)
        assert [KEY.open(m.blob).generation for m in carol.sent] == [5, 10]
        held = carol.last.blob
        desk.leaves(carol)
        desk.boxes = Desk(desk.journal, generation=10).boxes
        carol = desk.meets(CAROL)
        desk.boxes.returned(carol, PeerStorageRetrieval(blob=held))
        await desk.after(60)
        assert not carol.sent and not desk.boxes.troubles

    at_desk(tmp_path, story)


@pytest.mark.parametrize("lie", ["old", "nothing", "noise", "cut"])
def test_a_peer_that_does_not_keep_it_is_named_and_gets_it_again(tmp_path: Path, lie: str) -> None:
    async def story(desk: Desk) -> None:
        carol = desk.meets(CAROL)
        await desk.after(0)
        old = carol.last.blob
        desk.changes()
        await desk.after(30)
        desk.leaves(carol)
        desk.now += 1000
        carol = desk.meets(CAROL)
        if lie != "nothing":
            blob = {"old": old, "noise": b"nonsense" * 100, "cut": old[:-1]}[lie]
            desk.boxes.returned(carol, PeerStorageRetrieval(blob=blob))
        await desk.after(60)
        assert KEY.open(carol.last.blob).generation == 6
        assert len(desk.boxes.warnings()) == 1 and not desk.behind and not desk.brought
        desk.leaves(carol)
        desk.boxes.returned(desk.meets(CAROL), PeerStorageRetrieval(blob=carol.last.blob))
        assert not desk.boxes.warnings()

    at_desk(tmp_path, story)


def test_nonsense_a_hundred_times_is_one_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(desk: Desk) -> None:
        carol = desk.meets(CAROL)
        await desk.after(0)
        for _ in range(100):
            desk.boxes.returned(carol, PeerStorageRetrieval(blob=b"nonsense" * 100))
        assert len(caplog.records) == 1 and len(desk.boxes.warnings()) == 1

    at_desk(tmp_path, story)


def test_a_newer_one_stops_an_old_database(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        newer = KEY.seal(backup(9), bytes(32), MAX_PEER_STORAGE)
        desk.boxes.returned(desk.meets(CAROL), PeerStorageRetrieval(blob=newer))
        assert "older than the backup that" in str(desk.behind[0]) and not desk.brought

    at_desk(tmp_path, story)


def test_who_recovers_takes_what_is_news(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.recovers = True
        old = KEY.seal(backup(2), bytes(32), MAX_PEER_STORAGE)
        desk.boxes.returned(desk.meets(CAROL), PeerStorageRetrieval(blob=old))
        assert desk.brought == [old] and not desk.behind
        empty = KEY.seal(backup(7, channels=0), bytes(32), MAX_PEER_STORAGE)
        desk.boxes.returned(desk.meets(CAROL), PeerStorageRetrieval(blob=empty))
        assert desk.brought == [old] and not desk.behind

    at_desk(tmp_path, story)


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        many = backup(5, channels=30)
        desk.backups.latest = many
        sealed, left_out = KEY.seal_most(many, bytes(32), 1500)
        assert len(sealed) == 1500 and 0 < left_out < 30
        assert len(KEY.open(sealed).channels) == 30 - left_out
        assert KEY.seal_most(many, bytes(32), MAX_PEER_STORAGE)[1] == 0
        desk.meets(CAROL)
        await desk.after(0)
        assert not desk.boxes.warnings()

    at_desk(tmp_path, story)


# --- together ---------------------------------------------------------------------------------------------------------


def test_words_alone_bring_a_channel_home(tmp_path: Path) -> None:
    world = make_world(tmp_path, 5)
    alice, bob = world.machines
    offered = watch_offers(world)

    async def story() -> None:
        await share_channel(world, alice, bob)
        await pay(alice, bob, 100_000)
        await asyncio.sleep(30)
        bob.config.backup_copies[0].unlink()  # the peer's box is all that is left
        await lose_disk(bob)
        recover(bob, None)
        await up(world)
        await connect(alice, bob)
        await asyncio.sleep(30)
        await up(world)
        await mine(world, 12)
        assert owned(bob) > 400_000 - MARGIN
        assert not commitments_of(bob, offered)

    world.run(story())
    assert not world.problems
