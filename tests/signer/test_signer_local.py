"""The signer's keys follow from its seed, and it refuses what would lose money."""

from __future__ import annotations

from hashlib import sha256

import pytest

from salama.base.ids import ChannelId, OutPoint, Txid
from salama.base.machine import Owed
from salama.bitcoin.tx import Tx, TxIn
from salama.channel.keys import derive_public_key
from salama.channel.signing import (
    CommitmentSignatures,
    OweCommitmentSigned,
    OweFundingCreated,
    OwePublication,
    OweRevocation,
    OweSecretCheck,
    Revocation,
    SecretChecked,
    Signature,
)
from salama.crypto.secp256k1 import ecdh, public_key, recover, verify
from salama.signer.local import LocalSigner, SigningRefused

SEED = bytes(range(32))
CHANNEL = ChannelId(bytes(32))
DIGEST = sha256(b"digest").digest()
TXID = Txid(bytes(32))


@pytest.fixture
def signer() -> LocalSigner:
    return LocalSigner(SEED)


def commitment(number: int, count: int = 0, key_index: int = 0) -> OweCommitmentSigned:
    digests = tuple(sha256(n.to_bytes(4, "big")).digest() for n in range(count))
    point = public_key(bytes(31) + b"\x09")
    return OweCommitmentSigned(key_index, DIGEST, CHANNEL, TXID, number, point, digests)


def publication(number: int | None) -> OwePublication:
    tx = Tx(2, (TxIn(OutPoint(TXID, 0)),), (), 0)
    return OwePublication(0, DIGEST, tx, number, b"", b"", b"", "test")


def test_keys_follow_from_the_seed(signer: LocalSigner) -> None:
    again, other = LocalSigner(SEED), LocalSigner(bytes(32))
    assert signer.node_id == again.node_id != other.node_id
    assert signer.channel_keys(5) == again.channel_keys(5) != signer.channel_keys(6)
    points = signer.channel_keys(5).basepoints
    keys = {points.funding_pubkey, points.revocation, points.payment, points.delayed_payment, points.htlc}
    assert len(keys | {bytes(signer.node_id)}) == 6


def test_a_fixed_seed_has_fixed_keys(signer: LocalSigner) -> None:
    """Whoever changes a path loses every channel made before."""
    assert sha256(bytes(signer.node_id) + repr(signer.channel_keys(7)).encode()).hexdigest()[:16] == GOLDEN


GOLDEN = "140fa4debc73924f"


def test_secrets_are_not_shown(signer: LocalSigner) -> None:
    assert SEED.hex() not in repr(signer)
    (answer,) = signer.answer([OweRevocation(0, CHANNEL, 0)])
    assert isinstance(answer, Revocation)
    assert answer.secret.hex() not in repr(answer) and repr(answer.secret) not in repr(answer)
    assert "SecretKey" not in repr(signer._secrets(0))


@pytest.mark.parametrize("index", [-1, 1 << 31])
def test_key_indexes_have_bounds(signer: LocalSigner, index: int) -> None:
    with pytest.raises(ValueError, match="not a key index"):
        signer.channel_keys(index)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 200])
def test_commitment_signatures_verify_in_order(signer: LocalSigner, count: int) -> None:
    owed = commitment(1, count)
    (answer,) = signer.answer([owed])
    assert isinstance(answer, CommitmentSignatures)
    points = signer.channel_keys(0).basepoints
    assert verify(points.funding_pubkey, DIGEST, answer.signature)
    key = derive_public_key(points.htlc, owed.point)
    assert len(answer.htlc_signatures) == count
    assert all(verify(key, d, s) for d, s in zip(owed.htlc_digests, answer.htlc_signatures, strict=True))
    signer.close()


def test_revocations_give_secrets_of_earlier_points(signer: LocalSigner) -> None:
    keys = signer.channel_keys(3)
    first, second = signer.answer([OweRevocation(3, CHANNEL, 0), OweRevocation(3, CHANNEL, 1)])
    assert isinstance(first, Revocation) and isinstance(second, Revocation)
    assert public_key(first.secret) == keys.first_point
    assert public_key(second.secret) == keys.second_point
    (third,) = signer.answer([OweRevocation(3, CHANNEL, 2)])
    assert isinstance(third, Revocation)
    assert public_key(third.secret) == first.next_point


def refused(signer: LocalSigner, owed: Owed) -> None:
    with pytest.raises(SigningRefused):
        signer.answer([owed])


def test_remote_commitments_only_go_forward(signer: LocalSigner) -> None:
    signer.answer(
        [OweFundingCreated(0, DIGEST, CHANNEL, OutPoint(TXID, 0)), commitment(1), commitment(1), commitment(2)]
    )
    refused(signer, commitment(1))
    refused(signer, commitment(4))
    signer.answer([commitment(3), commitment(0, key_index=1)])


def test_secrets_only_go_in_turn(signer: LocalSigner) -> None:
    signer.answer([OweRevocation(0, CHANNEL, 0), OweRevocation(0, CHANNEL, 0), OweRevocation(0, CHANNEL, 1)])
    refused(signer, OweRevocation(0, CHANNEL, 0))
    refused(signer, OweRevocation(0, CHANNEL, 3))
    signer.answer([OweRevocation(0, CHANNEL, 2)])


def test_a_revoked_commitment_is_not_published(signer: LocalSigner) -> None:
    signer.answer([OweRevocation(0, CHANNEL, 0)])
    refused(signer, publication(0))
    (answer,) = signer.answer([publication(1)])
    assert isinstance(answer, Signature)
    signer.answer([publication(None)])


def test_a_published_commitment_is_not_revoked(signer: LocalSigner) -> None:
    signer.answer([publication(0)])
    refused(signer, OweRevocation(0, CHANNEL, 0))
    refused(signer, OweRevocation(0, CHANNEL, 1))


def test_what_was_done_before_a_restart_is_told(signer: LocalSigner) -> None:
    signer.remember(0, signed_remote=7, revoked=4)
    refused(signer, commitment(6))
    refused(signer, publication(4))
    refused(signer, OweRevocation(0, CHANNEL, 6))
    signer.answer([commitment(7), commitment(8), OweRevocation(0, CHANNEL, 5), publication(6)])
    signer.remember(0, signed_remote=1, revoked=1)
    refused(signer, commitment(2))


def test_a_claimed_secret_is_checked(signer: LocalSigner) -> None:
    (given,) = signer.answer([OweRevocation(0, CHANNEL, 0)])
    assert isinstance(given, Revocation)
    right, wrong = signer.answer(
        [OweSecretCheck(0, CHANNEL, 0, given.secret), OweSecretCheck(0, CHANNEL, 1, given.secret)]
    )
    assert right == SecretChecked(True) and wrong == SecretChecked(False)


def test_node_key(signer: LocalSigner) -> None:
    assert verify(signer.node_id, DIGEST, signer.sign_digest_with_node_key(DIGEST))
    signature, recovery = signer.sign_recoverable(DIGEST)
    assert recover(DIGEST, signature, recovery) == signer.node_id
    theirs = bytes(31) + b"\x07"
    assert signer.ecdh(public_key(theirs)) == ecdh(theirs, signer.node_id)


def test_an_unknown_request_is_refused(signer: LocalSigner) -> None:
    refused(signer, Owed())
