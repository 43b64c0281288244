"""What is read back, one table after the other; and that a start costs what is pending, not what has been."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from storage_samples import INVOICE, PAYMENT, channel_id, htlc, of, point, record, sample_tx

from salama.base.ids import BlockHash, HtlcRef, NodeId, OutPoint, PaymentHash, Preimage, Side, Txid
from salama.base.units import BlockHeight, CltvExpiry, Msat, Sat
from salama.bitcoin.networks import NETWORKS
from salama.channel.events import Consumed, Handoff, HandoffKey, HtlcFailed, Origin, PreimageLearned, PublicEvent
from salama.channel.state import Phase
from salama.crypto.seeds import ExtendedKey
from salama.payments.records import ForwardStatus, PartStatus, PaymentStatus, PutForward, PutInvoice, PutPayment
from salama.storage import queries
from salama.storage.errors import CorruptRecord
from salama.storage.journal import Journal
from salama.storage.queries import Page
from salama.storage.tables import GOSSIP, HANDOFFS
from salama.storage.wallet_record import decode_wallet, encode_wallet
from salama.storage.writes import (
    DropGossip,
    ForgetOnions,
    ForgetPeer,
    PutChannel,
    PutGossip,
    PutKeyValue,
    PutPeer,
    PutRecord,
    PutWallet,
    RememberOnion,
)
from salama.wallet.coins import Coin, WalletTx, assemble, new_wallet
from salama.wallet.events import WalletTxConfirmed, WalletTxUnconfirmed
from salama.wallet.keys import Accounts

T = TypeVar("T")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path, clock=lambda: 1_700_000_000) as one:
        yield one


def ask(journal: Journal, query: Callable[..., T], *arguments: object) -> T:
    return journal.read_now(lambda connection: query(connection, *arguments))


def all_pages(journal: Journal, query: Callable[..., Page[T]], limit: int) -> list[T]:
    rows: list[T] = []
    before: int | None = None
    while True:
        page = ask(journal, query, before, limit)
        assert len(page.rows) <= limit
        rows += page.rows
        if page.older is None:
            return rows
        before = page.older


# --- handoffs -------------------------------------------------------------------------------------------------------

LEARNED = PreimageLearned(HandoffKey(channel_id(1), 4), Origin(b"me"), Preimage(b"\x07" * 32))
FAILED = HtlcFailed(HandoffKey(channel_id(1), 5), Origin(b"you"), b"\x01" * 292)
MALFORMED = HtlcFailed(HandoffKey(channel_id(2), 5), Origin(b"them"), b"", 0xC005, b"\x02" * 32)


def test_handoffs_wait_in_order_until_they_are_consumed(journal: Journal) -> None:
    journal.commit_now([LEARNED, FAILED, MALFORMED])
    assert ask(journal, queries.handoffs) == [LEARNED, FAILED, MALFORMED]
    journal.commit_now([Consumed(FAILED.key), Consumed(HandoffKey(channel_id(9), 9))])
    assert ask(journal, queries.handoffs) == [LEARNED, MALFORMED]


def test_a_preimage_is_never_replaced_by_a_failure(journal: Journal) -> None:
    failed = HtlcFailed(LEARNED.key, LEARNED.origin, b"\x01" * 292)
    journal.commit_now([failed])
    journal.commit_now([LEARNED])
    found: list[Handoff] = ask(journal, queries.handoffs)
    assert found == [LEARNED]
    journal.commit_now([failed])
    assert ask(journal, queries.handoffs) == [LEARNED]


def test_a_damaged_handoff_is_named(journal: Journal) -> None:
    for kind in ("preimage", "failed"):
        journal.commit_now([PutRecord(HANDOFFS, (b"\x00" * 32, 1, kind, b"me", b"short"))])
        with pytest.raises(CorruptRecord):
            ask(journal, queries.handoffs)


# --- the replay log -------------------------------------------------------------------------------------------------


def test_an_onion_belongs_to_the_htlc_that_came_first(journal: Journal) -> None:
    secret, other = b"\x01" * 32, b"\x02" * 32
    first = RememberOnion(secret, channel_id(1), 7, CltvExpiry(500))
    journal.commit_now([first])
    journal.commit_now([first])  # a restart
    journal.commit_now([RememberOnion(secret, channel_id(1), 8, CltvExpiry(900))])  # a replay
    journal.commit_now([RememberOnion(secret, channel_id(2), 7, CltvExpiry(900))])
    owner = {secret: HtlcRef(channel_id(1), Side.INCOMING, 7)}
    assert ask(journal, queries.onion_owners, [secret, other]) == owner
    journal.commit_now([ForgetOnions(BlockHeight(500))])
    assert ask(journal, queries.onion_owners, [secret]) == owner
    journal.commit_now([ForgetOnions(BlockHeight(501))])
    assert ask(journal, queries.onion_owners, [secret]) == {}


# --- payments -------------------------------------------------------------------------------------------------------


def test_invoices_are_found_by_hash_and_in_pages(journal: Journal) -> None:
    many = [replace(INVOICE, payment_hash=PaymentHash(n.to_bytes(32, "big")), created=n) for n in range(25)]
    journal.commit_now([PutInvoice(one) for one in many])
    changed = replace(many[3], description="changed")
    journal.commit_now([PutInvoice(changed)])
    assert ask(journal, queries.invoice, many[7].payment_hash) == many[7]
    assert ask(journal, queries.invoice, PaymentHash(b"\xff" * 32)) is None
    many[3] = changed
    assert all_pages(journal, queries.invoices, 10) == many[::-1]
    assert all_pages(journal, queries.invoices, 5) == many[::-1]


def test_payments_are_found_by_hash_in_pages_and_unfinished(journal: Journal) -> None:
    def numbered(n: int, finished: int) -> object:
        status = PaymentStatus.SUCCEEDED if finished else PaymentStatus.PENDING
        return replace(
            PAYMENT, payment_hash=PaymentHash(n.to_bytes(32, "big")), created=n, status=status, finished=finished
        )

    many = [numbered(n, finished=n % 3) for n in range(12)]
    journal.commit_now([PutPayment(one) for one in many])  # type: ignore[arg-type]
    assert ask(journal, queries.payment, PaymentHash((4).to_bytes(32, "big"))) == many[4]
    assert all_pages(journal, queries.payments, 5) == many[::-1]
    assert ask(journal, queries.unfinished_payments) == many[0::3]


def test_a_payment_that_succeeded_is_unfinished_until_its_last_part_is_home(journal: Journal) -> None:
    """A restart would forget that part: its fee would never be counted, its outcome nobody's."""
    settled, failed = PAYMENT.parts
    early = replace(PAYMENT, parts=(settled, replace(failed, status=PartStatus.OFFERED)))
    journal.commit_now([PutPayment(early)])
    assert ask(journal, queries.unfinished_payments) == [early]
    journal.commit_now([PutPayment(PAYMENT)])
    assert ask(journal, queries.unfinished_payments) == []


