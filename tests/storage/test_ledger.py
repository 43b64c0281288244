"""The ledger: every change of money in the transaction that writes it, and in the end all of it accounted for."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_samples import PAYMENT

from salama.base.ids import ChannelId, HtlcRef, Side, Txid
from salama.base.units import BlockHeight, Msat, Sat
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.channel.events import (
    FailHtlc,
    ForceClose,
    FundingSpent,
    FundingUnspent,
    HandoffKey,
    LatePreimage,
    SettleHtlc,
)
from salama.channel.state import ChannelRecord, Phase
from salama.channel.transactions import obscuring_factor
from salama.onchain.events import OutputsLeft
from salama.payments.records import ForwardStatus, PartStatus, PutForward, PutPayment
from salama.sim import invariants
from salama.sim.director import Size
from salama.sim.run import run_seed
from salama.storage import ledger, queries, tables
from salama.storage.errors import WriteRefused
from salama.storage.journal import Journal
from salama.storage.ledger_check import balance, balances, check, last_line, lines
from salama.storage.writes import BeginLedger, PutChannel, PutRecord
from salama.testing.pair import End, Pair, preimage_of
from salama.wallet.events import WalletTxConfirmed, WalletTxUnconfirmed

TXID = Txid(bytes([7]) * 32)


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    with Journal.open(tmp_path, clock=lambda: 1_700_000_000) as opened:
        yield opened


class Booked:
    """A channel whose every record is written to a database."""

    def __init__(self, journal: Journal, end: End) -> None:
        self.journal, self.end = journal, end
        self.last: ChannelRecord | None = None

    def writes(self) -> None:
        self.journal.commit_now([PutChannel(self.last, self.end.record)])
        self.last = self.end.record

    @property
    def account(self) -> int:
        return self.of(ledger.channel_account(self.end.record.channel_id))

    @property
    def pending(self) -> int:
        return self.of(ledger.pending_account(self.end.record.channel_id))

    def of(self, account: str) -> int:
        return self.journal.read_now(lambda db: balance(db, account))

    def problems(self) -> tuple[str, ...]:
        return self.journal.read_now(lambda db: check(db, deep=True)).problems


def test_an_opening_waits_for_its_funding(journal: Journal) -> None:
    pair = Pair.opened(1_000_000, 400_000_000)
    booked = Booked(journal, pair.alice)
    booked.writes()
    assert (booked.account, booked.pending) == (600_000_000, -1_000_000_000)
    assert booked.of(ledger.PUSHED) == 400_000_000
    txid = pair.alice.record.funding.outpoint.txid
    journal.commit_now([WalletTxConfirmed(txid, BlockHeight(5), Sat(1234), Sat(1_002_000), Sat(766))])
    assert booked.pending == 0
    assert booked.of("expenses:fees:onchain:funding") == 766_000
    assert booked.of(ledger.ONCHAIN) == (1234 - 1_002_000) * 1000
    assert booked.of(ledger.WITHDRAWALS) == 0
    # A reorganisation takes it back, and the next block brings it again.
    journal.commit_now([WalletTxUnconfirmed(txid)])
    assert booked.pending == -1_000_000_000 and booked.of(ledger.ONCHAIN) == 0
    for _ in range(2):
        journal.commit_now([WalletTxConfirmed(txid, BlockHeight(6), Sat(1234), Sat(1_002_000), Sat(766))])
        assert booked.pending == 0 and booked.of("expenses:fees:onchain:funding") == 766_000


def test_what_a_peer_pushes_is_income(journal: Journal) -> None:
    pair = Pair.opened(1_000_000, 400_000_000)
    booked = Booked(journal, pair.bob)
    booked.writes()
    assert booked.account == 400_000_000 and booked.of(ledger.PUSHED_TO_US) == -400_000_000
    assert booked.problems() == ()


def test_htlcs_move_money_once(journal: Journal) -> None:
    pair = Pair.opened(1_000_000, 400_000_000)
    books = [Booked(journal, pair.alice)]
    (alice,) = books
    alice.writes()
    pair.alice.adds(10_000_000, 20_000_000)
    pair.settle()
    alice.writes()
    assert alice.account == 600_000_000, "what is under way is still ours"
    pair.bob.settles_all()
    pair.settle()
    alice.writes()
    assert alice.account == 570_000_000 and alice.of(ledger.TRANSFERS) == 30_000_000
    pair.alice.adds(5_000_000)
    pair.settle()
    alice.writes()
    pair.bob.fails_all()
    pair.settle()
    alice.writes()
    assert alice.account == 570_000_000
    pair.bob.adds(7_000_000)
    pair.settle()
    alice.writes()
    pair.alice.settles_all()
    pair.settle()
    alice.writes()
    assert alice.account == 577_000_000 and alice.of(ledger.TRANSFERS) == 23_000_000


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["add", "back", "settle", "fail", "deliver", "write"]), max_size=40))
def test_at_every_moment_the_account_is_what_the_commitment_says(moves: list[str]) -> None:
    pair = Pair.opened(1_000_000, 400_000_000)
    with tempfile.TemporaryDirectory() as directory, Journal.open(Path(directory)) as journal:
        journal._connection.execute("PRAGMA synchronous = OFF").close()
        books = Booked(journal, pair.alice)
        books.writes()
        for number, move in enumerate(moves):
            if move == "add":
                pair.alice.adds(1_000_000 + number)
            elif move == "back":
                pair.bob.adds(1_000_000 + number)
            elif move == "settle":
                pair.bob.settles_all()
                pair.alice.settles_all()
            elif move == "fail":
                pair.bob.fails_all()
            elif move == "deliver":
                pair.deliver(pair.alice)
                pair.deliver(pair.bob)
            books.writes()
            assert books.account == ledger.worth(pair.alice.record.funding.local.spec)


@pytest.mark.parametrize(
    "row, expected",
    [
        (WalletTxConfirmed(TXID, BlockHeight(5), Sat(9000), Sat(0), None), {ledger.DEPOSITS: -9_000_000}),
        (
            WalletTxConfirmed(TXID, BlockHeight(5), Sat(500), Sat(9000), Sat(300)),
            {ledger.WITHDRAWALS: 8_200_000, "expenses:fees:onchain:send": 300_000},
        ),
        (
            WalletTxConfirmed(TXID, BlockHeight(5), Sat(8700), Sat(9000), Sat(300)),
            {"expenses:fees:onchain:send": 300_000},
        ),
        # With inputs of others: nobody knows who paid the fee.
        (WalletTxConfirmed(TXID, BlockHeight(5), Sat(500), Sat(9000), None), {ledger.WITHDRAWALS: 8_500_000}),
        (WalletTxConfirmed(TXID, BlockHeight(5), Sat(9500), Sat(9000), None), {ledger.DEPOSITS: -500_000}),
    ],
)
def test_transactions_of_the_wallet(journal: Journal, row: WalletTxConfirmed, expected: dict[str, int]) -> None:
    journal.commit_now([row])
    change = (int(row.received) - int(row.spent)) * 1000
    assert journal.read_now(balances) == {ledger.ONCHAIN: change} | expected
    journal.commit_now([WalletTxUnconfirmed(TXID)])
    assert journal.read_now(balances) == {}


def closing_tx(record: ChannelRecord, ours: int) -> Tx:
    outputs = (TxOut(Sat(ours), record.params.closing_script), TxOut(Sat(399_000), b"\x00\x14" + bytes(20)))
    return Tx(2, (TxIn(record.funding.outpoint),), outputs, 0)


def test_a_close_by_agreement(journal: Journal) -> None:
    pair = Pair.opened(1_000_000, 400_000_000)
    booked = Booked(journal, pair.alice)
    booked.writes()
    tx = closing_tx(pair.alice.record, 599_500)
    # The wallet is told first.
    for height in (10, 11):
        pair.alice.does(FundingSpent(tx, BlockHeight(height)))
        booked.writes()
        assert booked.account == 0 and booked.of(ledger.CLOSE_FEES) == 500_000
        before = booked.pending
        journal.commit_now([WalletTxConfirmed(tx.txid, BlockHeight(height), Sat(599_500), Sat(0), None)])
        assert booked.pending == before - 599_500_000
        if height == 10:
            pair.alice.does(FundingUnspent())
            journal.commit_now([WalletTxUnconfirmed(tx.txid)])
            booked.writes()
            assert booked.account == 600_000_000 and booked.of(ledger.CLOSE_FEES) == 0
            assert booked.pending == before - 599_500_000
    assert booked.of(ledger.DEPOSITS) == 0


def test_an_opening_that_came_to_nothing_leaves_nothing(journal: Journal) -> None:
    pair = Pair.opened(1_000_000, 400_000_000)
    booked = Booked(journal, pair.alice)
    booked.writes()
    pair.alice.state = replace(pair.alice.channel, record=replace(pair.alice.record, phase=Phase.CLOSED))
    booked.writes()
    assert journal.read_now(balances) == {} and booked.problems() == ()


# --- a preimage that comes after the failure --------------------------------------------------------------------------


class Relayer:
    """Bob, who offered on for 1,000,000 msat what Alice offers him for 1,010,000, and failed it upstream too early."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.up, self.down = Pair.opened(1_000_000), Pair.opened(1_000_001)
        self.bob, self.towards = self.up.bob, self.down.alice
        self.books = [Booked(journal, self.bob), Booked(journal, self.towards)]
        self.key = HandoffKey(self.towards.record.channel_id, 0)
        self.writes()
        self.up.alice.adds(1_010_000)
        self.down.alice.adds(1_000_000)
        for pair in (self.up, self.down):
            pair.settle()
        self.writes()
        self.before = self.held()

    def writes(self) -> None:
        for books in self.books:
            books.writes()
        self.journal.commit_now([row for row in self.bob.rows if isinstance(row, LatePreimage)])
        self.bob.rows.clear()

    def is_paid_downstream(self) -> None:
        self.down.bob.settles_all()
        self.down.settle()
        self.bob.does(SettleHtlc(0, preimage_of(0), self.key))
        self.writes()

    def held(self) -> Counter[str]:
        """Balances, those of both channels together."""
        found: Counter[str] = Counter()
        for account, msat in self.journal.read_now(balances).items():
            found["assets" if account.startswith("assets:") else account] += msat
        return found

    def gained(self) -> dict[str, int]:
        """Since the beginning."""
        found = self.held()
        found.subtract(self.before)
        return {account: msat for account, msat in found.items() if msat}

    def forward(self) -> str:
        (row,) = self.journal.read_now(queries.forwards).rows
        assert (row.incoming, row.amount_in, row.amount_out) == (
            HtlcRef(self.bob.record.channel_id, Side.INCOMING, 0), 1_010_000, 1_000_000
        )  # fmt: skip
        assert (row.outgoing_channel, row.outgoing_id) == (self.key.channel_id, self.key.htlc_id)
        return row.status.value


