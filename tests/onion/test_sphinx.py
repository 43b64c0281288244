"""Sphinx packets: the BOLT's figures, routes of every length, and packets that want to do harm."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.crypto import secp256k1
from salama.crypto.ciphers import chacha20
from salama.crypto.hashes import hmac_sha256, sha256
from salama.onion import blinding
from salama.onion.sphinx import (
    INVALID_ONION_HMAC,
    INVALID_ONION_KEY,
    INVALID_ONION_PAYLOAD,
    INVALID_ONION_VERSION,
    MAX_PACKET,
    OVERHEAD,
    PAYMENT_PAYLOADS,
    OnionRefused,
    OnionTooLong,
    Peeled,
    ephemeral_key,
    framed_size,
    make_onion,
    peel,
    peel_with_secret,
    shared_secrets_of,
)

VECTORS = Path(__file__).parents[1] / "vectors"
KEYS = [bytes((n + 1,)) * 32 for n in range(40)]
POINTS = [secp256k1.public_key(key) for key in KEYS]
SESSION_KEY = b"\x41" * 32
AD = b"\x42" * 32


def cases(name: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())["cases"]
    return loaded


def unprefixed(framed: str) -> bytes:
    """The figures print payloads with their length."""
    data = bytes.fromhex(framed)
    start = 3 if data[0] == 0xFD else 1
    length = int.from_bytes(data[1:3], "big") if data[0] == 0xFD else data[0]
    assert len(data) == start + length
    return data[start:]


def peel_with_key(packet: bytes, key: bytes, ad: bytes = AD) -> Peeled:
    return peel(packet, lambda point: secp256k1.ecdh(key, point), ad)


def peel_route(packet: bytes | None, keys: list[bytes], ad: bytes = AD) -> list[bytes]:
    payloads = []
    for key in keys:
        assert packet is not None
        peeled = peel_with_key(packet, key, ad)
        payloads.append(peeled.payload)
        packet = peeled.next_packet
    assert packet is None
    return payloads


# --- figures


def test_printed_onion() -> None:
    build, take_apart = cases("bolt04-onion")
    given_ = build["given"]
    hops = [(bytes.fromhex(hop["pubkey"]), unprefixed(hop["payload"])) for hop in given_["hops"]]
    onion = make_onion(hops, bytes.fromhex(given_["session_key"]), bytes.fromhex(given_["associated_data"]))
    assert onion.packet.hex() == build["expect"]["packet"]

    given_, expect = take_apart["given"], take_apart["expect"]
    keys = [bytes.fromhex(key) for key in given_["node_private_keys"]]
    payloads = peel_route(bytes.fromhex(given_["packet"]), keys, bytes.fromhex(given_["associated_data"]))
    assert payloads == [unprefixed(payload) for payload in expect["payloads"]]


def test_printed_payment_into_a_blinded_path() -> None:
    build, *hops = cases("bolt04-blinded-payment")
    given_, expect = build["given"], build["expect"]
    route = given_["blinded_route"]
    ids = [hop["pubkey"] for hop in given_["hops"]]
    # The introduction node is addressed by its own id, those after it by their blinded ones.
    assert ids[1] in (route["first_node_id"], route["hops"][0]["blinded_node_id"])
    points = [bytes.fromhex(text) for text in ids]
    payloads = [unprefixed(payload) for payload in expect["payloads"]]
    session_key, ad = bytes.fromhex(given_["session_key"]), bytes.fromhex(given_["associated_data"])
    assert make_onion(list(zip(points, payloads, strict=True)), session_key, ad).packet.hex() == expect["packet"]

    for hop in hops:
        given_, expect = hop["given"], hop["expect"]
        key, packet = bytes.fromhex(given_["node_private_key"]), bytes.fromhex(given_["packet"])
        path_key = bytes.fromhex(given_.get("update_add_htlc_path_key", ""))

        def shared_secret_of(point: bytes, key: bytes = key, path_key: bytes = path_key) -> bytes:
            if path_key:
                point = blinding.tweak_onion_key(point, secp256k1.ecdh(key, path_key))
            return secp256k1.ecdh(key, point)

        peeled = peel(packet, shared_secret_of, bytes.fromhex(given_["associated_data"]))
        assert peeled.payload == unprefixed(expect["payload"])
        assert (peeled.next_packet or b"").hex() == expect.get("next_packet", "")


def test_printed_onion_message() -> None:
    """Another size of packet, no associated data, and every hop behind a path key."""
    all_cases = {case["name"]: case for case in cases("bolt04-onion-message")}
    build = next(case for name, case in all_cases.items() if name.startswith("build packet"))
    steps = [case for name, case in all_cases.items() if name.startswith("process at hop")]
    packet = bytes.fromhex(build["expect"]["packet"])
    assert len(packet) == PAYMENT_PAYLOADS + OVERHEAD
    payloads, points = [], []
    for number, case in enumerate(steps):
        message = bytes.fromhex(case["given"]["onion_message"])
        key, path_key, size = bytes.fromhex(case["given"]["node_private_key"]), message[2:35], message[35:37]
        assert packet == message[37 : 37 + int.from_bytes(size, "big")]
        blinding_secret = secp256k1.ecdh(key, path_key)
        point = blinding.tweak_onion_key(ephemeral_key(packet), blinding_secret)
        peeled = peel_with_secret(packet, secp256k1.ecdh(key, point), b"")
        payloads.append(peeled.payload)
        points.append(bytes.fromhex(build["given"]["hops"][number]["blinded_node_id"]))
        if number + 1 < len(steps):
            assert peeled.next_packet is not None
            packet = peeled.next_packet
        else:
            assert peeled.next_packet is None
    onion = make_onion(list(zip(points, payloads, strict=True)), bytes.fromhex(build["given"]["session_key"]), b"")
    assert onion.packet.hex() == build["expect"]["packet"]


# --- properties


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.data())
def test_every_route_peels_back_to_its_payloads(length: int, data: st.DataObject) -> None:
    room = PAYMENT_PAYLOADS
    payloads = []
    for left in range(length, 0, -1):
        most = room - (left - 1) * 35 - 35 if left == 1 else min(400, room - (left - 1) * 35 - 35)
        size = data.draw(st.integers(2, max(2, most)))
        payloads.append(data.draw(st.binary(min_size=1, max_size=8)).ljust(size, b"\x0a")[:size])
        room -= framed_size(payloads[-1])
    onion = make_onion(list(zip(POINTS, payloads, strict=False)), SESSION_KEY, AD)
    assert len(onion.packet) == 1366
    assert peel_route(onion.packet, KEYS[:length]) == payloads
    assert onion.shared_secrets == shared_secrets_of(POINTS[:length], SESSION_KEY)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.binary(min_size=2, max_size=600), min_size=1, max_size=5), st.integers(0, 70), st.binary(max_size=40)
)
def test_packets_of_any_size(payloads: list[bytes], spare: int, ad: bytes) -> None:
    needed = sum(map(framed_size, payloads))
    hops = list(zip(POINTS, payloads, strict=False))
    onion = make_onion(hops, SESSION_KEY, ad, needed + spare)
    assert len(onion.packet) == needed + spare + OVERHEAD
    assert peel_route(onion.packet, KEYS[: len(payloads)], ad) == payloads
    with pytest.raises(OnionTooLong) as caught:
        make_onion(hops, SESSION_KEY, ad, needed - 1)
    assert caught.value.needed == needed


def test_largest_packet_and_prefixes_of_three_bytes() -> None:
    size = MAX_PACKET - OVERHEAD
    payloads = [b"\x01" * 252, b"\x02" * 253, b"\x03" * (size - 252 - 33 - 253 - 35 - 35)]
    onion = make_onion(list(zip(POINTS, payloads, strict=False)), SESSION_KEY, AD, size)
    assert len(onion.packet) == MAX_PACKET
    assert peel_route(onion.packet, KEYS[:3]) == payloads
    with pytest.raises(OnionTooLong):
        make_onion([(POINTS[0], b"ab")], SESSION_KEY, AD, size + 1)


def test_longest_route_of_a_payment() -> None:
    most = PAYMENT_PAYLOADS // 35
    assert most == 37
    payloads = [bytes((n, n)) for n in range(most)]
    onion = make_onion(list(zip(POINTS, payloads, strict=False)), SESSION_KEY, AD)
    assert peel_route(onion.packet, KEYS[:most]) == payloads
    with pytest.raises(OnionTooLong):
        make_onion([(point, b"ab") for point in POINTS[: most + 1]], SESSION_KEY, AD)


def test_what_cannot_be_built() -> None:
    for hops in ([], [(POINTS[0], b"")], [(POINTS[0], b"a")]):
        with pytest.raises(ValueError):
            make_onion(hops, SESSION_KEY, AD)
    with pytest.raises(secp256k1.InvalidPoint):
        make_onion([(b"\x02" + b"\xff" * 32, b"ab")], SESSION_KEY, AD)
    with pytest.raises(secp256k1.InvalidKey):
        make_onion([(POINTS[0], b"ab")], bytes(32), AD)


def test_a_packet_tells_neither_length_nor_position() -> None:
    """No zeros or repetitions show, neither at the start nor after peeling; secrets do not print."""
    onion = make_onion([(POINTS[0], b"ab"), (POINTS[1], b"cd")], SESSION_KEY, AD)
    second = peel_with_key(onion.packet, KEYS[0])
    assert second.next_packet is not None
    for packet in (onion.packet, second.next_packet):
        assert len(packet) == 1366
        assert all(packet.count(packet[i : i + 4]) == 1 for i in range(1, 1362))
    for secret in onion.shared_secrets:
        assert str(secret) not in repr(onion)
    assert str(second.shared_secret) not in repr(second)


# --- hostile packets


def crafted(unwrapped: bytes, secret: bytes, size: int = PAYMENT_PAYLOADS) -> bytes:
    """An authentic packet whose decrypted payloads begin with ``unwrapped``."""
    payloads = chacha20(hmac_sha256(b"rho", secret), unwrapped.ljust(size, b"\x00")[:size])
    mac = hmac_sha256(hmac_sha256(b"mu", secret), payloads + AD)
    return b"\x00" + secp256k1.public_key(SESSION_KEY) + payloads + mac


BAD_LENGTHS = [
    b"\x00",
    b"\x01",
    b"\xfd\x00\x10",
    b"\xfd\x00\xfc",
    b"\xfe\x00\x00\xff\xff",
    b"\xff\x00\x00\x00\x00\xff\xff\xff\xff",
    b"\xfe\xff\xff\xff\xff",
    b"\xff" + b"\xff" * 8,
    b"\xff\x80" + bytes(7),
    b"\xfd\xff\xff",
    b"\xfd" + (1300 - 32 - 3 + 1).to_bytes(2, "big"),
    b"\xfd" + (1300).to_bytes(2, "big"),
]


@pytest.mark.parametrize("prefix", BAD_LENGTHS, ids=bytes.hex)
def test_lengths_that_lie_are_refused_with_flat_memory(prefix: bytes) -> None:
    secret = secp256k1.ecdh(KEYS[0], secp256k1.public_key(SESSION_KEY))
    packet = crafted(prefix, secret)
    tracemalloc.start()
    with pytest.raises(OnionRefused) as caught:
        peel_with_key(packet, KEYS[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    assert caught.value.code == INVALID_ONION_PAYLOAD
    # Authentic, so the failure goes back encrypted.
    assert caught.value.shared_secret == secret


def test_the_largest_length_that_fits() -> None:
    secret = secp256k1.ecdh(KEYS[0], secp256k1.public_key(SESSION_KEY))
    peeled = peel_with_key(crafted(b"\xfd" + (1300 - 32 - 3).to_bytes(2, "big"), secret), KEYS[0])
    assert len(peeled.payload) == 1265
    assert peeled.next_packet is None


@pytest.mark.parametrize("size", range(1, 40))
def test_a_prefix_cut_off_by_the_end_of_a_tiny_packet(size: int) -> None:
    secret = secp256k1.ecdh(KEYS[0], secp256k1.public_key(SESSION_KEY))
    for prefix in BAD_LENGTHS:
        with pytest.raises(OnionRefused) as caught:
            peel_with_key(crafted(prefix, secret, size), KEYS[0])
        assert caught.value.code == INVALID_ONION_PAYLOAD


def test_an_authentic_packet_without_payloads() -> None:
    secret = secp256k1.ecdh(KEYS[0], secp256k1.public_key(SESSION_KEY))
    with pytest.raises(OnionRefused) as caught:
        peel_with_key(crafted(b"", secret, 0), KEYS[0])
    assert caught.value.code == INVALID_ONION_HMAC


def test_codes_and_the_hash_of_the_packet() -> None:
    packet = make_onion([(POINTS[0], b"ab")], SESSION_KEY, AD).packet
    wrong_mac = packet[:-1] + bytes((packet[-1] ^ 1,))
    for bad, code in (
        (b"\x01" + packet[1:], INVALID_ONION_VERSION),
        (b"", INVALID_ONION_VERSION),
        (packet[:1] + b"\x05" + packet[2:], INVALID_ONION_KEY),
        (packet[:20], INVALID_ONION_KEY),
        (wrong_mac, INVALID_ONION_HMAC),
        (packet[:-1], INVALID_ONION_HMAC),
        (packet[: OVERHEAD - 1], INVALID_ONION_HMAC),
        (packet[:OVERHEAD], INVALID_ONION_HMAC),
        (packet[:34], INVALID_ONION_HMAC),
    ):
        with pytest.raises(OnionRefused) as caught:
            peel_with_key(bad, KEYS[0])
        assert caught.value.code == code
        assert caught.value.sha256_of_onion == sha256(bad)
        assert caught.value.shared_secret is None
    with pytest.raises(OnionRefused) as caught:
        peel_with_key(packet, KEYS[0], b"\x43" * 32)
    assert caught.value.code == INVALID_ONION_HMAC
    with pytest.raises(OnionRefused) as caught:
        peel_with_key(packet, KEYS[1])
    assert caught.value.code == INVALID_ONION_HMAC


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_one_altered_byte_is_noticed(data: st.DataObject) -> None:
    packet = bytearray(make_onion([(POINTS[0], b"ab"), (POINTS[1], b"cd")], SESSION_KEY, AD).packet)
    packet[data.draw(st.integers(0, len(packet) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(OnionRefused):
        peel_with_key(bytes(packet), KEYS[0])


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_garbage_raises_only_what_it_should(data: bytes, with_key: bool) -> None:
    packet = b"\x00" + POINTS[3] + data if with_key else data
    with pytest.raises(OnionRefused):
        peel_with_key(packet, KEYS[0])


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=120), st.integers(33, 150))
def test_authentic_garbage_raises_only_what_it_should(unwrapped: bytes, size: int) -> None:
    secret = secp256k1.ecdh(KEYS[0], secp256k1.public_key(SESSION_KEY))
    packet = crafted(unwrapped, secret, size)
    try:
        peeled = peel_with_key(packet, KEYS[0])
    except OnionRefused as refused:
        assert refused.code == INVALID_ONION_PAYLOAD
        return
    assert 2 <= len(peeled.payload) <= size - 33
    assert peeled.next_packet is None or len(peeled.next_packet) == len(packet)
