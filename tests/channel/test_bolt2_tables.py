"""The tables of BOLT 2 row by row, between two machines: what a peer says when a channel is taken up again and what we
do (B2.60 to B2.66), and which outputs of a simple close are signed by whom (B2.37, B2.38).

The numbers alone, cell by cell, are in ``test_channel_reestablish``; the forms alone in ``test_closing_forms``. Rows
about interactive transactions and splices have the answer of a node that has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from test_channel_reestablish import used_pair as used

from salama.base.ids import Txid
from salama.bitcoin.script import p2wpkh
from salama.channel.closing_forms import Form
from salama.channel.events import CloseChannel, Disconnect, Disconnected, ReleaseFunding, Send
from salama.channel.state import Channel, LinkState, Opening, OpeningStage, Phase
from salama.testing.pair import FEATURES, End, Pair
from salama.wire.closing import ClosingComplete, ClosingSig, ClosingSigned, Shutdown
from salama.wire.features import OPTION_SIMPLE_CLOSE, Features
from salama.wire.interactive_tx import TxAbort
from salama.wire.opening import ChannelReady
from salama.wire.setup import Error
from salama.wire.updates import (
    ChannelReestablish,
    CommitmentSigned,
    MyCurrentFundingLocked,
    NextFunding,
    RevokeAndAck,
    UpdateAddHtlc,
    UpdateFulfillHtlc,
)

SIMPLE = Features.of_bits({*FEATURES.bits(), OPTION_SIMPLE_CLOSE.odd})
SCRIPT = p2wpkh(b"\x02" + bytes(31) + b"\x0c")
BURN = b"\x6a\x06salama"

# --- before: what was lost with the connection ------------------------------------------------------------------------


def lost_signature() -> Pair:
    pair = used()
    pair.alice.adds(1_000_000)
    return pair


def lost_revocation() -> Pair:
    """Bob's word has reached Alice, and her answer is gone: she has both revoked and signed, in this order."""
    pair = used()
    pair.bob.adds(1_000_000)
    pair.deliver(pair.bob, 2)
    (revocation, _) = (m for m in pair.alice.sent() if isinstance(m, RevokeAndAck | CommitmentSigned))
    assert isinstance(revocation, RevokeAndAck)
    return pair


def lost_revocation_alone() -> Pair:
    """Alice signed first, and could not answer otherwise."""
    pair = used()
    pair.alice.adds(3_000_000)
    pair.deliver(pair.alice, 2)
    pair.deliver(pair.bob, 2)
    return pair


def lost_both() -> Pair:
    """Alice had signed before she heard of Bob's signature."""
    pair = used()
    pair.alice.adds(1_000_000)
    pair.bob.adds(2_000_000)
    pair.deliver(pair.bob, 2)
    return pair


def fresh() -> Pair:
    return Pair.opened()


def lost_data() -> Pair:
    pair = used()
    old = pair.alice.record
    pair.alice.adds(3_000_000)
    pair.settle()
    pair.bob.settles_all()
    pair.settle()
    pair.alice.state = replace(pair.alice.channel, record=old, link=None)
    return pair


def shutting_down() -> Pair:
    pair = used()
    pair.bob.adds(5_000_000)
    pair.settle()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.settle()
    return pair


def negotiating() -> Pair:
    pair = used()
    pair.alice.does(CloseChannel(SCRIPT))
    pair.deliver(pair.alice)
    pair.deliver(pair.bob)
    return pair


# --- taking a channel up again ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What Bob says after ``before``, with some fields replaced, and what Alice does."""

    handle: str
    words: str
    before: Callable[[], Pair]
    changes: Callable[[ChannelReestablish], dict[str, Any]] = lambda said: {}
    says: tuple[type, ...] = ()
    phase: Phase = Phase.NORMAL
    publishes: bool = False
    stale: bool = False
    goes_on: bool = True
    more: Callable[[Pair], Pair] = field(default=lambda pair: pair)


NOBODYS = Txid(b"\x07" * 32)

