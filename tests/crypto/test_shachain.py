"""Per-commitment secrets: the BOLT's figures, and the store against a plain dictionary (B3.11)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.crypto.shachain import (
    FIRST_INDEX,
    INDEX_BITS,
    InconsistentSecret,
    ShachainStore,
    branch_at,
    secret_at,
    secret_below,
)

VECTORS = Path(__file__).parents[1] / "vectors"
GENERATION = json.loads((VECTORS / "bolt03-shachain-generation.json").read_text())["cases"]
STORAGE = json.loads((VECTORS / "bolt03-shachain-storage.json").read_text())["cases"]
SEED = bytes(range(32))


@pytest.mark.parametrize("case", GENERATION, ids=lambda case: case["name"])
def test_generation(case: dict[str, Any]) -> None:
    seed, index = bytes.fromhex(case["given"]["seed"]), case["given"]["index"]
    assert secret_at(seed, index).hex() == case["expect"]["secret"]


@pytest.mark.parametrize("case", STORAGE, ids=lambda case: case["name"])
def test_storage(case: dict[str, Any]) -> None:
    store = ShachainStore()
    for entry, result in zip(case["given"]["inserts"], case["expect"]["results"], strict=True):
        secret = bytes.fromhex(entry["secret"])
        if result.get("valid"):
            store = store.insert(entry["index"], secret)
            assert store.secret_at(entry["index"]) == secret
        else:
            with pytest.raises(InconsistentSecret):
                store.insert(entry["index"], secret)


def filled(count: int, seed: bytes = SEED) -> ShachainStore:
    store = ShachainStore()
    for index in range(FIRST_INDEX, FIRST_INDEX - count, -1):
        store = store.insert(index, secret_at(seed, index))
    return store


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 300), st.data())
def test_the_store_knows_all_it_was_told_and_nothing_else(count: int, data: st.DataObject) -> None:
    store = filled(count)
    assert len(store.buckets) == count.bit_length()
    for index in range(FIRST_INDEX, FIRST_INDEX - count, -1):
        assert store.secret_at(index) == secret_at(SEED, index)
    assert store.secret_at(FIRST_INDEX - count) is None
    assert store.secret_at(FIRST_INDEX + 1) is None
    assert store.secret_at(-1) is None
    assert ShachainStore.decode(store.encode()) == store

    index = FIRST_INDEX - count
    assert store.next_index == index
    wrong_turn = data.draw(st.sampled_from([index - 1, index + 1, -1, FIRST_INDEX + 1]))
    with pytest.raises(InconsistentSecret):
        store.insert(wrong_turn, secret_at(SEED, max(0, min(wrong_turn, FIRST_INDEX))))
    with pytest.raises(InconsistentSecret):
        store.insert(index, b"\x00" * 31)
    if not index & 1:
        with pytest.raises(InconsistentSecret):
            store.insert(index, secret_at(bytes(32), index))


def test_the_last_secrets_of_all() -> None:
    """A store just before its end: bucket 48 holds index 0, which yields every other secret."""
    lowest = 1
    buckets = tuple(secret_at(SEED, (lowest + (1 << bucket) - 1 >> bucket | 1) << bucket) for bucket in range(48))
    store = ShachainStore(lowest, buckets)
    assert store.secret_at(1) == secret_at(SEED, 1)
    assert store.secret_at(12345) == secret_at(SEED, 12345)
    assert store.secret_at(FIRST_INDEX) == secret_at(SEED, FIRST_INDEX)
    full = store.insert(0, SEED)
    assert full.secret_at(0) == SEED
    assert full.secret_at(2**47 + 12) == secret_at(SEED, 2**47 + 12)
    assert full.next_index is None
    assert ShachainStore.decode(full.encode()) == full
    with pytest.raises(InconsistentSecret):
        full.insert(-1, SEED)
    with pytest.raises(InconsistentSecret):
        store.insert(0, bytes(32))


@given(st.binary(max_size=120))
def test_decoding_garbage(data: bytes) -> None:
    try:
        store = ShachainStore.decode(data)
    except ValueError:
        return
    assert store.encode() == data


def test_bounds_of_generation_and_silence_of_the_store() -> None:
    for seed, index in ((bytes(31), 0), (bytes(32), -1), (bytes(32), FIRST_INDEX + 1)):
        with pytest.raises(ValueError):
            secret_at(seed, index)
    assert secret_at(SEED, FIRST_INDEX).hex() not in repr(filled(1))
    assert "buckets" not in repr(filled(1))


@given(st.integers(0, FIRST_INDEX), st.integers(0, INDEX_BITS))
def test_a_branch_yields_what_the_seed_yields(index: int, bits: int) -> None:
    assert secret_below(branch_at(SEED, index, bits), bits, index) == secret_at(SEED, index)
