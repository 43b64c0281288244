"""A small sealed box of every peer's that has a channel with us, and ours with each of them (BOLT 1, B1.10; J1, J5).

What a peer gives is on disk before it can be given back, replaced at most once a minute, and kept for 2016 blocks after
its last channel. What we give is our static backup, sealed. Whoever gives back a newer one than our database reaches
tells us that the database is old: then the node stops. A node that is being recovered takes such a box as its backup.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from salama.base.ids import NodeId
from salama.base.units import BlockHeight
from salama.node.backup import Backups, DatabaseBehind
from salama.node.outside import Outside
from salama.node.peers import Peer, short
from salama.storage import queries
from salama.storage.backup import BackupUnusable, StaticBackup
from salama.storage.journal import Journal
from salama.storage.tables import GIVEN_BACKUPS, KEPT_BLOBS
from salama.storage.writes import AnyWrite, DeleteRecord, MarkAlone, PutRecord
from salama.wire import PeerStorage, PeerStorageRetrieval
from salama.wire.features import OPTION_PROVIDE_STORAGE
from salama.wire.setup import MAX_PEER_STORAGE

log = logging.getLogger("salama.backup")

KEEP_BLOCKS: Final = 2016
"""For so long a box outlives the last channel with its owner."""
STORE_SECONDS: Final = 60.0
"""Between two writes of one peer's box: in between only the latest is remembered."""
GIVE_SECONDS: Final = 10.0
"""Between two boxes that we give to one peer."""
RETURN_SECONDS: Final = 30.0
"""For a peer that has our box to give it back after a connection."""
SETTLED_SECONDS: Final = 120
"""After which a peer should have put down what we gave it."""