ROWS = (
    Row("B2.61", "everything has arrived", used),
    Row("B2.61", "our commitment_signed was lost", lost_signature, says=(UpdateAddHtlc, CommitmentSigned)),
    Row("B2.61", "our revoke_and_ack was lost", lost_revocation_alone, says=(RevokeAndAck,)),
    Row("B2.61", "both were lost, revoked first", lost_revocation, says=(RevokeAndAck, CommitmentSigned)),
    Row("B2.61", "both were lost, signed first", lost_both, says=(UpdateAddHtlc, CommitmentSigned, RevokeAndAck)),
    Row(
        "B2.66", "asks for the end", used, lambda said: {"next_commitment_number": 0},
        (Error,), Phase.ON_CHAIN, publishes=True, goes_on=False,
    ),
    Row(
        "B2.61", "has forgotten commitments", used,
        lambda said: {"next_commitment_number": said.next_commitment_number - 1},
        (Error,), Phase.ON_CHAIN, publishes=True, goes_on=False,
    ),
    Row(  # DEVIATION of ``reestablish.compare``: the BOLT would have it failed
        "B2.61", "expects a commitment that we do not know", used,
        lambda said: {"next_commitment_number": said.next_commitment_number + 1}, (Error,), goes_on=False,
    ),
    Row(
        "B2.61", "has forgotten revocations", used,
        lambda said: {
            "next_revocation_number": said.next_revocation_number - 2,
        },
        (Error,), Phase.ON_CHAIN, publishes=True, goes_on=False,
    ),
    Row("B2.65", "proves that we are behind", lost_data, says=(Error,), stale=True, goes_on=False),
    Row(  # DEVIATION of ``signing``: a lie about our past is no reason to publish
        "B2.65", "says so without proof", used,
        lambda said: {"next_revocation_number": said.next_revocation_number + 1}, (Error,), goes_on=False,
    ),
    Row(
        "B2.65", "shows a secret that is not ours", used,
        lambda said: {"your_last_per_commitment_secret": bytes(31) + b"\x07"},
        (Error,), Phase.ON_CHAIN, publishes=True, goes_on=False,
    ),
    Row(
        "B2.62", "waits for signatures of a transaction that we do not know", used,
        lambda said: {"next_funding": NextFunding(NOBODYS, 1)}, (TxAbort,),
    ),
    Row(
        "B2.62", "waits for no commitment_signed of it", used,
        lambda said: {"next_funding": NextFunding(NOBODYS, 0)}, (TxAbort,),
    ),
    Row(
        "B2.63", "has locked a splice that we do not know", used,
        lambda said: {"my_current_funding_locked": MyCurrentFundingLocked(NOBODYS, 1)},
    ),
    Row("B2.64", "both are at the first commitment", fresh, says=(ChannelReady,)),
    Row("B2.61", "a closing is under way", shutting_down, says=(Shutdown,), phase=Phase.SHUTTING_DOWN),
    Row("B2.61", "a closing fee is negotiated", negotiating, says=(Shutdown,), phase=Phase.NEGOTIATING),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.handle} {row.words}")
def test_taking_a_channel_up_again(row: Row) -> None:
    pair = row.before()
    alice = pair.alice
    published, number = len(alice.broadcasts), alice.record.funding.latest_remote.number
    pair.cut()
    pair.connect()
    (said,) = (m for m in pair.bob.sent() if isinstance(m, ChannelReestablish))
    pair.bob.outbox.clear()
    pair.bob.outbox.append(replace(said, **row.changes(said)).encode())
    first = len(alice.effects)
    pair.deliver(pair.bob)
    words = [e.message for e in alice.effects[first:] if isinstance(e, Send)]
    assert tuple(type(m) for m in words) == row.says
    assert alice.record.phase is row.phase and alice.record.stale is row.stale
    assert (len(alice.broadcasts) > published) is row.publishes
    assert alice.record.funding.latest_remote.number == number, "a repetition reuses its number"
    assert (alice.channel.link_state is LinkState.READY) is row.goes_on
    if row.goes_on and not row.changes(said):
        pair.settle()
        pair.check()
        if row.before is negotiating:
            assert alice.record.mutual_close is not None


def test_the_closing_fee_begins_anew_with_the_connection() -> None:
    """The opener names its fee again (B2.39); with option_simple_close both offer again (B2.37)."""
    for features, kind in ((FEATURES, ClosingSigned), (SIMPLE, ClosingComplete)):
        pair = Pair.opened(features=features)
        pair.alice.does(CloseChannel(SCRIPT))
        pair.deliver(pair.alice)
        pair.deliver(pair.bob)
        first = [m for m in pair.alice.sent() if isinstance(m, kind)]
        assert len(first) == 1
        pair.cut()
        pair.connect()
        pair.settle()
        again = [e.message for e in pair.alice.effects if isinstance(e, Send) and isinstance(e.message, kind)]
        assert again == [first[0], first[0]]


@pytest.mark.parametrize("kind", ["fulfil", "fail"])
def test_what_the_peer_had_not_signed_never_was_but_a_preimage_stays(kind: str) -> None:
    """B2.60: rolled back on both sides, and said again."""
    pair = Pair.opened()
    pair.alice.adds(5_000_000)
    pair.settle()
    before = pair.alice.record
    (pair.bob.settles_all if kind == "fulfil" else pair.bob.fails_all)()
    pair.deliver(pair.bob)
    assert not any(isinstance(m, CommitmentSigned) for m in pair.alice.sent())
    pair.cut()
    assert pair.alice.record is before
    assert len(pair.alice.learned) == (kind == "fulfil"), "it cannot be unlearned"
    pair.connect()
    pair.settle()
    assert not pair.alice.record.htlcs and len(pair.alice.learned) == 2 * (kind == "fulfil")
    assert any(isinstance(e.message, UpdateFulfillHtlc) for e in pair.bob.effects if isinstance(e, Send)) == (
        kind == "fulfil"
    )


