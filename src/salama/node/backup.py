"""Keeping the static backup: rewritten whenever the set of channels changes, before anything is said of the change
(immunity J1, J2).

A channel's funding is published, or signed for, only after the backup that names the channel is on disk. Copies go to
every place that the setting ``backup_copies`` names; one that cannot be written is told of and tried again at every
block, while the file beside the database must be written or the node stops.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeAlias

from salama.base.ids import BlockHash, NodeId
from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight
from salama.channel.backup import ChannelBackup, backup_of
from salama.channel.state import ChannelRecord, Phase
from salama.node.config import Config
from salama.node.outside import Outside
from salama.storage import queries
from salama.storage.backup import (
    BACKUP_NAME,
    BackupKey,
    BackupNotWritten,
    BackupUnusable,
    OtherWords,
    StaticBackup,
    read_backup,
    write_backup,
)
from salama.storage.errors import StorageFault
from salama.storage.journal import Journal
from salama.storage.writes import PutKeyValue
from salama.wallet.coins import WalletState
from salama.wallet.keys import Kind

log = logging.getLogger("salama.backup")

GENERATION: Final = "backup.generation"
BIRTHDAY: Final = "wallet.birthday"
"""Height of the first block that this wallet saw, 4 bytes."""

Records: TypeAlias = Callable[[], Iterable[ChannelRecord]]


class DatabaseBehind(StorageFault):
    """A backup knows of changes that the database does not: whoever runs on it publishes what is revoked."""

    def __init__(self, where: str, theirs: int, ours: int) -> None:
        self.where, self.theirs, self.ours = where, theirs, ours
        super().__init__(
            f"the database is older than {where} (generation {ours}, there {theirs}): running it could cost every"
            " channel; put the newest database back, or begin with an empty directory and `salama recover`"
        )


def places_of(config: Config) -> tuple[Path, ...]:
    """Where the backup of a node is kept: beside the database first, then its copies."""
    copies = (place / BACKUP_NAME if place.is_dir() else place for place in config.backup_copies)
    return (config.directory / BACKUP_NAME, *copies)


def found_at(places: Iterable[Path], key: BackupKey) -> list[StaticBackup]:
    """Every backup of ours at ``places``; what cannot be read is told of."""
    found = []
    for path in places:
        try:
            found.append(read_backup(path, key))
        except FileNotFoundError:
            continue
        except (BackupUnusable, OSError) as fault:
            log.error("%s: %s", path, fault)
    return found


class Backups:
    """The backup of one node and its copies."""

    def __init__(
        self,
        config: Config,
        key: BackupKey,
        node_id: NodeId,
        journal: Journal,
        wallet: Callable[[], WalletState],
        records: Records,
        announced: Callable[[NodeId], tuple[str, ...]],
        outside: Outside,
    ) -> None:
        self.key, self.journal = key, journal
        self.path, *copies = places_of(config)
        self.copies = tuple(copies)
        self.failed: dict[Path, str] = dict.fromkeys(self.copies, "not written yet")
        """Copies that could not be written, and why."""
        self.latest: StaticBackup | None = None
        self.on_change: Callable[[], None] = lambda: None
        self._node_id, self._chain_hash = node_id, BlockHash(config.network.chain_hash)
        self._wallet, self._records, self._announced, self._outside = wallet, records, announced, outside
        self._lock = asyncio.Lock()
        self.generation = journal.read_now(lambda db: queries.number(db, GENERATION))

    def check(self) -> None:
        """Before anything else: no backup may know more than the database. Raises DatabaseBehind; CommandRefused for
        a file at one of our places that belongs to somebody else.
        """
        for path in (self.path, *self.copies):
            try:
                found = read_backup(path, self.key)
            except FileNotFoundError:
                continue
            except OtherWords as foreign:
                raise CommandRefused(
                    "foreign_backup", f"{path}: {foreign.reason}.", "Move it away: it would be overwritten."
                ) from None
            except (BackupUnusable, OSError) as fault:
                log.error("%s: %s", path, fault)
                continue
            if found.generation > self.generation:
                raise DatabaseBehind(str(path), found.generation, self.generation)
            if found.generation == self.generation:
                self.failed.pop(path, None)
                if path == self.path:
                    self.latest = found

    async def renew(self, *, again: bool = False) -> None:
        """Return once the backup on disk holds every channel of this moment; written ``again`` also if it did before.

        Raises BackupNotWritten, JournalFailed.
        """
        async with self._lock:
            new = self._now()
            if again or self.latest is None or replace(new, made_at=0) != replace(self.latest, made_at=0, generation=0):
                # The number first: a backup may never claim a generation that the database has not reached.
                self.generation += 1
                await self.journal.commit([PutKeyValue(GENERATION, self.generation.to_bytes(8, "big"))])
                new = replace(new, generation=self.generation)
                sealed = self.key.seal(new, self._outside.entropy(32))
                try:
                    await asyncio.to_thread(write_backup, self.path, sealed)
                except OSError as fault:
                    raise BackupNotWritten(self.path, fault.strerror or str(fault)) from None
                self.latest = new
                self.failed = dict.fromkeys(self.copies, "not written yet")
                self.on_change()
            await self._copy()

    def warnings(self) -> list[str]:
        """What a person should look at, in sentences."""
        found = [f"The backup is not at {path}: {why}." for path, why in self.failed.items()]
        if not self.copies:
            found.append("The backup lies on this disk only: name a place on another one in backup_copies.")
        return found

    async def _copy(self) -> None:
        if not self.failed:
            return
        assert self.latest is not None
        sealed = self.key.seal(self.latest, self._outside.entropy(32))
        for path, before in list(self.failed.items()):
            try:
                await asyncio.to_thread(write_backup, path, sealed)
                del self.failed[path]
            except OSError as fault:
                reason = fault.strerror or str(fault)
                self.failed[path] = reason
                if reason != before:
                    log.error("the backup could not be copied to %s: %s", path, reason)

    def _now(self) -> StaticBackup:
        reached = {peer.node_id: peer.addresses for peer in self.journal.read_now(queries.peers)}
        peers = (
            (record, record.params.their_node_id) for record in self._records() if record.phase is not Phase.CLOSED
        )
        kept = (backup_of(record, reached.get(peer) or self._announced(peer)) for record, peer in peers)
        channels = tuple(sorted(kept, key=lambda one: one.channel_id))
        return StaticBackup(
            generation=0,
            made_at=int(self._outside.now()),
            node_id=self._node_id,
            chain_hash=self._chain_hash,
            birthday=BlockHeight(self.journal.read_now(lambda db: queries.number(db, BIRTHDAY))),
            branches=self._branches(channels),
            channels=channels,
        )

    def _branches(self, channels: tuple[ChannelBackup, ...]) -> Mapping[tuple[Kind, int], int]:
        """Counted again with every channel: an address that a search by gap finds need not be known beforehand."""
        if self.latest is not None and {c.channel_id for c in channels} <= {c.channel_id for c in self.latest.channels}:
            return self.latest.branches
        return {name: branch.next_index for name, branch in sorted(self._wallet().branches.items())}
