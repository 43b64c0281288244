"""BIP 32's and BIP 39's published figures, and embit as a second opinion."""

from __future__ import annotations

import pytest
from embit import bip32
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.crypto import base58, secp256k1
from salama.crypto.seeds import (
    HARDENED,
    ExtendedKey,
    InvalidExtendedKey,
    InvalidMnemonic,
    check_words,
    make_words,
    seed_of_words,
)

SEED_1 = "000102030405060708090a0b0c0d0e0f"
SEED_2 = (
    "fffcf9f6f3f0edeae7e4e1dedbd8d5d2cfccc9c6c3c0bdbab7b4b1aeaba8a5a2"
    "9f9c999693908d8a8784817e7b7875726f6c696663605d5a5754514e4b484542"
)
SEED_3 = (
    "4b381541583be4423346c643850da4b320e46a87ae3d2a4e6da11eba819cd4ac"
    "ba45d239319ac14f863b8d5ab5a0d0c64d2e8a1e7d1457df2e5a3c51c73235be"
)
BIP_32 = [
    (
        SEED_1,
        "m",
        "xpub661MyMwAqRbcFtXgS5sYJABqqG9YLmC4Q1Rdap9gSE8NqtwybGhePY2gZ29ESFjqJoCu1Rupje8YtGqsefD265TMg7usUDFdp6W1EGMcet8",
        "xprv9s21ZrQH143K3QTDL4LXw2F7HEK3wJUD2nW2nRk4stbPy6cq3jPPqjiChkVvvNKmPGJxWUtg6LnF5kejMRNNU3TGtRBeJgk33yuGBxrMPHi",
    ),
    (
        SEED_1,
        "m/0'",
        "xpub68Gmy5EdvgibQVfPdqkBBCHxA5htiqg55crXYuXoQRKfDBFA1WEjWgP6LHhwBZeNK1VTsfTFUHCdrfp1bgwQ9xv5ski8PX9rL2dZXvgGDnw",
        "xprv9uHRZZhk6KAJC1avXpDAp4MDc3sQKNxDiPvvkX8Br5ngLNv1TxvUxt4cV1rGL5hj6KCesnDYUhd7oWgT11eZG7XnxHrnYeSvkzY7d2bhkJ7",
    ),
    (
        SEED_1,
        "m/0h/1/2h",
        "xpub6D4BDPcP2GT577Vvch3R8wDkScZWzQzMMUm3PWbmWvVJrZwQY4VUNgqFJPMM3No2dFDFGTsxxpG5uJh7n7epu4trkrX7x7DogT5Uv6fcLW5",
        "xprv9z4pot5VBttmtdRTWfWQmoH1taj2axGVzFqSb8C9xaxKymcFzXBDptWmT7FwuEzG3ryjH4ktypQSAewRiNMjANTtpgP4mLTj34bhnZX7UiM",
    ),
    (
        SEED_1,
        "m/0'/1/2'/2/1000000000",
        "xpub6H1LXWLaKsWFhvm6RVpEL9P4KfRZSW7abD2ttkWP3SSQvnyA8FSVqNTEcYFgJS2UaFcxupHiYkro49S8yGasTvXEYBVPamhGW6cFJodrTHy",
        "xprvA41z7zogVVwxVSgdKUHDy1SKmdb533PjDz7J6N6mV6uS3ze1ai8FHa8kmHScGpWmj4WggLyQjgPie1rFSruoUihUZREPSL39UNdE3BBDu76",
    ),
    (
        SEED_2,
        "m/0/2147483647H/1/2147483646H/2",
        "xpub6FnCn6nSzZAw5Tw7cgR9bi15UV96gLZhjDstkXXxvCLsUXBGXPdSnLFbdpq8p9HmGsApME5hQTZ3emM2rnY5agb9rXpVGyy3bdW6EEgAtqt",
        "xprvA2nrNbFZABcdryreWet9Ea4LvTJcGsqrMzxHx98MMrotbir7yrKCEXw7nadnHM8Dq38EGfSh6dqA9QWTyefMLEcBYJUuekgW4BYPJcr9E7j",
    ),
    # A master secret that begins with zeros.
    (
        SEED_3,
        "m/0'",
        None,
        "xprv9uPDJpEQgRQfDcW7BkF7eTya6RPxXeJCqCJGHuCJ4GiRVLzkTXBAJMu2qaMWPrS7AANYqdq6vcBcBUdJCVVFceUvJFjaPdGZ2y9WACViL4L",
    ),
]


@pytest.mark.parametrize(("seed", "path", "xpub", "xprv"), BIP_32)
def test_bip_32(seed: str, path: str, xpub: str | None, xprv: str) -> None:
    key = ExtendedKey.of_seed(bytes.fromhex(seed)).derive(path)
    assert key.render() == xprv
    assert ExtendedKey.parse(xprv) == key
    if xpub is not None:
        assert key.public.render() == xpub
        assert ExtendedKey.parse(xpub) == key.public


