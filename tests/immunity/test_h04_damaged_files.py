"""H4 a damaged file of our own (LDK #4712)

What failed: a length read from a corrupted file was believed, and the node asked for all the memory there is.

Defence: no length in a file decides how much is read. The settings file is read up to a bound and then parsed
(node/config.py:read_file); the seed is a text of known size (node/seed.py); a database is checked for its header before
SQLite sees it (storage/database.py:open_writer), and every stored record has a checksum and is decoded with bounds
(storage/layouts.py, storage/records.py); a backup is opened by its seal before a byte of it is believed, and unpacked
up to a bound (storage/backup.py:BackupKey.open).

Not covered: a database that SQLite reads without complaint but whose rows somebody changed by hand.
"""

from __future__ import annotations

import random
import resource
import sys
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "payments"))

from payment_world import invoice

from salama.base.machine import CommandRefused
from salama.node.config import load_config
from salama.node.seed import load_or_make_seed
from salama.storage import queries
from salama.storage.backup import MAX_SEALED, BackupKey, BackupUnusable, read_backup
from salama.storage.database import DATABASE_NAME
from salama.storage.errors import StorageFault
from salama.storage.journal import Journal
from salama.storage.writes import INVOICE, PutChannel
from salama.testing.pair import Pair

quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
junk = st.one_of(
    st.binary(max_size=4000),
    st.binary(max_size=200).map(lambda tail: b"SQLite format 3\x00" + tail),
    st.text(max_size=500).map(lambda text: text.encode("utf-8", "replace")),
)


BACKUP_KEY = BackupKey.of_seed(bytes(range(32)))


def peak() -> int:
    """Most memory this process ever had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@quick
@given(content=junk)
def test_h4_any_bytes_as_settings(tmp_path: Path, content: bytes) -> None:
    before = peak()
    (tmp_path / "salama.toml").write_bytes(content)
    try:
        load_config("regtest", tmp_path)
    except CommandRefused as refused:
        assert refused.reason.isprintable()
        assert "salama.toml" in refused.reason
    assert peak() - before < 64 << 10


@quick
@given(content=junk)
def test_h4_any_bytes_as_a_seed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "seed.words").write_bytes(content)
    with pytest.raises(CommandRefused) as refused:
        load_or_make_seed(tmp_path)
    assert refused.value.code in ("bad_seed", "seed_locked", "wrong_passphrase")
    assert (tmp_path / "seed.words").read_bytes() == content


@quick
@given(content=junk.filter(bool))
def test_h4_any_bytes_as_a_database(tmp_path: Path, content: bytes) -> None:
    before = peak()
    for path in tmp_path.glob(f"{DATABASE_NAME}*"):
        path.unlink()
    (tmp_path / DATABASE_NAME).write_bytes(content)
    with pytest.raises(StorageFault):
        Journal.open(tmp_path).close()
    assert (tmp_path / DATABASE_NAME).read_bytes() == content
    assert peak() - before < 64 << 10


@quick
@given(content=junk | st.binary(max_size=300).map(lambda tail: b"SALBAK\x01" + BACKUP_KEY.fingerprint + tail))
def test_h4_any_bytes_as_a_backup(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "channels.backup"
    path.write_bytes(content)
    with pytest.raises(BackupUnusable) as refused:
        read_backup(path, BACKUP_KEY)
    assert str(refused.value).isprintable()


def test_h4_a_backup_of_any_size(tmp_path: Path) -> None:
    """It takes no place on the disk, and would take as much memory as it says."""
    path = tmp_path / "channels.backup"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    before = peak()
    with pytest.raises(BackupUnusable, match="too long"):
        read_backup(path, BACKUP_KEY)
    assert peak() - before < 64 << 10 and MAX_SEALED < 1 << 30


@pytest.mark.parametrize("seed", [0, 2, 5, 14])
def test_h4_a_damaged_database_is_a_clean_error(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    pair = Pair.opened()
    with Journal.open(tmp_path) as journal:
        journal.commit_now([PutChannel(None, pair.alice.record)])
        path = journal.path
    data = bytearray(path.read_bytes())
    for _ in range(40):
        data[dice.randrange(len(data))] = dice.randrange(256)
    path.write_bytes(bytes(data))
    try:
        with Journal.open(tmp_path) as journal:
            journal.read_now(queries.open_channels)
    except StorageFault as fault:
        assert str(fault)


def test_h4_lengths_that_lie_allocate_nothing() -> None:
    """Every field of a record claims to be enormous, one after the other; also where the checksum says that it is."""
    good = INVOICE.encode(invoice())
    dice = random.Random(4)
    tracemalloc.start()
    refused = unread = 0
    for _ in range(300):
        bad = bytearray(good)
        at = dice.randrange(len(bad) - 8)
        bad[at : at + 5] = dice.choice([b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff"])
        try:
            INVOICE.decode(bytes(bad))
        except StorageFault:
            refused += 1
        body = bytes(bad[:-4])
        try:
            INVOICE.decode(body + zlib.crc32(body).to_bytes(4, "big"))
        except StorageFault as fault:
            assert "checksum" not in str(fault)
            unread += 1
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused == 300 and unread > 30 and most < 20_000_000
