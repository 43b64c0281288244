"""Bech32, addresses and networks: published figures, embit, the kernel's genesis blocks, and garbage."""

import json
from pathlib import Path

import pbk
import pytest
from embit import bech32 as their_bech32
from embit import script as their_script
from embit.networks import NETWORKS as THEIR_NETWORKS
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.bitcoin import address, bech32
from salama.bitcoin.bech32 import ALPHABET, MalformedBech32, Variant
from salama.bitcoin.networks import MAINNET, NETWORKS, REGTEST, SIGNET, TESTNET4
from salama.bitcoin.script import p2pkh, p2sh, p2tr, p2wpkh, p2wsh
from salama.crypto.secp256k1 import public_key, taproot_output_key

BIP341 = json.loads((Path(__file__).parent / "bip341_key_path.json").read_text())
TEXTS = [
    ("A12UEL5L", Variant.BECH32),
    ("a12uel5l", Variant.BECH32),
    ("an83characterlonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio1tt5tgs", Variant.BECH32),
    ("abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw", Variant.BECH32),
    ("split1checkupstagehandshakeupstreamerranterredcaperred2y9e3w", Variant.BECH32),
    ("?1ezyfcl", Variant.BECH32),
    ("A1LQFN3A", Variant.BECH32M),
    ("a1lqfn3a", Variant.BECH32M),
    ("an83characterlonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11sg7hg6", Variant.BECH32M),
    ("abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx", Variant.BECH32M),
    ("11" + "l" * 82 + "ludsr8", Variant.BECH32M),
    ("split1checkupstagehandshakeupstreamerranterredcaperredlc445v", Variant.BECH32M),
    ("?1v759aa", Variant.BECH32M),
]
BAD_TEXTS = [
    "\x201xj0phk",
    "\x7f1g6xzxy",
    "\x801vctc34",
    "an84characterslonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11d6pts4",
    "qyrz8wqd2c9m",
    "1qyrz8wqd2c9m",
    "y1b0jsk6g",
    "lt1igcx5c0",
    "in1muywd",
    "mm1crxm3i",
    "au1s5cgom",
    "M1VUXWEZ",
    "16plkw9",
    "1p2gdwpf",
    "a12UEL5L",
    "",
    "1",
]
ADDRESSES = [
    ("BC1QW508D6QEJXTDG4Y5R3ZARVARY0C5XW7KV8F3T4", "0014751e76e8199196d454941c45d1b3a323f1433bd6"),
    (
        "tb1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3q0sl5k7",
        "00201863143c14c5166804bd19203356da136c985678cd4d27a1b8c6329604903262",
    ),
    (
        "bc1pw508d6qejxtdg4y5r3zarvary0c5xw7kw508d6qejxtdg4y5r3zarvary0c5xw7kt5nd6y",
        "5128751e76e8199196d454941c45d1b3a323f1433bd6751e76e8199196d454941c45d1b3a323f1433bd6",
    ),
    ("BC1SW50QGDZ25J", "6002751e"),
    ("bc1zw508d6qejxtdg4y5r3zarvaryvaxxpcs", "5210751e76e8199196d454941c45d1b3a323"),
    (
        "tb1pqqqqp399et2xygdj5xreqhjjvcmzhxw4aywxecjdzew6hylgvsesf3hn0c",
        "5120000000c4a5cad46221b2a187905e5266362b99d5e91c6ce24d165dab93e86433",
    ),
    (
        "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0",
        "512079be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
    ),
    ("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "76a91462e907b15cbf27d5425399ebf6f0fb50ebb88f1888ac"),
    ("3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy", "a914b472a266d0bd89c13706a4132ccfb16f7c3b9fcb87"),
]
BAD_ADDRESSES = [
    "tc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vq5zuyut",
    "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqh2y7hd",
    "tb1z0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqglt7rf",
    "BC1S0XLXVLHEMJA6C4DQV22UAPCTQUPFHLXM9H8Z3K2E72Q4K9HCZ7VQ54WELL",
    "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kemeawh",
    "tb1q0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vq24jc47",
    "bc1p38j9r5y49hruaue7wxjce0updqjuyyx0kh56v8s25huc6995vvpql3jow4",
    "BC130XLXVLHEMJA6C4DQV22UAPCTQUPFHLXM9H8Z3K2E72Q4K9HCZ7VQ7ZWS8R",
    "bc1pw5dgrnzv",
    "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7v8n0nx0muaewav253zgeav",
    "BC1QR508D6QEJXTDG4Y5R3ZARVARYV98GJ9P",
    "tb1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vq47Zagq",
    "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7v07qwwzcrf",
    "tb1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vpggkg4j",
    "bc1gmk9yu",
    "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb",
    "1A1zP1eP5QGefi2DMPTfTL5SLmv7Divf0a",
    "",
    "1",
    "bc1",
    "ü" * 20,
    "q" * 100_000,
]


@pytest.mark.parametrize(("text", "variant"), TEXTS)
def test_published_texts(text, variant):
    hrp, groups, found = bech32.decode(text, 90)
    assert found is variant
    assert bech32.encode(hrp, groups, variant) == text.lower()


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_published_bad_texts(text):
    with pytest.raises(MalformedBech32):
        bech32.decode(text, 90)


def test_an_invoice_may_be_longer_than_an_address():
    text = bech32.encode("lnbcrt", bytes(range(32)) * 40, Variant.BECH32)
    assert bech32.decode(text)[1] == bytes(range(32)) * 40
    with pytest.raises(MalformedBech32, match="more than 90"):
        bech32.decode(text, 90)


groups = st.binary(max_size=60).map(lambda raw: bytes(byte & 31 for byte in raw))
prefixes = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20).map(str.lower)


