"""Messages, payloads and failures against the figures of BOLT 1, 4 and 7."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from salama.base.ids import BlockHash, NodeId, ShortChannelId
from salama.base.units import Msat
from salama.codec.fields import BIGSIZE
from salama.wire import (
    AnnouncementSignatures,
    ChannelAnnouncement,
    ChannelUpdate,
    EncryptedData,
    Init,
    Malformed,
    NodeAnnouncement,
    OnionMessage,
    OnionMessagePayload,
    PaymentPayload,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    decode_message,
)

VECTORS = Path(__file__).parents[1] / "vectors"


def load(name: str) -> list[Any]:
    return list(json.loads((VECTORS / name).read_text())["cases"])


def cases(name: str) -> list[Any]:
    return [pytest.param(c, id=c["name"]) for c in load(name)]


@pytest.mark.parametrize("case", cases("bolt01-messages.json"))
def test_init_figures(case: Any) -> None:
    data, expect = bytes.fromhex(case["given"]["message"]), case["expect"]
    if "error" in expect:
        with pytest.raises(Malformed):
            decode_message(data)
        return
    init = decode_message(data)
    assert isinstance(init, Init)
    assert init.globalfeatures.encode().hex() == expect["globalfeatures"]
    assert init.features.encode().hex() == expect["features"]
    known = {"1": b"".join(init.networks)} if init.networks else {}
    records = {str(kind): value for kind, value in init.extension} | known
    assert {kind: value.hex() for kind, value in records.items()} == expect["extension"]
    assert init.encode() == data


@pytest.mark.parametrize("case", cases("bolt07-queries.json"))
def test_query_figures(case: Any) -> None:
    data, expect = bytes.fromhex(case["given"]["message"]), case["expect"]
    if expect["uses_zlib"]:
        with pytest.raises(Malformed):
            decode_message(data)
        return
    query = decode_message(data)
    assert isinstance(query, QueryChannelRange | ReplyChannelRange | QueryShortChannelIds)
    assert (expect["message_type"], expect["message"]) == (query.TYPE, query.NAME)
    assert query.chain_hash.hex() == expect["chain_hash"]
    for name in ("first_blocknum", "number_of_blocks", "sync_complete"):
        if name in expect:
            assert getattr(query, name) == expect[name]
    if isinstance(query, QueryChannelRange):
        assert query.query_option == expect.get("query_option_flags")
    else:
        assert list(map(str, query.encoded_short_ids)) == expect["short_channel_ids"]
    if isinstance(query, ReplyChannelRange) and "timestamps" in expect:
        assert query.timestamps_tlv is not None
        assert query.checksums_tlv is not None
        assert [list(pair) for pair in query.timestamps_tlv] == expect["timestamps"]
        assert [list(pair) for pair in query.checksums_tlv] == expect["checksums"]
    assert query.encode() == data


def test_zlib_is_refused_by_its_encoding_byte_alone() -> None:
    query = QueryShortChannelIds(
        chain_hash=BlockHash(bytes(32)), encoded_short_ids=(ShortChannelId(1),), query_flags=(1, 300)
    )
    encoded = bytearray(query.encode())
    assert decode_message(bytes(encoded)) == query
    for at in (2 + 32 + 2, 2 + 32 + 2 + 9 + 2):
        changed = bytearray(encoded)
        assert changed[at] == 0
        changed[at] = 1
        with pytest.raises(Malformed, match="encoding"):
            decode_message(bytes(changed))


@pytest.mark.parametrize("name", ["bolt04-onion.json", "bolt04-blinded-payment.json"])
def test_payment_payload_figures(name: str) -> None:
    payloads = [hop["payload"] for case in load(name) for hop in case["given"].get("hops", ()) if "payload" in hop]
    payloads += [v for case in load(name) for k, v in case["expect"].items() if k == "payload"]
    for payload in payloads:
        data = bytes.fromhex(payload)
        length, start = BIGSIZE.read(data, 0, len(data))
        assert length == len(data) - start
        assert PaymentPayload.decode(data[start:]).encode() == data[start:]
    assert len(payloads) >= 5
    if name == "bolt04-onion.json":
        first = PaymentPayload.decode(bytes.fromhex(payloads[0])[1:])
        assert first == PaymentPayload(
            amt_to_forward=Msat(15000), outgoing_cltv_value=1500, short_channel_id=ShortChannelId(1)
        )


@pytest.mark.parametrize("name", ["bolt04-route-blinding.json", "bolt04-onion-message.json"])
def test_encrypted_data_figures(name: str) -> None:
    found = 0
    for case in load(name):
        encoded, given = case["expect"].get("encoded_tlvs"), case["given"].get("tlvs")
        if encoded is None or given is None:
            continue
        found += 1
        data = EncryptedData.decode(bytes.fromhex(encoded))
        assert data.encode().hex() == encoded
        for field, wanted in given.items():
            if field in ("padding", "next_node_id", "path_id", "next_path_key_override"):
                assert getattr(data, field).hex() == wanted
            elif field == "short_channel_id":
                assert str(data.short_channel_id) == wanted
            elif field in ("payment_relay", "payment_constraints"):
                shown = getattr(data, field)._asdict()
                assert {part: shown.pop(part) for part in wanted} == wanted
                assert not any(shown.values())
            elif field.startswith("unknown_tag_"):
                assert dict(data.extension)[int(field.removeprefix("unknown_tag_"))].hex() == wanted
    assert found >= 4


def test_whole_onion_messages() -> None:
    texts = json.dumps(load("bolt04-onion-message.json")).split('"')
    messages = [bytes.fromhex(text) for text in texts if text.startswith("0201") and len(text) > 1000]
    assert messages
    for data in messages:
        message = decode_message(data)
        assert isinstance(message, OnionMessage)
        assert len(message.onion_message_packet) == 1366
        assert message.encode() == data


def test_onion_message_payload_keeps_a_message_of_its_own_kind() -> None:
    payload = OnionMessagePayload.decode(bytes.fromhex("0401aa170568656c6c6f"))
    assert payload == OnionMessagePayload(encrypted_recipient_data=b"\xaa", extension=((23, b"hello"),))


KEY = NodeId(bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"))


def signature(n: int) -> bytes:
    return bytes([n]) * 64


def test_signatures_of_announcements_cover_all_that_follows_them() -> None:
    channel = ChannelAnnouncement(
        node_signature_1=signature(1),
        node_signature_2=signature(2),
        bitcoin_signature_1=signature(3),
        bitcoin_signature_2=signature(4),
        features=b"\1\2",
        chain_hash=BlockHash(bytes(range(32))),
        short_channel_id=ShortChannelId.of(1, 2, 3),
        node_id_1=KEY,
        node_id_2=KEY,
        bitcoin_key_1=KEY,
        bitcoin_key_2=KEY,
        tail=b"\xfe\0 what a later version adds",
    )
    assert channel.encode().startswith(b"\1\0" + signature(1) + signature(2) + signature(3) + signature(4))
    assert channel.signed_part == (
        b"\0\2\1\2" + bytes(range(32)) + struct.pack(">Q", 1 << 40 | 2 << 16 | 3) + KEY * 4 + channel.tail
    )
    assert decode_message(channel.encode()) == channel

    node = NodeAnnouncement(
        signature=signature(5),
        features=b"",
        timestamp=7,
        node_id=KEY,
        rgb_color=b"rgb",
        alias=b"name".ljust(32, b"\0"),
        addresses=b"\1\x7f\0\0\1\x26\x07",
        tail=b"\2\0",
    )
    assert node.signed_part == (
        b"\0\0" + struct.pack(">I", 7) + KEY + b"rgb" + b"name".ljust(32, b"\0") + b"\0\7\1\x7f\0\0\1\x26\7" + b"\2\0"
    )
    assert decode_message(node.encode()) == node


def test_channel_update_flags_and_checksum() -> None:
    update = ChannelUpdate(
        signature=signature(6),
        chain_hash=BlockHash(bytes(range(32))),
        short_channel_id=ShortChannelId(5),
        timestamp=0x01020304,
        message_flags=1,
        channel_flags=1,
        cltv_expiry_delta=80,
        htlc_minimum_msat=1,
        fee_base_msat=1000,
        fee_proportional_millionths=100,
        # Beyond all bitcoin: dropped by verification, but no reason to leave the peer that relayed it.
        htlc_maximum_msat=(1 << 64) - 1,
        tail=b"more",
    )
    head = bytes(range(32)) + struct.pack(">Q", 5)
    rest = struct.pack(">BBHQIIQ", 1, 1, 80, 1, 1000, 100, (1 << 64) - 1) + b"more"
    assert update.signed_part == head + b"\1\2\3\4" + rest
    assert update.checksum_part == head + rest
    assert (update.direction, update.is_disabled, update.may_forward) == (1, False, True)
    other = ChannelUpdate.decode(update.encode()[:110] + b"\3\2" + update.encode()[112:])
    assert (other.direction, other.is_disabled, other.may_forward) == (0, True, False)


def test_unannounced_keys_are_not_judged_by_the_decoder() -> None:
    direct = AnnouncementSignatures.decode(b"\1\3" + bytes(32 + 8 + 64 + 64))
    assert direct.short_channel_id == 0
    assert isinstance(decode_message(b"\1\1" + bytes(64 + 2 + 4 + 33 + 3 + 32 + 2)), NodeAnnouncement)