def test_a_late_preimage_that_upstream_still_takes_is_a_forward_like_any_other(journal: Journal) -> None:
    world = Relayer(journal)
    world.up.cut()
    world.bob.does(FailHtlc(0, b"too late"))
    world.is_paid_downstream()
    world.up.connect()
    world.up.settle()
    world.writes()
    assert world.gained() == {"assets": 10_000, ledger.ROUTED: -10_000} and world.forward() == "settled"
    assert world.books[0].problems() == ()


def test_a_late_preimage_whose_htlc_is_gone_upstream_is_a_loss_by_name(journal: Journal) -> None:
    world = Relayer(journal)
    world.bob.does(FailHtlc(0, b"too late"))
    world.up.settle()
    world.writes()
    world.is_paid_downstream()
    expected = {"assets": -1_000_000, ledger.LOST_RELAYS: 1_000_000}
    assert world.gained() == expected and world.forward() == "lost"
    # Heard once more, after a crash or on the chain.
    world.bob.does(SettleHtlc(0, preimage_of(0), world.key))
    world.writes()
    assert world.gained() == expected and world.books[0].problems() == ()


def test_a_late_preimage_is_used_if_upstream_goes_to_the_chain_before_it_takes_the_failure(journal: Journal) -> None:
    world = Relayer(journal)
    world.bob.does(FailHtlc(0, b"too late"))  # sent and signed; Alice never answers
    world.is_paid_downstream()
    assert world.gained() == {"assets": -1_000_000, ledger.TRANSFERS: 1_000_000}, "nobody knows yet"
    world.up.alice.does(ForceClose("test"))
    world.bob.does(FundingSpent(world.up.alice.broadcasts[-1], BlockHeight(10)))
    world.bob.does(SettleHtlc(0, preimage_of(0), world.key))  # said again, because the handoff is not consumed
    world.writes()
    assert world.forward() == "settled"
    assert world.gained() == {"assets": 10_000, ledger.ROUTED: -10_000}
    assert world.books[0].problems() == ()


