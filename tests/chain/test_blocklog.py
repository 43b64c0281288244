"""The devnet's log against torn writes and damage."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salama.chain.devnet.blocklog import MAGIC, BlockLog, DamagedLog, Kind, LogRecord


def written(path: Path, payloads: list[bytes]) -> list[int]:
    path.unlink(missing_ok=True)
    log = BlockLog(path)
    assert list(log.replay()) == []
    offsets = [log.append(Kind.BLOCK if len(p) % 2 else Kind.MEMPOOL_TX, p) for p in payloads]
    log.close()
    return offsets


def read(path: Path) -> list[LogRecord]:
    log = BlockLog(path)
    try:
        return list(log.replay())
    finally:
        log.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payloads=st.lists(st.binary(max_size=300), max_size=6), data=st.data())
def test_a_log_cut_anywhere_keeps_every_whole_record(
    tmp_path: Path, payloads: list[bytes], data: st.DataObject
) -> None:
    path = tmp_path / "log"
    offsets = written(path, payloads)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = [p for p, offset in zip(payloads, offsets, strict=True) if offset + len(p) + 4 <= cut]
    assert [record.payload for record in read(path)] == kept
    # What is left is a log that can be written on.
    log = BlockLog(path)
    assert [record.payload for record in log.replay()] == kept
    offset = log.append(Kind.INVALIDATED, b"x" * 32)
    assert log.read(offset, 32) == b"x" * 32
    log.close()
    assert [record.payload for record in read(path)] == [*kept, b"x" * 32]


def test_large_records_and_offsets(tmp_path: Path) -> None:
    big = bytes(range(256)) * 12_000
    (first, second) = written(tmp_path / "log", [b"small", big])
    log = BlockLog(tmp_path / "log")
    records = list(log.replay())
    assert [(r.kind, r.offset, len(r.payload)) for r in records] == [
        (Kind.BLOCK, first, 5),
        (Kind.MEMPOOL_TX, second, len(big)),
    ]
    assert log.read(second, len(big)) == big
    with pytest.raises(DamagedLog):
        log.read(second, len(big) + 5)
    log.close()


@pytest.mark.parametrize("at", [len(MAGIC) + 5, len(MAGIC) + 9])
def test_damage_before_the_last_record_is_reported(tmp_path: Path, at: int) -> None:
    path = tmp_path / "log"
    written(path, [b"first record", b"second record"])
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedLog, match="checksum"):
        read(path)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"something else, longer than any magic")
    with pytest.raises(DamagedLog, match="not a devnet block log"):
        BlockLog(path)
    assert path.read_bytes().startswith(b"something else")


def test_an_impossible_length_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(MAGIC + b"\xff\xff\xff\xff\x01" + bytes(50))
    with pytest.raises(DamagedLog, match="length"):
        read(path)
