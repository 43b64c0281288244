"""Failures on their way back: made by the failing hop, wrapped by those before it, read by the sender (BOLT 4, B4.08).

The failure message inside is opaque bytes; how long each hop took travels beside it, see ``attribution``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from salama.crypto.ciphers import chacha20
from salama.crypto.hashes import equal, hmac_sha256

MAX_FAILURE_PACKET: Final = 32 * 1024
"""What a caller keeps of a packet from downstream; an honest one has 292 bytes, or a little more with future fields."""
PADDED_SIZE: Final = 256
"""Message and padding together, so that packets do not tell failures apart by their length."""
ROUNDS: Final = 27
"""The sender always unwraps this often, so that the time it takes does not tell where on the route a hop is."""


@dataclass(frozen=True, slots=True)
class ReadFailure:
    """Who failed the payment, and how it says so."""

    hop: int
    """Position on the route, 0 for the first hop."""
    message: bytes
    """The failure message; empty when the hop authenticated something without one."""


def plain_failure(shared_secret: bytes, failure_message: bytes) -> bytes:
    """The return packet before any stream covers it, which attribution data commits to. Raises ValueError."""
    if len(failure_message) > 0xFFFF:
        raise ValueError(f"a failure message of {len(failure_message)} bytes")
    padding = max(0, PADDED_SIZE - len(failure_message))
    body = len(failure_message).to_bytes(2, "big") + failure_message + padding.to_bytes(2, "big") + bytes(padding)
    return hmac_sha256(hmac_sha256(b"um", shared_secret), body) + body


def make_failure(shared_secret: bytes, failure_message: bytes) -> bytes:
    """The packet of the hop that fails. Raises ValueError when the message is longer than 65535 bytes."""
    return wrap_failure(shared_secret, plain_failure(shared_secret, failure_message))


def wrap_failure(shared_secret: bytes, packet: bytes) -> bytes:
    """The packet for upstream from the one that came from downstream, of whatever length."""
    return chacha20(hmac_sha256(b"ammag", shared_secret), packet)


def read_failure(shared_secrets: Sequence[bytes], packet: bytes) -> ReadFailure | None:
    """Who failed, or None when no hop's authentication matches; always at least ROUNDS rounds of work."""
    found: ReadFailure | None = None
    for hop in range(max(ROUNDS, len(shared_secrets))):
        real = hop < len(shared_secrets)
        secret = shared_secrets[hop] if real else bytes(32)
        packet = wrap_failure(secret, packet)
        authentic = equal(hmac_sha256(hmac_sha256(b"um", secret), packet[32:]), packet[:32])
        if authentic and real and found is None:
            length = int.from_bytes(packet[32:34], "big")
            message = packet[34 : 34 + length]
            found = ReadFailure(hop, message if len(message) == length else b"")
    return found