def test_forwards_are_listed_and_counted(journal: Journal) -> None:
    many = [
        PutForward(
            HtlcRef(channel_id(1), Side.INCOMING, n), channel_id(2), n + 5, Msat(1_100), Msat(1_000),
            ForwardStatus.SETTLED if n % 2 else ForwardStatus.FAILED, 1_000 + n,
        )
        for n in range(20)
    ]  # fmt: skip
    journal.commit_now(many)
    journal.commit_now(many[:5])
    assert all_pages(journal, queries.forwards, 7) == many[::-1]
    of_some_time = ask(journal, queries.forwarded, 1_010, 1_015)
    assert (of_some_time.count, of_some_time.fees, of_some_time.amount_in) == (2, Msat(200), Msat(2_200))
    assert ask(journal, queries.forwarded, 0).count == 10
    assert ask(journal, queries.forwarded, 5_000).fees == Msat(0)


# --- peers, events, gossip, settings --------------------------------------------------------------------------------


def test_peers_are_remembered_and_forgotten(journal: Journal) -> None:
    first, second = NodeId(point(2)), NodeId(point(3))
    journal.commit_now([PutPeer(first, ("127.0.0.1:9735", "[::1]:9735"), 5), PutPeer(second, (), 6)])
    journal.commit_now([PutPeer(first, ("10.0.0.1:9735",), 7)])
    found = {peer.node_id: peer for peer in ask(journal, queries.peers)}
    assert (
        found[first].addresses == ("10.0.0.1:9735",) and found[first].last_seen == 7 and found[second].addresses == ()
    )
    journal.commit_now([ForgetPeer(first)])
    assert [peer.node_id for peer in ask(journal, queries.peers)] == [second]


def test_events_are_read_on_from_where_one_stopped(journal: Journal) -> None:
    journal.commit_now([PublicEvent("n", (("n", n),)) for n in range(25)])
    seen: list[int] = []
    last = 0
    while events := ask(journal, queries.events_after, last, 10):
        seen += [int(event.fields["n"]) for event in events]
        last = events[-1].id
    assert seen == list(range(25)) and last == ask(journal, queries.last_event) == 25


def test_gossip_is_replaced_by_key_and_read_in_the_order_of_keys(journal: Journal) -> None:
    keys = [n.to_bytes(8, "big") for n in (3, 1 << 63, 2, (1 << 64) - 1)]
    journal.commit_now([PutGossip(256, key, b"old") for key in keys] + [PutGossip(258, keys[0], b"update")])
    journal.commit_now([PutGossip(256, keys[0], b"new"), DropGossip(256, keys[2])])
    first = ask(journal, queries.gossip_after, 256, b"", 2)
    assert first == [(keys[0], b"new"), (keys[1], b"old")]
    assert ask(journal, queries.gossip_after, 256, first[-1][0], 2) == [(keys[3], b"old")]
    assert ask(journal, queries.gossip_after, 258) == [(keys[0], b"update")]


