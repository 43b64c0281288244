"""What a node makes of backups that it finds at its start, and of a disk that fails while one is written (J1, J2)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from salama.base.machine import CommandRefused
from salama.bitcoin.networks import REGTEST
from salama.crypto.seeds import ExtendedKey
from salama.node.backup import Backups, DatabaseBehind
from salama.node.config import Config
from salama.node.outside import Outside
from salama.signer.local import LocalSigner
from salama.storage.backup import BACKUP_NAME, BackupKey, BackupNotWritten, read_backup
from salama.storage.journal import Journal
from salama.wallet.coins import new_wallet
from salama.wallet.keys import Accounts

SEED, OTHER = bytes(range(32)), bytes(range(1, 33))


def on(directory: Path, work: Callable[[Backups], Awaitable[None]], seed: bytes = SEED) -> None:
    """Do something with the backups of a node without channels, whose disk is ``directory``."""
    config = Config(directory=directory, network=REGTEST, bitcoind="")
    key, node_id = BackupKey.of_seed(seed), LocalSigner(seed).node_id
    wallet = new_wallet(Accounts.of_master(ExtendedKey.of_seed(seed), REGTEST))

    async def run() -> None:
        with Journal.open(directory) as journal:
            await work(Backups(config, key, node_id, journal, lambda: wallet, list, lambda peer: (), Outside()))

    asyncio.run(run())


async def start(backups: Backups) -> None:
    backups.check()
    await backups.renew(again=True)


def test_a_database_that_is_older_than_the_backup_does_not_start(tmp_path: Path) -> None:
    """Somebody has put an old copy of the directory back: its states are revoked."""
    now, old = tmp_path / "now", tmp_path / "old"
    on(now, start)
    on(old, start)
    on(now, start)
    (old / BACKUP_NAME).write_bytes((now / BACKUP_NAME).read_bytes())
    with pytest.raises(DatabaseBehind) as refused:
        on(old, start)
    assert str(old / BACKUP_NAME) in str(refused.value)
    assert read_backup(old / BACKUP_NAME, BackupKey.of_seed(SEED)).generation == 2


def test_the_backup_of_another_node_is_not_overwritten(tmp_path: Path) -> None:
    mine, foreign = tmp_path / "mine", tmp_path / "foreign"
    on(foreign, start, OTHER)
    sealed = (foreign / BACKUP_NAME).read_bytes()
    mine.mkdir()
    (mine / BACKUP_NAME).write_bytes(sealed)
    with pytest.raises(CommandRefused) as refused:
        on(mine, start)
    assert refused.value.code == "foreign_backup"
    assert (mine / BACKUP_NAME).read_bytes() == sealed


def test_a_disk_that_fails_in_the_middle_leaves_the_old_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(tmp_path, start)
    before = (tmp_path / BACKUP_NAME).read_bytes()

    async def fails(backups: Backups) -> None:
        backups.check()
        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(BackupNotWritten, match="the node has to stop"):
            await backups.renew(again=True)
        monkeypatch.undo()

    on(tmp_path, fails)
    assert (tmp_path / BACKUP_NAME).read_bytes() == before
    on(tmp_path, start)
    assert read_backup(tmp_path / BACKUP_NAME, BackupKey.of_seed(SEED)).generation == 3


def refuse(descriptor: int) -> None:
    raise OSError(28, "No space left on device")
