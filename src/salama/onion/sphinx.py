"""Sphinx packets of any size: built by the sender, peeled by each hop (BOLT 4, B4.01 and B4.02).

Payloads are opaque here: the TLV bytes without their length prefix, which this module adds and removes.
Knows neither messages nor whether a packet was seen before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from salama.crypto import secp256k1
from salama.crypto.ciphers import chacha20, chacha20_stream
from salama.crypto.hashes import equal, hmac_sha256, sha256

PAYMENT_PAYLOADS: Final = 1300
"""Size of ``hop_payloads`` in a payment's onion; onion messages choose theirs."""
OVERHEAD: Final = 1 + 33 + 32
MAX_PACKET: Final = 65535
"""No packet is larger than the message that carries it."""

INVALID_ONION_VERSION: Final = 0xC004
INVALID_ONION_HMAC: Final = 0xC005
INVALID_ONION_KEY: Final = 0xC006
INVALID_ONION_PAYLOAD: Final = 0x4016

_HMAC_SIZE: Final = 32
_FINAL_HMAC: Final = bytes(_HMAC_SIZE)


class OnionTooLong(ValueError):
    """The payloads do not fit the packet."""

    def __init__(self, needed: int, size: int) -> None:
        self.needed, self.size = needed, size
        super().__init__(f"the payloads need {needed} bytes of {size}")


class OnionRefused(Exception):
    """A packet that cannot be peeled.

    ``shared_secret`` is None when the failure has to be reported as malformed, with ``sha256_of_onion``; otherwise the
    packet is authentic and ``code`` (INVALID_ONION_PAYLOAD) goes back encrypted like any other failure.
    """

    def __init__(self, code: int, sha256_of_onion: bytes, reason: str, shared_secret: bytes | None = None) -> None:
        self.code, self.sha256_of_onion, self.reason = code, sha256_of_onion, reason
        self.shared_secret = shared_secret
        super().__init__(f"{code:#06x}: {reason}")


@dataclass(frozen=True, slots=True)
class Onion:
    """A packet for the first hop, and the secrets that will read what comes back, one for each hop."""

    packet: bytes
    shared_secrets: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Peeled:
    """What one hop finds in its packet."""

    payload: bytes
    shared_secret: bytes = field(repr=False)
    """Keeps for the failure or the fulfilment that will come back."""
    next_packet: bytes | None
    """For the next hop; None when this hop is the last."""


def _stream_key(shared_secret: bytes) -> bytes:
    return hmac_sha256(b"rho", shared_secret)


def _mac(shared_secret: bytes, payloads: bytes, associated_data: bytes) -> bytes:
    return hmac_sha256(hmac_sha256(b"mu", shared_secret), payloads + associated_data)


def _encode_length(length: int) -> bytes:
    if length < 0xFD:
        return bytes((length,))
    if length <= 0xFFFF:
        return b"\xfd" + length.to_bytes(2, "big")
    return b"\xfe" + length.to_bytes(4, "big")


def framed_size(payload: bytes) -> int:
    """Bytes that a payload takes of ``hop_payloads``: its length prefix, itself and the next HMAC."""
    return len(_encode_length(len(payload))) + len(payload) + _HMAC_SIZE


# --- the sender


def shared_secrets_of(points: Sequence[bytes], session_key: bytes) -> tuple[bytes, ...]:
    """The secret shared with each hop, derived from the session key alone. Raises InvalidKey, InvalidPoint."""
    secrets = []
    ephemeral = session_key
    for position, point in enumerate(points):
        secret = secp256k1.ecdh(ephemeral, point)
        secrets.append(secret)
        if position + 1 < len(points):
            ephemeral = secp256k1.multiply_scalars(ephemeral, sha256(secp256k1.public_key(ephemeral) + secret))
    return tuple(secrets)


def _filler(secrets: Sequence[bytes], sizes: Sequence[int], size: int) -> bytes:
    """What the hops before the last will have appended to the packet by the time it reaches the last one."""
    filler = b""
    for secret, taken in zip(secrets[:-1], sizes[:-1], strict=True):
        # A hop XORs its stream over the payloads and as many zeros again; what it appends starts where these end.
        start = size - len(filler)
        filler += bytes(taken)
        stream = chacha20_stream(_stream_key(secret), start + len(filler))
        filler = _xor(filler, stream[start:])
    return filler


