"""The static backup: sealed, whole, and nothing but a clear sentence for any other bytes (immunity J1, J2)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salama.base.units import BlockHeight
from salama.channel.backup import ChannelBackup, backup_of
from salama.storage.backup import (
    FILE_STEP,
    MAX_SEALED,
    BackupKey,
    BackupUnusable,
    StaticBackup,
    read_backup,
    write_backup,
)
from salama.testing.pair import CHAIN, Pair

KEY = BackupKey.of_seed(bytes(range(32)))
SALT = bytes(range(100, 132))


def a_backup(channels: int = 1) -> StaticBackup:
    pair = Pair.opened()
    one = backup_of(pair.alice.record, ("10.0.0.1:9735", "[::1]:9735"))
    kept: tuple[ChannelBackup, ...] = tuple(replace(one, key_index=n) for n in range(channels))
    return StaticBackup(7, 1_700_000_000, pair.alice.signer.node_id, CHAIN, BlockHeight(5), {("wpkh", 0): 3}, kept)


BACKUP = a_backup()
SEALED = KEY.seal(BACKUP, SALT)


def test_it_comes_back_as_it_was() -> None:
    assert KEY.open(SEALED) == BACKUP
    assert KEY.open(KEY.seal(a_backup(40), SALT)) == a_backup(40)


def test_neither_size_nor_content_shows() -> None:
    assert len(SEALED) % FILE_STEP == 0
    assert len(KEY.seal(replace(BACKUP, channels=()), SALT)) == len(SEALED)
    assert bytes(BACKUP.channels[0].peer) not in SEALED and b"10.0.0.1" not in SEALED
    assert len(KEY.seal(BACKUP, SALT, 65531)) == 65531
    with pytest.raises(ValueError, match="does not fit"):
        KEY.seal(BACKUP, SALT, 100)


def test_the_key_is_not_shown() -> None:
    assert KEY.secret.hex() not in repr(KEY) and repr(KEY.secret) not in repr(KEY)


def test_every_bit_counts() -> None:
    for at in range(0, len(SEALED) * 8, 7):
        flipped = bytearray(SEALED)
        flipped[at // 8] ^= 1 << at % 8
        with pytest.raises(BackupUnusable):
            KEY.open(bytes(flipped))


def test_every_truncation_is_named() -> None:
    for length in (*range(120), *range(120, len(SEALED), 97), len(SEALED) - 1):
        with pytest.raises(BackupUnusable):
            KEY.open(SEALED[:length])
    with pytest.raises(BackupUnusable):
        KEY.open(SEALED + b"\x00")


@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda tail: SEALED[:43] + tail))
def test_bytes_of_strangers(data: bytes) -> None:
    with pytest.raises(BackupUnusable):
        KEY.open(data)


def test_the_sentence_says_what_is_wrong() -> None:
    with pytest.raises(BackupUnusable, match="other words"):
        BackupKey.of_seed(bytes(32)).open(SEALED)
    with pytest.raises(BackupUnusable, match="version 9"):
        KEY.open(SEALED[:6] + b"\x09" + SEALED[7:])
    with pytest.raises(BackupUnusable, match="damaged or cut off"):
        KEY.open(SEALED[:-1])
    with pytest.raises(BackupUnusable, match="does not begin"):
        KEY.open(b"SQLite format 3\x00" + bytes(5000))


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "channels.backup"
    write_backup(path, SEALED)
    write_backup(path, KEY.seal(replace(BACKUP, generation=8), SALT))
    assert read_backup(path, KEY).generation == 8
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_a_crash_left_half_written_is_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "channels.backup"
    write_backup(path, SEALED)
    path.with_name(path.name + ".new").write_bytes(SEALED[:1000])
    assert read_backup(path, KEY) == BACKUP
    write_backup(path, SEALED)
    assert read_backup(path, KEY) == BACKUP


def test_the_old_one_stands_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "channels.backup"
    write_backup(path, SEALED)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_backup(path, KEY.seal(replace(BACKUP, generation=8), SALT))
    assert read_backup(path, KEY) == BACKUP


def test_a_giant_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "giant"
    with path.open("wb") as file:
        file.truncate(MAX_SEALED + 1)
    with pytest.raises(BackupUnusable, match="too long"):
        read_backup(path, KEY)
