"""Hashes and ciphers against published figures and against each other."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.crypto import _ripemd160, hashes
from salama.crypto.ciphers import AuthenticationFailed, chacha20, chacha20_stream, open_sealed, seal, xor


def test_simple_hashes() -> None:
    assert hashes.sha256(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hashes.sha256d(b"abc") == hashes.sha256(hashes.sha256(b"abc"))
    assert hashes.hash160(b"abc") == hashes.ripemd160(hashes.sha256(b"abc"))


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        (b"", "9c1185a5c5e9fc54612808977ee8f548b2258d31"),
        (b"abc", "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc"),
        (b"a" * 1000, "aa69deee9a8922e92f8105e007f76110f381e9cf"),
    ],
)
def test_ripemd160_in_python(text: bytes, digest: str) -> None:
    assert _ripemd160.digest(text).hex() == digest
    assert hashes.ripemd160(text).hex() == digest


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200))
def test_ripemd160_fallback_agrees_with_openssl(data: bytes) -> None:
    if "ripemd160" not in hashlib.algorithms_available:
        pytest.skip("this OpenSSL has none")
    assert _ripemd160.digest(data) == hashlib.new("ripemd160", data).digest()


def test_hmac_and_hkdf_of_rfc_5869() -> None:
    assert (
        hashes.hmac_sha256(b"Jefe", b"what do ya want for nothing?").hex()
        == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )
    # Test case 3 of the RFC has neither salt nor info; it prints 42 of our 64 bytes.
    assert (
        b"".join(hashes.hkdf_two(b"", b"\x0b" * 22))
        .hex()
        .startswith("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8")
    )


def test_tagged_hash_with_and_without_memory() -> None:
    tag = hashlib.sha256(b"BIP0340/challenge").digest()
    expected = hashlib.sha256(tag + tag + b"message").digest()
    assert hashes.tagged_hash(b"BIP0340/challenge", b"message") == expected
    assert hashes.tagged_hash(b"BIP0340/challenge", b"message") == expected
    for number in range(300):
        hashes.tagged_hash(b"LnNonce%d" % number, b"")
    assert len(hashes._tag_prefixes) <= 64
    assert (
        hashes.tagged_hash(b"never seen", b"x")
        == hashlib.sha256(hashlib.sha256(b"never seen").digest() * 2 + b"x").digest()
    )


def test_chacha20_of_rfc_8439() -> None:
    stream = chacha20_stream(bytes(32), 64).hex()
    assert stream.startswith("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    assert stream.endswith("6a43b8f41518a11cc387b669b2ee6586")
    assert chacha20_stream(bytes(32), 0) == b""


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_stream_cipher_is_its_own_inverse(key: bytes, data: bytes) -> None:
    assert chacha20(key, data) == xor(data, chacha20_stream(key, len(data)))
    assert chacha20(key, chacha20(key, data)) == data


def test_xor_wants_equal_lengths() -> None:
    assert xor(b"\x0f\x00", b"\xff\x01") == b"\xf0\x01"
    with pytest.raises(ValueError):
        xor(b"a", b"ab")


@given(st.binary(max_size=64), st.binary(max_size=64), st.integers(0, 2**64 - 1), st.data())
def test_sealed_data_opens_only_as_it_was(ad: bytes, plaintext: bytes, nonce: int, data: st.DataObject) -> None:
    key = b"\x05" * 32
    sealed = seal(key, nonce, ad, plaintext)
    assert open_sealed(key, nonce, ad, sealed) == plaintext
    at = data.draw(st.integers(0, len(sealed) - 1))
    altered = sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :]
    for wrong in (
        (key, nonce, ad, altered),
        (key, nonce ^ 1, ad, sealed),
        (key, nonce, ad + b"x", sealed),
        (b"\x06" * 32, nonce, ad, sealed),
        (key, nonce, ad, sealed[:15]),
        (key, nonce, ad, b""),
    ):
        with pytest.raises(AuthenticationFailed):
            open_sealed(*wrong)
