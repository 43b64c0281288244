"""B1 signatures that the network does not relay (CVE-2020-26895, lnd)

What failed: a signature with a high s is valid by consensus but not by relay policy; who accepted one held a commitment
that could not be published in time.

Defence: crypto/secp256k1.py:verify accepts low s only and nothing but 64 bytes; channel/commitments.py:checks_of_local
verifies both kinds of signatures of a commitment with it before it counts.

That all we hold passes the rules of a real mempool is tested in tests/channel/test_channel_chain.py and
tests/chain/test_devnet_mempool.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from salama.bitcoin.sighash import ANYONECANPAY, SIGHASH_ALL, SIGHASH_SINGLE
from salama.channel.commitments import remote_commitment_tx
from salama.channel.keys import derive_secret
from salama.channel.transactions import htlc_sighash, make_htlc_txs
from salama.crypto.secp256k1 import is_low_s, sign, verify
from salama.testing.pair import Pair
from salama.wire.updates import CommitmentSigned, UpdateAddHtlc

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def high_s(signature: bytes) -> bytes:
    """The other signature that is valid for the same digest."""
    return signature[:32] + (ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")


BENT = {
    "high s": high_s,
    "zero": lambda s: bytes(64),
    "r of the order": lambda s: ORDER.to_bytes(32, "big") + s[32:],
    "r and s swapped": lambda s: s[32:] + s[:32],
    "one bit": lambda s: bytes([s[0] ^ 1]) + s[1:],
}


@pytest.mark.parametrize("which", ["commitment", "htlc"])
@pytest.mark.parametrize("fault", BENT)
def test_no_bent_signature_makes_a_commitment(which: str, fault: str) -> None:
    pair = Pair.opened()
    pair.alice.adds(50_000_000)
    add, signed = pair.alice.sent()
    assert isinstance(add, UpdateAddHtlc) and isinstance(signed, CommitmentSigned) and len(signed.htlc_signature) == 1
    if which == "commitment":
        bent = replace(signed, signature=BENT[fault](signed.signature))
    else:
        bent = replace(signed, htlc_signature=(BENT[fault](signed.htlc_signature[0]),))
    before = pair.bob.record
    pair.bob.hears(add, bent)
    assert pair.bob.record == before and not pair.bob.is_connected
    assert not pair.bob.broadcasts


def test_the_good_ones_are_low_and_taken() -> None:
    pair = Pair.opened()
    pair.alice.adds(50_000_000)
    signed = pair.alice.sent()[1]
    assert isinstance(signed, CommitmentSigned)
    assert is_low_s(signed.signature) and all(map(is_low_s, signed.htlc_signature))
    pair.settle()
    assert pair.bob.record.funding.local.number == 1


def test_high_s_is_not_verified() -> None:
    from salama.crypto.secp256k1 import public_key, sign

    secret, digest = b"\x01" * 32, b"\x02" * 32
    good = sign(secret, digest)
    assert verify(public_key(secret), digest, good)
    assert not verify(public_key(secret), digest, high_s(good))


def test_a_signature_of_another_kind_or_for_another_state_is_refused() -> None:
    """Signatures for the HTLC of another commitment, or one too many, or none."""
    pair = Pair.opened()
    pair.alice.adds(50_000_000)
    add, signed = pair.alice.sent()
    assert isinstance(signed, CommitmentSigned)
    for htlc in ((), signed.htlc_signature * 2, (signed.signature,)):
        other = Pair.opened()
        other.alice.adds(50_000_000)
        other.bob.hears(add, replace(signed, htlc_signature=htlc))
        assert other.bob.record.funding.local.number == 0 and not other.bob.is_connected


@pytest.mark.parametrize("kind", [SIGHASH_ALL, SIGHASH_SINGLE, SIGHASH_ALL | ANYONECANPAY])
def test_an_htlc_signature_of_another_kind_is_refused(kind: int) -> None:
    """With anchors it is for SINGLE|ANYONECANPAY alone: any other could carry no fee, or the peer's change."""
    pair = Pair.opened()
    pair.alice.adds(50_000_000)
    add, signed = pair.alice.sent()
    assert isinstance(signed, CommitmentSigned)
    alice = pair.alice.record
    assert alice.funding.next_remote is not None
    commitment = remote_commitment_tx(alice, alice.funding, alice.funding.next_remote)
    (htlc_tx,) = make_htlc_txs(commitment)
    secrets = pair.alice.signer._secrets(alice.params.key_index)
    key = derive_secret(secrets.htlc, alice.funding.next_remote.point)
    good = sign(key, htlc_sighash(htlc_tx, SIGHASH_SINGLE | ANYONECANPAY))
    assert signed.htlc_signature == (good,)
    pair.bob.hears(add, replace(signed, htlc_signature=(sign(key, htlc_sighash(htlc_tx, kind)),)))
    assert pair.bob.record.funding.local.number == 0 and not pair.bob.is_connected