def _xor(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")


def make_onion(
    hops: Sequence[tuple[bytes, bytes]], session_key: bytes, associated_data: bytes, size: int = PAYMENT_PAYLOADS
) -> Onion:
    """A packet through ``hops``, each a point (the node's, or its blinded one) and its payload's TLV bytes.

    ``size`` is that of ``hop_payloads``; the packet is OVERHEAD bytes longer. Raises OnionTooLong; ValueError when
    there is no hop or a payload shorter than 2 bytes; InvalidPoint, InvalidKey.
    """
    if not hops or any(len(payload) < 2 for _, payload in hops):
        raise ValueError("an onion needs hops, and payloads of at least 2 bytes")
    sizes = [framed_size(payload) for _, payload in hops]
    if sum(sizes) > size or size > MAX_PACKET - OVERHEAD:
        raise OnionTooLong(sum(sizes), min(size, MAX_PACKET - OVERHEAD))
    secrets = shared_secrets_of([point for point, _ in hops], session_key)
    filler = _filler(secrets, sizes, size)

    payloads = chacha20_stream(hmac_sha256(b"pad", session_key), size)
    mac = _FINAL_HMAC
    for position in range(len(hops) - 1, -1, -1):
        payload, secret = hops[position][1], secrets[position]
        framed = _encode_length(len(payload)) + payload + mac
        payloads = chacha20(_stream_key(secret), framed + payloads[: size - len(framed)])
        if position == len(hops) - 1 and filler:
            payloads = payloads[: -len(filler)] + filler
        mac = _mac(secret, payloads, associated_data)
    return Onion(b"\x00" + secp256k1.public_key(session_key) + payloads + mac, secrets)


# --- a hop


def _refuse(code: int, packet: bytes, reason: str, shared_secret: bytes | None = None) -> OnionRefused:
    return OnionRefused(code, sha256(packet), reason, shared_secret)


def ephemeral_key(packet: bytes) -> bytes:
    """The sender's point in this packet, for ECDH with the hop's key. Raises OnionRefused."""
    if packet[:1] != b"\x00":
        raise _refuse(INVALID_ONION_VERSION, packet, "unknown version")
    point = bytes(packet[1:34])
    if not secp256k1.is_point(point):
        raise _refuse(INVALID_ONION_KEY, packet, "the ephemeral key is not a point")
    return point


def peel(packet: bytes, shared_secret_of: Callable[[bytes], bytes], associated_data: bytes) -> Peeled:
    """Removes one layer; ``shared_secret_of`` does ECDH of the (valid) ephemeral point and our key.

    Raises OnionRefused.
    """
    return peel_with_secret(packet, shared_secret_of(ephemeral_key(packet)), associated_data)


def peel_with_secret(packet: bytes, shared_secret: bytes, associated_data: bytes) -> Peeled:
    """Removes one layer when the ECDH with ``ephemeral_key(packet)`` is already done. Raises OnionRefused."""
    payloads, mac = packet[34:-_HMAC_SIZE], packet[-_HMAC_SIZE:]
    if len(packet) <= OVERHEAD or not equal(_mac(shared_secret, payloads, associated_data), mac):
        raise _refuse(INVALID_ONION_HMAC, packet, "not authentic")
    size = len(payloads)
    unwrapped = chacha20(_stream_key(shared_secret), payloads + bytes(size))

    start, length = _decode_length(unwrapped)
    # Compared before anything is sliced: the sender may claim up to 2^64 bytes.
    if length < 2 or start + length + _HMAC_SIZE > size:
        raise _refuse(INVALID_ONION_PAYLOAD, packet, "bad payload length", shared_secret)
    end = start + length
    payload, next_mac = unwrapped[start:end], unwrapped[end : end + _HMAC_SIZE]
    if next_mac == _FINAL_HMAC:
        return Peeled(payload, shared_secret, None)
    point = bytes(packet[1:34])
    try:
        next_point = secp256k1.multiply_point(point, sha256(point + shared_secret))
    except (secp256k1.InvalidKey, secp256k1.InvalidPoint):
        raise _refuse(INVALID_ONION_KEY, packet, "the next ephemeral key does not exist") from None
    next_payloads = unwrapped[end + _HMAC_SIZE : end + _HMAC_SIZE + size]
    return Peeled(payload, shared_secret, b"\x00" + next_point + next_payloads + next_mac)


def _decode_length(data: bytes) -> tuple[int, int]:
    """Size of the bigsize at the front of ``data`` and its value, which is 0 when it is not minimal.

    One that is cut short needs no care: then there is no room for a payload either.
    """
    first = data[0]
    if first < 0xFD:
        return 1, first
    width = 2 << (first - 0xFD)
    length = int.from_bytes(data[1 : 1 + width], "big")
    smallest = 0xFD if width == 2 else 1 << 4 * width
    return 1 + width, length if length >= smallest else 0
