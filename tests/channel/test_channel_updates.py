"""Updates and signatures in normal operation: what goes out, when, and what is refused (B2.45 to B2.53)."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from salama.base.ids import ChannelId, HtlcRef, PaymentHash, Preimage, Side, Txid
from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight, CltvExpiry, FeeratePerKw, Msat
from salama.bitcoin.script import p2wpkh
from salama.channel.env import Feerates
from salama.channel.events import (
    AddDropped,
    AddHtlc,
    AddRefused,
    CloseChannel,
    Consumed,
    Disconnect,
    FailHtlc,
    FailMalformedHtlc,
    FeeratesChanged,
    HandoffKey,
    HtlcCommitted,
    HtlcFailed,
    LatePreimage,
    Origin,
    PreimageLearned,
    Send,
    SettleHtlc,
)
from salama.channel.formats import ANCHORS
from salama.channel.limits import opener_cost
from salama.channel.state import Fulfilment, LinkState, Phase
from salama.channel.step import step
from salama.codec.message import Message
from salama.testing.pair import ONION, START, End, Pair, hash_of, preimage_of
from salama.wire.setup import Error, Warning
from salama.wire.updates import (
    CommitmentSigned,
    RevokeAndAck,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFailMalformedHtlc,
    UpdateFee,
    UpdateFulfillHtlc,
)


def kinds(end: End) -> list[str]:
    return [type(message).__name__ for message in end.sent()]


def warned(end: End) -> str:
    """What the peer was warned of before the connection was dropped; "" if it was not."""
    if not any(isinstance(effect, Disconnect) for effect in end.effects):
        return ""
    words = [e.message.data.decode() for e in end.effects if isinstance(e, Send) and isinstance(e.message, Warning)]
    return words[-1]


def add_message(end: End, id: int = 0, amount: int = 1_000_000, **changes: Any) -> UpdateAddHtlc:
    """What the peer of ``end`` would send."""
    message = UpdateAddHtlc(
        channel_id=end.record.channel_id,
        id=id,
        amount_msat=Msat(amount),
        payment_hash=hash_of(0),
        cltv_expiry=int(START) + 100,
        onion_routing_packet=ONION,
    )
    return replace(message, **changes)


# --- the dance --------------------------------------------------------------------------------------------------------


def test_a_lone_update_is_signed_at_once() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    assert kinds(pair.alice) == ["UpdateAddHtlc", "CommitmentSigned"]


def test_ten_adds_of_one_turn_cost_one_signature() -> None:
    pair = Pair.opened()
    pair.alice.adds(*[1_000_000] * 10)
    assert kinds(pair.alice) == ["UpdateAddHtlc"] * 10 + ["CommitmentSigned"]
    assert [m.id for m in pair.alice.sent() if isinstance(m, UpdateAddHtlc)] == list(range(10))


def test_updates_accumulate_while_a_signature_is_unacknowledged() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.alice.outbox.clear()
    pair.alice.adds(2_000_000)
    pair.alice.adds(3_000_000)
    assert kinds(pair.alice) == []
    assert len(pair.alice.link.queued_adds) == 2


def test_the_answer_to_a_signature_is_a_revocation_then_a_signature() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.deliver(pair.alice, 2)
    assert kinds(pair.bob) == ["RevokeAndAck", "CommitmentSigned"]
    assert not pair.bob.pending, "not yet committed on both sides"
    pair.deliver(pair.bob, 2)
    assert kinds(pair.alice) == ["RevokeAndAck"]
    assert not pair.bob.pending
    pair.deliver(pair.alice)
    assert list(pair.bob.pending) == [0]
    committed = pair.bob.pending[0]
    assert (committed.amount, committed.payment_hash) == (Msat(1_000_000), hash_of(0))
    assert not committed.must_fail


def test_a_preimage_is_handed_over_before_anything_is_signed() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.settle()
    pair.bob.settles_all()
    assert kinds(pair.bob) == ["UpdateFulfillHtlc", "CommitmentSigned"]
    pair.deliver(pair.bob, 1)
    key = HandoffKey(pair.alice.record.channel_id, 0)
    assert pair.alice.learned == [PreimageLearned(key, Origin(b"alice 0"), preimage_of(0))]
    pair.cut()
    pair.connect()
    pair.settle()
    assert pair.alice.record.htlcs == {}
    assert {row.key for row in pair.alice.learned} == {key}


def test_a_failure_is_handed_over_only_when_it_cannot_be_undone() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.settle()
    pair.bob.fails_all()
    seen = []
    while not pair.is_quiet():
        for end in (pair.bob, pair.alice):
            if end.outbox:
                message = end.sent()[0]
                pair.deliver(end)
                seen.append((type(message).__name__, len(pair.alice.failed)))
    assert seen[-1] == ("RevokeAndAck", 1) and all(count == 0 for _, count in seen[:-1])
    assert pair.alice.failed[0] == HtlcFailed(
        HandoffKey(pair.alice.record.channel_id, 0), Origin(b"alice 0"), b"reason"
    )


def test_a_malformed_report_carries_code_and_hash() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.settle()
    digest = sha256(ONION).digest()
    pair.bob.does(FailMalformedHtlc(0, digest, 0xC005))
    pair.settle()
    (row,) = pair.alice.failed
    assert (row.malformed_code, row.sha256_of_onion, row.reason) == (0xC005, digest, b"")


def test_removals_and_additions_go_out_together_in_that_order() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000, 1_000_000)
    pair.settle()
    first, second = sorted(pair.bob.pending)
    pair.bob.does(
        pair.bob.add_event(900, 5_000_000),
        FailHtlc(second, b"x"),
        SettleHtlc(first, preimage_of(0)),
    )
    assert kinds(pair.bob) == ["UpdateFulfillHtlc", "UpdateFailHtlc", "UpdateAddHtlc", "CommitmentSigned"]
    pair.settle()
    pair.check()


def test_many_htlcs_with_the_same_hash_and_amount() -> None:
    pair = Pair.opened()
    events = [replace(pair.alice.add_event(0, 5_000_000), origin=Origin(b"part %d" % n)) for n in range(4)]
    pair.alice.does(*events)
    pair.settle()
    assert len(pair.bob.pending) == 4
    pair.bob.does(SettleHtlc(1, preimage_of(0)), FailHtlc(2, b""))
    pair.settle()
    assert [row.origin for row in pair.alice.learned] == [b"part 1"]
    assert [row.origin for row in pair.alice.failed] == [b"part 2"]
    pair.check()


def test_path_key_travels() -> None:
    pair = Pair.opened()
    point = pair.alice.signer.channel_keys(3).first_point
    pair.alice.does(replace(pair.alice.add_event(0, 1_000_000), path_key=point))
    pair.settle()
    assert pair.bob.pending[0].path_key == point


# --- decisions --------------------------------------------------------------------------------------------------------


def test_a_decision_is_durable_before_it_is_sent_and_accepted_without_a_link() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.settle()
    pair.cut()
    consumed = HandoffKey(ChannelId(bytes(32)), 7)
    pair.bob.does(SettleHtlc(0, preimage_of(0), consumed))
    assert Consumed(consumed) in pair.bob.rows
    assert pair.bob.record.resolutions == {0: Fulfilment(preimage_of(0))}
    pair.restarts(pair.bob)
    assert not pair.bob.pending, "what is decided is not asked again"
    pair.connect()
    pair.settle()
    assert [row.key.htlc_id for row in pair.alice.learned] == [0]
    assert pair.bob.record.resolutions == {}


def test_decisions_are_idempotent_and_the_first_stands() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.settle()
    pair.cut()
    pair.bob.does(SettleHtlc(0, preimage_of(0)))
    before = pair.bob.record
    pair.bob.does(SettleHtlc(0, preimage_of(0)), FailHtlc(0, b"late"))
    assert pair.bob.record is before


def test_a_preimage_overrules_a_failure_that_was_not_sent() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.settle()
    pair.cut()
    pair.bob.does(FailHtlc(0, b"gave up"), SettleHtlc(0, preimage_of(0)))
    pair.connect()
    pair.settle()
    assert len(pair.alice.learned) == 1 and not pair.alice.failed


def test_a_failure_that_was_sent_stands() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.settle()
    pair.bob.does(FailHtlc(0, b"gave up"))
    pair.bob.does(SettleHtlc(0, preimage_of(0)))
    pair.settle()
    assert not pair.alice.learned and len(pair.alice.failed) == 1


def test_a_late_preimage_waits_on_disk_while_the_peer_has_not_answered_the_failure() -> None:
    """Until then its channel may go to the chain with an HTLC that the preimage brings home."""
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.settle()
    pair.bob.does(FailHtlc(0, b"gave up"))
    key = HandoffKey(ChannelId(bytes(32)), 1)
    before, said = pair.bob.record, len(pair.bob.rows)
    pair.bob.does(SettleHtlc(0, preimage_of(0), key))
    assert pair.bob.record is before and len(pair.bob.rows) == said, "not consumed"
    pair.settle()
    pair.bob.does(SettleHtlc(0, preimage_of(0), key))
    lost = LatePreimage(HtlcRef(before.channel_id, Side.INCOMING, 0), key, is_used=False)
    assert pair.bob.rows[said:] == [Consumed(key), lost]


def test_an_unknown_htlc_is_no_mistake_but_consumes() -> None:
    pair = Pair.opened()
    key = HandoffKey(ChannelId(bytes(32)), 1)
    before = pair.bob.record
    pair.bob.does(FailHtlc(5, b"", key))
    assert pair.bob.record is before and pair.bob.rows[-1] == Consumed(key)


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (SettleHtlc(0, Preimage(bytes(32))), "wrong_preimage"),
        (FailHtlc(0, bytes(32 * 1024 + 1)), "reason_too_long"),
        (FailMalformedHtlc(0, bytes(32), 0x4005), "not_badonion"),
        (FailMalformedHtlc(0, bytes(31), 0xC005), "not_badonion"),
    ],
)
def test_decisions_that_are_refused(event: Any, code: str) -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.settle()
    with pytest.raises(CommandRefused) as refusal:
        step(pair.bob.channel, event, pair.bob.env)
    assert refusal.value.code == code


def test_an_htlc_that_is_not_committed_cannot_be_decided() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.deliver(pair.alice, 2)
    with pytest.raises(CommandRefused, match="not irrevocably"):
        step(pair.bob.channel, SettleHtlc(0, preimage_of(0)), pair.bob.env)


# --- disconnects ------------------------------------------------------------------------------------------------------


def test_what_was_queued_is_handed_back() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.alice.adds(2_000_000)
    pair.cut()
    assert AddDropped(Origin(b"alice 1")) in pair.alice.effects
    assert AddDropped(Origin(b"alice 0")) not in pair.alice.effects, "it is signed: it may not be offered again"
    pair.connect()
    pair.settle()
    assert len(pair.bob.pending) == 1


def test_without_a_link_nothing_is_added() -> None:
    pair = Pair.opened()
    pair.cut()
    pair.alice.adds(1_000_000)
    assert [r.code for r in pair.alice.refused] == ["not_ready"]
    pair.alice.is_connected = True
    pair.connect()
    pair.alice.adds(1_000_000)
    assert [r.code for r in pair.alice.refused] == ["not_ready", "not_ready"], "not before channel_reestablish"


# --- what a peer must not do ------------------------------------------------------------------------------------------


def test_an_htlc_id_out_of_order() -> None:
    pair = Pair.opened()
    before = pair.bob.record
    pair.bob.hears(add_message(pair.bob, id=1))
    assert "comes next" in warned(pair.bob)
    assert pair.bob.record is before


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("below our minimum", {"amount_msat": Msat(0)}),
        ("not a block height", {"cltv_expiry": 500_000_000}),
        ("balance after reserve", {"amount_msat": Msat(600_000_000)}),
        ("more value in flight", {"amount_msat": Msat(1_000_000_001)}),
    ],
)
def test_adds_that_break_a_rule(words: str, changes: dict[str, Any]) -> None:
    pair = Pair.opened()
    pair.bob.hears(replace(add_message(pair.bob), **changes))
    assert words in warned(pair.bob)


def test_more_htlcs_than_slots() -> None:
    pair = Pair.opened()
    pair.bob.hears(*(add_message(pair.bob, id) for id in range(30)))
    assert not warned(pair.bob)
    pair.bob.hears(add_message(pair.bob, 30))
    assert "more than 30 HTLCs" in warned(pair.bob)


def test_value_in_flight_counts_together() -> None:
    pair = Pair.opened()
    params = pair.bob.record.params
    params = replace(params, ours=replace(params.ours, max_htlc_value_in_flight=Msat(300_000_000)))
    pair.bob.state = replace(pair.bob.channel, record=replace(pair.bob.record, params=params))
    pair.bob.hears(add_message(pair.bob, 0, amount=200_000_000))
    assert not warned(pair.bob)
    pair.bob.hears(add_message(pair.bob, 1, amount=100_000_001))
    assert "more value in flight" in warned(pair.bob)


def test_the_opener_must_keep_reserve_fee_and_anchors() -> None:
    pair = Pair.opened()
    reserve = 1000 * int(pair.bob.record.params.ours.channel_reserve)
    most = 600_000_000 - reserve - opener_cost(ANCHORS, 1000, 1)
    for amount, is_fine in ((most, True), (most + 1, False)):
        bob = End("bob", pair.bob.signer, pair.bob.env, pair.bob.state)
        bob.hears(add_message(bob, amount=amount))
        assert (warned(bob) == "") == is_fine


def test_the_accepter_must_keep_its_reserve() -> None:
    pair = Pair.opened()
    most = 400_000_000 - 1000 * int(pair.alice.record.params.ours.channel_reserve)
    for amount, is_fine in ((most, True), (most + 1, False)):
        alice = End("alice", pair.alice.signer, pair.alice.env, pair.alice.state)
        alice.hears(add_message(alice, amount=amount))
        assert (warned(alice) == "") == is_fine


def removal_messages(end: End) -> list[Message]:
    channel_id = end.record.channel_id
    return [
        UpdateFulfillHtlc(channel_id=channel_id, id=0, payment_preimage=preimage_of(0)),
        UpdateFailHtlc(channel_id=channel_id, id=0, reason=b""),
        UpdateFailMalformedHtlc(channel_id=channel_id, id=0, sha256_of_onion=bytes(32), failure_code=0xC004),
    ]


@pytest.mark.parametrize("which", range(3))
def test_removals_of_what_is_not_there(which: int) -> None:
    pair = Pair.opened()
    pair.alice.hears(removal_messages(pair.alice)[which])
    assert "no committed HTLC" in warned(pair.alice)


@pytest.mark.parametrize("which", range(3))
def test_removals_of_what_the_peer_has_not_committed(which: int) -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.alice.hears(removal_messages(pair.alice)[which])
    assert "no committed HTLC" in warned(pair.alice)
    assert not pair.alice.learned


@pytest.mark.parametrize("which", range(3))
def test_removals_of_their_own_htlcs(which: int) -> None:
    pair = Pair.opened()
    pair.bob.adds(1_000_000)
    pair.settle()
    pair.alice.hears(removal_messages(pair.alice)[which])
    assert "no committed HTLC" in warned(pair.alice)


@pytest.mark.parametrize("second", range(3))
@pytest.mark.parametrize("first", range(3))
def test_removals_twice(first: int, second: int) -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.settle()
    messages = removal_messages(pair.alice)
    pair.alice.hears(messages[first])
    assert not warned(pair.alice)
    pair.alice.hears(messages[second])
    assert "removed twice" in warned(pair.alice)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("does not hash", lambda id: UpdateFulfillHtlc(channel_id=id, id=0, payment_preimage=Preimage(bytes(32)))),
        (
            "BADONION",
            lambda id: UpdateFailMalformedHtlc(channel_id=id, id=0, sha256_of_onion=bytes(32), failure_code=1),
        ),
        ("reason of", lambda id: UpdateFailHtlc(channel_id=id, id=0, reason=bytes(32 * 1024 + 1))),
    ],
)
def test_removals_that_break_a_rule(words: str, message: Any) -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.settle()
    pair.alice.hears(message(pair.alice.record.channel_id))
    assert words in warned(pair.alice)
    assert not pair.alice.learned


def test_a_violation_keeps_what_came_before_it_in_the_batch() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000, 2_000_000)
    pair.settle()
    good, _, _ = removal_messages(pair.alice)
    bad = UpdateFulfillHtlc(channel_id=pair.alice.record.channel_id, id=1, payment_preimage=Preimage(bytes(32)))
    pair.alice.hears(good, bad, removal_messages(pair.alice)[1])
    assert [row.key.htlc_id for row in pair.alice.learned] == [0]
    assert [type(e) for e in pair.alice.effects].count(Disconnect) == 1


# --- signatures -------------------------------------------------------------------------------------------------------


def signed_by_alice(pair: Pair, *amounts: int) -> tuple[list[Message], CommitmentSigned]:
    pair.alice.adds(*amounts)
    *updates, signed = pair.alice.sent()
    assert isinstance(signed, CommitmentSigned)
    pair.alice.outbox.clear()
    return updates, signed


def flipped(signature: bytes) -> bytes:
    return signature[:40] + bytes((signature[40] ^ 1,)) + signature[41:]


def high_s(signature: bytes) -> bytes:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    return signature[:32] + (order - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("not valid", lambda m: replace(m, signature=flipped(m.signature))),
        ("not valid", lambda m: replace(m, signature=high_s(m.signature))),
        ("not valid", lambda m: replace(m, htlc_signature=(flipped(m.htlc_signature[0]), *m.htlc_signature[1:]))),
        ("not valid", lambda m: replace(m, htlc_signature=(m.htlc_signature[0], high_s(m.htlc_signature[1])))),
        ("not valid", lambda m: replace(m, htlc_signature=m.htlc_signature[::-1])),
        ("HTLC signatures", lambda m: replace(m, htlc_signature=m.htlc_signature[:1])),
        ("HTLC signatures", lambda m: replace(m, htlc_signature=(*m.htlc_signature, m.htlc_signature[0]))),
        ("another funding", lambda m: replace(m, funding_txid=Txid(bytes(32)))),
    ],
)
def test_signatures_that_are_not_taken(words: str, change: Any) -> None:
    pair = Pair.opened()
    updates, signed = signed_by_alice(pair, 1_000_000, 2_000_000, 100_000)
    before = pair.bob.record
    pair.bob.hears(*updates, change(signed))
    assert words in warned(pair.bob)
    assert pair.bob.record is before
    assert not any(isinstance(m, RevokeAndAck) for m in pair.bob.sent())


def test_a_second_signature_before_our_revocation_is_out() -> None:
    """Both in one batch: the point for the second was never given away."""
    pair = Pair.opened()
    updates, signed = signed_by_alice(pair, 1_000_000)
    pair.bob.hears(*updates, signed, signed)
    assert "before our last revocation" in warned(pair.bob)


def test_a_revocation_that_nobody_asked_for() -> None:
    pair = Pair.opened()
    keys = pair.bob.signer.channel_keys(1)
    pair.alice.hears(
        RevokeAndAck(
            channel_id=pair.alice.record.channel_id,
            per_commitment_secret=bytes(31) + b"\x01",
            next_per_commitment_point=keys.first_point,
        )
    )
    assert "without a signature" in warned(pair.alice)


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(31) + b"\x05"])
def test_a_wrong_secret_closes_the_channel(secret: bytes) -> None:
    """The peer keeps a commitment that it should have given up: only the chain can tell (B2.52)."""
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.deliver(pair.alice, 2)
    revocation = pair.bob.sent()[0]
    assert isinstance(revocation, RevokeAndAck)
    pair.alice.hears(replace(revocation, per_commitment_secret=secret))
    assert pair.alice.record.phase is Phase.ON_CHAIN
    assert len(pair.alice.broadcasts) == 2, "funding and commitment"
    assert any(isinstance(m, Error) for m in pair.alice.sent())


# --- fees -------------------------------------------------------------------------------------------------------------


def set_fee(end: End, rate: int) -> None:
    end.env = replace(end.env, feerates=Feerates(FeeratePerKw(rate), FeeratePerKw(rate)))
    end.does(FeeratesChanged())


def test_the_opener_follows_its_estimate() -> None:
    pair = Pair.opened()
    set_fee(pair.alice, 2000)
    assert kinds(pair.alice) == ["UpdateFee", "CommitmentSigned"]
    pair.settle()
    for end in (pair.alice, pair.bob):
        funding = end.record.funding
        assert int(funding.local.spec.feerate) == int(funding.remote.spec.feerate) == 2000
    pair.check()


@pytest.mark.parametrize("waits", [False, True])
def test_an_opener_that_is_closing_changes_no_fee(waits: bool) -> None:
    """The peer may be negotiating already, where an update_fee is out of place: it would never end (found by the
    simulator)."""
    pair = Pair.opened()
    if waits:
        pair.alice.adds(1_000_000)
        set_fee(pair.alice, 2000)  # waits for the revocation
    pair.alice.does(CloseChannel(p2wpkh(b"\x02" + bytes(31) + b"\x0c")))
    set_fee(pair.alice, 4000)
    pair.settle()
    pair.bob.settles_all()
    pair.settle()
    assert not any(isinstance(e, Send) and isinstance(e.message, UpdateFee) for e in pair.alice.effects)
    assert pair.bob.record.mutual_close is not None
    assert pair.alice.record.mutual_close is not None


@pytest.mark.parametrize("rate", [1000, 1300, 700])
def test_small_changes_are_not_worth_a_message(rate: int) -> None:
    pair = Pair.opened()
    set_fee(pair.alice, rate)
    assert kinds(pair.alice) == []


def test_only_the_opener_sets_the_fee() -> None:
    pair = Pair.opened()
    set_fee(pair.bob, 3000)
    assert kinds(pair.bob) == []
    pair.alice.hears(UpdateFee(channel_id=pair.alice.record.channel_id, feerate_per_kw=FeeratePerKw(2000)))
    assert "does not pay" in warned(pair.alice)


@pytest.mark.parametrize("rate", [252, 50_001, 4_000_000_000])
def test_fees_out_of_bounds(rate: int) -> None:
    pair = Pair.opened()
    pair.bob.hears(UpdateFee(channel_id=pair.bob.record.channel_id, feerate_per_kw=FeeratePerKw(rate)))
    assert "not within" in warned(pair.bob)


def test_fees_that_the_opener_cannot_pay() -> None:
    pair = Pair.opened(1_000_000, 985_000_000)
    pair.bob.hears(UpdateFee(channel_id=pair.bob.record.channel_id, feerate_per_kw=FeeratePerKw(5000)))
    assert "can afford" in warned(pair.bob)
    set_fee(pair.alice, 5000)
    assert kinds(pair.alice) == [], "we do not try either"


def test_a_fee_and_htlcs_of_both_sides_cross() -> None:
    pair = Pair.opened()
    pair.bob.adds(3_000_000)
    set_fee(pair.alice, 2500)
    pair.alice.adds(4_000_000)
    pair.settle()
    pair.check()
    assert int(pair.bob.record.funding.local.spec.feerate) == 2500
    assert len(pair.alice.pending) == len(pair.bob.pending) == 1


def test_the_last_of_two_queued_fees_wins() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    set_fee(pair.alice, 2000)
    set_fee(pair.alice, 4000)
    pair.settle()
    assert int(pair.bob.record.funding.local.spec.feerate) == 4000
    pair.alice.adds(1_000_000)
    set_fee(pair.alice, 2000)
    set_fee(pair.alice, 4000)
    assert pair.alice.link.queued_fee is None, "back where it was"


# --- refusals to the payments -----------------------------------------------------------------------------------------


def refusal(pair: Pair, end: End, amount: int, **changes: Any) -> str:
    before = len(end.refused)
    end.does(replace(end.add_event(0, amount), **changes))
    more = end.refused[before:]
    return more[0].code if more else ""


def test_amounts_that_are_refused() -> None:
    pair = Pair.opened()
    assert refusal(pair, pair.alice, 0) == "amount_zero"
    assert refusal(pair, pair.alice, 600_000_000) == "insufficient_balance"
    assert refusal(pair, pair.alice, 1_000_000_001) == "too_much_in_flight"
    assert kinds(pair.alice) == []


def test_slots_run_out() -> None:
    pair = Pair.opened()
    pair.alice.adds(*[1_000_000] * 31)
    assert [r.code for r in pair.alice.refused] == ["too_many_htlcs"]
    pair.settle()
    assert len(pair.bob.pending) == 30


def test_the_opener_keeps_a_buffer_for_rising_fees() -> None:
    pair = Pair.opened()
    reserve = 1000 * int(pair.alice.record.params.theirs.channel_reserve)
    most = 600_000_000 - reserve - opener_cost(ANCHORS, 2000, 2)
    assert refusal(pair, pair.alice, most + 1) == "insufficient_balance"
    assert refusal(pair, pair.alice, most) == ""
    pair.settle()
    pair.check()
    assert len(pair.bob.pending) == 1


def test_the_accepter_spares_an_opener_who_cannot_pay_for_more() -> None:
    pair = Pair.opened(1_000_000, 985_000_000)
    # The opener has 15,000 sat: reserve 10,000, commitment and anchors 1,784, each HTLC 172.
    codes = [refusal(pair, pair.bob, 1_000_000) for _ in range(20)]
    assert codes[:18] == [""] * 18 and codes[18:] == ["peer_cannot_pay_fee"] * 2
    assert refusal(pair, pair.bob, 1000) == "", "without an output it costs nothing"


def test_dust_is_bounded() -> None:
    pair = Pair.opened()
    pair.alice.env = replace(pair.alice.env, policy=replace(pair.alice.env.policy, max_dust_exposure=Msat(1_000_000)))
    codes = [refusal(pair, pair.alice, 353_999) for _ in range(3)]
    assert codes == ["", "", "too_much_dust"]
    assert refusal(pair, pair.alice, 354_000) == "", "it has an output"


def test_incoming_dust_over_the_limit_must_be_failed() -> None:
    pair = Pair.opened()
    pair.bob.env = replace(pair.bob.env, policy=replace(pair.bob.env.policy, max_dust_exposure=Msat(700_000)))
    pair.alice.adds(300_000)
    pair.settle()
    pair.alice.adds(300_000)
    pair.settle()
    pair.alice.adds(300_000)
    pair.settle()
    pair.alice.adds(400_000)
    pair.settle()
    committed = [e for e in pair.bob.effects if isinstance(e, HtlcCommitted)]
    assert [e.must_fail for e in committed] == [False, False, True, False]


def test_the_queue_is_bounded() -> None:
    pair = Pair.opened()
    pair.alice.env = replace(pair.alice.env, policy=replace(pair.alice.env.policy, max_queued_adds=3))
    pair.alice.adds(1_000_000)
    for _ in range(4):
        pair.alice.adds(1_000)
    assert [r.code for r in pair.alice.refused] == ["queue_full"]


def test_what_waited_too_long_is_checked_again() -> None:
    """Both queue on the same slots of fee: the opener's HTLC no longer fits once the peer's are in."""
    pair = Pair.opened(100_000, 50_000_000)
    pair.alice.adds(1_000_000)
    pair.alice.adds(43_000_000)
    assert not pair.alice.refused
    pair.bob.adds(*[1_000_000] * 10)
    pair.settle()
    assert [r.code for r in pair.alice.refused] == ["insufficient_balance"]
    assert len(pair.alice.pending) == 10 and len(pair.bob.pending) == 1
    pair.check()


def test_origins_come_back_with_a_refusal() -> None:
    pair = Pair.opened()
    pair.alice.does(AddHtlc(Origin(b"mine"), Msat(0), PaymentHash(bytes(32)), CltvExpiry(1), ONION))
    (refused,) = pair.alice.refused
    assert isinstance(refused, AddRefused) and refused.origin == b"mine" and refused.reason


def test_the_link_is_ready_on_both_sides() -> None:
    pair = Pair.opened()
    assert pair.alice.link.state is pair.bob.link.state is LinkState.READY
    assert pair.alice.env.height == BlockHeight(int(START) + 6)


# --- exactly at the edge ----------------------------------------------------------------------------------------------


def test_an_incoming_htlc_at_the_dust_limit_costs_the_opener_its_weight() -> None:
    """Before it, HTLCs have taken the opener's balance to the last one it can pay for."""
    pair = Pair.opened()
    reserve = 1000 * int(pair.bob.record.params.ours.channel_reserve)
    for amount, untrimmed in ((354_000, 2), (353_999, 1)):
        first = 600_000_000 - reserve - opener_cost(ANCHORS, 1000, untrimmed) - amount
        for more, is_fine in ((0, True), (1, False)):
            bob = End("bob", pair.bob.signer, pair.bob.env, pair.bob.state)
            bob.hears(add_message(bob, 0, first + more), add_message(bob, 1, amount))
            assert (warned(bob) == "") == is_fine


