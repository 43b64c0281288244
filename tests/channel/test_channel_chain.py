"""What the chain brings: deadlines, force closes, announcements, and transactions that Bitcoin Core accepts (B2.49,
B7.02)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bolt3_bench import verifies

from salama.base.ids import ShortChannelId
from salama.base.units import BlockHeight
from salama.bitcoin.script import p2wpkh
from salama.bitcoin.tx import Tx
from salama.channel.confirming import unsigned_announcement
from salama.channel.events import (
    AddDropped,
    AnnounceChannel,
    BlockArrived,
    Broadcast,
    CloseChannel,
    Disconnect,
    FailHtlc,
    ForceClose,
    FundingConfirmed,
    FundingSpent,
    FundingUnconfirmed,
    Origin,
    PublicEvent,
    Send,
    SettleHtlc,
    WatchFunding,
)
from salama.channel.state import Fulfilment, Phase
from salama.crypto.hashes import sha256d
from salama.crypto.secp256k1 import verify
from salama.testing.pair import START, End, Pair, preimage_of
from salama.wire.gossip import AnnouncementSignatures, ChannelAnnouncement
from salama.wire.setup import Error, Warning


def spends_funding(pair: Pair, tx: Tx) -> bool:
    assert pair.funding_tx is not None
    (spent,) = (i for i, txin in enumerate(tx.inputs) if txin.outpoint == pair.alice.record.funding.outpoint)
    return verifies(tx, spent, pair.funding_tx.outputs[pair.alice.record.funding.outpoint.vout])


# --- transactions that are published ----------------------------------------------------------------------------------


def busy_pair() -> Pair:
    pair = Pair.opened()
    pair.alice.adds(30_000_000, 300_000)
    pair.bob.adds(20_000_000)
    pair.settle()
    return pair


@pytest.mark.parametrize("is_alice", [True, False])
def test_a_forced_close_is_valid_on_the_chain(is_alice: bool) -> None:
    pair = busy_pair()
    end = pair.alice if is_alice else pair.bob
    end.does(ForceClose("test"))
    tx = end.broadcasts[-1]
    assert spends_funding(pair, tx)
    assert len(tx.outputs) == 2 + 2 + 2, "two balances, two anchors, two HTLCs that are no dust"
    assert end.record.phase is Phase.ON_CHAIN and end.record.error == "test"
    broken = replace(tx, locktime=tx.locktime ^ 1)
    assert not spends_funding(pair, broken)


def test_a_mutual_close_is_valid_on_the_chain() -> None:
    pair = Pair.opened()
    pair.alice.does(CloseChannel(p2wpkh(b"\x02" + bytes(32))))
    pair.settle()
    assert spends_funding(pair, pair.bob.broadcasts[-1])


def test_both_commitments_of_every_state_are_valid_on_the_chain() -> None:
    """Whenever a side were to close in the middle of an exchange, it could."""
    pair = Pair.opened()
    pair.alice.adds(30_000_000)
    pair.bob.adds(20_000_000)
    while not pair.is_quiet():
        for end in (pair.alice, pair.bob):
            pair.deliver(end)
            twin = End(
                end.name, type(end.signer)(b"alice" * 5 if end is pair.alice else b"bobby" * 5), end.env, end.state
            )
            twin.does(ForceClose("now"))
            assert spends_funding(pair, twin.broadcasts[-1])


def test_a_forced_close_happens_once_and_survives_a_restart() -> None:
    pair = busy_pair()
    pair.alice.does(ForceClose("test"))
    tx = pair.alice.broadcasts[-1]
    count = len(pair.alice.broadcasts)
    pair.mines(1)
    assert len(pair.alice.broadcasts) == count, "repeating is the shell's business"
    pair.restarts(pair.alice)
    assert pair.alice.broadcasts[-1] == tx
    assert any(isinstance(e, WatchFunding) for e in pair.alice.effects)


def test_a_forced_close_hands_back_what_was_queued() -> None:
    pair = Pair.opened()
    pair.alice.adds(1_000_000)
    pair.alice.adds(2_000_000)
    pair.alice.does(ForceClose("test"))
    assert AddDropped(Origin(b"alice 1")) in pair.alice.effects


def test_an_error_of_the_peer_publishes() -> None:
    pair = busy_pair()
    pair.alice.hears(Error(channel_id=pair.alice.record.channel_id, data=b"\x00\xffgo away"))
    assert pair.alice.record.phase is Phase.ON_CHAIN
    assert pair.alice.record.error.isprintable() and "go away" in pair.alice.record.error
    assert spends_funding(pair, pair.alice.broadcasts[-1])


def test_a_warning_changes_nothing() -> None:
    pair = busy_pair()
    before = pair.alice.channel
    pair.alice.hears(Warning(channel_id=before.channel_id, data=b"hm"))
    assert pair.alice.channel == before


# --- deadlines --------------------------------------------------------------------------------------------------------


def test_an_outgoing_htlc_past_its_expiry() -> None:
    pair = Pair.opened()
    pair.alice.adds(30_000_000, expiry=int(START) + 100)
    pair.settle()
    pair.mines(100 - 6 + 1)
    assert pair.alice.record.phase is Phase.NORMAL, "one block of grace is left"
    pair.mines(1)
    assert pair.alice.record.phase is Phase.ON_CHAIN
    assert pair.bob.record.phase is Phase.NORMAL, "it is not Bob's money"


def test_an_outgoing_htlc_counts_while_any_commitment_holds_it() -> None:
    pair = Pair.opened()
    pair.alice.adds(30_000_000, expiry=int(START) + 100)
    pair.alice.outbox.clear()
    pair.mines(96)
    assert pair.alice.record.phase is Phase.ON_CHAIN, "signed, even if never acknowledged"


def test_a_paid_incoming_htlc_that_is_not_settled_in_time() -> None:
    pair = Pair.opened()
    pair.alice.adds(30_000_000, expiry=int(START) + 100)
    pair.settle()
    pair.cut()
    pair.bob.does(SettleHtlc(0, preimage_of(0)))
    pair.mines(100 - 6 - 19)
    assert pair.bob.record.phase is Phase.NORMAL
    pair.mines(1)
    assert pair.bob.record.phase is Phase.ON_CHAIN
    assert pair.bob.record.resolutions, "onchain finds the preimage"


def test_an_unpaid_incoming_htlc_is_no_reason_to_close() -> None:
    pair = Pair.opened()
    pair.alice.adds(30_000_000, expiry=int(START) + 100)
    pair.settle()
    pair.cut()
    pair.bob.does(*[])
    pair.mines(200)
    assert pair.bob.record.phase is Phase.NORMAL


def test_a_decision_on_the_chain_phase_is_still_kept() -> None:
    pair = Pair.opened()
    pair.alice.adds(30_000_000)
    pair.settle()
    pair.bob.does(ForceClose("test"))
    pair.bob.does(SettleHtlc(0, preimage_of(0)))
    assert list(pair.bob.record.resolutions) == [0]


def test_on_the_chain_a_preimage_overrules_a_failure_that_the_peer_did_not_take() -> None:
    """The commitment that is published may hold the HTLC still, and the preimage brings it home."""
    pair = Pair.opened()
    pair.alice.adds(30_000_000)
    pair.settle()
    pair.bob.does(FailHtlc(0, b"gave up"))
    (htlc,) = pair.bob.record.htlcs.values()
    assert htlc.last_remote is not None, "it is sent and signed"
    pair.alice.does(ForceClose("test"))
    pair.bob.does(FundingSpent(pair.alice.broadcasts[-1], pair.bob.env.height))
    pair.bob.does(SettleHtlc(0, preimage_of(0)))
    assert pair.bob.record.resolutions == {0: Fulfilment(preimage_of(0))}
    pair.bob.does(FailHtlc(0, b"again"))
    assert pair.bob.record.resolutions == {0: Fulfilment(preimage_of(0))}, "never the other way round"


# --- spends -----------------------------------------------------------------------------------------------------------


def test_another_spend_after_a_reorganisation() -> None:
    pair = busy_pair()
    pair.alice.does(ForceClose("test"))
    pair.bob.does(ForceClose("test"))
    ours, theirs = pair.alice.broadcasts[-1], pair.bob.broadcasts[-1]
    pair.alice.does(FundingSpent(theirs, pair.alice.env.height))
    assert pair.alice.record.spend is not None and pair.alice.record.spend.tx == theirs
    pair.alice.does(FundingSpent(ours, pair.alice.env.height))
    assert pair.alice.record.spend.tx == ours
    rows = [row for row in pair.alice.rows if isinstance(row, PublicEvent) and row.name == "channel.spent"]
    assert [dict(row.fields)["mutual"] for row in rows] == [False, False]


def test_a_funding_taken_out_of_the_chain_is_told() -> None:
    pair = Pair.opened()
    pair.alice.does(FundingUnconfirmed())
    assert pair.alice.record.funding.short_channel_id is None
    assert any(isinstance(r, PublicEvent) and r.name == "channel.funding_unconfirmed" for r in pair.alice.rows)


@pytest.mark.parametrize("closes", [False, True])
def test_a_funding_taken_out_of_the_chain_is_published_again_by_who_made_it(closes: bool) -> None:
    """As a restart would do: a back-end need not remember what a reorganisation left without a block."""
    pair = Pair.opened()
    assert pair.funding_tx is not None
    if closes:
        pair.alice.does(ForceClose("test"))
    for end, published in ((pair.alice, [pair.funding_tx]), (pair.bob, [])):
        end.effects.clear()
        end.does(FundingUnconfirmed())
        assert end.broadcasts == published
        end.does(FundingUnconfirmed())
        assert end.broadcasts == published, "told twice, done once"


# --- announcing -------------------------------------------------------------------------------------------------------


def announced(end: End) -> list[ChannelAnnouncement]:
    found = [effect.announcement for effect in end.effects if isinstance(effect, AnnounceChannel)]
    assert all(isinstance(a, ChannelAnnouncement) for a in found)
    return found  # type: ignore[return-value]


def signatures_sent(end: End) -> int:
    return sum(isinstance(e, Send) and isinstance(e.message, AnnouncementSignatures) for e in end.effects)


def test_an_announced_channel() -> None:
    pair = Pair.opened(announce=True)
    (announcement,) = announced(pair.alice)
    assert announced(pair.bob) == [announcement]
    assert announcement.short_channel_id == pair.alice.record.funding.short_channel_id
    digest = sha256d(announcement.signed_part)
    for key, signature in (
        (announcement.node_id_1, announcement.node_signature_1),
        (announcement.node_id_2, announcement.node_signature_2),
        (announcement.bitcoin_key_1, announcement.bitcoin_signature_1),
        (announcement.bitcoin_key_2, announcement.bitcoin_signature_2),
    ):
        assert verify(key, digest, signature)
    assert announcement.node_id_1 < announcement.node_id_2
    assert signatures_sent(pair.alice) == signatures_sent(pair.bob) == 1


def test_a_private_channel_is_not_announced() -> None:
    pair = Pair.opened()
    assert not announced(pair.alice) and not signatures_sent(pair.alice)


def test_announcing_waits_for_six_confirmations() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0, announce=True)
    pair.settle()
    pair.confirms(5)
    pair.settle()
    assert pair.alice.record.phase is Phase.NORMAL and not signatures_sent(pair.alice)
    pair.mines(1)
    pair.settle()
    assert len(announced(pair.alice)) == len(announced(pair.bob)) == 1


def test_signatures_that_come_early_are_kept_for_later() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0, announce=True)
    pair.settle()
    pair.confirms(5)
    pair.settle()
    bob = pair.bob
    bob.env = replace(bob.env, height=type(bob.env.height)(int(bob.env.height) + 1))
    bob.does()
    pair.settle()
    assert signatures_sent(bob) == 1 and not announced(pair.alice)
    pair.alice.env = bob.env
    pair.alice.does()
    pair.settle()
    assert len(announced(pair.alice)) == len(announced(bob)) == 1


def test_signatures_that_were_lost_are_exchanged_again() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0, announce=True)
    pair.settle()
    pair.confirms(5)
    pair.settle()
    pair.mines(1)
    pair.deliver(pair.alice)
    pair.cut()
    assert len(announced(pair.bob)) == 1 and not announced(pair.alice)
    pair.connect()
    pair.settle()
    assert len(announced(pair.alice)) == 1
    assert signatures_sent(pair.alice) <= 3 and signatures_sent(pair.bob) <= 3, "no endless echo"
    before = signatures_sent(pair.alice)
    pair.cut()
    pair.connect()
    pair.settle()
    assert signatures_sent(pair.alice) == before


def test_signatures_for_something_else() -> None:
    pair = Pair.opened(announce=True)
    message = next(
        e.message for e in pair.bob.effects if isinstance(e, Send) and isinstance(e.message, AnnouncementSignatures)
    )
    pair.alice.hears(replace(message, short_channel_id=ShortChannelId(1)))
    assert not any(isinstance(e, Disconnect) for e in pair.alice.effects)
    assert [type(m) for m in pair.alice.sent()] == [Warning]
    for name in ("node_signature", "bitcoin_signature"):
        alice = End("alice", pair.alice.signer, pair.alice.env, pair.alice.state)
        bad = bytearray(getattr(message, name))
        bad[10] ^= 1
        alice.hears(replace(message, **{name: bytes(bad)}))
        assert any(isinstance(e, Disconnect) for e in alice.effects)


def moves(end: End, tx: Tx, confirmations: int) -> None:
    """For one side: the funding leaves its block and stands in the next one, so many blocks deep."""
    where = end.record.funding.confirmation
    assert where is not None
    end.does(FundingUnconfirmed())
    height = BlockHeight(int(where.height) + 1)
    end.env = replace(end.env, height=BlockHeight(int(height) + confirmations - 1))
    end.does(FundingConfirmed(tx, height, where.index), BlockArrived())


def test_a_funding_that_moves_is_announced_anew() -> None:
    """The signatures of before are for a name that nobody has any more: together with it they are a lie."""
    pair = Pair.opened(announce=True)
    assert pair.funding_tx is not None
    before = pair.alice.record.funding.short_channel_id
    for end in (pair.alice, pair.bob):
        moves(end, pair.funding_tx, 5)
    pair.settle()
    pair.cut()
    pair.restarts(pair.alice)
    pair.connect()
    pair.settle()
    assert len(announced(pair.alice)) == len(announced(pair.bob)) == 1, "not deep enough yet"
    pair.mines(1)
    pair.settle()
    for end in (pair.alice, pair.bob):
        _, again = announced(end)
        assert again.short_channel_id == end.record.funding.short_channel_id != before
        digest = sha256d(again.signed_part)
        assert verify(again.node_id_1, digest, again.node_signature_1)
        assert verify(again.node_id_2, digest, again.node_signature_2)


@pytest.mark.parametrize("first", ["alice", "bob"])
def test_signatures_for_a_place_that_we_do_not_see_yet_are_kept(first: str) -> None:
    """The peer hears of the other branch before we do."""
    pair = Pair.opened(announce=True)
    assert pair.funding_tx is not None
    early = pair.alice if first == "alice" else pair.bob
    late = pair.other(early)
    moves(early, pair.funding_tx, 6)
    pair.settle()
    assert len(announced(late)) == 1
    moves(late, pair.funding_tx, 6)
    pair.settle()
    for end in (pair.alice, pair.bob):
        assert announced(end)[-1].short_channel_id == early.record.funding.short_channel_id
    assert not any(isinstance(e, Disconnect) for end in (early, late) for e in end.effects)


def test_start_up_hands_the_announcement_to_gossip_again() -> None:
    pair = Pair.opened(announce=True)
    pair.restarts(pair.alice)
    first, again = announced(pair.alice)
    assert first == again


def test_a_closing_channel_is_not_announced() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 300_000_000, announce=True)
    pair.settle()
    pair.confirms(5)
    pair.settle()
    pair.alice.adds(10_000_000)
    pair.settle()
    pair.alice.does(CloseChannel(p2wpkh(b"\x02" + bytes(32))))
    pair.settle()
    pair.mines(5)
    pair.settle()
    assert not signatures_sent(pair.alice) and not signatures_sent(pair.bob)


def test_signatures_that_cross_our_shutdown_are_no_mistake_of_the_peer() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 300_000_000, announce=True)
    pair.settle()
    pair.confirms(5)
    pair.settle()
    pair.mines(1)
    assert signatures_sent(pair.alice) and signatures_sent(pair.bob)
    pair.alice.does(CloseChannel(p2wpkh(b"\x02" + bytes(32))))
    pair.settle()
    for end in (pair.alice, pair.bob):
        assert end.is_connected and not any(isinstance(m, Warning) for m in end.sent())
        assert end.record.mutual_close is not None


def test_the_unsigned_announcement_is_the_same_on_both_sides() -> None:
    pair = Pair.opened(announce=True)
    assert unsigned_announcement(pair.alice.record) == unsigned_announcement(pair.bob.record)


def test_start_up_publishes_an_unconfirmed_funding_again() -> None:
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    pair.settle()
    pair.alice.effects.clear()
    pair.restarts(pair.alice)
    assert [type(e) for e in pair.alice.effects] == [WatchFunding, Broadcast]
    pair.restarts(pair.bob)
    assert isinstance(pair.bob.effects[-1], WatchFunding)