def test_pages_are_bounded_whatever_is_asked(journal: Journal) -> None:
    journal.commit_now([PutRecord(GOSSIP, (1, n.to_bytes(4, "big"), b"")) for n in range(queries.MAX_PAGE + 10)])
    assert len(ask(journal, queries.gossip_after, 1, b"", 1 << 40)) == queries.MAX_PAGE
    assert len(ask(journal, queries.gossip_after, 1, b"", -5)) == 1


def test_settings_are_kept_under_their_names(journal: Journal) -> None:
    assert ask(journal, queries.key_value, "chain.tip") is None
    journal.commit_now([PutKeyValue("chain.tip", BlockHash(b"\x01" * 32))])
    assert ask(journal, queries.key_value, "chain.tip") == b"\x01" * 32


# --- the wallet -----------------------------------------------------------------------------------------------------


def test_the_wallet_comes_back_with_all_that_is_derived(journal: Journal) -> None:
    empty = new_wallet(Accounts.of_master(ExtendedKey.of_seed(bytes(range(32))), NETWORKS["regtest"]))
    assert ask(journal, queries.wallet) is None
    script, key = next(iter(empty.scripts.items()))
    coin = Coin(OutPoint(Txid(b"\x01" * 32), 1), Sat(5_000), script, key, BlockHeight(7), True)
    waiting = replace(coin, outpoint=OutPoint(sample_tx().txid, 0), height=None, coinbase=False)
    ours = WalletTx(sample_tx().txid, (coin.outpoint,), (waiting,), None, sample_tx())
    full = assemble(
        empty.accounts, empty.branches, {ours.txid: ours}, {coin.outpoint: coin}, {coin.outpoint: "channel 1"}
    )
    for state in (empty, full):
        journal.commit_now([PutWallet(state)])
        found = ask(journal, queries.wallet)
        assert found == state and found is not None
        assert (found.scripts, found.coins, found.spenders) == (state.scripts, state.coins, state.spenders)
    with pytest.raises(CorruptRecord):
        decode_wallet(encode_wallet(full)[:-1])


def test_wallet_transactions_follow_the_chain(journal: Journal) -> None:
    rows = [WalletTxConfirmed(Txid(bytes([n]) * 32), BlockHeight(n), Sat(n), Sat(1)) for n in range(5)]
    journal.commit_now(rows)
    journal.commit_now([WalletTxUnconfirmed(rows[4].txid)])
    assert all_pages(journal, queries.wallet_transactions, 3) == [(row, 1_700_000_000) for row in rows[3::-1]]


# --- the cost of a start --------------------------------------------------------------------------------------------


def steps(connection: sqlite3.Connection, query: Callable[[sqlite3.Connection], object]) -> int:
    """Instructions of SQLite's machine that a query takes, in tens."""
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1

    connection.set_progress_handler(tick, 10)
    query(connection)
    return count


def test_a_start_costs_what_is_pending_and_not_what_has_been(journal: Journal) -> None:
    living = [record(of(htlc(n, origin=Origin(b"%d" % n))), number=n) for n in range(1, 4)]
    journal.commit_now([PutChannel(None, one) for one in living])
    pending = (queries.open_channels, queries.handoffs, queries.unfinished_payments)
    before = [journal.read_now(lambda c, q=query: steps(c, q)) for query in pending]
    for number in range(10, 110):
        old = record(of(*[htlc(n, origin=None) for n in range(20)]), number=number)
        journal.commit_now([PutChannel(None, old), PutChannel(old, record({}, number=number, phase=Phase.CLOSED))])
    old = living[0]
    many = replace(old, htlcs={**old.htlcs, **of(*[htlc(n, Side.INCOMING) for n in range(2_000)])})
    journal.commit_now([PutChannel(old, many), PutChannel(many, replace(old, owes_signature=False))])
    journal.commit_now(
        [PutPayment(replace(PAYMENT, payment_hash=PaymentHash(n.to_bytes(32, "big")))) for n in range(500)]
    )
    after = [journal.read_now(lambda c, q=query: steps(c, q)) for query in pending]
    assert before[0] > 5
    assert all(now <= then + 5 for then, now in zip(before, after, strict=True)), (before, after)
    assert len(journal.read_now(queries.open_channels)) == 3
    closed = all_pages(journal, queries.closed_channels, 30)
    assert len(closed) == 100 and closed[0].channel_id == channel_id(109)
