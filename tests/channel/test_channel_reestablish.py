"""The comparison of two memories, cell by cell, and what follows from it (B2.60 to B2.66)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from salama.channel.events import Disconnect, Send
from salama.channel.reestablish import Course, Ours, compare
from salama.channel.state import LinkState, Phase
from salama.crypto.shachain import FIRST_INDEX
from salama.testing.pair import End, Pair
from salama.wire.closing import Shutdown
from salama.wire.interactive_tx import TxAbort
from salama.wire.setup import Error
from salama.wire.updates import ChannelReestablish, CommitmentSigned, NextFunding, RevokeAndAck, UpdateAddHtlc

# We hold local commitment 5 (4 is revoked) and have signed remote commitment 7.
ACKNOWLEDGED = Ours(local=5, remote=7, is_remote_unacknowledged=False, sent_after_local=5)
WAITING = Ours(local=5, remote=7, is_remote_unacknowledged=True, sent_after_local=5)
WAITING_FIRST = replace(WAITING, sent_after_local=4)
FRESH = Ours(local=0, remote=0, is_remote_unacknowledged=False, sent_after_local=0)

TABLE: list[tuple[Ours, int, int, Course, str]] = [
    # got everything
    (ACKNOWLEDGED, 8, 5, Course.CONTINUE, ""),
    (WAITING, 8, 5, Course.CONTINUE, ""),
    (FRESH, 1, 0, Course.CONTINUE, "ready"),
    # lost our signature
    (WAITING, 7, 5, Course.CONTINUE, "commitment"),
    (ACKNOWLEDGED, 7, 5, Course.FAIL, ""),
    # lost our revocation
    (ACKNOWLEDGED, 8, 4, Course.CONTINUE, "revocation"),
    (WAITING, 8, 4, Course.CONTINUE, "revocation"),
    # lost both: the order in which they were sent
    (WAITING, 7, 4, Course.CONTINUE, "revocation commitment"),
    (WAITING_FIRST, 7, 4, Course.CONTINUE, "commitment revocation"),
    # wants the chain
    (ACKNOWLEDGED, 0, 5, Course.FAIL, ""),
    (FRESH, 0, 0, Course.FAIL, ""),
    # forgot what it acknowledged
    (WAITING, 6, 5, Course.FAIL, ""),
    (WAITING, 1, 0, Course.FAIL, ""),
    (ACKNOWLEDGED, 8, 3, Course.FAIL, ""),
    # knows what we do not: perhaps we lost data, so nothing is published
    (ACKNOWLEDGED, 9, 5, Course.REFUSE, ""),
    (WAITING, 9, 5, Course.REFUSE, ""),
    (FRESH, 2, 0, Course.REFUSE, ""),
    (ACKNOWLEDGED, 9, 3, Course.REFUSE, ""),
    # says that we revoked more than we remember
    (ACKNOWLEDGED, 8, 6, Course.PROVE, ""),
    (ACKNOWLEDGED, 100, 90, Course.PROVE, ""),
    (FRESH, 1, 1, Course.PROVE, ""),
    (FRESH, 1, 1 << 48, Course.PROVE, ""),
    (FRESH, 1, (1 << 48) + 1, Course.REFUSE, ""),
    (FRESH, 1, (1 << 64) - 1, Course.REFUSE, ""),
]


@pytest.mark.parametrize(("ours", "commitment", "revocation", "course", "resent"), TABLE)
def test_the_table(ours: Ours, commitment: int, revocation: int, course: Course, resent: str) -> None:
    verdict = compare(ours, commitment, revocation)
    assert verdict.course is course, verdict.reason
    words = [
        word
        for word, is_due in (("revocation", verdict.resend_revocation), ("commitment", verdict.resend_commitment))
        if is_due
    ]
    if verdict.commitment_first:
        words.reverse()
    if verdict.resend_ready:
        words.append("ready")
    assert " ".join(words) == resent
    assert verdict.reason or course in (Course.CONTINUE, Course.PROVE)


def test_every_cell_has_a_verdict() -> None:
    """Near every position, all numbers that a peer may send: only matching ones go on."""
    for ours in (ACKNOWLEDGED, WAITING, WAITING_FIRST, FRESH):
        for commitment in range(12):
            for revocation in range(9):
                verdict = compare(ours, commitment, revocation)
                goes_on = commitment in (
                    (ours.remote, ours.remote + 1) if ours.is_remote_unacknowledged else (ours.remote + 1,)
                ) and revocation in (ours.local, ours.local - 1)
                assert (verdict.course is Course.CONTINUE) == (goes_on and commitment > 0)
                assert (verdict.course is Course.PROVE) == (commitment > 0 and revocation > ours.local)


# --- what follows -----------------------------------------------------------------------------------------------------


def used_pair() -> Pair:
    """Both commitments have moved on from the first, and nothing is under way."""
    pair = Pair.opened()
    for end in (pair.alice, pair.bob, pair.alice):
        end.adds(2_000_000)
        pair.settle()
    for end in (pair.alice, pair.bob):
        end.settles_all()
    pair.settle()
    return pair


def reestablish_of_bob(pair: Pair) -> ChannelReestablish:
    """Cuts, connects, and takes Bob's word from the wire; Alice waits for it."""
    pair.cut()
    pair.connect()
    (message,) = (m for m in pair.bob.sent() if isinstance(m, ChannelReestablish))
    pair.bob.outbox.clear()
    pair.alice.outbox.clear()
    return message


