"""BOLT 8: the printed handshakes and ciphertexts, and a stream cut at every place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.crypto import secp256k1
from salama.crypto.ciphers import Aead
from salama.crypto.hashes import hkdf_two
from salama.transport.noise import (
    ACT_ONE_SIZE,
    ACT_THREE_SIZE,
    ACT_TWO_SIZE,
    MAX_MESSAGE,
    ROTATE_AT,
    HandshakeFailed,
    Initiator,
    Responder,
    Session,
    StaticKey,
    TransportCorrupted,
)

VECTORS = Path(__file__).parents[1] / "vectors"
HANDSHAKES = json.loads((VECTORS / "bolt08-handshake.json").read_text())["cases"]
MESSAGES = json.loads((VECTORS / "bolt08-messages.json").read_text())["cases"]
ALICE, BOB, ONE, TWO = (bytes((n,)) * 32 for n in (0x11, 0x21, 0x12, 0x22))


def from_hex(case: dict[str, Any]) -> dict[str, bytes]:
    return {key: bytes.fromhex(value) for key, value in case.items() if isinstance(value, str) and key != "role"}


def run_handshake(case: dict[str, Any]) -> tuple[dict[str, bytes], Session]:
    given_ = from_hex(case["given"])
    if case["given"]["role"] == "initiator":
        initiator = Initiator(
            given_["static_private_key"], given_["remote_static_pubkey"], given_["ephemeral_private_key"]
        )
        act_three, session = initiator.receive_act_two(given_["act_two"])
        return {"act_one": initiator.act_one, "act_three": act_three}, session
    responder = Responder(given_["static_private_key"], given_["ephemeral_private_key"])
    acts = {"act_two": responder.receive_act_one(given_["act_one"])}
    return acts, responder.receive_act_three(given_["act_three"])


@pytest.mark.parametrize("case", HANDSHAKES, ids=lambda case: case["name"])
def test_printed_handshakes(case: dict[str, Any]) -> None:
    if case["expect"].get("error"):
        with pytest.raises(HandshakeFailed, match=case["expect"]["failing_act"].replace("_", " ")):
            run_handshake(case)
        return
    acts, session = run_handshake(case)
    for name, act in acts.items():
        assert act.hex() == case["expect"][name]
    # The keys show in what they encrypt.
    send, receive = (bytes.fromhex(case["expect"][key]) for key in ("send_key", "receive_key"))
    assert session.encrypt(b"hello")[:18] == Aead(send).seal(0, b"", b"\x00\x05")
    assert session.feed(Aead(receive).seal(0, b"", b"\x00\x02") + Aead(receive).seal(1, b"", b"hi")) == [b"hi"]


def test_printed_ciphertexts_through_two_rotations() -> None:
    case = MESSAGES[0]["given"]
    wanted = {c["given"]["sent_before"]: c["expect"]["ciphertext"] for c in MESSAGES if "sent_before" in c["given"]}
    keys = from_hex(case)
    session = Session(keys["send_key"], keys["receive_key"], keys["chaining_key"], b"")
    got = {number: session.encrypt(b"hello").hex() for number in range(max(wanted) + 1)}
    assert len(wanted) == 6
    assert {number: got[number] for number in wanted} == wanted


def test_printed_rotations_and_single_boxes() -> None:
    checked = 0
    for case in MESSAGES:
        given_ = from_hex(case["given"])
        if "nonce" in given_:
            nonce = int.from_bytes(given_["nonce"][4:], "little")
            assert Aead(given_["key"]).seal(nonce, b"", given_["plaintext"]).hex() == case["expect"]["ciphertext"]
            checked += 1
        elif "key" in given_:
            chaining_key, key = hkdf_two(given_["chaining_key"], given_["key"])
            assert (chaining_key.hex(), key.hex()) == (case["expect"]["chaining_key"], case["expect"]["key"])
            checked += 1
    assert checked == 6


def connect(alice: bytes | StaticKey = ALICE, bob: bytes | StaticKey = BOB) -> tuple[Session, Session]:
    initiator = Initiator(alice, secp256k1.public_key(BOB), ONE)
    responder = Responder(bob, TWO)
    assert len(initiator.act_one) == ACT_ONE_SIZE
    act_two = responder.receive_act_one(initiator.act_one)
    assert len(act_two) == ACT_TWO_SIZE
    act_three, alices = initiator.receive_act_two(act_two)
    assert len(act_three) == ACT_THREE_SIZE
    return alices, responder.receive_act_three(act_three)


def test_both_know_each_other_and_a_signer_may_hold_the_keys() -> None:
    asked: list[bytes] = []

    def ecdh_elsewhere(point: bytes) -> bytes:
        asked.append(point)
        return secp256k1.ecdh(BOB, point)

    alices, bobs = connect(StaticKey.of(ALICE), StaticKey(secp256k1.public_key(BOB), ecdh_elsewhere))
    assert alices.their_node_id == secp256k1.public_key(BOB)
    assert bobs.their_node_id == secp256k1.public_key(ALICE)
    assert asked == [secp256k1.public_key(ONE)]
    assert bobs.feed(alices.encrypt(b"ping")) == [b"ping"]
    assert alices.feed(bobs.encrypt(b"pong")) == [b"pong"]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["one", "two", "three"]), st.data())
def test_any_altered_act_fails(which: str, data: st.DataObject) -> None:
    def maybe(name: str, act: bytes) -> bytes:
        if name != which:
            return act
        kind = data.draw(st.sampled_from(["bit", "cut", "more", "garbage"]))
        if kind == "bit":
            bit = data.draw(st.integers(0, 8 * len(act) - 1))
            return (int.from_bytes(act, "big") ^ 1 << bit).to_bytes(len(act), "big")
        if kind == "cut":
            return act[: data.draw(st.integers(0, len(act) - 1))]
        if kind == "more":
            return act + b"\x00"
        return data.draw(st.binary(min_size=len(act), max_size=len(act)))

    initiator = Initiator(ALICE, secp256k1.public_key(BOB), ONE)
    responder = Responder(BOB, TWO)
    with pytest.raises(HandshakeFailed):
        act_two = responder.receive_act_one(maybe("one", initiator.act_one))
        act_three, _ = initiator.receive_act_two(maybe("two", act_two))
        responder.receive_act_three(maybe("three", act_three))


def test_handshakes_that_cannot_begin() -> None:
    with pytest.raises(HandshakeFailed):
        Initiator(ALICE, b"\x02" + b"\xff" * 32, ONE)
    with pytest.raises(HandshakeFailed):
        Responder(BOB, TWO).receive_act_three(bytes(ACT_THREE_SIZE))
    with pytest.raises(secp256k1.InvalidKey):
        Initiator(bytes(32), secp256k1.public_key(BOB), ONE)
    with pytest.raises(HandshakeFailed):
        # We called another node than the one that answers.
        Responder(ALICE, TWO).receive_act_one(Initiator(ALICE, secp256k1.public_key(BOB), ONE).act_one)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_a_stream_may_be_cut_anywhere(messages: list[bytes], data: st.DataObject) -> None:
    alices, bobs = connect()
    stream = b"".join(map(alices.encrypt, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    received: list[bytes] = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += bobs.feed(stream[start:stop])
    assert received == messages
    assert bobs.feed(b"") == []


def test_byte_by_byte_through_rotations_in_both_directions() -> None:
    alices, bobs = connect()
    for number in range(ROTATE_AT + 5):
        message = number.to_bytes(2, "big")
        there = [m for byte in alices.encrypt(message) for m in bobs.feed(bytes((byte,)))]
        assert there == [message]
        if number % 3 == 0:
            assert alices.feed(bobs.encrypt(message)) == [message]


def test_one_read_may_span_a_rotation() -> None:
    alices, bobs = connect()
    messages = [number.to_bytes(2, "big") for number in range(1203)]
    assert bobs.feed(b"".join(map(alices.encrypt, messages))) == messages


def test_largest_and_smallest_message() -> None:
    alices, bobs = connect()
    assert bobs.feed(alices.encrypt(bytes(MAX_MESSAGE))) == [bytes(MAX_MESSAGE)]
    assert len(alices.encrypt(b"")) == 34
    with pytest.raises(ValueError):
        alices.encrypt(bytes(MAX_MESSAGE + 1))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.data())
def test_altered_streams_are_noticed(intact: int, data: st.DataObject) -> None:
    alices, bobs = connect()
    good = [b"message %d" % n for n in range(intact)]
    stream = b"".join(map(alices.encrypt, good))
    unaltered = alices.encrypt(b"last")
    last = bytearray(unaltered)
    last[data.draw(st.integers(0, len(last) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(TransportCorrupted) as caught:
        bobs.feed(stream + bytes(last))
    assert list(caught.value.messages) == good
    # Nothing can mend it.
    with pytest.raises(TransportCorrupted) as again:
        bobs.feed(data.draw(st.sampled_from([unaltered, alices.encrypt(b"next"), b""])))
    assert again.value.messages == ()


def test_replayed_reordered_and_reflected_messages_are_noticed() -> None:
    for attack in ("replay", "reorder", "reflect"):
        alices, bobs = connect()
        first, second = alices.encrypt(b"first"), alices.encrypt(b"second")
        stream = {"replay": first + first, "reorder": second + first, "reflect": bobs.encrypt(b"first")}[attack]
        with pytest.raises(TransportCorrupted):
            bobs.feed(stream)


@given(st.binary(min_size=18, max_size=200))
def test_garbage_after_the_handshake(data: bytes) -> None:
    _, bobs = connect()
    with pytest.raises(TransportCorrupted):
        bobs.feed(data)


def test_what_waits_is_bounded_by_one_message() -> None:
    alices, bobs = connect()
    sealed = alices.encrypt(bytes(MAX_MESSAGE))
    for start in range(0, len(sealed) - 1, 4096):
        bobs.feed(sealed[start : min(start + 4096, len(sealed) - 1)])
    assert len(bobs._waiting) < 2 + 16 + MAX_MESSAGE + 16
    assert bobs.feed(sealed[-1:]) == [bytes(MAX_MESSAGE)]
    assert not bobs._waiting