numbers = st.integers(0, HARDENED - 1)


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=16, max_size=64), st.lists(st.tuples(numbers, st.booleans()), max_size=4), st.booleans())
def test_embit_agrees(seed: bytes, steps: list[tuple[int, bool]], testnet: bool) -> None:
    path = "/".join(["m", *(f"{n}{'h' if hardened else ''}" for n, hardened in steps)])
    ours = ExtendedKey.of_seed(seed).derive(path)
    theirs = bip32.HDKey.from_seed(seed).derive(path)
    version = bytes.fromhex("04358394" if testnet else "0488ade4")
    assert ours.render(testnet=testnet) == theirs.to_base58(version=version)
    assert ExtendedKey.parse(ours.public.render(testnet=testnet)) == ours.public


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=16, max_size=64), numbers)
def test_public_derivation_meets_private(seed: bytes, number: int) -> None:
    key = ExtendedKey.of_seed(seed)
    assert key.public.child(number) == key.child(number).public


def test_what_cannot_be_derived() -> None:
    key = ExtendedKey.of_seed(bytes(16))
    for path in ("m/", "m//1", "m/x", "m/-1", "m/2147483648", "m/1''", "m/ 1", "M/1", "m/" + "9" * 4400, "m/٣"):
        with pytest.raises(InvalidExtendedKey):
            key.derive(path)
    with pytest.raises(InvalidExtendedKey):
        key.public.derive("0h")
    with pytest.raises(InvalidExtendedKey):
        key.child(1 << 32)
    with pytest.raises(InvalidExtendedKey):
        key.derive("/".join(["m"] + ["0"] * 256))
    for seed in (bytes(15), bytes(65)):
        with pytest.raises(InvalidExtendedKey):
            ExtendedKey.of_seed(seed)


def test_extended_keys_that_are_refused() -> None:
    xprv, xpub = BIP_32[0][3], BIP_32[0][2] or ""
    body, public_body = base58.parse(xprv), base58.parse(xpub)
    for payload in (
        body[:45] + b"\x01" + body[46:],  # a secret must begin with zero
        body[:46] + bytes(32),  # zero
        body[:46] + secp256k1.ORDER.to_bytes(32, "big"),
        public_body[:45] + b"\x04" + public_body[46:],
        public_body[:46] + b"\xff" * 32,
        body[:4] + b"\x00" + b"\x01" * 4 + body[9:],  # a master key with a parent
        body[:4] + b"\x00" + bytes(4) + b"\x00\x00\x00\x01" + body[13:],
        b"\x00\x00\x00\x00" + body[4:],
        body[:-1],
        b"",
    ):
        with pytest.raises(InvalidExtendedKey):
            ExtendedKey.parse(base58.render(payload))
    for text in (xprv[:-1], xprv[:-1] + "0", "", "1", "l" * 111, "x" * 100_000):
        with pytest.raises(InvalidExtendedKey):
            ExtendedKey.parse(text)


def test_keys_do_not_show_their_secrets() -> None:
    key = ExtendedKey.of_seed(bytes(16))
    assert key.secret is not None
    assert key.secret.hex() not in repr(key)
    assert key.chain_code.hex() not in repr(key)
    assert repr(bytes(key.secret)) not in repr(key)


@given(st.binary(max_size=90))
def test_base58_round_trip(payload: bytes) -> None:
    assert base58.parse(base58.render(payload)) == payload


def test_base58_of_too_many_characters() -> None:
    assert base58.parse(base58.render(bytes(base58.MAX_TEXT - 6))) == bytes(base58.MAX_TEXT - 6)
    with pytest.raises(base58.InvalidBase58):
        base58.parse(base58.render(bytes(base58.MAX_TEXT)))


@given(st.text(max_size=60))
def test_base58_garbage(text: str) -> None:
    try:
        payload = base58.parse(text)
    except base58.InvalidBase58:
        return
    assert base58.render(payload) == text


BIP_39 = [
    (
        bytes(16),
        "abandon " * 11 + "about",
        "c55257c360c07c72029aebc1b53c05ed0362ada38ead3e3e9efa3708e5349553"
        "1f09a6987599d18264c1e1c92f2cf141630c7a3c4ab7c81b2f001698e7463b04",
    ),
    (
        b"\x7f" * 16,
        "legal winner thank year wave sausage worth useful legal winner thank yellow",
        "2e8905819b8723fe2c1d161860e5ee1830318dbf49a83bd451cfb8440c28bd6f"
        "a457fe1296106559a3c80937a1c1069be3a3a5bd381ee6260e8d9739fce1f607",
    ),
    (
        b"\xff" * 32,
        "zoo " * 23 + "vote",
        "dd48c104698c30cfe2b6142103248622fb7bb0ff692eebb00089b32d22484e16"
        "13912f0a5b694407be899ffd31ed3992c456cdf60f5d4564b8ba3f05a69890ad",
    ),
]


@pytest.mark.parametrize(("entropy", "words", "seed"), BIP_39)
def test_bip_39(entropy: bytes, words: str, seed: str) -> None:
    assert make_words(entropy) == words
    check_words(words)
    assert seed_of_words(words, "TREZOR").hex() == seed
    assert seed_of_words(f"  {words.replace(' ', '  ')}\n", "TREZOR").hex() == seed


def test_words_that_are_refused() -> None:
    for words in ("", "abandon", "abandon " * 11 + "abandon", "abandon " * 11 + "nonsense", "zoo " * 5000):
        with pytest.raises(InvalidMnemonic):
            check_words(words)
        with pytest.raises(InvalidMnemonic):
            seed_of_words(words)
    for size in (0, 15, 17, 33):
        with pytest.raises(InvalidMnemonic):
            make_words(bytes(size))
