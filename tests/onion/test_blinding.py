"""Blinded paths: the BOLT's figures, paths that unblind, padding, and fees that never fall short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.crypto import secp256k1
from salama.crypto.hashes import hmac_sha256
from salama.onion.blinding import (
    BlindedDataRefused,
    Relay,
    aggregate,
    amount_to_forward,
    blind_hop,
    blinded_secret,
    make_blinded_path,
    onion_tweak,
    pad_to_equal,
    tweak_onion_key,
    unblind,
)
from salama.onion.sphinx import make_onion, peel

VECTORS = Path(__file__).parents[1] / "vectors"
KEYS = [bytes((n + 1,)) * 32 for n in range(8)]
POINTS = [secp256k1.public_key(key) for key in KEYS]


def cases(name: str, begins: str) -> list[dict[str, Any]]:
    loaded = json.loads((VECTORS / f"{name}.json").read_text())["cases"]
    return [case for case in loaded if case["name"].startswith(begins)]


def text(case: dict[str, Any], key: str) -> bytes:
    return bytes.fromhex(case[key])


@pytest.mark.parametrize("case", cases("bolt04-route-blinding", "blind hop"), ids=lambda case: case["name"])
def test_printed_hops(case: dict[str, Any]) -> None:
    given_, expect = case["given"], case["expect"]
    secret = text(expect, "path_private_key")
    hop, _ = blind_hop(text(given_, "node_id"), text(expect, "encoded_tlvs"), secret)
    assert secp256k1.public_key(secret) == text(expect, "path_key")
    shared = secp256k1.ecdh(secret, text(given_, "node_id"))
    assert shared == text(expect, "shared_secret")
    assert hmac_sha256(b"rho", shared) == text(expect, "rho")
    assert hop.blinded_node_id == text(expect, "blinded_node_id")
    assert hop.encrypted_recipient_data == text(expect, "encrypted_data")


def test_printed_path_joined_of_two() -> None:
    (case,) = cases("bolt04-route-blinding", "joined")
    paths = [
        make_blinded_path(
            [(text(hop, "node_id"), text(hop, "encoded_tlvs")) for hop in segment["hops"]], text(segment, "session_key")
        )
        for segment in case["given"]["segments"]
    ]
    expect = case["expect"]
    assert paths[0].first_node_id == text(expect, "first_node_id")
    assert paths[0].first_path_key == text(expect, "first_path_key")
    hops = [hop for path in paths for hop in path.path]
    assert [(hop.blinded_node_id, hop.encrypted_recipient_data) for hop in hops] == [
        (text(hop, "blinded_node_id"), text(hop, "encrypted_data")) for hop in expect["hops"]
    ]


@pytest.mark.parametrize("case", cases("bolt04-route-blinding", "unblind"), ids=lambda case: case["name"])
def test_printed_unblinding(case: dict[str, Any]) -> None:
    given_, expect = case["given"], case["expect"]
    key, path_key = text(given_, "node_private_key"), text(given_, "path_key")
    shared = secp256k1.ecdh(key, path_key)
    assert blinded_secret(key, shared) == text(expect, "blinded_private_key")
    found = unblind(shared, path_key, text(given_, "encrypted_data"))
    assert found.data == text(expect, "decrypted_data")
    assert found.next_path_key == text(expect, "next_path_key")


@pytest.mark.parametrize("case", cases("bolt04-onion-message", "blind hop"), ids=lambda case: case["name"])
def test_printed_hops_of_an_onion_message(case: dict[str, Any]) -> None:
    given_, expect = case["given"], case["expect"]
    secret, node_id = text(given_, "path_private_key"), None
    for number, alias in enumerate(("alice", "bob", "carol", "dave")):
        if given_["alias"] == alias:
            node_id = secp256k1.public_key(bytes((0x41 + number,)) * 32)
    assert node_id is not None
    hop, next_secret = blind_hop(node_id, text(expect, "encoded_tlvs"), secret)
    assert onion_tweak(text(expect, "shared_secret")) == text(expect, "blinding_factor")
    assert hop.blinded_node_id == text(expect, "blinded_node_id")
    assert hop.encrypted_recipient_data == text(expect, "encrypted_recipient_data")
    assert next_secret == text(expect, "next_path_private_key")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=80), min_size=1, max_size=6), st.integers(1, 2**250))
def test_a_path_leads_an_onion_to_its_end(data: list[bytes], seed: int) -> None:
    path = make_blinded_path(list(zip(POINTS, data, strict=False)), seed.to_bytes(32, "big"))
    assert path.first_node_id == POINTS[0]
    payloads = [b"payload %d" % n for n in range(len(data))]
    ids = [hop.blinded_node_id for hop in path.path]
    packet: bytes | None = make_onion(list(zip(ids, payloads, strict=True)), b"\x33" * 32, b"").packet
    path_key = path.first_path_key
    for key, hop, plain, payload in zip(KEYS, path.path, data, payloads, strict=False):
        shared = secp256k1.ecdh(key, path_key)
        found = unblind(shared, path_key, hop.encrypted_recipient_data)
        assert found.data == plain
        assert packet is not None
        # Either side may be tweaked: the onion's key, or our own.
        peeled = peel(packet, lambda e, k=key, s=shared: secp256k1.ecdh(k, tweak_onion_key(e, s)), b"")
        assert peeled == peel(packet, lambda e, k=key, s=shared: secp256k1.ecdh(blinded_secret(k, s), e), b"")
        assert peeled.payload == payload
        assert secp256k1.public_key(blinded_secret(key, shared)) == hop.blinded_node_id
        packet, path_key = peeled.next_packet, found.next_path_key
    assert packet is None


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=100), st.data())
def test_foreign_or_altered_data_is_refused(junk: bytes, data: st.DataObject) -> None:
    path = make_blinded_path([(POINTS[0], b"one"), (POINTS[1], b"two")], KEYS[5])
    shared = secp256k1.ecdh(KEYS[0], path.first_path_key)
    sealed = bytearray(path.path[0].encrypted_recipient_data)
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    for bad in (junk, bytes(sealed), path.path[1].encrypted_recipient_data):
        with pytest.raises(BlindedDataRefused):
            unblind(shared, path.first_path_key, bad)
    with pytest.raises(BlindedDataRefused):
        unblind(shared, b"\x02" + b"\xff" * 32, path.path[0].encrypted_recipient_data)
    with pytest.raises(secp256k1.InvalidPoint):
        tweak_onion_key(b"\x02" + b"\xff" * 32, shared)


def test_paths_that_cannot_be_made() -> None:
    with pytest.raises(ValueError):
        make_blinded_path([], KEYS[0])
    with pytest.raises(secp256k1.InvalidKey):
        make_blinded_path([(POINTS[0], b"")], bytes(32))
    with pytest.raises(secp256k1.InvalidPoint):
        make_blinded_path([(bytes(33), b"")], KEYS[0])


def test_a_hop_does_not_show_what_it_found() -> None:
    path = make_blinded_path([(POINTS[0], b"very private")], KEYS[5])
    found = unblind(
        secp256k1.ecdh(KEYS[0], path.first_path_key), path.first_path_key, path.path[0].encrypted_recipient_data
    )
    assert found.data == b"very private"
    assert "private" not in repr(found)


# --- padding


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=6))
def test_padded_streams_have_one_length_and_their_content(sizes: list[int]) -> None:
    streams = [b"\x06" * size for size in sizes]
    padded = pad_to_equal(streams)
    assert len({len(stream) for stream in padded}) <= 1
    for stream, whole in zip(streams, padded, strict=True):
        assert whole.endswith(stream)
        padding = whole[: len(whole) - len(stream)]
        if padding:
            size = int.from_bytes(padding[2:4], "big") if padding[1] == 0xFD else padding[1]
            assert padding[0] == 1
            assert padding[1] < 0xFD or (padding[1] == 0xFD and size >= 0xFD)
            assert padding[(4 if padding[1] == 0xFD else 2) :] == bytes(size)
    if padded:
        assert len(padded[0]) <= max(sizes) + 4


@pytest.mark.parametrize("difference", [0, 1, 2, 3, 254, 255, 256, 257, 258])
def test_differences_without_a_record_of_that_size(difference: int) -> None:
    short, long = pad_to_equal([b"", bytes(difference)])
    assert len(short) == len(long)


def test_streams_too_different_to_pad() -> None:
    with pytest.raises(ValueError):
        pad_to_equal([b"", bytes(70_000)])


# --- fees


def test_printed_aggregates() -> None:
    build = cases("bolt04-blinded-payment", "build")[0]
    processed = cases("bolt04-blinded-payment", "process")
    relays = []
    for case in processed:
        data = case["expect"]["tlvs"].get("encrypted_recipient_data", {})
        if "payment_relay" in data:
            relay = data["payment_relay"]
            relays.append(
                Relay(
                    relay.get("cltv_expiry_delta", 0),
                    relay.get("fee_proportional_millionths", 0),
                    relay.get("fee_base_msat", 0),
                )
            )
    info = build["given"]["blinded_payinfo"]
    assert len(relays) == 3
    total = aggregate(relays, 0)
    assert (total.fee_base_msat, total.fee_proportional_millionths) == (
        info["fee_base_msat"],
        info["fee_proportional_millionths"],
    )
    assert total.cltv_expiry_delta == info["cltv_expiry_delta"]
    amount = build["given"]["hops"][0]["tlvs"]["amt_to_forward"]
    for relay in relays:
        amount = amount_to_forward(amount, relay)
    assert amount == build["given"]["final_amount_msat"]


relays = st.builds(
    Relay,
    st.integers(0, 2016),
    st.one_of(st.integers(0, 5000), st.integers(0, 2**32 - 1)),
    st.one_of(st.integers(0, 5000), st.integers(0, 2**32 - 1)),
)
amounts = st.one_of(st.integers(0, 10**5), st.integers(0, 21 * 10**17))


@settings(max_examples=300, deadline=None)
@given(amounts, relays)
def test_a_hop_never_forwards_for_less_than_its_fee(amount: int, relay: Relay) -> None:
    forwarded = amount_to_forward(amount, relay)
    assert forwarded >= 0
    if forwarded:
        fee = relay.fee_base_msat + forwarded * relay.fee_proportional_millionths // 10**6
        assert amount >= forwarded + fee
        # Nor does it keep more than the rounding of a millisatoshi or so.
        more = forwarded + 1
        assert amount < more + relay.fee_base_msat + more * relay.fee_proportional_millionths // 10**6 + 1


def test_the_case_that_the_plain_formula_gives_away() -> None:
    assert amount_to_forward(1_000_000, Relay(0, 1, 0)) == 999_999
    assert amount_to_forward(1_000_001, Relay(0, 1, 0)) == 1_000_000
    assert amount_to_forward(1, Relay(0, 2_000_000, 0)) == 0
    assert amount_to_forward(100, Relay(0, 0, 100)) == 0
    assert amount_to_forward(99, Relay(0, 0, 100)) == 0


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 10**12), st.lists(relays, max_size=5))
def test_what_the_sender_adds_for_the_whole_path_reaches_the_end(amount: int, hops: list[Relay]) -> None:
    total = aggregate(hops, 18)
    assert total.cltv_expiry_delta == sum(hop.cltv_expiry_delta for hop in hops) + 18
    arriving = amount + total.fee_base_msat + amount * total.fee_proportional_millionths // 10**6
    for hop in hops:
        arriving = amount_to_forward(arriving, hop)
    assert arriving >= amount
