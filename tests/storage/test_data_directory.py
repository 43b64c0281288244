"""The lock, the modes of files, and directories that cannot be used."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from salama.storage.database import DATABASE_NAME
from salama.storage.directory import LOCK_NAME, DirectoryLock
from salama.storage.errors import DataDirectoryInUse, DataDirectoryUnusable
from salama.storage.journal import Journal
from salama.storage.writes import PutKeyValue


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("open_umask")
def test_everything_is_private_whatever_the_umask(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "node"
    with Journal.open(directory) as journal:
        journal.commit_now([PutKeyValue("k", b"1")])
        assert mode(directory) == 0o700
        names = {path.name for path in directory.iterdir()}
        assert names >= {LOCK_NAME, DATABASE_NAME, f"{DATABASE_NAME}-wal"}
        assert {name: mode(directory / name) for name in names} == dict.fromkeys(names, 0o600)


def test_a_database_that_others_could_read_is_tightened(tmp_path: Path) -> None:
    Journal.open(tmp_path).close()
    (tmp_path / DATABASE_NAME).chmod(0o644)
    Journal.open(tmp_path).close()
    assert mode(tmp_path / DATABASE_NAME) == 0o600


def test_the_lock_is_exclusive_and_given_back(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path), pytest.raises(DataDirectoryInUse, match=f"process {os.getpid()}"):
        Journal.open(tmp_path)
    with Journal.open(tmp_path), pytest.raises(DataDirectoryInUse):
        DirectoryLock(tmp_path)
    lock = DirectoryLock(tmp_path)
    lock.release()
    lock.release()


def test_a_lock_is_given_back_when_the_database_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).mkdir()
    with pytest.raises(DataDirectoryUnusable):
        Journal.open(tmp_path)
    DirectoryLock(tmp_path).release()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataDirectoryUnusable, match="cannot be used as a data directory"):
            Journal.open(directory)
