"""Signing claims of a closed channel: each key only for a script that names it (BOLT 3, B3.10; BOLT 5).

The digest is made here from the whole transaction, always SIGHASH_ALL, so that a request can ask for nothing but the
spending of such an output. The funding key signs for our anchor alone: never for the two-of-two of the funding.
"""

from __future__ import annotations

from salama.bitcoin.sighash import SegwitV0
from salama.channel.keys import derive_secret, revocation_secret
from salama.channel.scripts import anchor_script, to_remote_script
from salama.crypto import secp256k1
from salama.crypto.hashes import hash160
from salama.crypto.secrets import SecretKey
from salama.onchain.signing import ClaimKey, ClaimSignatures, InputOfClaim, OweClaim


class ForeignScript(Exception):
    """A claim asks for a signature over a script that does not name the key: it comes from a mistake."""


def sign_claim(
    owed: OweClaim,
    *,
    funding: SecretKey,
    revocation: SecretKey,
    payment: SecretKey,
    delayed_payment: SecretKey,
    htlc: SecretKey,
) -> ClaimSignatures:
    """One signature for each input of ``owed``. Raises ForeignScript, InvalidKey, InvalidPoint."""
    digests = SegwitV0(owed.tx)
    signatures: list[bytes] = []
    for one in owed.inputs:
        if one.key is ClaimKey.FUNDING:
            secret = funding
            _demand(one, one.script == anchor_script(secret.public_key))
        elif one.key is ClaimKey.PAYMENT:
            secret = payment
            _demand(one, one.script == to_remote_script(secret.public_key))
        elif one.key is ClaimKey.DELAYED:
            secret = derive_secret(delayed_payment, one.point)
            _demand(one, secret.public_key in one.script)
        elif one.key is ClaimKey.HTLC:
            secret = derive_secret(htlc, one.point)
            _demand(one, secret.public_key in one.script)
        else:
            secret = revocation_secret(revocation, one.secret)
            public = secret.public_key
            _demand(one, public in one.script or hash160(public) in one.script)
        signatures.append(secp256k1.sign(secret, digests.digest(one.index, one.script, one.amount)))
    return ClaimSignatures(tuple(signatures))


def _demand(one: InputOfClaim, is_named: bool) -> None:
    if not is_named:
        raise ForeignScript(f"input {one.index}: the script is not one for the {one.key.name.lower()} key")