def test_nothing_but_reestablish_goes_out_first() -> None:
    pair = used_pair()
    pair.cut()
    pair.bob.adds(1_000_000)
    pair.connect()
    for end in (pair.alice, pair.bob):
        assert [type(m) for m in end.sent()] == [ChannelReestablish]
        assert end.link.state is LinkState.SYNCING


def test_what_it_says() -> None:
    pair = used_pair()
    said = reestablish_of_bob(pair)
    funding = pair.bob.record.funding
    assert said.next_commitment_number == funding.local.number + 1
    assert said.next_revocation_number == funding.remote.number
    secret = pair.bob.record.their_secrets.secret_at(FIRST_INDEX - (funding.remote.number - 1))
    assert said.your_last_per_commitment_secret == secret
    assert said.my_current_per_commitment_point == pair.bob.record.our_points.at(funding.local.number)


def test_a_fresh_channel_says_zeros() -> None:
    said = reestablish_of_bob(Pair.opened())
    assert (said.next_commitment_number, said.next_revocation_number) == (1, 0)
    assert said.your_last_per_commitment_secret == bytes(32)


def closed_by(pair: Pair, change: Callable[[ChannelReestablish], ChannelReestablish]) -> End:
    said = reestablish_of_bob(pair)
    pair.alice.hears(change(said))
    return pair.alice


@pytest.mark.parametrize(
    "changes",
    [
        {"next_commitment_number": 0},
        {"next_commitment_number": 1},
        {"your_last_per_commitment_secret": bytes(32)},
        {"your_last_per_commitment_secret": bytes(31) + b"\x07"},
        {"your_last_per_commitment_secret": b"\xff" * 32},
    ],
)
def test_a_peer_that_is_certainly_wrong_closes_the_channel(changes: dict[str, Any]) -> None:
    alice = closed_by(used_pair(), lambda said: replace(said, **changes))
    assert alice.record.phase is Phase.ON_CHAIN
    assert len(alice.broadcasts) == 2 and any(isinstance(m, Error) for m in alice.sent())


def test_a_peer_that_knows_more_publishes_nothing() -> None:
    alice = closed_by(used_pair(), lambda said: replace(said, next_commitment_number=said.next_commitment_number + 5))
    assert alice.record.phase is Phase.NORMAL
    assert len(alice.broadcasts) == 1, "only the funding"
    assert any(isinstance(m, Error) for m in alice.sent())


def test_a_bluff_publishes_nothing() -> None:
    """A claim to know a future secret of ours, without the secret."""
    alice = closed_by(used_pair(), lambda said: replace(said, next_revocation_number=said.next_revocation_number + 3))
    assert alice.record.phase is Phase.NORMAL and not alice.record.stale
    assert len(alice.broadcasts) == 1
    assert any(isinstance(effect, Disconnect) for effect in alice.effects)


def stale_pair() -> Pair:
    """Alice lost some commitments; Bob can prove it."""
    pair = used_pair()
    old = pair.alice.record
    pair.alice.adds(3_000_000)
    pair.settle()
    pair.bob.settles_all()
    pair.settle()
    pair.cut()
    pair.alice.state = replace(pair.alice.channel, record=old, link=None)
    return pair


def test_lost_data_is_noticed_for_good_and_nothing_is_published() -> None:
    from salama.base.machine import CommandRefused
    from salama.channel.events import CloseChannel, ForceClose
    from salama.channel.step import step

    pair = stale_pair()
    pair.connect()
    pair.deliver(pair.bob)
    alice = pair.alice
    assert alice.record.stale and any(isinstance(m, Error) for m in alice.sent())
    published = len(alice.broadcasts)
    for command in (ForceClose("please"), CloseChannel(b"")):
        with pytest.raises(CommandRefused) as refusal:
            step(alice.channel, command, alice.env)
        assert refusal.value.code == "data_lost"
    alice.hears(Error(channel_id=alice.record.channel_id, data=b"you first"))
    pair.restarts(alice)
    alice.does()
    pair.mines(5000)
    assert alice.record.stale and len(alice.broadcasts) == published
    assert alice.record.phase is not Phase.ON_CHAIN


