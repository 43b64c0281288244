"""The curve: published figures, an independent implementation as a second opinion, and input that must not crash it."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature as OtherInvalidSignature
from cryptography.hazmat.primitives import hashes as other_hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.crypto import secp256k1
from salama.crypto.hashes import sha256
from salama.crypto.secp256k1 import ORDER, InvalidKey, InvalidPoint, InvalidSignature
from salama.crypto.secrets import SecretKey

DERIVATIONS = json.loads((Path(__file__).parents[1] / "vectors" / "bolt03-key-derivation.json").read_text())["cases"]

ONE = (1).to_bytes(32, "big")
GENERATOR = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
scalars = st.integers(1, ORDER - 1).map(lambda n: n.to_bytes(32, "big"))
digests = st.binary(min_size=32, max_size=32)


def scalar(number: int) -> bytes:
    return (number % ORDER).to_bytes(32, "big")


def test_generator_and_edges_of_the_group() -> None:
    assert secp256k1.public_key(ONE) == GENERATOR
    assert secp256k1.public_key(scalar(-1)) == secp256k1.negate_point(GENERATOR)
    for bad in (bytes(32), ORDER.to_bytes(32, "big"), b"\xff" * 32, b"", b"\x01" * 31, b"\x01" * 33):
        assert not secp256k1.is_scalar(bad)
        with pytest.raises(InvalidKey):
            secp256k1.public_key(bad)
        with pytest.raises(InvalidKey):
            secp256k1.sign(bad, bytes(32))
        with pytest.raises(InvalidKey):
            secp256k1.sign_recoverable(bad, bytes(32))
        with pytest.raises(InvalidKey):
            secp256k1.sign_schnorr(bad, bytes(32), bytes(32))
        with pytest.raises(InvalidKey):
            secp256k1.ecdh(bad, GENERATOR)
        with pytest.raises(InvalidKey):
            secp256k1.add_scalars(bad, ONE)
        with pytest.raises(InvalidKey):
            secp256k1.multiply_scalars(ONE, bad)
        with pytest.raises(InvalidKey):
            secp256k1.multiply_point(GENERATOR, bad)
        with pytest.raises(InvalidKey):
            secp256k1.add_to_point(GENERATOR, bad)
        with pytest.raises(InvalidKey):
            secp256k1.taproot_secret(bad)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        GENERATOR[:32],
        GENERATOR + b"\x00",
        b"\x00" * 33,
        b"\x04" + GENERATOR[1:],
        b"\x05" + GENERATOR[1:],
        b"\x02" + b"\xff" * 32,
        b"\x02" + (5).to_bytes(32, "big"),
        b"\x04" + bytes(64),
    ],
)
def test_what_is_no_point_is_refused_everywhere(bad: bytes) -> None:
    assert not secp256k1.is_point(bad)
    for use in (
        lambda: secp256k1.add_points(GENERATOR, bad),
        lambda: secp256k1.multiply_point(bad, ONE),
        lambda: secp256k1.add_to_point(bad, ONE),
        lambda: secp256k1.negate_point(bad),
        lambda: secp256k1.xonly(bad),
        lambda: secp256k1.ecdh(ONE, bad),
    ):
        with pytest.raises(InvalidPoint):
            use()
    assert not secp256k1.verify(bad, bytes(32), bytes(64))


def test_sums_that_vanish_are_refused() -> None:
    with pytest.raises(InvalidPoint):
        secp256k1.add_points(GENERATOR, secp256k1.negate_point(GENERATOR))
    with pytest.raises(InvalidPoint):
        secp256k1.add_to_point(GENERATOR, scalar(-1))
    with pytest.raises(InvalidPoint):
        secp256k1.add_points()
    with pytest.raises(InvalidKey):
        secp256k1.add_scalars(ONE, scalar(-1))


@settings(max_examples=40, deadline=None)
@given(scalars, scalars)
def test_arithmetic_agrees_with_integers(a: bytes, b: bytes) -> None:
    m, n = int.from_bytes(a, "big"), int.from_bytes(b, "big")
    point_a, point_b = secp256k1.public_key(a), secp256k1.public_key(b)
    assert secp256k1.multiply_scalars(a, b) == scalar(m * n)
    assert secp256k1.negate_scalar(a) == scalar(-m)
    assert secp256k1.multiply_point(point_a, b) == secp256k1.public_key(scalar(m * n))
    if (m + n) % ORDER:
        assert secp256k1.add_scalars(a, b) == scalar(m + n)
        assert secp256k1.add_points(point_a, point_b) == secp256k1.public_key(scalar(m + n))
        assert secp256k1.add_to_point(point_a, b) == secp256k1.public_key(scalar(m + n))
    assert secp256k1.ecdh(a, point_b) == secp256k1.ecdh(b, point_a) == sha256(secp256k1.multiply_point(point_a, b))


@settings(max_examples=25, deadline=None)
@given(scalars, digests)
def test_an_independent_implementation_agrees(secret: bytes, digest: bytes) -> None:
    other = ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256K1())
    numbers = other.public_key().public_numbers()
    point = bytes((2 + (numbers.y & 1),)) + numbers.x.to_bytes(32, "big")
    assert secp256k1.public_key(secret) == point

    signature = secp256k1.sign(secret, digest)
    algorithm = ec.ECDSA(utils.Prehashed(other_hashes.SHA256()))
    other.public_key().verify(secp256k1.to_der(signature), digest, algorithm)
    with pytest.raises(OtherInvalidSignature):
        other.public_key().verify(secp256k1.to_der(signature), sha256(digest), algorithm)

    theirs = secp256k1.from_der(other.sign(digest, algorithm))
    assert secp256k1.verify(point, digest, theirs) == secp256k1.is_low_s(theirs)


def test_rfc_6979_signature() -> None:
    signature = secp256k1.sign(ONE, sha256(b"Satoshi Nakamoto"))
    assert signature.hex() == (
        "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8"
        "2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5"
    )


@settings(max_examples=40, deadline=None)
@given(scalars, digests)
def test_signatures(secret: bytes, digest: bytes) -> None:
    point = secp256k1.public_key(secret)
    signature = secp256k1.sign(secret, digest)
    high = signature[:32] + scalar(-int.from_bytes(signature[32:], "big"))
    assert secp256k1.is_low_s(signature)
    assert not secp256k1.is_low_s(high)
    assert secp256k1.verify(point, digest, signature)
    assert not secp256k1.verify(point, digest, high)
    assert not secp256k1.verify(point, sha256(digest), signature)
    if any(digest):
        # For a digest of zero a signature holds for both points with this x.
        assert not secp256k1.verify(secp256k1.negate_point(point), digest, signature)
    assert not secp256k1.verify(point, digest, signature + b"\x00")
    assert not secp256k1.verify(point + b"\x00", digest, signature)
    assert not secp256k1.verify(point, digest + b"\x00", signature)
    assert secp256k1.from_der(secp256k1.to_der(signature)) == signature
    assert secp256k1.from_der(secp256k1.to_der(high)) == high

    recoverable, recovery_id = secp256k1.sign_recoverable(secret, digest)
    assert recoverable == signature
    assert secp256k1.recover(digest, signature, recovery_id) == point
    assert secp256k1.recover(digest, high, recovery_id ^ 1) == point


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=40), st.integers(-2, 6))
def test_garbage_is_refused_and_never_crashes(point: bytes, signature: bytes, digest: bytes, recovery_id: int) -> None:
    assert not secp256k1.verify(point, digest, signature)
    assert not secp256k1.verify_schnorr(point, digest, signature)
    for use in (
        lambda: secp256k1.recover(digest, signature, recovery_id),
        lambda: secp256k1.to_der(signature),
        lambda: secp256k1.from_der(signature),
        lambda: secp256k1.is_low_s(signature),
    ):
        with contextlib.suppress(InvalidSignature):
            use()


def test_malformed_signatures() -> None:
    r_too_large = ORDER.to_bytes(32, "big") + ONE
    assert not secp256k1.verify(GENERATOR, bytes(32), r_too_large)
    for use in (
        lambda: secp256k1.to_der(r_too_large),
        lambda: secp256k1.is_low_s(bytes(63)),
        lambda: secp256k1.recover(bytes(32), bytes(64), 0),
        lambda: secp256k1.recover(bytes(32), ONE + ONE, 4),
        lambda: secp256k1.recover(bytes(31), ONE + ONE, 0),
        lambda: secp256k1.sign(ONE, bytes(31)),
        lambda: secp256k1.sign_schnorr(ONE, bytes(32), bytes(31)),
        lambda: secp256k1.from_der(secp256k1.to_der(ONE + ONE) + b"\x00"),
        # r one byte longer than the group order allows
        lambda: secp256k1.from_der(bytes.fromhex("3026022100") + b"\xff" * 32 + bytes.fromhex("020101")),
    ):
        with pytest.raises(InvalidSignature):
            use()


@pytest.mark.parametrize(
    ("secret", "point", "aux", "digest", "signature"),
    [
        (
            "0000000000000000000000000000000000000000000000000000000000000003",
            "f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "e907831f80848d1069a5371b402410364bdf1c5f8307b0084c55f1ce2dca8215"
            "25f66a4a85ea8b71e482a74f382d2ce5ebeee8fdb2172f477df4900d310536c0",
        ),
        (
            "b7e151628aed2a6abf7158809cf4f3c762e7160f38b4da56a784d9045190cfef",
            "dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba659",
            "0000000000000000000000000000000000000000000000000000000000000001",
            "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89",
            "6896bd60eeae296db48a229ff71dfe071bde413e6d43f917dc8dcf8c78de3341"
            "8906d11ac976abccb20b091292bff4ea897efcb639ea871cfa95f6de339e4b0a",
        ),
    ],
)
def test_bip_340(secret: str, point: str, aux: str, digest: str, signature: str) -> None:
    key, message = bytes.fromhex(secret), bytes.fromhex(digest)
    assert secp256k1.xonly(secp256k1.public_key(key)).hex() == point
    made = secp256k1.sign_schnorr(key, message, bytes.fromhex(aux))
    assert made.hex() == signature
    assert secp256k1.verify_schnorr(bytes.fromhex(point), message, made)
    assert not secp256k1.verify_schnorr(bytes.fromhex(point), sha256(message), made)
    assert not secp256k1.verify_schnorr(bytes.fromhex(point), message, made[:32] + scalar(1))


@pytest.mark.parametrize(
    ("internal", "root", "output"),
    [
        (
            "d6889cb081036e0faefa3a35157ad71086b123b2b144b649798b494c300a961d",
            "",
            "53a1f6e454df1aa2776a2814a721372d6258050de330b3c6d10ee8f4e0dda343",
        ),
        (
            "187791b6f712a8ea41c8ecdd0ee77fab3e85263b37e1ec18a3651926b3a6cf27",
            "5b75adecf53548f3ec6ad7d78383bf84cc57b55a3127c72b9a2481752dd88b21",
            "147c9c57132f6e7ecddba9800bb0c4449251c92a1e60371ee77557b6620f3ea3",
        ),
    ],
)
def test_bip_341_output_keys(internal: str, root: str, output: str) -> None:
    assert secp256k1.taproot_output_key(bytes.fromhex(internal), bytes.fromhex(root))[0].hex() == output


@settings(max_examples=25, deadline=None)
@given(scalars, st.sampled_from([b"", b"\x07" * 32]), digests)
def test_taproot_secret_signs_for_the_output_key(secret: bytes, root: bytes, digest: bytes) -> None:
    output, parity = secp256k1.taproot_output_key(secp256k1.xonly(secp256k1.public_key(secret)), root)
    tweaked = secp256k1.taproot_secret(secret, root)
    assert secp256k1.verify_schnorr(output, digest, secp256k1.sign_schnorr(tweaked, digest, bytes(32)))
    assert secp256k1.add_points(bytes((2 + parity,)) + output)[1:] == output


def test_output_keys_of_what_is_no_x_coordinate() -> None:
    for bad in (b"", b"\xff" * 32, (5).to_bytes(32, "big"), GENERATOR):
        with pytest.raises(InvalidPoint):
            secp256k1.taproot_output_key(bad)


def test_a_merkle_root_has_32_bytes() -> None:
    with pytest.raises(InvalidPoint):
        secp256k1.taproot_output_key(GENERATOR[1:], b"\x01" * 31)
    with pytest.raises(InvalidKey):
        secp256k1.taproot_secret(ONE, b"\x01" * 33)


def test_key_derivation_of_bolt_3() -> None:
    """Every key of BOLT 3 is built from these few operations."""
    public, private, revocation, revocation_private = (
        {key: bytes.fromhex(value) for key, value in (case["given"] | case["expect"]).items()} for case in DERIVATIONS
    )
    assert secp256k1.add_to_point(public["basepoint"], public["tweak"]) == public["pubkey"]
    assert secp256k1.add_scalars(private["basepoint_secret"], private["tweak"]) == private["private_key"]
    assert secp256k1.public_key(private["per_commitment_secret"]) == private["per_commitment_point"]
    r = revocation
    one = secp256k1.multiply_point(r["revocation_basepoint"], r["revocation_tweak"])
    two = secp256k1.multiply_point(r["per_commitment_point"], r["per_commitment_tweak"])
    assert (one, two) == (r["tweaked_revocation_basepoint"], r["tweaked_per_commitment_point"])
    assert secp256k1.add_points(one, two) == r["revocation_pubkey"]
    r = revocation_private
    three = secp256k1.multiply_scalars(r["revocation_basepoint_secret"], r["revocation_tweak"])
    four = secp256k1.multiply_scalars(r["per_commitment_secret"], r["per_commitment_tweak"])
    assert secp256k1.add_scalars(three, four) == r["revocation_private_key"]
    assert secp256k1.public_key(r["revocation_private_key"]) == revocation["revocation_pubkey"]


def test_many_threads_may_use_the_one_context() -> None:
    digest = sha256(b"threads")

    def work(number: int) -> bool:
        secret = scalar(number + 1)
        return all(
            secp256k1.verify(secp256k1.public_key(secret), digest, secp256k1.sign(secret, digest)) for _ in range(20)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(40)))


def test_a_secret_key_does_not_show_itself() -> None:
    key = SecretKey(ONE)
    shown = f"{key} {key!r} {[key]} {key:}" + str({"key": key})
    assert ONE.hex() not in shown
    assert "x01" not in shown
    assert key == ONE
    assert key != scalar(2)
    assert key != "text"
    assert {key: 1}[SecretKey(ONE)] == 1
    assert key.public_key == GENERATOR
    assert key.hex() == ONE.hex()
    for bad in (bytes(32), b"\x01" * 31, ORDER.to_bytes(32, "big")):
        with pytest.raises(InvalidKey):
            SecretKey(bad)
