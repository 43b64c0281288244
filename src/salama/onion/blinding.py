"""Blinded paths: made by the recipient, unblinded hop by hop (BOLT 4, B4.11 and B4.12).

The data for each hop is opaque TLV bytes here. A hop's own ECDH with the path key is done by whoever holds its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from salama.crypto import secp256k1
from salama.crypto.ciphers import AuthenticationFailed, open_sealed, seal
from salama.crypto.hashes import hmac_sha256, sha256

_MILLION: Final = 1_000_000


class BlindedDataRefused(Exception):
    """Encrypted data that was not made for us with this path key."""


@dataclass(frozen=True, slots=True)
class BlindedHop:
    """One hop as the sender sees it."""

    blinded_node_id: bytes
    encrypted_recipient_data: bytes


@dataclass(frozen=True, slots=True)
class BlindedPath:
    """A path that names only its first node."""

    first_node_id: bytes
    first_path_key: bytes
    path: tuple[BlindedHop, ...]


@dataclass(frozen=True, slots=True)
class Unblinded:
    """What a hop of a blinded path finds."""

    data: bytes = field(repr=False)
    """The bytes of ``encrypted_data_tlv``."""
    next_path_key: bytes
    """For the next hop, unless the data overrides it."""


# --- the recipient


def blind_hop(node_id: bytes, data: bytes, path_secret: bytes) -> tuple[BlindedHop, bytes]:
    """One hop, and the path secret for the hop after it. Raises InvalidPoint, InvalidKey."""
    shared_secret = secp256k1.ecdh(path_secret, node_id)
    hop = BlindedHop(
        secp256k1.multiply_point(node_id, onion_tweak(shared_secret)),
        seal(hmac_sha256(b"rho", shared_secret), 0, b"", data),
    )
    factor = sha256(secp256k1.public_key(path_secret) + shared_secret)
    return hop, secp256k1.multiply_scalars(path_secret, factor)


def make_blinded_path(hops: Sequence[tuple[bytes, bytes]], path_secret: bytes) -> BlindedPath:
    """A path through ``hops`` (node id and data, in forwarding order) from 32 fresh random bytes.

    Pad the data with ``pad_to_equal`` first, or its lengths tell the hops apart. Raises ValueError when there is no
    hop, InvalidPoint, InvalidKey.
    """
    if not hops:
        raise ValueError("a blinded path needs a hop")
    path, secret = [], path_secret
    for node_id, data in hops:
        hop, secret = blind_hop(node_id, data, secret)
        path.append(hop)
    return BlindedPath(hops[0][0], secp256k1.public_key(path_secret), tuple(path))


def _padding(size: int) -> bytes | None:
    """A padding record (type 1) of exactly ``size`` bytes, or None when there is none."""
    if size == 0:
        return b""
    if 2 <= size <= 2 + 0xFC:
        return bytes((1, size - 2)) + bytes(size - 2)
    if 4 + 0xFD <= size <= 4 + 0xFFFF:
        return b"\x01\xfd" + (size - 4).to_bytes(2, "big") + bytes(size - 4)
    return None


def pad_to_equal(streams: Sequence[bytes]) -> tuple[bytes, ...]:
    """The TLV streams (none of which has a padding record yet) with one in front, so that all have the same length."""
    longest = max(map(len, streams), default=0)
    # Some differences have no record of that size (1, 255, 256): then all grow a little.
    for target in range(longest, longest + 1024):
        paddings = [_padding(target - len(stream)) for stream in streams]
        if None not in paddings:
            return tuple((padding or b"") + stream for padding, stream in zip(paddings, streams, strict=True))
    raise ValueError("streams too different to be padded")


# --- a hop


def onion_tweak(shared_secret: bytes) -> bytes:
    """The scalar between a node id and its blinded form, from the secret shared through the path key."""
    return hmac_sha256(b"blinded_node_id", shared_secret)


def tweak_onion_key(ephemeral: bytes, shared_secret: bytes) -> bytes:
    """The onion's ephemeral point such that ECDH with the plain node key opens an onion made for the blinded node id.

    Raises InvalidPoint.
    """
    try:
        return secp256k1.multiply_point(ephemeral, onion_tweak(shared_secret))
    except secp256k1.InvalidKey:
        raise secp256k1.InvalidPoint("no tweaked point") from None


def blinded_secret(node_secret: bytes, shared_secret: bytes) -> bytes:
    """The secret key behind our blinded node id; needed only to sign with it. Raises InvalidKey."""
    return secp256k1.multiply_scalars(node_secret, onion_tweak(shared_secret))


def unblind(shared_secret: bytes, path_key: bytes, encrypted_recipient_data: bytes) -> Unblinded:
    """Opens the data; ``shared_secret`` is ECDH of ``path_key`` and our node key. Raises BlindedDataRefused."""
    try:
        data = open_sealed(hmac_sha256(b"rho", shared_secret), 0, b"", encrypted_recipient_data)
        return Unblinded(data, secp256k1.multiply_point(path_key, sha256(path_key + shared_secret)))
    except (AuthenticationFailed, secp256k1.InvalidPoint, secp256k1.InvalidKey):
        raise BlindedDataRefused("the encrypted data does not open with this path key") from None


# --- fees along a path


class Relay(NamedTuple):
    """What one hop, or a whole path, takes for forwarding."""

    cltv_expiry_delta: int
    fee_proportional_millionths: int
    fee_base_msat: int


def aggregate(relays: Sequence[Relay], min_final_cltv_expiry_delta: int) -> Relay:
    """The terms of a whole path from those of its forwarding hops, in order; fees rounded up at every hop."""
    base = proportional = 0
    for relay in reversed(relays):
        own = relay.fee_proportional_millionths
        base = -(-(relay.fee_base_msat * _MILLION + base * (_MILLION + own)) // _MILLION)
        proportional = -(-((proportional + own) * _MILLION + proportional * own) // _MILLION)
    delta = sum(relay.cltv_expiry_delta for relay in relays) + min_final_cltv_expiry_delta
    return Relay(delta, proportional, base)


def amount_to_forward(amount_msat: int, relay: Relay) -> int:
    """What a hop forwards of an incoming ``amount_msat``; 0 when the amount does not cover the fee."""
    own = relay.fee_proportional_millionths
    after_base = amount_msat - relay.fee_base_msat
    if after_base <= 0:
        return 0
    amount = -(-after_base * _MILLION // (_MILLION + own))
    # DEVIATION: the formula of BOLT 4 rounds up, and then sometimes leaves 1 msat less than the fee for that
    # amount. A sender who computes fees as BOLT 7 does never needs the last msat, so we keep the fee.
    return amount - 1 if amount + amount * own // _MILLION > after_base else amount
