"""Keys of one commitment transaction, derived from basepoints and a per-commitment point (BOLT 3, B3.10).

Which secrets exist, and where they live, is the signer's business; the two functions on secrets stand here because they
mirror the two on points. Arguments named ``..._secret`` are 32-byte scalars, all others compressed points of 33 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from salama.crypto.hashes import sha256
from salama.crypto.secp256k1 import (
    add_points,
    add_scalars,
    add_to_point,
    multiply_point,
    multiply_scalars,
    public_key,
)
from salama.crypto.secrets import SecretKey

# Both commitments of some hundred busy channels; about 1 KiB each, and all of it public.
_KEYS_REMEMBERED: Final = 1024


@dataclass(frozen=True, slots=True)
class Basepoints:
    """What one peer contributes to the keys of a channel: its fields of ``open_channel`` or ``accept_channel``."""

    funding_pubkey: bytes
    revocation: bytes
    payment: bytes
    delayed_payment: bytes
    htlc: bytes


@dataclass(frozen=True, slots=True)
class CommitmentKeys:
    """Public keys in the scripts of one commitment transaction, seen by its owner."""

    per_commitment_point: bytes
    """Of the owner, for this commitment number."""
    revocation: bytes
    """The other side can sign for it once the owner has revoked this commitment."""
    delayed_payment: bytes
    """The owner's, for ``to_local`` and second-stage outputs."""
    owner_htlc: bytes
    other_htlc: bytes
    other_payment: bytes
    """For ``to_remote``; the same in every commitment, so that a node which lost its data still finds its money."""


def derive_public_key(basepoint: bytes, per_commitment_point: bytes) -> bytes:
    """``basepoint`` moved by a tweak that only this pair of points yields. Raises InvalidPoint."""
    return add_to_point(basepoint, sha256(per_commitment_point + basepoint))


def derive_secret(basepoint_secret: bytes, per_commitment_point: bytes, basepoint: bytes = b"") -> SecretKey:
    """The secret of ``derive_public_key`` of the same pair; ``basepoint`` if the caller knows it. Raises InvalidKey."""
    basepoint = basepoint or public_key(basepoint_secret)
    return SecretKey(add_scalars(basepoint_secret, sha256(per_commitment_point + basepoint)))


def revocation_public_key(revocation_basepoint: bytes, per_commitment_point: bytes) -> bytes:
    """A key for which nobody can sign before the per-commitment secret is told. Raises InvalidPoint.

    ``revocation_basepoint`` belongs to the other side, ``per_commitment_point`` to the owner of the commitment.
    """
    return add_points(
        multiply_point(revocation_basepoint, sha256(revocation_basepoint + per_commitment_point)),
        multiply_point(per_commitment_point, sha256(per_commitment_point + revocation_basepoint)),
    )


def revocation_secret(revocation_basepoint_secret: bytes, per_commitment_secret: bytes) -> SecretKey:
    """The secret of ``revocation_public_key``, which takes one secret of each side. Raises InvalidKey."""
    basepoint, point = public_key(revocation_basepoint_secret), public_key(per_commitment_secret)
    return SecretKey(
        add_scalars(
            multiply_scalars(revocation_basepoint_secret, sha256(basepoint + point)),
            multiply_scalars(per_commitment_secret, sha256(point + basepoint)),
        )
    )


@lru_cache(maxsize=_KEYS_REMEMBERED)
def commitment_keys(owner: Basepoints, other: Basepoints, per_commitment_point: bytes) -> CommitmentKeys:
    """Keys of the commitment of ``owner`` that ``per_commitment_point`` (the owner's) belongs to. Raises InvalidPoint.

    Remembered, since one commitment is built to be signed, to be verified and to be looked at.
    """
    return CommitmentKeys(
        per_commitment_point=per_commitment_point,
        revocation=revocation_public_key(other.revocation, per_commitment_point),
        delayed_payment=derive_public_key(owner.delayed_payment, per_commitment_point),
        owner_htlc=derive_public_key(owner.htlc, per_commitment_point),
        other_htlc=derive_public_key(other.htlc, per_commitment_point),
        other_payment=other.payment,
    )