@pytest.mark.parametrize(
    ("deliveries", "opener_keeps", "accepter_keeps"),
    [(1, False, False), (2, False, False), (3, False, True), (4, True, True)],
    ids=["open_channel", "accept_channel", "funding_created", "funding_signed"],
)
def test_who_remembers_an_opening_that_was_cut(deliveries: int, opener_keeps: bool, accepter_keeps: bool) -> None:
    """B2.60: the opener from its broadcast on, the accepter from its signature on."""
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    for number in range(deliveries):
        pair.deliver((pair.alice, pair.bob)[number % 2])
    for end, keeps in ((pair.alice, opener_keeps), (pair.bob, accepter_keeps)):
        end.does(Disconnected())
        assert isinstance(end.state, Channel if keeps else Opening)
        if isinstance(end.state, Opening):
            assert end.state.stage is OpeningStage.ABANDONED
    has_coins = any(isinstance(effect, ReleaseFunding) for effect in pair.alice.effects)
    assert has_coins == (deliveries in (2, 3)), "coins that were set aside are free again"
    assert bool(pair.alice.broadcasts) is opener_keeps


# --- the outputs of a simple close ------------------------------------------------------------------------------------

CLOSER, CLOSEE, BOTH = Form.CLOSER_ONLY, Form.CLOSEE_ONLY, Form.BOTH


@dataclass(frozen=True)
class Shape:
    """A close that one side pays for: what each has, what it signs, and what the other takes."""

    words: str
    push: int
    closer: str
    offers: tuple[Form, ...]
    taken: Form
    script: bytes = SCRIPT


SHAPES = (
    Shape("the lesser, and worth an output", 400_000_000, "bob", (BOTH,), BOTH),
    Shape("the lesser, and dust", 500_000, "bob", (CLOSEE,), CLOSEE),
    Shape("the lesser, and too little for a relay", 100_000, "bob", (), CLOSEE),
    Shape("the greater beside dust", 200_000, "alice", (CLOSER,), CLOSER),
    Shape("the greater beside nothing", 0, "alice", (CLOSER,), CLOSER),
    Shape("the greater beside the least output", 294_000, "alice", (CLOSER, BOTH), BOTH),
    Shape("the greater", 400_000_000, "alice", (CLOSER, BOTH), BOTH),
    Shape("as much as the other", 500_000_000, "alice", (CLOSER, BOTH), BOTH),
    Shape("as much as the other, who was asked", 500_000_000, "bob", (CLOSER, BOTH), BOTH),
    Shape("the greater, to nobody", 400_000_000, "alice", (CLOSER, BOTH), BOTH, BURN),
    Shape("the lesser, to nobody", 400_000_000, "bob", (BOTH,), BOTH, BURN),
    Shape("the lesser, to nobody, and dust", 500_000, "bob", (BOTH,), BOTH, BURN),
)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.words)
def test_what_a_closer_signs_and_the_closee_takes(shape: Shape) -> None:
    pair = Pair.opened(1_000_000, shape.push, features=SIMPLE)
    closer: End = getattr(pair, shape.closer)
    closee = pair.other(closer)
    closer.does(CloseChannel(shape.script))
    pair.settle()
    offers = [e.message for e in closer.effects if isinstance(e, Send) and isinstance(e.message, ClosingComplete)]
    answers = [e.message for e in closee.effects if isinstance(e, Send) and isinstance(e.message, ClosingSig)]
    if not shape.offers:
        assert not offers and not answers and closer.record.mutual_close is not None, "the other sees to it"
        return
    (offer,), (answer,) = offers, answers
    assert tuple(form for form in Form if getattr(offer, form.value) is not None) == shape.offers
    assert [form for form in Form if getattr(answer, form.value) is not None] == [shape.taken]
    assert not any(isinstance(effect, Disconnect) for effect in (*closer.effects, *closee.effects))
    (tx,) = (c.tx for c in closer.record.closes if c.their_signature == getattr(answer, shape.taken.value))
    mine = [int(output.value) for output in tx.outputs if output.script == shape.script]
    assert len(mine) == shape.taken.has_closer and (shape.script != BURN or sum(mine) == 0)
    assert len(tx.outputs) == shape.taken.has_closer + shape.taken.has_closee
