"""Witnesses that spend every output of funding, commitment and HTLC transactions (BOLT 3, BOLT 5, B3.03, B3.07).

Signatures are given compact (64 bytes, as on the wire) and come out as DER with their sighash byte. A spending input
also needs the right ``sequence`` or ``locktime``, named beside each function. Selectors are empty or exactly one byte
0x01 (MINIMALIF). No function checks a signature.
"""

from __future__ import annotations

from typing import Final

from salama.base.ids import Preimage
from salama.bitcoin.sighash import SIGHASH_ALL
from salama.channel.formats import CommitmentFormat
from salama.channel.scripts import funding_script
from salama.crypto.secp256k1 import to_der

Witness = tuple[bytes, ...]

TRUE: Final = b"\x01"
FALSE: Final = b""
MULTISIG_DUMMY: Final = b""
"""OP_CHECKMULTISIG takes one item too many, which must be empty."""


def der(signature: bytes, sighash_type: int = SIGHASH_ALL) -> bytes:
    """A compact signature as it stands in a witness. Raises InvalidSignature."""
    return to_der(signature) + bytes((sighash_type,))


def funding_witness(one: bytes, signature: bytes, another: bytes, other_signature: bytes) -> Witness:
    """Spends the funding output: each funding pubkey followed by its signature, the two sides in any order."""
    pairs = sorted(((one, signature), (another, other_signature)))
    return (MULTISIG_DUMMY, *(der(sig) for _, sig in pairs), funding_script(one, another))


def to_local_witness(signature: bytes, script: bytes) -> Witness:
    """By the owner, of ``to_local`` or a second-stage output; ``sequence`` = ``to_self_delay``."""
    return der(signature), FALSE, script


def penalty_witness(revocation_signature: bytes, script: bytes) -> Witness:
    """By the other side after a revocation, of ``to_local`` or a second-stage output; at once."""
    return der(revocation_signature), TRUE, script


def to_remote_witness(signature: bytes, script: bytes, pubkey: bytes) -> Witness:
    """By the other side; with a ``script`` (anchors) ``sequence`` = 1, with an empty one a public key hash is spent."""
    return (der(signature), script) if script else (der(signature), pubkey)


def anchor_witness(signature: bytes, script: bytes) -> Witness:
    """By the side whose funding key is in ``script``; at once."""
    return der(signature), script


def abandoned_anchor_witness(script: bytes) -> Witness:
    """By anybody; ``sequence`` = 16."""
    return b"", script


def htlc_timeout_witness(
    format: CommitmentFormat, owner_signature: bytes, other_signature: bytes, script: bytes
) -> Witness:
    """Of HTLC-timeout, spending an offered HTLC; the transaction's ``locktime`` is ``cltv_expiry``."""
    return (
        MULTISIG_DUMMY,
        der(other_signature, format.other_htlc_sighash),
        der(owner_signature),
        b"",
        script,
    )


def htlc_success_witness(
    format: CommitmentFormat, owner_signature: bytes, other_signature: bytes, preimage: Preimage, script: bytes
) -> Witness:
    """Of HTLC-success, spending a received HTLC."""
    return (
        MULTISIG_DUMMY,
        der(other_signature, format.other_htlc_sighash),
        der(owner_signature),
        bytes(preimage),
        script,
    )


def htlc_preimage_claim_witness(other_signature: bytes, preimage: Preimage, script: bytes) -> Witness:
    """By the other side, of an HTLC that the owner offered; ``sequence`` = ``format.htlc_sequence``."""
    return der(other_signature), bytes(preimage), script


def htlc_timeout_claim_witness(other_signature: bytes, script: bytes) -> Witness:
    """By the other side, of an HTLC that the owner received; ``locktime`` >= ``cltv_expiry``, ``sequence`` as above."""
    return der(other_signature), b"", script


def htlc_penalty_witness(revocation_signature: bytes, revocation_pubkey: bytes, script: bytes) -> Witness:
    """By the other side after a revocation, of any HTLC output; at once."""
    return der(revocation_signature), revocation_pubkey, script
