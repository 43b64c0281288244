"""Failures on their way back, with and without attribution data: printed figures, honest and hostile hops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.crypto.hashes import hmac_sha256, sha256
from salama.onion import attribution, failures
from salama.onion.attribution import (
    ATTRIBUTION_SIZE,
    MAX_HOPS,
    add_attribution,
    attribute_fulfilment,
    make_attributed_failure,
    read_attribution,
    wrap_attributed_failure,
)
from salama.onion.failures import ROUNDS, ReadFailure, make_failure, plain_failure, read_failure, wrap_failure
from salama.onion.sphinx import shared_secrets_of

VECTORS = Path(__file__).parents[1] / "vectors"
SECRETS = [sha256(bytes((n,))) for n in range(40)]


def cases(name: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())["cases"]
    return loaded


SHORT, LONG = cases("bolt04-errors")


def test_printed_failure_from_its_message() -> None:
    points = [bytes.fromhex(hop["pubkey"]) for hop in SHORT["given"]["hops"]]
    secrets = shared_secrets_of(points, bytes.fromhex(SHORT["given"]["session_key"]))
    assert [secret.hex() for secret in secrets] == [hop["shared_secret"] for hop in SHORT["expect"]["hops"]]
    message, hop = bytes.fromhex(SHORT["given"]["failure_message"]), SHORT["given"]["failing_hop"]
    packet = make_failure(secrets[hop], message)
    assert len(packet) == 32 + 2 + 256 + 2
    for secret in reversed(secrets[:hop]):
        packet = wrap_failure(secret, packet)
    assert packet.hex() == SHORT["expect"]["packet_at_origin"]
    assert read_failure(secrets, packet) == ReadFailure(hop, message)


def test_printed_failure_of_a_longer_message() -> None:
    """The figure pads to 1024 bytes, which a sender must read although nobody has to write it."""
    expect = LONG["expect"]
    packet = bytes.fromhex(expect["raw_error_packet"])
    secrets = {step["node"]: bytes.fromhex(step["shared_secret"]) for step in expect["forwarding"]}
    for step in expect["forwarding"]:
        packet = wrap_failure(bytes.fromhex(step["shared_secret"]), packet)
        wanted = step.get("error_packet") or step.get("packet")
        assert wanted is None or packet.hex() == wanted
    route = [secrets[node] for node in sorted(secrets)]
    message = bytes.fromhex(expect["failure_message"])
    assert read_failure(route, packet) == ReadFailure(LONG["given"]["failing_hop"], message)
    # Ours is longer than 256 bytes without padding.
    assert plain_failure(route[-1], message)[34:] == message + b"\x00\x00"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.binary(max_size=600), st.data())
def test_the_sender_learns_who_failed_and_why(length: int, message: bytes, data: st.DataObject) -> None:
    secrets = SECRETS[:length]
    hop = data.draw(st.integers(0, length - 1))
    packet = make_failure(secrets[hop], message)
    assert len(packet) == 32 + 4 + max(256, len(message))
    for secret in reversed(secrets[:hop]):
        packet = wrap_failure(secret, packet)
    assert read_failure(secrets, packet) == ReadFailure(hop, message)
    altered = bytearray(packet)
    altered[data.draw(st.integers(0, len(packet) - 1))] ^= data.draw(st.integers(1, 255))
    assert read_failure(secrets, bytes(altered)) is None
    assert read_failure(SECRETS[30:], packet) is None


def test_a_message_has_at_most_65535_bytes() -> None:
    assert len(make_failure(SECRETS[0], bytes(65535))) == 65535 + 36
    with pytest.raises(ValueError):
        make_failure(SECRETS[0], bytes(65536))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 30))
def test_garbage_of_any_length_is_nobodys_failure(packet: bytes, length: int) -> None:
    assert read_failure(SECRETS[:length], packet) is None


@pytest.mark.parametrize("body", [b"", b"\x00", b"\x01\x00ab", b"\xff\xff" + bytes(300)])
def test_an_authentic_packet_without_a_message_still_names_its_hop(body: bytes) -> None:
    packet = wrap_failure(SECRETS[0], hmac_sha256(hmac_sha256(b"um", SECRETS[0]), body) + body)
    assert read_failure(SECRETS[:3], packet) == ReadFailure(0, b"")


@pytest.mark.parametrize("hop", [None, 0, 4])
@pytest.mark.parametrize("length", [1, 5, 26])
def test_the_work_does_not_depend_on_the_route(hop: int | None, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    packet = bytes(292)
    if hop is not None and hop < length:
        packet = make_failure(SECRETS[hop], b"why")
        for secret in reversed(SECRETS[:hop]):
            packet = wrap_failure(secret, packet)
    rounds = 0

    def counted(secret: bytes, data: bytes) -> bytes:
        nonlocal rounds
        rounds += 1
        return wrap_failure(secret, data)

    monkeypatch.setattr(failures, "wrap_failure", counted)
    read_failure(SECRETS[:length], packet)
    assert rounds == ROUNDS == 27


# --- attribution data


@pytest.mark.parametrize("case", cases("bolt04-attribution"), ids=lambda case: case["name"])
def test_printed_attribution(case: dict[str, Any]) -> None:
    given_ = case["given"]
    secrets = [bytes.fromhex(text) for text in given_["shared_secrets"]]
    holds = [hop["hold_time_100ms"] for hop in given_["hops"]]
    is_failure = "padded_message" in given_
    packet = bytes.fromhex(LONG["expect"]["raw_error_packet"]) if is_failure else b""
    if is_failure:
        assert packet[32:].hex() == given_["padded_message"]
    data = None
    for step in case["expect"]["by_node"]:
        node = step["node"]
        if is_failure:
            packet, data = wrap_attributed_failure(secrets[node], packet, data, holds[node])
            assert packet.hex() == step["error_packet"]
        else:
            data = attribute_fulfilment(secrets[node], data, holds[node])
        assert data.hex() == step["attribution_data"]
    assert data is not None
    assert read_attribution(secrets, data, packet if is_failure else None) == tuple(holds)
    if is_failure:
        failure = read_failure(secrets, packet)
        assert failure is not None
        assert failure.hop == given_["failing_hop"]


def attributed(hop: int, holds: list[int], message: bytes = b"why") -> tuple[bytes, bytes]:
    packet, data = make_attributed_failure(SECRETS[hop], message, holds[hop])
    for back in range(hop - 1, -1, -1):
        packet, data = wrap_attributed_failure(SECRETS[back], packet, data, holds[back])
    return packet, data


@settings(max_examples=40, deadline=None)
@given(st.integers(1, MAX_HOPS), st.data())
def test_hold_times_reach_the_sender_from_any_hop(length: int, data: st.DataObject) -> None:
    holds = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=length, max_size=length))
    hop = data.draw(st.integers(0, length - 1))
    packet, block = attributed(hop, holds)
    assert read_failure(SECRETS[:length], packet) == ReadFailure(hop, b"why")
    assert read_attribution(SECRETS[:length], block, packet) == tuple(holds[: hop + 1])

    paid = None
    for back in range(length - 1, -1, -1):
        paid = attribute_fulfilment(SECRETS[back], paid, holds[back])
    assert paid is not None
    assert read_attribution(SECRETS[:length], paid) == tuple(holds)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whoever_alters_is_one_of_the_pair_to_blame(data: st.DataObject) -> None:
    length = data.draw(st.integers(2, 8))
    culprit = data.draw(st.integers(0, length - 2))
    packet, block = make_attributed_failure(SECRETS[length - 1], b"why", 7)
    for back in range(length - 2, -1, -1):
        packet, block = wrap_attributed_failure(SECRETS[back], packet, block, 7)
        if back == culprit:
            what = data.draw(st.sampled_from(["packet", "block", "both"]))
            if what != "block":
                packet = bytes((packet[0] ^ 1,)) + packet[1:]
            if what != "packet":
                # Every hold time from here to the end of the route is covered.
                at = data.draw(st.integers(0, 4 * (length - culprit) - 1))
                block = block[:at] + bytes((block[at] ^ 1,)) + block[at + 1 :]
    holds = read_attribution(SECRETS[:length], block, packet)
    assert holds == (7,) * culprit
    if what != "block":
        assert read_failure(SECRETS[:length], packet) is None


def test_a_hop_without_support_hides_those_behind_it() -> None:
    holds = [1, 2, 3, 4, 5]
    packet, block = make_attributed_failure(SECRETS[4], b"why", holds[4])
    packet, block = wrap_attributed_failure(SECRETS[3], packet, block, holds[3])
    packet = wrap_failure(SECRETS[2], packet)  # passes on no attribution data
    packet, block = wrap_attributed_failure(SECRETS[1], packet, None, holds[1])
    packet, block = wrap_attributed_failure(SECRETS[0], packet, block, holds[0])
    assert read_attribution(SECRETS[:5], block, packet) == (1, 2)
    assert read_failure(SECRETS[:5], packet) == ReadFailure(4, b"why")


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=1000), st.integers(0, 30), st.binary(max_size=300), st.integers(-5, 2**40))
def test_blocks_of_any_size_and_content(block: bytes, length: int, packet: bytes, hold: int) -> None:
    assert read_attribution(SECRETS[:length], block, packet) == ()
    assert read_attribution(SECRETS[:length], block.ljust(ATTRIBUTION_SIZE, b"\x01")[:ATTRIBUTION_SIZE], packet) == ()
    made = add_attribution(SECRETS[0], block, packet, hold)
    assert len(made) == ATTRIBUTION_SIZE == 920
    if len(block) != ATTRIBUTION_SIZE:
        assert made == add_attribution(SECRETS[0], None, packet, hold)
    seen = read_attribution(SECRETS[:1], made, wrap_failure(SECRETS[0], packet))
    assert seen == (min(max(hold, 0), 2**32 - 1),)
    assert read_attribution(SECRETS[:1], made + b"\x00", wrap_failure(SECRETS[0], packet)) == ()


def test_routes_longer_than_the_block_are_read_as_far_as_it_goes() -> None:
    holds = list(range(24))
    packet, block = attributed(23, holds)
    assert read_attribution(SECRETS[:24], block, packet) == tuple(holds[:MAX_HOPS])


def test_layout() -> None:
    """Group x follows group x - 1 and has one HMAC less; the farthest position comes first."""
    slots = [attribution._slot(hop, distance) for hop in range(20) for distance in range(19 - hop, -1, -1)]
    assert slots == list(range(80, 920, 4))