@given(prefixes, groups, st.sampled_from(Variant))
def test_bech32_round_trip_and_embit(hrp, data, variant):
    text = bech32.encode(hrp, data, variant)
    assert bech32.decode(text) == (hrp, data, variant)
    assert bech32.decode(text.upper()) == (hrp, data, variant)
    theirs = their_bech32.Encoding.BECH32 if variant is Variant.BECH32 else their_bech32.Encoding.BECH32M
    assert their_bech32.bech32_encode(theirs, hrp, list(data)) == text


@given(groups, st.data())
def test_up_to_four_wrong_letters_are_noticed(data, draw):
    text = bech32.encode("bc", data, Variant.BECH32M)
    letters = list(text)
    places = draw.draw(st.sets(st.integers(3, len(text) - 1), min_size=1, max_size=4))
    for place in places:
        letters[place] = draw.draw(st.sampled_from(ALPHABET.replace(letters[place], "")))
    try:
        _, _, variant = bech32.decode("".join(letters))
    except MalformedBech32:
        return
    assert variant is not Variant.BECH32M


@given(st.text(max_size=100) | st.text(ALPHABET + "1", max_size=100))
def test_bech32_garbage(text):
    try:
        hrp, data, variant = bech32.decode(text)
    except MalformedBech32:
        return
    assert bech32.encode(hrp, data, variant) == text.lower()


@given(st.binary(max_size=80))
def test_regrouping_there_and_back(data):
    fives = bech32.unpack(data)
    assert list(fives) == their_bech32.convertbits(data, 8, 5)
    assert bech32.pack(fives) == data


@given(groups)
def test_regrouping_is_strict_only_when_asked(data):
    expected = their_bech32.convertbits(data, 5, 8, False)
    loose = bech32.pack(data, strict=False)
    assert len(loose) == len(data) * 5 // 8
    if expected is None:
        with pytest.raises(MalformedBech32):
            bech32.pack(data)
    else:
        assert bech32.pack(data) == bytes(expected) == loose


def test_what_is_no_group_is_refused():
    with pytest.raises(ValueError, match="more than 5 bits"):
        bech32.pack(b"\x20")
    with pytest.raises(ValueError, match="more than 5 bits"):
        bech32.letters_of(b"\x20")
    with pytest.raises(ValueError, match="prefix"):
        bech32.encode("Bc", b"", Variant.BECH32)
    assert bech32.groups_of(ALPHABET) == bytes(range(32))
    for bad in ("b", "i", "o", "1", "Q", "\xe9"):
        with pytest.raises(MalformedBech32):
            bech32.groups_of(bad)