def test_incoming_dust_of_exactly_the_limit_is_fine() -> None:
    pair = Pair.opened()
    pair.bob.env = replace(pair.bob.env, policy=replace(pair.bob.env.policy, max_dust_exposure=Msat(600_000)))
    pair.alice.adds(300_000, 300_000)
    pair.settle()
    assert not any(htlc.must_fail for htlc in pair.bob.pending.values())
    pair.alice.adds(1)
    pair.settle()
    assert pair.bob.pending[2].must_fail and not pair.bob.pending[1].must_fail


def test_a_fee_of_all_that_the_opener_has_above_its_reserve() -> None:
    """9,000 sat above the reserve of 10,000: less 660 for anchors, 8,340 sat pay 7420 sat/kw and not 7421."""
    pair = Pair.opened(1_000_000, 981_000_000)
    for rate, is_fine in ((7420, True), (7421, False)):
        assert (opener_cost(ANCHORS, rate, 0) <= 9_000_000) == is_fine
        bob = End("bob", pair.bob.signer, pair.bob.env, pair.bob.state)
        bob.hears(UpdateFee(channel_id=bob.record.channel_id, feerate_per_kw=FeeratePerKw(rate)))
        assert (warned(bob) == "") == is_fine
        alice = End("alice", pair.alice.signer, pair.alice.env, pair.alice.state)
        set_fee(alice, rate)
        assert ("UpdateFee" in kinds(alice)) == is_fine


def test_an_opener_below_its_reserve_may_repeat_its_fee() -> None:
    pair = Pair.opened(100_000, 97_600_000)
    rate = int(pair.bob.record.funding.local.spec.feerate)
    for asked, is_fine in ((rate - 1, True), (rate, True), (rate + 1, False)):
        bob = End("bob", pair.bob.signer, pair.bob.env, pair.bob.state)
        bob.hears(UpdateFee(channel_id=bob.record.channel_id, feerate_per_kw=FeeratePerKw(asked)))
        assert (warned(bob) == "") == is_fine
