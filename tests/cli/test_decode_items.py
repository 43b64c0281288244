"""What a thing is: every kind, the published figures, and whatever else may come in."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.api.decoding import MAX_ITEM, decode_item
from salama.base.ids import BlockHash, ChannelId, NodeId, PaymentHash, ShortChannelId
from salama.base.machine import CommandRefused
from salama.base.units import Msat
from salama.bitcoin.networks import MAINNET, NETWORKS
from salama.bitcoin.script import p2pkh, p2sh, p2tr, p2wpkh, p2wsh
from salama.channel.keys import CommitmentKeys
from salama.channel.scripts import HtlcScripts, anchor_script, funding_script, to_local_script, to_remote_script
from salama.cli.decode import answer
from salama.codec.message import MESSAGES, UnknownMessage
from salama.crypto.secp256k1 import public_key
from salama.testing.messages import failures, messages
from salama.wire import (
    ChannelReady,
    ChannelReestablish,
    ChannelUpdate,
    ClosingSigned,
    FeeRange,
    IncorrectOrUnknownPaymentDetails,
    MyCurrentFundingLocked,
    NextFunding,
    ReplyChannelRange,
    UnknownFailure,
    UpdateAddHtlc,
)
from salama.wire.gossip import ChannelUpdateChecksums

VECTORS = Path(__file__).parents[1] / "vectors"
KEYS = [public_key(n.to_bytes(32, "big")) for n in range(1, 8)]
CHANNEL = ChannelId(bytes(range(32)))


def load(name: str) -> list[Any]:
    return list(json.loads((VECTORS / name).read_text())["cases"])


def refused(text: str) -> CommandRefused:
    with pytest.raises(CommandRefused) as caught:
        decode_item(text)
    return caught.value


# --- messages -------------------------------------------------------------------------------------------------------


def test_a_message_with_all_its_fields() -> None:
    add = UpdateAddHtlc(
        channel_id=CHANNEL,
        id=7,
        amount_msat=Msat(100_000),
        payment_hash=PaymentHash(b"\xaa" * 32),
        cltv_expiry=500,
        onion_routing_packet=bytes(1366),
        path_key=KEYS[0],
        extension=((65537, b"\1\2"),),
    )
    assert decode_item(add.encode().hex().upper()) == {
        "kind": "message",
        "name": "update_add_htlc",
        "type": 128,
        "fields": {
            "channel_id": bytes(range(32)).hex(),
            "id": 7,
            "amount_msat": 100_000,
            "payment_hash": "aa" * 32,
            "cltv_expiry": 500,
            "onion_routing_packet": "00" * 1366,
            "path_key": KEYS[0].hex(),
        },
        "extension": {"65537": "0102"},
        "encoded": add.encode().hex(),
    }


def test_records_of_several_fields_and_lists() -> None:
    reestablish = ChannelReestablish(
        channel_id=CHANNEL,
        next_commitment_number=(1 << 64) - 1,
        next_revocation_number=2,
        your_last_per_commitment_secret=bytes(32),
        my_current_per_commitment_point=KEYS[1],
        next_funding=NextFunding(bytes(range(32)), 1),  # type: ignore[arg-type]
        my_current_funding_locked=MyCurrentFundingLocked(bytes(32), 0),  # type: ignore[arg-type]
    )
    fields = decode_item(reestablish.encode().hex())["fields"]
    assert fields["next_commitment_number"] == 18446744073709551615
    assert fields["next_funding"] == {"next_funding_txid": bytes(range(32)).hex(), "retransmit_flags": 1}
    assert fields["my_current_funding_locked"] == {"my_current_funding_locked_txid": "00" * 32, "retransmit_flags": 0}

    signed = ClosingSigned(channel_id=CHANNEL, fee_satoshis=1, signature=bytes(64), fee_range=FeeRange(1, 2))  # type: ignore[arg-type]
    assert decode_item(signed.encode().hex())["fields"]["fee_range"] == {"min_fee_satoshis": 1, "max_fee_satoshis": 2}

    reply = ReplyChannelRange(
        chain_hash=MAINNET.chain_hash,
        first_blocknum=1,
        number_of_blocks=2,
        sync_complete=1,
        encoded_short_ids=(ShortChannelId.of(1, 2, 3), ShortChannelId.of(700_000, 5, 0)),
        checksums_tlv=(ChannelUpdateChecksums(1, 2), ChannelUpdateChecksums(3, 4)),
    )
    fields = decode_item(reply.encode().hex())["fields"]
    assert fields["encoded_short_ids"] == ["1x2x3", "700000x5x0"]
    assert fields["checksums_tlv"][1] == {"checksum_node_id_1": 3, "checksum_node_id_2": 4}
    assert "timestamps_tlv" not in fields
    # Bytes are shown as they travel, not in the order that people know this hash by.
    assert fields["chain_hash"] == bytes(MAINNET.chain_hash).hex()


def test_a_short_channel_id_in_a_record() -> None:
    ready = ChannelReady(
        channel_id=CHANNEL, second_per_commitment_point=KEYS[2], short_channel_id=ShortChannelId.of(9, 8, 7)
    )
    assert decode_item(ready.encode().hex())["fields"]["short_channel_id"] == "9x8x7"


@pytest.mark.parametrize(
    ("tail", "extension", "shown"), [(b"", {}, None), (b"\7\1\xff", {"7": "ff"}, None), (b"\7\2\xff", {}, "0702ff")]
)
def test_what_follows_a_signed_message(tail: bytes, extension: dict[str, str], shown: str | None) -> None:
    update = ChannelUpdate(
        signature=bytes(64),
        chain_hash=BlockHash(bytes(32)),
        short_channel_id=ShortChannelId(1),
        timestamp=1,
        message_flags=1,
        channel_flags=0,
        cltv_expiry_delta=80,
        htlc_minimum_msat=1,
        fee_base_msat=1,
        fee_proportional_millionths=1,
        htlc_maximum_msat=1,
        tail=tail,
    )
    said = decode_item(update.encode().hex())
    assert said["extension"] == extension
    assert said["fields"].get("tail") == shown
    assert said["encoded"] == update.encode().hex()


@pytest.mark.parametrize("case", load("bolt01-messages.json"), ids=lambda c: c["name"])
def test_init_figures(case: Any) -> None:
    text = case["given"]["message"]
    if "error" in case["expect"]:
        problem = refused(text)
        assert problem.code == "malformed_message"
        assert "init" in problem.reason
        return
    said = decode_item(text)
    assert (said["name"], said["type"]) == ("init", 16)
    known = {"1": "".join(said["fields"]["networks"])} if "networks" in said["fields"] else {}
    assert said["extension"] | known == case["expect"]["extension"]
    assert said["encoded"] == text


@pytest.mark.parametrize("case", load("bolt07-queries.json"), ids=lambda c: c["name"])
def test_query_figures(case: Any) -> None:
    text, expect = case["given"]["message"], case["expect"]
    if expect["uses_zlib"]:
        assert refused(text).code == "malformed_message"
        return
    said = decode_item(text)
    assert (said["type"], said["name"]) == (expect["message_type"], expect["message"])
    assert said["fields"].get("encoded_short_ids") == expect.get("short_channel_ids")
    assert said["encoded"] == text


@given(messages())
@settings(max_examples=150, deadline=None)
def test_every_message_is_recognised_and_encoded_again(message: Any) -> None:
    text = message.encode().hex()
    said = answer(text)
    assert (said["ok"], said["kind"], said["name"], said["encoded"]) == (True, "message", message.NAME, text)
    assert json.loads(json.dumps(said)) == said
    assert decode_item(f"message:{text}") == {name: value for name, value in said.items() if name != "ok"}


@given(messages(), st.data())
@settings(max_examples=150, deadline=None)
def test_a_message_cut_off_is_malformed_or_another_whole_message(message: Any, data: st.DataObject) -> None:
    encoded = message.encode()
    cut = encoded[: data.draw(st.integers(2, len(encoded)))]
    said = answer(cut.hex())
    if said["ok"]:
        # Records at the end may be left out whole, and a cut may leave the output script of another kind.
        assert said["encoded"] == cut.hex() or said["kind"] == "message"
    else:
        assert said["error"] == "malformed_message"
        assert message.NAME in said["reason"]


def test_a_message_cut_off_behind_its_chain_hash_is_no_output_script() -> None:
    for network in NETWORKS.values():
        assert refused("0020" + bytes(network.chain_hash).hex()).code == "malformed_message"
    assert decode_item("0020" + "11" * 32)["name"] == "p2wsh"


def test_unknown_messages() -> None:
    said = decode_item("message:8001abcd")
    assert (said["name"], said["type"], said["fields"], said["extension"]) == (
        "unknown",
        0x8001,
        {"payload": "abcd"},
        {},
    )
    assert refused("message:8002abcd").code == "unknown_even_message"
    odd = UnknownMessage(65535, b"\xff" * 300).encode().hex()
    assert decode_item(odd)["encoded"] == odd
    assert decode_item("8001")["encoded"] == "8001"
    assert refused("message:80").code == "malformed_message"
    assert refused("message:" + "00" * 65536).code == "malformed_message"
    assert refused("message:").code == "malformed_message"


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_failure_message() -> None:
    failure = IncorrectOrUnknownPaymentDetails(htlc_msat=Msat(100), height=800_000)
    said = decode_item(failure.encode().hex())
    assert said == {
        "kind": "failure",
        "name": "incorrect_or_unknown_payment_details",
        "type": 0x400F,
        "flags": ["PERM"],
        "fields": {"htlc_msat": 100, "height": 800_000},
        "extension": {},
        "encoded": "400f0000000000000064000c3500",
    }


@given(failures())
@settings(max_examples=60, deadline=None)
def test_every_failure_by_its_prefix(failure: Any) -> None:
    said = decode_item(f"failure:{failure.encode().hex()}")
    assert (said["kind"], said["name"], said["encoded"]) == ("failure", failure.NAME, failure.encode().hex())


def test_odd_failures() -> None:
    said = decode_item("failure:" + UnknownFailure(0x6123, b"\1\2").encode().hex())
    assert (said["name"], said["flags"], said["fields"]) == ("unknown_failure", ["PERM", "NODE"], {"data": "0102"})
    assert refused("failure:400f00").code == "malformed_failure"
    assert refused("failure:1").code == "bad_hex"
    # A message type wins over a failure code: 18 is a ping, whatever else it may mean inside an onion.
    assert refused("0012000001f4").code == "malformed_message"
    assert decode_item("failure:0012000001f4")["name"] == "final_incorrect_cltv_expiry"


# --- transactions and scripts ---------------------------------------------------------------------------------------


def test_transactions_of_the_figures() -> None:
    found = 0
    for case in load("bolt03-commitment-anchors.json"):
        text = case["expect"]["commitment_tx"]
        said = decode_item(text)
        assert (said["kind"], said["encoded"]) == ("transaction", text)
        assert len(said["fields"]["inputs"][0]["witness"]) == 4
        assert said["fields"]["inputs"][0]["txid"] == case["given"]["funding_txid"]
        assert said["fields"]["outputs"][0]["form"] == "p2wsh"
        assert said["fields"]["vsize"] == (said["fields"]["weight"] + 3) // 4
        found += 1
    assert found == 8
    assert refused("tx:" + text[:-2]).code == "malformed_transaction"
    assert decode_item("TX: " + text)["kind"] == "transaction"


def test_output_scripts() -> None:
    expected = {
        "p2wpkh": p2wpkh(KEYS[0]),
        "p2wsh": p2wsh(b"x"),
        "p2tr": p2tr(KEYS[0][1:]),
        "p2pkh": p2pkh(bytes(20)),
        "p2sh": p2sh(bytes(20)),
        "p2a": bytes.fromhex("51024e73"),
        "op_return": bytes.fromhex("6a0568656c6c6f"),
    }
    for name, script in expected.items():
        said = decode_item(script.hex())
        assert (said["kind"], said["name"], said["encoded"]) == ("script", name, script.hex())
        assert decode_item("script:" + script.hex()) == said
    assert decode_item(expected["p2wpkh"].hex())["fields"]["addresses"]["mainnet"].startswith("bc1q")
    assert decode_item(expected["p2tr"].hex())["fields"]["dust_limit_sat"] == 330


def test_witness_scripts_of_commitments() -> None:
    given = load("bolt03-commitment-anchors.json")[0]["given"]
    assert decode_item(given["funding_witness_script"])["name"] == "funding"
    assert decode_item(funding_script(KEYS[0], KEYS[1]).hex())["fields"]["pubkey1"] == min(KEYS[:2]).hex()
    local = decode_item(to_local_script(KEYS[0], KEYS[1], 144).hex())
    assert (local["name"], local["fields"]["to_self_delay"]) == ("to_local", 144)
    assert decode_item(to_local_script(KEYS[0], KEYS[1], 16).hex())["fields"]["to_self_delay"] == 16
    assert decode_item(to_remote_script(KEYS[3]).hex())["name"] == "to_remote"
    assert decode_item(anchor_script(KEYS[3]).hex())["name"] == "anchor"
    keys = CommitmentKeys(
        **{name: KEYS[at] for at, name in enumerate(field for field in CommitmentKeys.__dataclass_fields__)}
    )
    for csv in (False, True):
        scripts = HtlcScripts(keys, csv=csv)
        assert decode_item(scripts.offered(bytes(32)).hex())["name"] == "offered_htlc"
        received = decode_item(scripts.received(bytes(32), 812_345).hex())
        assert (received["name"], received["fields"]["cltv_expiry"]) == ("received_htlc", 812_345)


def test_any_bytes_are_a_script_if_the_prefix_says_so() -> None:
    assert decode_item("script:ff")["name"] == "script"
    assert decode_item("script:")["encoded"] == ""
    assert "cut off" in decode_item("script:4c")["fields"]["asm"]
    assert decode_item("6175ac")["name"] == "script"
    assert len(decode_item("script:" + "61" * 60_000)["fields"]["asm"]) < 80_000


# --- features, addresses, invoices ----------------------------------------------------------------------------------


def test_feature_vectors() -> None:
    said = decode_item("features:00" + (1 << 9 | 1 << 14 | 1 << 100).to_bytes(13, "big").hex())
    assert said["fields"] == {
        "bits": [9, 14, 100],
        "required": ["payment_secret"],
        "offered": ["var_onion_optin"],
        "unknown": [100],
    }
    assert said["encoded"] == (1 << 9 | 1 << 14 | 1 << 100).to_bytes(13, "big").hex()
    assert decode_item("2082")["kind"] == "features"
    many = decode_item("features:" + "ff" * 1000)["fields"]
    assert (len(many["bits"]), many["bits_omitted"]) == (1000, 7000)
    assert refused("features:" + "00" * 65536).code == "malformed_features"
    assert decode_item("features:")["fields"]["bits"] == []


def test_addresses() -> None:
    text = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"
    said = decode_item(text)
    assert (said["kind"], said["name"], said["encoded"]) == ("address", "p2wpkh", text)
    assert said["fields"]["networks"] == ["mainnet"]
    assert said["fields"]["scriptpubkey"] == "0014751e76e8199196d454941c45d1b3a323f1433bd6"
    assert decode_item(text.upper())["encoded"] == text
    assert decode_item("bitcoin:" + text)["kind"] == "address"
    old = decode_item("1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2")
    assert (old["name"], old["encoded"]) == ("p2pkh", "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2")
    assert decode_item("tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx")["fields"]["networks"] == ["testnet4", "signet"]
    problem = refused(text[:-1] + "q")
    assert problem.code == "not_recognised"
    assert "checksum" in problem.reason


@pytest.mark.parametrize("case", load("bolt11-invoices.json"), ids=lambda c: c["name"])
def test_invoice_figures(case: Any) -> None:
    if "invoice" not in case["given"]:
        pytest.skip("no invoice in this figure")
    text, expect = case["given"]["invoice"], case["expect"]
    if "error" in expect:
        refused(text)
        return
    said = decode_item(text)
    assert (said["kind"], said["name"], said["encoded"]) == ("invoice", "bolt11", text.lower())
    fields = said["fields"]
    for name in (
        "amount_msat",
        "timestamp",
        "payment_secret",
        "payment_hash",
        "description",
        "payee",
        "signature",
    ):
        assert fields.get(name) == expect.get(name), name
    assert fields["network"].removesuffix("4") == expect["network"]
    assert fields["feature_names"]["bits"] == expect.get("features", [])
    assert fields["expiry"] == expect.get("expiry_seconds", 3600)
    assert decode_item(f"lightning:{text}") == said == decode_item(f"  {text}\n")


def test_texts_that_are_nothing() -> None:
    assert refused("").code == refused(" \t").code == "empty"
    assert refused("x" * (MAX_ITEM + 1)).code == "too_long"
    assert refused("hello").code == "not_recognised"
    assert (
        refused(
            "lno1pg257enxv4ezqcneype82um50ynhxgrwdajx293pqglnyxw6q0hzngfdusg8umzuxe8kquuz7pjl90ldj8wadwgs0xlmc"
        ).code
        == "unsupported"
    )
    assert refused("abc").code == "not_recognised"
    assert refused("04").code == "not_recognised"
    assert refused("0002" + "80" * 40).code == "malformed_message"
    assert refused("8002" + "80" * 40).code == "not_recognised"


ALPHABET = "0123456789abcdefABCDEFlnbct1:qpzry9x8 é\x00\x1b\ud800"


@given(
    st.one_of(
        st.text(max_size=200),
        st.text(ALPHABET, max_size=200),
        st.binary(max_size=300).map(bytes.hex),
        st.tuples(
            st.sampled_from(["message", "tx", "script", "features", "failure", "invoice", "address"]),
            st.binary(max_size=200),
        ).map(lambda pair: f"{pair[0]}:{pair[1].hex()}"),
        st.tuples(st.sampled_from(sorted(MESSAGES)), st.binary(max_size=300)).map(
            lambda pair: pair[0].to_bytes(2, "big").hex() + pair[1].hex()
        ),
    )
)
@settings(max_examples=600, deadline=None)
def test_whatever_comes_in_there_is_an_answer(text: str) -> None:
    said = answer(text)
    if said["ok"]:
        assert {"kind", "name", "fields", "encoded"} <= set(said)
    else:
        assert set(said) == {"ok", "error", "reason"}
        assert said["error"] != "internal_error", said
        assert said["reason"].endswith(".")
    assert "\n" not in json.dumps(said)


def test_node_ids_are_hex_of_something_else() -> None:
    # A node id is none of the kinds; it must not be taken for a message that a node would ignore without a word.
    said = answer(NodeId(KEYS[0]).hex())
    assert said["kind"] == "message" if said["ok"] else said["error"] == "not_recognised"