def network_of(text):
    return TESTNET4 if text.lower().startswith("tb") else MAINNET


@pytest.mark.parametrize(("text", "script"), ADDRESSES)
def test_published_addresses(text, script):
    network = network_of(text)
    assert address.parse(text, network).hex() == script
    rendered = address.render(bytes.fromhex(script), network)
    assert rendered == (text.lower() if text.lower().startswith(network.bech32_hrp + "1") else text)


@pytest.mark.parametrize("text", BAD_ADDRESSES)
def test_bad_addresses(text):
    for network in NETWORKS.values():
        with pytest.raises(address.MalformedAddress):
            address.parse(text, network)


@pytest.mark.parametrize("case", BIP341["outputs"], ids=lambda case: case["address"][:12])
def test_bip341_addresses(case):
    key, _ = taproot_output_key(bytes.fromhex(case["internal"]), bytes.fromhex(case["merkle_root"]))
    assert p2tr(key).hex() == case["script"]
    assert address.render(p2tr(key), MAINNET) == case["address"]


hashes = st.binary(min_size=20, max_size=20)
scripts = st.one_of(
    hashes.map(p2pkh),
    hashes.map(p2sh),
    hashes.map(lambda h: b"\x00\x14" + h),
    st.binary(max_size=30).map(p2wsh),
    st.builds(
        lambda version, data: bytes((0x50 + version, len(data))) + data,
        st.integers(1, 16),
        st.binary(min_size=2, max_size=40),
    ),
)


@given(scripts, st.sampled_from(sorted(NETWORKS)))
def test_addresses_round_trip_and_tell_the_wrong_network(script, name):
    network = NETWORKS[name]
    text = address.render(script, network)
    assert address.parse(text, network) == script
    for other in NETWORKS.values():
        if address.render(script, other) != text:
            with pytest.raises(address.MalformedAddress) as caught:
                address.parse(text, other)
            assert network.name in caught.value.reason and other.name in caught.value.reason


@given(st.integers(1, 2**128))
@settings(max_examples=30)
def test_addresses_agree_with_embit(number):
    key = public_key(number.to_bytes(32, "big"))
    for network, theirs in ((MAINNET, "main"), (REGTEST, "regtest"), (SIGNET, "signet")):
        for script in (p2wpkh(key), p2wsh(key), p2tr(key[1:]), p2pkh(key[:20]), p2sh(key[:20])):
            text = address.render(script, network)
            assert their_script.Script(script).address(THEIR_NETWORKS[theirs]) == text
            assert their_script.address_to_scriptpubkey(text).data == script


@given(st.text(max_size=95))
def test_address_garbage(text):
    for network in NETWORKS.values():
        try:
            script = address.parse(text, network)
        except address.MalformedAddress:
            continue
        assert address.render(script, network) is not None


@pytest.mark.parametrize("script", [b"", b"\x6a\x01a", b"\x21" + bytes(33) + b"\xac", b"\x00\x15" + bytes(21)])
def test_what_has_no_address(script):
    assert address.render(script, REGTEST) is None


@pytest.mark.parametrize(
    ("network", "chain"),
    [
        (MAINNET, pbk.ChainType.MAINNET),
        (TESTNET4, pbk.ChainType.TESTNET_4),
        (SIGNET, pbk.ChainType.SIGNET),
        (REGTEST, pbk.ChainType.REGTEST),
    ],
    ids=str,
)
def test_chain_hashes_are_those_of_bitcoin_core(network, chain, tmp_path):
    manager = pbk.load_chainman(tmp_path, chain)
    genesis = manager.get_active_chain().block_tree_entries[0].block_hash
    assert str(genesis) == str(network.chain_hash)
    assert NETWORKS[network.name] is network


def test_networks_are_told_apart_by_their_invoices():
    assert {n.bolt11_hrp for n in NETWORKS.values()} == {"bc", "tb", "tbs", "bcrt"}
    assert MAINNET.chain_hash.hex() == "6fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000"
