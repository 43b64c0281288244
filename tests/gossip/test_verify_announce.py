"""Making announcements and believing them: what one side makes, the other accepts, and nothing else.

B7.02 to B7.05.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.base.ids import ChannelId, ShortChannelId
from salama.base.units import Msat
from salama.bitcoin.networks import REGTEST
from salama.crypto import secp256k1
from salama.crypto.hashes import sha256, sha256d
from salama.gossip import announce, verify
from salama.testing.gossip import START, Author, signed_channel
from salama.wire.addresses import AddressType, NodeAddress, decode_addresses
from salama.wire.features import Features
from salama.wire.gossip import AnnouncementSignatures, ChannelAnnouncement, ChannelUpdate, NodeAnnouncement

ALICE, BOB = Author.of("alice"), Author.of("bob")
SCID = ShortChannelId.of(700, 3, 1)
CHANNEL = signed_channel(ALICE, BOB, SCID)


def funding_key(author: Author) -> bytes:
    return sha256(author.secret + b"funding")


def half(us: Author, them: Author) -> tuple[ChannelAnnouncement, AnnouncementSignatures]:
    made = announce.make_channel_announcement(
        chain_hash=REGTEST.chain_hash,
        short_channel_id=SCID,
        our_node_id=us.node_id,
        our_funding_key=secp256k1.public_key(funding_key(us)),
        their_node_id=them.node_id,
        their_funding_key=secp256k1.public_key(funding_key(them)),
    )
    digest = announce.digest(made)
    return made, AnnouncementSignatures(
        channel_id=ChannelId(bytes(32)),
        short_channel_id=SCID,
        node_signature=secp256k1.sign(us.secret, digest),
        bitcoin_signature=secp256k1.sign(funding_key(us), digest),
    )


def test_both_sides_assemble_the_same_valid_announcement() -> None:
    (made, ours), (their_made, theirs) = half(ALICE, BOB), half(BOB, ALICE)
    assert made == their_made
    assert announce.are_their_signatures(made, BOB.node_id, theirs)
    assert not announce.are_their_signatures(made, BOB.node_id, ours)
    assert not announce.are_their_signatures(made, BOB.node_id, replace(theirs, short_channel_id=ShortChannelId(1)))
    assert not announce.are_their_signatures(
        made, BOB.node_id, replace(theirs, bitcoin_signature=ours.bitcoin_signature)
    )
    whole = announce.assemble(made, ALICE.node_id, ours, theirs)
    assert whole == announce.assemble(made, BOB.node_id, theirs, ours)
    assert verify.announcement_fault(whole) is None
    assert all(verify.verify_in_turn(verify.channel_announcement_checks(whole)))
    assert whole.node_id_1 < whole.node_id_2


def test_the_digest_is_of_everything_behind_the_signatures() -> None:
    raw = CHANNEL.announcement.encode()
    assert announce.digest(CHANNEL.announcement) == sha256d(raw[258:])
    assert announce.digest(CHANNEL.update(0)) == sha256d(CHANNEL.update(0).encode()[66:])
    assert announce.digest(ALICE.node()) == sha256d(ALICE.node().encode()[66:])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["channel", "update", "node"]), st.data())
def test_one_flipped_bit_breaks_a_signature(kind: str, data: st.DataObject) -> None:
    message = {"channel": CHANNEL.announcement, "update": CHANNEL.update(1), "node": ALICE.node(alias="x")}[kind]
    raw = bytearray(message.encode())
    raw[data.draw(st.integers(2, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        changed = type(message).decode(bytes(raw))
    except ValueError:
        return
    nodes = CHANNEL.ends[0].node_id, CHANNEL.ends[1].node_id
    if isinstance(changed, ChannelAnnouncement):
        checks: tuple[verify.SignatureCheck, ...] = verify.channel_announcement_checks(changed)
    elif isinstance(changed, ChannelUpdate):
        checks = (verify.channel_update_check(changed, nodes),)
    else:
        assert isinstance(changed, NodeAnnouncement)
        checks = (verify.node_announcement_check(changed),)
    assert not all(verify.verify_in_turn(checks))


def test_further_fields_are_signed_too() -> None:
    longer = replace(CHANNEL.update(0), tail=b"\x01\x02\x03")
    assert not all(verify.verify_in_turn([verify.channel_update_check(longer, (ALICE.node_id, BOB.node_id))]))
    author = CHANNEL.ends[0]
    resigned = announce.signed(longer, secp256k1.sign(author.secret, announce.digest(longer)))
    nodes = CHANNEL.ends[0].node_id, CHANNEL.ends[1].node_id
    assert all(verify.verify_in_turn([verify.channel_update_check(resigned, nodes)]))


def test_the_form_of_an_announcement() -> None:
    good = CHANNEL.announcement
    swapped = replace(good, node_id_1=good.node_id_2, node_id_2=good.node_id_1)
    assert "order" in (verify.announcement_fault(swapped) or "")
    assert verify.announcement_fault(replace(good, node_id_2=good.node_id_1)) is not None
    assert verify.node_fault(ALICE.node()) is None
    assert "addresses" in (verify.node_fault(replace(ALICE.node(), addresses=b"\x01\x7f")) or "")


def test_the_funding_script_does_not_depend_on_the_order_of_keys() -> None:
    one, other = (secp256k1.public_key(sha256(name)) for name in (b"1", b"2"))
    made = verify.funding_script(one, other)
    assert made == verify.funding_script(other, one)
    first, second = sorted((one, other))
    assert made == b"\x00\x20" + sha256(b"\x52\x21" + first + b"\x21" + second + b"\x52\xae")


def terms(**changes: object) -> ChannelUpdate:
    fields: dict[str, object] = {
        "chain_hash": REGTEST.chain_hash,
        "short_channel_id": SCID,
        "our_node_id": ALICE.node_id,
        "their_node_id": BOB.node_id,
        "timestamp": START,
        "cltv_expiry_delta": 40,
        "htlc_minimum": Msat(1),
        "htlc_maximum": Msat(1000),
        "fee_base_msat": 5,
        "fee_proportional_millionths": 7,
    }
    return announce.make_channel_update(**{**fields, **changes})  # type: ignore[arg-type]


def test_updates_carry_direction_and_flags() -> None:
    assert terms().direction == int(ALICE.node_id > BOB.node_id)
    assert terms(our_node_id=BOB.node_id, their_node_id=ALICE.node_id).direction != terms().direction
    assert terms().message_flags == 1 and terms().may_forward and not terms().is_disabled
    assert terms(private=True).message_flags == 3 and not terms(private=True).may_forward
    assert terms(disable=True).is_disabled
    assert announce.says_the_same(terms(), terms(timestamp=START + 9))
    assert not announce.says_the_same(terms(), terms(fee_base_msat=6))


@pytest.mark.parametrize("changes", [{"htlc_maximum": Msat(0)}, {"timestamp": 0}, {"timestamp": 1 << 32}])
def test_updates_that_nobody_may_send(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        terms(**changes)


@given(st.lists(st.floats(0, 2e9), min_size=1, max_size=30))
def test_timestamps_only_go_up_whatever_the_clock_does(clock: list[float]) -> None:
    last = 0
    for now in clock:
        following = announce.next_timestamp(now, last)
        assert following > last and following >= int(now)
        last = following


def test_node_announcements() -> None:
    made = announce.make_node_announcement(
        node_id=ALICE.node_id,
        timestamp=START,
        alias="ALICE " + "ß" * 20,
        rgb_color=b"\x01\x02\x03",
        features=Features(1 << 7),
        addresses=[NodeAddress(AddressType.IPV6, "::1", 2), NodeAddress(AddressType.IPV4, "127.0.0.1", 1)],
    )
    assert made.alias == b"ALICE " + "ß".encode() * 13
    assert [address.type for address in decode_addresses(made.addresses)] == [AddressType.IPV4, AddressType.IPV6]
    assert made.features == b"\x80"
    signed = announce.signed(made, secp256k1.sign(ALICE.secret, announce.digest(made)))
    assert verify.verify_in_turn([verify.node_announcement_check(signed)]) == [True]


@given(st.text(max_size=40))
def test_any_alias_fits_and_is_cut_between_characters(text: str) -> None:
    alias = announce.encode_alias(text)
    assert len(alias) == 32
    shown = alias.rstrip(b"\0").decode()
    assert text.encode("utf-8", "replace").startswith(shown.encode())


@given(st.binary(min_size=32, max_size=32))
def test_a_strangers_alias_is_harmless_in_a_terminal(alias: bytes) -> None:
    text = announce.alias_text(alias)
    assert text.isprintable() or all(c.isprintable() or c.isspace() for c in text)
    assert "\x1b" not in text and "\n" not in text and "\u202e" not in text


def test_alias_text_of_ordinary_names() -> None:
    assert announce.alias_text(announce.encode_alias("ナンセンス 1杯")) == "ナンセンス 1杯"
    assert announce.alias_text(b"a\x1b[2J\n" + bytes(26)) == "a\ufffd[2J\ufffd"