def test_a_preimage_that_is_heard_again_after_all_is_settled_is_no_loss(journal: Journal) -> None:
    world = Relayer(journal)
    incoming = HtlcRef(world.bob.record.channel_id, Side.INCOMING, 0)
    out = (world.key.channel_id, 0, Msat(1_010_000), Msat(1_000_000))
    journal.commit_now([PutForward(incoming, *out, ForwardStatus.SETTLED, 5)])
    world.is_paid_downstream()
    world.up.settle()
    world.bob.does(SettleHtlc(0, preimage_of(0), world.key))
    world.writes()
    assert world.gained() == {"assets": 10_000, ledger.ROUTED: -10_000} and world.forward() == "settled"


def test_a_payment_that_is_written_again_is_booked_once(journal: Journal) -> None:
    parts = tuple(
        replace(part, status=PartStatus.SETTLED, number=number)
        for number, part in enumerate(PAYMENT.parts)
        if int(part.fee) >= 0
    )
    payment = replace(PAYMENT, parts=parts)
    for _ in range(3):
        journal.commit_now([PutPayment(payment), PutPayment(payment)])
        held = journal.read_now(balances)
        assert held[ledger.PAYMENTS_OUT] == sum(int(part.delivered) for part in parts)
        assert held.get(ledger.ROUTING_FEES, 0) == int(payment.fee)