class PeerBoxes:
    """The boxes of this node and of its peers. ``tick`` it every second or so."""

    def __init__(
        self,
        journal: Journal,
        backups: Backups,
        connected: Callable[[], Mapping[NodeId, Peer]],
        has_channel: Callable[[NodeId], bool],
        outside: Outside,
        *,
        is_recovering: Callable[[], bool],
        on_brought: Callable[[bytes], None],
        on_behind: Callable[[DatabaseBehind], None],
    ) -> None:
        """``on_brought`` takes a sealed backup that knows channels which we do not; ``on_behind`` stops the node."""
        self._journal, self._backups, self._outside = journal, backups, outside
        self._connected, self._has_channel, self._is_recovering = connected, has_channel, is_recovering
        self._on_brought, self._on_behind = on_brought, on_behind
        self._alone_since: dict[NodeId, int] = dict(journal.read_now(queries.kept_blobs))
        """Owners of boxes here, and the block since which they have no channel; 0 while they have one."""
        self._waiting: dict[NodeId, bytes] = {}
        self._stored_at: dict[NodeId, float] = {}
        self._given: dict[NodeId, tuple[int, int]] = journal.read_now(queries.given_backups)
        """Generation and unix seconds of what we gave last."""
        self._to_give: set[NodeId] = set()
        self._gave_at: dict[NodeId, float] = {}
        self._expected: dict[NodeId, float] = {}
        """Who should give our box back, and until when."""
        self.troubles: dict[NodeId, str] = {}
        """What is wrong with the box that a peer keeps for us, in words."""
        self.left_out = 0
        """Channels that did not fit into what we gave last."""
        backups.on_change = self.changed

    # --- theirs -------------------------------------------------------------------------------------------------------

    def received(self, peer: Peer, message: PeerStorage) -> None:
        """A peer asks us to keep a box in place of its last one. Strangers are not served."""
        if not self._has_channel(peer.node_id):
            log.debug("%s: a box of a stranger is not kept", short(peer.node_id))
            return
        self._waiting[peer.node_id] = message.blob

    def kept_for(self, node_id: NodeId) -> bytes | None:
        """What lies on disk for a peer."""
        if node_id not in self._alone_since:
            return None
        return self._journal.look_up(lambda db: queries.kept_blob(db, node_id))

    def block_connected(self, height: BlockHeight) -> list[AnyWrite]:
        """What to write after a block: boxes whose owners left long ago go."""
        writes: list[AnyWrite] = []
        for node_id, since in list(self._alone_since.items()):
            alone = 0 if self._has_channel(node_id) else since or int(height)
            if alone and int(height) - alone > KEEP_BLOCKS:
                del self._alone_since[node_id]
                writes.append(DeleteRecord(KEPT_BLOBS, (bytes(node_id),)))
            elif alone != since:
                self._alone_since[node_id] = alone
                writes.append(MarkAlone(node_id, alone))
        return writes

    async def _store(self) -> None:
        now = self._outside.monotonic()
        due = [node_id for node_id in self._waiting if now - self._stored_at.get(node_id, -1e9) >= STORE_SECONDS]
        if not due:
            return
        boxes = {node_id: self._waiting.pop(node_id) for node_id in due}
        self._stored_at.update(dict.fromkeys(due, now))
        at = int(self._outside.now())
        await self._journal.commit(
            [PutRecord(KEPT_BLOBS, (bytes(node_id), at, 0, blob)) for node_id, blob in boxes.items()]
        )
        self._alone_since.update(dict.fromkeys(boxes, 0))

    # --- ours ---------------------------------------------------------------------------------------------------------

    def peer_ready(self, peer: Peer) -> None:
        """Give a peer its box back, before anything is said of channels; and see to it that it has ours."""
        node_id = peer.node_id
        if (blob := self.kept_for(node_id)) is not None:
            peer.send(PeerStorageRetrieval(blob=blob))
        generation, _ = self._given.get(node_id, (-1, 0))
        if generation == self._backups.generation:
            self._expected[node_id] = self._outside.monotonic() + RETURN_SECONDS
        else:
            self._to_give.add(node_id)

    def peer_gone(self, peer: Peer) -> None:
        self._expected.pop(peer.node_id, None)
        self._to_give.discard(peer.node_id)

    def changed(self) -> None:
        """There is a new backup: everybody gets it."""
        self._to_give.update(self._connected())

    def returned(self, peer: Peer, message: PeerStorageRetrieval) -> None:
        """A peer gives our box back. It is authentic or it is nothing, but it may be an old one (immunity J5)."""
        node_id = peer.node_id
        self._expected.pop(node_id, None)
        try:
            found = self._backups.key.open(message.blob)
        except BackupUnusable as unusable:
            if node_id in self._given:
                self._trouble(node_id, f"gave back what is not our backup: {unusable.reason}")
                self._to_give.add(node_id)
            return
        if self._is_recovering():
            if self._knows_more(found):
                log.warning("%s brought a backup of %d channels", short(node_id), len(found.channels))
                self._on_brought(message.blob)
        elif found.generation > self._backups.generation:
            where = f"the backup that {short(node_id)} keeps for us"
            self._on_behind(DatabaseBehind(where, found.generation, self._backups.generation))
            return
        self._compare(node_id, found)

    def _compare(self, node_id: NodeId, found: StaticBackup) -> None:
        generation, at = self._given.get(node_id, (-1, 0))
        if found.generation == self._backups.generation:
            self.troubles.pop(node_id, None)
            return
        self._to_give.add(node_id)
        if found.generation < generation and self._outside.now() - at > SETTLED_SECONDS:
            self._trouble(node_id, f"gave back an old backup (generation {found.generation}, it had {generation})")

    def _knows_more(self, found: StaticBackup) -> bool:
        return not self._journal.read_now(
            lambda db: all(queries.has_channel(db, one.channel_id) for one in found.channels)
        )

    def _trouble(self, node_id: NodeId, words: str) -> None:
        if node_id not in self.troubles:  # a peer may send nonsense again and again
            log.error("%s %s", short(node_id), words)
        self.troubles[node_id] = words

    async def tick(self) -> None:
        """What is due: boxes of peers to the disk, ours to the peers."""
        await self._store()
        now = self._outside.monotonic()
        for node_id in [one for one, until in self._expected.items() if now >= until]:
            del self._expected[node_id]
            self._trouble(node_id, "does not give our backup back")
            self._to_give.add(node_id)
        for node_id in sorted(self._to_give):  # a set has another order in every process
            if now - self._gave_at.get(node_id, -1e9) >= GIVE_SECONDS:
                self._to_give.discard(node_id)
                await self._give(node_id, now)

    async def _give(self, node_id: NodeId, now: float) -> None:
        peer, latest = self._connected().get(node_id), self._backups.latest
        if peer is None or latest is None or not peer.features.has(OPTION_PROVIDE_STORAGE):
            return
        if not self._has_channel(node_id):
            return
        sealed, self.left_out = self._backups.key.seal_most(latest, self._outside.entropy(32), MAX_PEER_STORAGE)
        if self.left_out:
            log.warning("%d channels do not fit into the backup that peers keep", self.left_out)
        self._gave_at[node_id] = now
        given = latest.generation, int(self._outside.now())
        if self._given.get(node_id) != given:
            # Before it is said: whoever has it may one day give it back.
            await self._journal.commit([PutRecord(GIVEN_BACKUPS, (bytes(node_id), *given))])
            self._given[node_id] = given
        peer.send(PeerStorage(blob=sealed))

    def warnings(self) -> list[str]:
        """What a person should look at, in sentences."""
        found = [f"Peer {short(node_id)} {words}." for node_id, words in sorted(self.troubles.items())]
        if self.left_out:
            found.append(f"{self.left_out} channels do not fit into the backup that peers keep; files have them all.")
        return found

    def keepers(self) -> list[tuple[NodeId, int]]:
        """Peers that we gave our backup, and the generation that they should have."""
        return [(node_id, generation) for node_id, (generation, _) in sorted(self._given.items())]
