"""B6 a peer that makes us build too long a message (LDK 0.2.5 #4845, Core Lightning #9353)

What failed: a failure onion, a splice transaction or a route of a peer's making went into a message of ours that then
exceeded 65,535 bytes, or into an onion of more than 1300, and the builder raised where nobody expected it.

Defence: channel/normal.py:receive_fail and fail_htlc bound a failure packet (MAX_REASON); onion/sphinx.py:make_onion
raises OnionTooLong; codec/message.py refuses to encode what has no room; payments/outgoing.py turns a route too long
for the onion into a failed attempt.
"""

from __future__ import annotations

import pytest

from salama.channel.events import FailHtlc, HtlcFailed
from salama.channel.normal import MAX_REASON
from salama.channel.opening_rules import MAX_ACCEPTED_HTLCS
from salama.codec.fields import Unencodable
from salama.crypto.secp256k1 import public_key
from salama.onion.failures import wrap_failure
from salama.onion.sphinx import OnionTooLong, make_onion
from salama.testing.pair import Pair
from salama.wire.setup import Error
from salama.wire.updates import CommitmentSigned, UpdateFailHtlc


def test_a_huge_failure_packet_goes_no_further() -> None:
    """It comes from far behind the peer; relayed and wrapped once more it would not fit."""
    pair = Pair.opened()
    pair.alice.adds(50_000_000)
    pair.settle()
    huge = UpdateFailHtlc(channel_id=pair.alice.record.channel_id, id=0, reason=bytes(65_000))
    pair.alice.hears(huge)
    assert not pair.alice.is_connected and not pair.alice.failed
    assert not pair.alice.broadcasts[1:], "no reason to close"
    assert pair.alice.record.htlcs, "the HTLC is as it was"


def test_the_longest_packet_that_is_taken_can_be_passed_on() -> None:
    pair = Pair.opened()
    pair.alice.adds(50_000_000)
    pair.settle()
    pair.bob.does(FailHtlc(0, bytes(MAX_REASON)))
    pair.settle()
    (row,) = [row for row in pair.alice.rows if isinstance(row, HtlcFailed)]
    wrapped = wrap_failure(b"\x01" * 32, row.reason)
    other = Pair.opened()
    other.alice.adds(50_000_000)
    other.settle()
    other.bob.does(FailHtlc(0, wrapped))
    assert any(isinstance(m, UpdateFailHtlc) for m in other.bob.sent())


def test_our_own_longer_packet_is_refused_before_it_is_on_record() -> None:
    pair = Pair.opened()
    pair.alice.adds(50_000_000)
    pair.settle()
    before = pair.bob.record
    pair.bob.does(FailHtlc(0, bytes(MAX_REASON + 1)))
    assert pair.bob.record == before and pair.bob.is_connected


def test_a_route_too_long_for_an_onion_is_an_error_of_its_own() -> None:
    node = public_key(b"\x01" * 32)
    make_onion([(node, bytes(20))] * 24, b"\x07" * 32, bytes(32))
    with pytest.raises(OnionTooLong):
        make_onion([(node, bytes(20))] * 25, b"\x07" * 32, bytes(32))
    with pytest.raises(OnionTooLong):
        make_onion([(node, bytes(1300))], b"\x07" * 32, bytes(32))


def test_no_message_of_ours_exceeds_its_length() -> None:
    with pytest.raises(Unencodable):
        Error(channel_id=Pair.opened().alice.record.channel_id, data=bytes(65_536)).encode()
    most = CommitmentSigned(
        channel_id=Pair.opened().alice.record.channel_id,
        signature=bytes(64),
        htlc_signature=(bytes(64),) * (2 * MAX_ACCEPTED_HTLCS),
    )
    assert len(most.encode()) < 65_535, "signatures of the fullest channel fit"