def test_a_fault_of_the_bookkeeping_keeps_no_channel_from_the_disk(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> list[Any]:
        raise ZeroDivisionError

    monkeypatch.setattr(ledger, "of_channel", fails)
    pair = Pair.opened(1_000_000, 400_000_000)
    booked = Booked(journal, pair.bob)
    booked.writes()
    assert len(journal.read_now(queries.open_channels)) == 1
    assert len(booked.problems()) == 1 and "ledger" in caplog.text


def test_a_refused_write_leaves_no_line(journal: Journal) -> None:
    pair = Pair.opened(1_000_000, 400_000_000)
    first = pair.alice.record
    pair.alice.adds(10_000_000)
    pair.settle()
    pair.bob.settles_all()
    pair.settle()
    with pytest.raises(WriteRefused):
        journal.commit_now([PutChannel(first, pair.alice.record)])  # nothing of it is on disk yet
    assert journal.read_now(balances) == {} and journal.read_now(last_line) == 0


def test_what_is_booked_and_undone_in_one_transaction_is_gone(journal: Journal) -> None:
    pair = Pair.opened(1_000_000, 400_000_000)
    booked = Booked(journal, pair.alice)
    booked.writes()
    before = journal.read_now(balances)
    first = pair.alice.record
    pair.alice.does(FundingSpent(closing_tx(first, 599_500), BlockHeight(10)))
    spent = pair.alice.record
    pair.alice.does(FundingUnspent())
    journal.commit_now([PutChannel(first, spent), PutChannel(spent, pair.alice.record)])
    assert journal.read_now(balances) == before


def test_a_penalty_is_an_income(journal: Journal) -> None:
    pair = Pair.opened(1_000_000, 400_000_000)
    booked = Booked(journal, pair.bob)
    pair.alice.adds(10_000_000)
    pair.settle()
    pair.bob.settles_all()
    pair.settle()
    booked.writes()
    record = pair.bob.record
    assert booked.account == 410_000_000 and record.funding.remote.number > 0
    # Alice publishes her first commitment: its number stands in locktime and sequence.
    number = obscuring_factor(record.params.opener.basepoints.payment, record.params.accepter.basepoints.payment)
    spends = TxIn(record.funding.outpoint, sequence=0x80 << 24 | number >> 24)
    revoked = Tx(2, (spends,), (TxOut(Sat(998_000), b"\x00\x14" + bytes(20)),), 0x20 << 24 | number & 0xFFFFFF)
    pair.bob.does(FundingSpent(revoked, BlockHeight(10)))
    booked.writes()
    expected = (bytes(TXID), bytes(record.channel_id), "claim", 998_000_000)
    journal.commit_now([PutRecord(tables.LEDGER_TXS, expected)])
    journal.commit_now([WalletTxConfirmed(TXID, BlockHeight(11), Sat(997_000), Sat(0), Sat(1_000))])
    assert booked.pending == 410_000_000 - 998_000_000
    pair.bob.state = replace(pair.bob.channel, record=replace(pair.bob.record, phase=Phase.CLOSED))
    booked.writes()
    assert booked.pending == 0 and booked.of(ledger.PENALTIES) == 410_000_000 - 998_000_000
    assert booked.of("expenses:fees:onchain:claim") == 1_000_000 and booked.of(ledger.ONCHAIN) == 997_000_000


def test_outputs_that_nobody_will_take_are_no_fee(journal: Journal) -> None:
    pair = Pair.opened(1_000_000, 400_000_000)
    booked = Booked(journal, pair.bob)
    booked.writes()
    record = pair.bob.record
    # Of the form of a commitment, with a number that nobody has revoked.
    spends = TxIn(record.funding.outpoint, sequence=0x80 << 24)
    lost = Tx(2, (spends,), (TxOut(Sat(998_000), b"\x00\x14" + bytes(20)),), 0x20 << 24)
    pair.bob.does(FundingSpent(lost, BlockHeight(10)))
    booked.writes()
    assert booked.pending == 400_000_000
    for _ in range(2):  # a crash before the channel was over: it is over again
        journal.commit_now([OutputsLeft(record.channel_id, Sat(900))])
        assert booked.of(ledger.UNECONOMIC) == 900_000
    pair.bob.state = replace(pair.bob.channel, record=replace(pair.bob.record, phase=Phase.CLOSED))
    booked.writes()
    assert booked.pending == 0 and booked.of(ledger.CLOSE_FEES) == 399_100_000
    # Never more than there is.
    journal.commit_now([OutputsLeft(ChannelId(bytes(32)), Sat(900))])
    assert booked.of(ledger.UNECONOMIC) == 900_000 and booked.problems() == ()


def test_every_line_is_an_amount_between_two_accounts(journal: Journal) -> None:
    pair = Pair.opened(1_000_000, 400_000_000)
    Booked(journal, pair.alice).writes()
    for oldest_first, expected in ((False, [400_000_000, 600_000_000]), (True, [600_000_000, 400_000_000])):
        page, end = journal.read_now(lambda db, way=oldest_first: lines(db, limit=1, oldest_first=way))
        assert len(page) == 1 and end is not None
        rest, _ = journal.read_now(lambda db, end=end, way=oldest_first: lines(db, end, oldest_first=way))
        assert [line.msat for line in (*page, *rest)] == expected
    assert journal.read_now(lambda db: lines(db, since=1_700_000_001)) == ([], None)
    assert journal.read_now(lambda db: lines(db, until=1_700_000_000)) == ([], None)
    assert journal.read_now(last_line) == 2
    assert sum(journal.read_now(balances).values()) == 0


def test_a_wrong_balance_is_noticed(journal: Journal) -> None:
    pair = Pair.opened(1_000_000, 400_000_000)
    booked = Booked(journal, pair.bob)
    booked.writes()
    assert booked.problems() == ()
    journal._connection.execute("UPDATE ledger_balances SET msat = msat + 1 WHERE account LIKE 'assets:channels:%'")
    assert len(booked.problems()) == 3


def test_money_that_was_there_before_the_ledger(journal: Journal) -> None:
    pair = Pair.opened(1_000_000, 400_000_000)
    booked = Booked(journal, pair.alice)
    booked.writes()
    for table in ("ledger", "ledger_balances", "ledger_txs"):
        journal._connection.execute(f"DELETE FROM {table}")
    assert booked.problems()
    journal.commit_now([BeginLedger((pair.alice.record,), None)])
    assert booked.problems() == () and booked.account == 600_000_000


def test_the_books_of_a_rough_world_balance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crashes, reorganisations, closes by agreement and by force: looked at now and then; the world itself judges the
    end."""
    look, looks = invariants.Books.look, [0]

    def looked(self: Any, machine: Any) -> None:
        look(self, machine)
        looks[0] += 1
        if looks[0] % 150 == 0 and machine.is_up and not machine.journal._closed:
            invariants.check_ledger(self._world, machine)

    monkeypatch.setattr(invariants.Books, "look", looked)
    result = run_seed(2, Size(nodes=(3, 3), payments=16, seconds=8.0, faults=1.0, forced=2))
    assert result.problems == [] and result.counts["succeeded"] and result.counts["force closes"]


def test_a_world_whose_books_are_wrong_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "of_invoice", lambda invoice, now: [])
    result = run_seed(1, Size(nodes=(2, 2), payments=5, seconds=5.0, faults=0.0))
    assert result.counts["succeeded"] and any("ledger: transfers holds" in problem for problem in result.problems)