def test_our_error_makes_the_other_side_publish() -> None:
    pair = stale_pair()
    pair.connect()
    pair.settle()
    assert pair.bob.record.phase is Phase.ON_CHAIN and len(pair.bob.broadcasts) == 1
    assert pair.alice.record.phase is not Phase.ON_CHAIN


def test_an_unknown_funding_is_aborted() -> None:
    pair = used_pair()
    said = reestablish_of_bob(pair)
    pair.alice.hears(replace(said, next_funding=NextFunding(pair.alice.record.funding.outpoint.txid, 1)))
    assert [type(m) for m in pair.alice.sent()] == [TxAbort]
    assert pair.alice.link.state is LinkState.READY


def test_updates_before_reestablish_are_a_violation() -> None:
    pair = used_pair()
    pair.cut()
    pair.connect()
    pair.alice.outbox.clear()
    pair.alice.hears(CommitmentSigned(channel_id=pair.alice.record.channel_id, signature=bytes(64), htlc_signature=()))
    assert any("before channel_reestablish" in e.reason for e in pair.alice.effects if isinstance(e, Disconnect))


def test_the_order_of_revocation_and_signature_is_kept_both_ways() -> None:
    """Bob signs before he hears of Alice's signature (then revokes), or after (revokes, then signs)."""
    for is_before in (False, True):
        pair = used_pair()
        pair.alice.adds(1_000_000)
        if is_before:
            pair.bob.adds(2_000_000)
        pair.deliver(pair.alice, 2)
        sent = [type(m) for m in pair.bob.sent() if isinstance(m, CommitmentSigned | RevokeAndAck)]
        assert sent == ([CommitmentSigned, RevokeAndAck] if is_before else [RevokeAndAck, CommitmentSigned])
        pair.cut()
        pair.connect()
        pair.deliver(pair.alice)
        again = [type(m) for m in pair.bob.sent() if isinstance(m, CommitmentSigned | RevokeAndAck)]
        assert again == sent
        pair.settle()
        pair.check()
        assert len(pair.bob.pending) == 1


def test_a_retransmission_says_the_same() -> None:
    pair = used_pair()
    pair.alice.adds(1_000_000, 2_000_000)
    first = pair.alice.sent()
    pair.cut()
    pair.restarts(pair.alice)
    pair.connect()
    pair.deliver(pair.bob)
    assert pair.alice.sent()[1:] == first
    assert [type(m) for m in first] == [UpdateAddHtlc, UpdateAddHtlc, CommitmentSigned]


def test_channel_ready_is_repeated_before_the_first_signature() -> None:
    """The peer lost our first `channel_ready` and the signature after it: in the other order it would take neither, for
    ever (found by the simulator)."""
    pair = Pair.of()
    pair.opens(1_000_000, 400_000_000)
    pair.settle()
    pair.confirms()
    pair.alice.outbox.clear()
    pair.deliver(pair.bob, 10)
    pair.alice.adds(1_000_000)
    pair.cut()
    pair.connect()
    pair.settle()
    assert pair.bob.is_connected
    assert pair.bob.record.phase is Phase.NORMAL
    assert len(pair.bob.pending) == 1


def test_shutdown_is_repeated_on_every_connection() -> None:
    from salama.channel.events import CloseChannel

    pair = used_pair()
    pair.bob.adds(5_000_000)
    pair.settle()
    pair.alice.does(CloseChannel(pair.alice.record.params.closing_script))
    pair.settle()
    for _ in range(2):
        pair.cut()
        pair.connect()
        before = [len(end.effects) for end in (pair.alice, pair.bob)]
        pair.settle()
        for end, start in zip((pair.alice, pair.bob), before, strict=True):
            said = [type(e.message) for e in end.effects[start:] if isinstance(e, Send)]
            assert said.count(Shutdown) == 1
    assert pair.alice.record.phase is Phase.SHUTTING_DOWN


def test_a_closed_channel_answers_with_its_error() -> None:
    from salama.channel.events import ForceClose

    pair = used_pair()
    pair.alice.does(ForceClose("enough"))
    pair.cut()
    pair.connect()
    proof, message = pair.alice.sent()
    assert isinstance(proof, ChannelReestablish), "a peer that lost data must know of it before it hears of the end"
    assert isinstance(message, Error) and message.data == b"enough"
