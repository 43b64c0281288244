"""Whether a backup would bring a node back: it is restored into a place that is thrown away, and looked at there."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from salama.base.ids import BlockHash
from salama.base.machine import CommandRefused
from salama.bitcoin.networks import NETWORKS, Network
from salama.channel.state import ChannelRecord
from salama.node.backup import GENERATION
from salama.node.recover import prepare
from salama.signer.local import LocalSigner
from salama.signer.wallet import WalletKeys
from salama.storage import queries
from salama.storage.backup import BackupKey, StaticBackup
from salama.storage.database import DATABASE_NAME, open_reader
from salama.storage.journal import Journal

DAY = 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class RestoredChannel:
    """One channel as the backup brought it back."""

    channel_id: str
    peer: str
    addresses: tuple[str, ...]
    capacity_sat: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came back, and what would be missing."""

    generation: int
    age: int
    """Seconds."""
    channels: tuple[RestoredChannel, ...]
    keys_issued: int
    """Of the wallet: as many addresses are looked for."""
    compared: bool
    """With the database of this node."""
    missing: tuple[str, ...]
    """Sentences; empty if all would come back."""

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "ok": not self.missing}

    def lines(self) -> list[str]:
        """For a person."""
        peers = {one.peer for one in self.channels}
        total = sum(one.capacity_sat for one in self.channels)
        found = [
            f"Generation {self.generation}, made {_ago(self.age)} ago.",
            f"Restored: {len(self.channels)} channels over {total:,} sat with {len(peers)} peers; {self.keys_issued}"
            " addresses of the wallet.",
        ]
        found += [
            f"  {one.channel_id[:16]}  {one.capacity_sat:>14,} sat  {one.peer[:16]}@{', '.join(one.addresses) or '?'}"
            for one in self.channels
        ]
        found += self.missing
        if not self.missing:
            found.append("Nothing would be missing." if self.compared else "Not compared: there is no database here.")
        return found


def verify_backup(sealed: bytes, seed: bytes, network: str, directory: Path | None) -> Verdict:
    """Restore ``sealed`` with ``seed`` (16 to 64 bytes) and compare it with the database of ``directory``, if any.

    Raises BackupUnusable, CommandRefused, StorageFault. Not to be called from an event loop.
    """
    if network not in NETWORKS:
        raise CommandRefused("bad_network", f"There is no network {network[:40]!r}.")
    backup = BackupKey.of_seed(seed).open(sealed)
    records = _restored(backup, seed, NETWORKS[network])
    addresses = {one.channel_id: one.addresses for one in backup.channels}
    channels = tuple(
        RestoredChannel(
            str(record.channel_id),
            str(record.params.their_node_id),
            addresses[record.channel_id],
            int(record.funding.capacity),
        )
        for record in records
    )
    missing = [
        f"Nobody knows where {peer} is: write its address down elsewhere."
        for peer in sorted({one.peer for one in channels if not one.addresses})
    ]
    compared = directory is not None and (directory / DATABASE_NAME).exists()
    if compared:
        assert directory is not None
        missing += _behind(directory / DATABASE_NAME, backup)
    return Verdict(
        backup.generation,
        max(0, int(time.time()) - backup.made_at),
        channels,
        sum(backup.branches.values()),
        compared,
        tuple(missing),
    )


def _restored(backup: StaticBackup, seed: bytes, network: Network) -> list[ChannelRecord]:
    """By the same steps as a recovery, in a directory of its own; where the chain is not asked."""

    async def any_hash(height: int) -> BlockHash:
        return BlockHash(bytes(32))

    with tempfile.TemporaryDirectory(prefix="salama-verify-") as place, Journal.open(Path(place)) as journal:
        signer, keys = LocalSigner(seed), WalletKeys(seed, network)
        asyncio.run(prepare(journal, signer, keys, network, backup, any_hash, secrets.randbelow, int(time.time())))
        return journal.read_now(queries.open_channels)


def _behind(path: Path, backup: StaticBackup) -> Iterable[str]:
    """What the database knows and the backup does not."""
    database = open_reader(path)
    try:
        records = queries.open_channels(database)
        generation = queries.number(database, GENERATION)
    except sqlite3.Error as fault:
        return [f"{path} cannot be read to compare: {fault}."]
    finally:
        database.close()
    known = {one.channel_id for one in backup.channels}
    found = [
        f"Channel {record.channel_id} over {int(record.funding.capacity):,} sat is not in it."
        for record in records
        if record.channel_id not in known
    ]
    if generation > backup.generation and not found:
        gone = len(known - {record.channel_id for record in records})
        if gone:
            found.append(f"It is older than the database: {gone} of its channels are closed since.")
    return found


def _ago(seconds: int) -> str:
    if seconds >= 2 * DAY:
        return f"{seconds // DAY} days"
    return f"{seconds // 3600} hours" if seconds >= 2 * 3600 else f"{seconds // 60} minutes"
