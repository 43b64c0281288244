"""The wallet as a machine: blocks, reorgs, conflicts, leases, addresses."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wallet_world import (
    EMPTY,
    STRANGER,
    block,
    check_restart,
    check_state,
    coinbase,
    env,
    fresh_outpoint,
    ours,
    payment,
    play,
    secret_of,
    undo,
)

from salama.base.ids import OutPoint, Txid
from salama.base.machine import CommandRefused, Event
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.storage.errors import CorruptRecord
from salama.storage.wallet_record import decode_wallet, encode_wallet
from salama.wallet.coins import FORGET_DEPTH, GAP_LIMIT, Balance
from salama.wallet.events import (
    AddressIssued,
    FundTransaction,
    Lease,
    NewAddress,
    Release,
    TransactionFunded,
    TxDropped,
    TxSeen,
    WalletTxConfirmed,
    WalletTxUnconfirmed,
)
from salama.wallet.keys import KeyPath
from salama.wallet.signing import sign
from salama.wallet.step import MAX_LEASED, MAX_UNCONFIRMED, step

TIP = BlockHeight(1000)


def balance(confirmed=0, unconfirmed=0, immature=0, reserved=0):
    return Balance(Sat(confirmed), Sat(unconfirmed), Sat(immature), Sat(reserved))


def spending(state, *outpoints, to=STRANGER, change=None, fee=500):
    total = sum(int(state.coins[o].value) for o in outpoints if o in state.coins) - fee
    outs = (
        [TxOut(Sat(total), to)]
        if change is None
        else [TxOut(Sat(total - change[1]), to), TxOut(Sat(change[1]), change[0])]
    )
    return Tx(2, tuple(TxIn(o) for o in outpoints), tuple(outs), 0)


def test_a_block_without_us_changes_nothing_at_all():
    state = play(EMPTY, block(1, payment(ours())))
    for event in (block(2, payment(STRANGER)), undo(2), TxSeen(payment(STRANGER)), TxDropped(Txid(bytes(32)))):
        done = step(state, event, env())
        assert done.state is state
        assert done.effects == () and done.rows == ()


def test_an_event_of_another_machine_is_a_mistake():
    with pytest.raises(TypeError, match="no event Event"):
        step(EMPTY, Event(), env())


def test_a_deposit_is_seen_confirmed_and_told_once():
    tx = payment(ours(), 70_000)
    state = play(EMPTY, TxSeen(tx))
    assert state.balance(TIP) == balance(unconfirmed=70_000)
    assert state.spendable(TIP) == state.spendable(TIP, own_change=True) == ()
    done = step(state, block(7, tx), env())
    assert done.rows == (WalletTxConfirmed(tx.txid, BlockHeight(7), Sat(70_000), Sat(0)),)
    assert done.state.balance(TIP) == balance(confirmed=70_000)
    again = step(done.state, block(7, tx), env())
    assert again.state is done.state and again.rows == ()
    assert step(done.state, TxSeen(tx), env()).state is done.state
    [coin] = done.state.spendable(TIP)
    assert (coin.outpoint, coin.height, coin.key) == (tx.outpoint(1), 7, KeyPath("wpkh", 0, 0))


def test_depth_counts_the_block_itself():
    state = play(EMPTY, block(7, payment(ours())))
    assert len(state.spendable(BlockHeight(12), min_depth=6)) == 1
    assert state.spendable(BlockHeight(12), min_depth=7) == ()


def test_a_coinbase_matures_when_the_next_block_may_spend_it():
    state = play(EMPTY, block(10, coinbase(ours(), 10)))
    assert state.balance(BlockHeight(108)) == balance(immature=5_000_000_000)
    assert state.spendable(BlockHeight(108)) == ()
    assert state.balance(BlockHeight(109)) == balance(confirmed=5_000_000_000)
    assert len(state.spendable(BlockHeight(109))) == 1


def test_a_reorg_takes_a_deposit_back_and_gives_it_again():
    tx = payment(ours())
    before = play(EMPTY, block(7, tx))
    done = step(before, undo(7), env())
    assert done.rows == (WalletTxUnconfirmed(tx.txid),)
    assert done.state.balance(TIP) == balance(unconfirmed=100_000)
    after = play(done.state, block(7, payment(STRANGER)), block(8, tx))
    assert after.coins[tx.outpoint(1)].height == 8
    assert play(after, undo(8), undo(7), block(7, tx)) == before


def test_a_reorg_erases_a_coinbase_and_what_was_made_of_it():
    mined = coinbase(ours(), 7)
    state = play(EMPTY, block(7, mined))
    spend = spending(state, mined.outpoint(0), to=ours("tr"))
    state = play(state, block(20, spend), undo(20))
    assert state.balance(BlockHeight(200)) == balance(unconfirmed=4_999_999_500)
    assert play(state, undo(7)).balance(BlockHeight(200)) == balance()


def test_one_coinbase_is_no_rival_of_another():
    """All coinbases name the same outpoint as their input."""
    state = play(EMPTY, *[block(n, miner=ours("tr", 0, n)) for n in range(1, 4)], block(4))
    assert state.balance(BlockHeight(300)) == balance(confirmed=15_000_000_000)
    assert play(state, undo(4), undo(3)).balance(BlockHeight(300)) == balance(confirmed=10_000_000_000)


def test_a_coinbase_outside_a_block_is_nothing():
    assert step(EMPTY, TxSeen(coinbase(ours(), 5)), env()).state is EMPTY


def test_a_double_spend_in_a_block_wins_over_the_mempool():
    stolen = fresh_outpoint()
    first = payment(ours(), 50_000, spends=[stolen])
    state = play(EMPTY, TxSeen(first))
    child = spending(state, first.outpoint(1), to=ours("tr"))
    state = play(state, TxSeen(child))
    assert state.balance(TIP) == balance(unconfirmed=49_500)
    second = Tx(2, (TxIn(stolen),), (TxOut(Sat(60_000), STRANGER),), 0)
    state = play(state, block(9, second))
    assert state.balance(TIP) == balance()
    stale = step(state, TxSeen(first), env())
    assert stale.state is state, "old news of a loser must not bring it back"


def test_a_replacement_in_the_mempool_wins_over_what_it_replaces():
    shared = fresh_outpoint()
    first, second = payment(ours(), 50_000, spends=[shared]), payment(ours(), 49_000, spends=[shared])
    state = play(EMPTY, TxSeen(first), TxSeen(second))
    assert state.balance(TIP) == balance(unconfirmed=49_000)
    assert play(state, TxDropped(second.txid)).balance(TIP) == balance()
    # The replaced one may still be mined.
    assert play(state, block(3, first)).balance(TIP) == balance(confirmed=50_000)


def test_dropping_does_not_touch_what_is_confirmed():
    tx = payment(ours())
    state = play(EMPTY, block(3, tx))
    assert step(state, TxDropped(tx.txid), env()).state is state


def test_only_change_of_our_own_confirmed_coins_can_be_trusted():
    deposit = payment(ours())
    state = play(EMPTY, block(3, deposit))
    spend = spending(state, deposit.outpoint(1), change=(ours("tr", 1), 40_000))
    state = play(state, TxSeen(spend))
    assert state.spendable(TIP) == ()
    [change] = state.spendable(TIP, own_change=True)
    assert change.outpoint == spend.outpoint(1)
    grandchild = spending(state, spend.outpoint(1), change=(ours("tr", 1, 1), 30_000))
    state = play(state, TxSeen(grandchild))
    [change] = state.spendable(TIP, own_change=True)
    assert change.outpoint == grandchild.outpoint(1)
    assert [one.txid for one in state.unconfirmed()] == [spend.txid, grandchild.txid]
    assert all(one.tx is not None for one in state.unconfirmed())
    # A reorg makes the deposit uncertain, and with it all that was built on it.
    assert play(state, undo(3)).spendable(TIP, own_change=True) == ()


def test_a_transaction_partly_ours_is_not_ours_to_repeat():
    deposit = payment(ours())
    state = play(EMPTY, block(3, deposit))
    joint = Tx(2, (TxIn(deposit.outpoint(1)), TxIn(fresh_outpoint())), (TxOut(Sat(9_000), ours("tr")),), 0)
    state = play(state, TxSeen(joint))
    assert state.recent[joint.txid].tx is None
    assert state.spendable(TIP, own_change=True) == ()


def test_a_chain_of_payments_within_one_block():
    first = payment(ours(), 80_000)
    second = Tx(2, (TxIn(first.outpoint(1)),), (TxOut(Sat(79_000), STRANGER),), 0)
    done = step(EMPTY, block(5, first, second), env())
    check_state(done.state)
    assert done.state.balance(TIP) == balance()
    assert done.rows[1] == WalletTxConfirmed(second.txid, BlockHeight(5), Sat(0), Sat(80_000))


def test_addresses_are_never_issued_twice():
    state, seen = EMPTY, set()
    for _ in range(3):
        for kind in ("wpkh", "tr"):
            for change in (False, True):
                done = step(state, NewAddress(kind, change), env())
                [issued] = done.effects
                assert isinstance(issued, AddressIssued)
                assert issued.script == ours(kind, int(change), issued.key.index)
                assert issued.script not in seen
                seen.add(issued.script)
                state = done.state
    check_state(state)


def test_the_gap_moves_with_use_also_backwards_in_one_block():
    assert len(EMPTY.scripts) == 4 * GAP_LIMIT
    state = play(EMPTY, block(1, payment(ours("wpkh", 0, GAP_LIMIT - 1))))
    assert state.branches["wpkh", 0] == (GAP_LIMIT, 2 * GAP_LIMIT)
    # The first transaction pays a script that only the second one makes us watch.
    early, late = payment(ours("tr", 0, 39), 11_000), payment(ours("tr", 0, 19), 12_000)
    state = play(EMPTY, block(1, early, late))
    assert state.balance(TIP) == balance(confirmed=23_000)
    assert state.branches["tr", 0].next_index == 40
    # And one transaction may pay both.
    both = Tx(2, (TxIn(fresh_outpoint()),), tuple(TxOut(Sat(1_000), ours("tr", 1, n)) for n in (39, 19)), 0)
    assert play(EMPTY, block(1, both)).balance(TIP) == balance(confirmed=2_000)


def test_many_addresses_issued_without_use_are_all_watched():
    state = EMPTY
    for _ in range(GAP_LIMIT + 5):
        state = step(state, NewAddress(), env()).state
    check_state(state)
    assert play(state, block(1, payment(ours("wpkh", 0, GAP_LIMIT + 4)))).balance(TIP) == balance(confirmed=100_000)


def test_leases_are_exclusive_durable_and_all_or_none():
    first, second = payment(ours(), 10_000), payment(ours("tr"), 20_000)
    state = play(EMPTY, block(3, first, second))
    a, b = first.outpoint(1), second.outpoint(1)
    leased = play(state, Lease((a,), "open: x"))
    assert leased.balance(TIP) == balance(confirmed=20_000, reserved=10_000)
    assert [coin.outpoint for coin in leased.spendable(TIP)] == [b]
    assert step(leased, Lease((a,), "open: x"), env()).state is leased
    for outpoints, code in (
        ((b, a), "coin_leased"),
        ((fresh_outpoint(),), "unknown_coin"),
        ((b,) * (MAX_LEASED + 1), "too_many_coins"),
    ):
        with pytest.raises(CommandRefused) as refused:
            step(leased, Lease(outpoints, "another"), env())
        assert refused.value.code == code
    with pytest.raises(CommandRefused, match="purpose"):
        step(leased, Lease((b,), ""), env())
    assert play(leased, Release("open: x")) == state
    assert step(leased, Release("another"), env()).state is leased


def test_a_spent_coin_cannot_be_leased_but_a_lease_outlives_its_spend():
    deposit = payment(ours())
    state = play(EMPTY, block(3, deposit))
    spend = spending(state, deposit.outpoint(1))
    with pytest.raises(CommandRefused) as refused:
        step(play(state, TxSeen(spend)), Lease((deposit.outpoint(1),), "x"), env())
    assert refused.value.code == "coin_spent"
    state = play(state, Lease((deposit.outpoint(1),), "x"), TxSeen(spend), TxDropped(spend.txid))
    assert state.balance(TIP) == balance(reserved=100_000)
    # Once the spend is too deep to be undone, the lease is nobody's business any more.
    state = play(state, block(4, spend), block(4 + FORGET_DEPTH, payment(ours("tr"))))
    assert not state.leases


def test_old_history_is_forgotten_and_old_coins_stay():
    kept, gone = payment(ours(), 10_000), payment(ours("tr"), 20_000)
    state = play(EMPTY, block(3, kept, gone))
    spend = spending(state, gone.outpoint(1), change=(ours("tr", 1), 5_000))
    state = play(state, block(4, spend))
    later = payment(ours("wpkh", 0, 1), 1_000)
    state = play(state, block(4 + FORGET_DEPTH, later))
    assert set(state.recent) == {later.txid}
    assert set(state.coins) == {kept.outpoint(1), spend.outpoint(1), later.outpoint(1)}
    assert state.balance(TIP) == balance(confirmed=16_000)
    # A settled coin is spent like any other, and returns if that spend is undone.
    final = spending(state, kept.outpoint(1))
    state = play(state, block(200, final))
    assert state.balance(TIP) == balance(confirmed=6_000)
    assert play(state, undo(200), TxDropped(final.txid)).balance(TIP) == balance(confirmed=16_000)


def test_strangers_cannot_fill_the_wallet_with_unconfirmed_payments(monkeypatch):
    monkeypatch.setattr("salama.wallet.step.MAX_UNCONFIRMED", 3)
    state = EMPTY
    for _ in range(5):
        state = play(state, TxSeen(payment(ours(), 1_000)))
    assert state.balance(TIP) == balance(unconfirmed=3_000)
    late = payment(ours(), 7_000)
    assert play(state, block(9, late)).balance(TIP) == balance(confirmed=7_000, unconfirmed=3_000)
    assert MAX_UNCONFIRMED >= 1000


FEERATE = FeeratePerKw(1000)


def test_funding_leases_what_it_chose_and_issues_its_change():
    deposits = [payment(ours("wpkh", 0, n), 100_000) for n in range(3)]
    state = play(EMPTY, block(3, *deposits))
    channel = TxOut(Sat(60_000), b"\x00\x20" + bytes(32))
    done = step(state, FundTransaction((channel,), FEERATE, "open: a"), env())
    check_state(done.state)
    [effect] = done.effects
    assert isinstance(effect, TransactionFunded) and effect.purpose == "open: a"
    funded = effect.funded
    assert set(done.state.leased_to("open: a")) == {coin.outpoint for coin in funded.coins}
    assert funded.tx.outputs[funded.index_of(0)] == channel
    change = funded.tx.outputs[funded.change_index]
    assert done.state.scripts[change.script] == KeyPath("tr", 1, 0)
    assert done.state.branches["tr", 1].next_index == 1
    # The same purpose twice is a mistake of the caller; another one gets other coins and another change script.
    with pytest.raises(CommandRefused) as refused:
        step(done.state, FundTransaction((channel,), FEERATE, "open: a"), env())
    assert refused.value.code == "purpose_in_use"
    other = step(done.state, FundTransaction((channel,), FEERATE, "open: b"), env())
    [second] = other.effects
    assert not {c.outpoint for c in second.funded.coins} & {c.outpoint for c in funded.coins}
    assert second.funded.tx.outputs[second.funded.change_index].script != change.script
    # Signed and seen, the change is ours.
    seen = play(other.state, TxSeen(sign(funded, secret_of)))
    assert funded.tx.outpoint(funded.change_index) in seen.coins


def test_funding_among_chosen_coins_and_with_everything():
    deposits = [payment(ours("wpkh", 0, n), 100_000) for n in range(3)]
    state = play(EMPTY, block(3, *deposits))
    only = (deposits[1].outpoint(1),)
    [effect] = step(state, FundTransaction((TxOut(Sat(5_000), STRANGER),), FEERATE, "x", only=only), env()).effects
    assert [coin.outpoint for coin in effect.funded.coins] == list(only)
    with pytest.raises(CommandRefused) as refused:
        step(
            play(state, Lease(only, "y")),
            FundTransaction((TxOut(Sat(5_000), STRANGER),), FEERATE, "x", only=only),
            env(),
        )
    assert refused.value.code == "coin_unavailable"
    everything = FundTransaction((TxOut(Sat(0), STRANGER),), FEERATE, "x", everything=True)
    done = step(state, everything, env())
    assert done.state.balance(TIP) == balance(reserved=300_000)
    assert done.state.branches == state.branches
    with pytest.raises(CommandRefused):
        step(done.state, FundTransaction((TxOut(Sat(0), STRANGER),), FEERATE, "z", everything=True), env())


@given(st.binary(max_size=200))
def test_a_damaged_record_is_refused_with_a_typed_error(data):
    with pytest.raises(CorruptRecord):
        decode_wallet(data)


DEPOSIT = payment(ours())
RECORD = encode_wallet(play(EMPTY, block(3, DEPOSIT), TxSeen(payment(ours("tr"))), Lease((DEPOSIT.outpoint(1),), "x")))


@given(st.integers(0, len(RECORD) - 1), st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_a_record_with_a_flipped_bit_never_crashes(at, bit):
    raw = bytearray(RECORD)
    raw[at] ^= 1 << bit
    try:
        assert encode_wallet(decode_wallet(bytes(raw))) != RECORD
    except CorruptRecord:
        return


class Model:
    """The best chain and what strangers and we have broadcast; the wallet's truth computed from nothing each time."""

    def __init__(self):
        self.state = EMPTY
        self.chain: list[list[Tx]] = []
        self.known: dict[Txid, Tx] = {}
        self.coinbases: set[Txid] = set()
        self.height = 0

    def feed(self, event):
        self.state = step(self.state, event, env(max(self.height, 1))).state

    def confirmed(self):
        created, spent = {}, set()
        for height, txs in enumerate(self.chain, 1):
            for tx in txs:
                spent.update(i.outpoint for i in tx.inputs)
                for vout, out in enumerate(tx.outputs):
                    if out.script in self.state.scripts:
                        created[OutPoint(tx.txid, vout)] = height
        return {o: h for o, h in created.items() if o not in spent}

    def spent(self):
        return {i.outpoint for txs in self.chain for tx in txs for i in tx.inputs}

    def minable(self):
        """Known transactions that could follow the chain, parents before children, first of rivals only."""
        included = {tx.txid for txs in self.chain for tx in txs}
        spent = self.spent()
        chosen = []
        progress = True
        while progress:
            progress = False
            for tx in self.known.values():
                if tx.txid in included or any(i.outpoint in spent for i in tx.inputs):
                    continue
                made_here = self.known.keys() | self.coinbases
                if any(i.outpoint.txid in made_here and i.outpoint.txid not in included for i in tx.inputs):
                    continue
                chosen.append(tx)
                included.add(tx.txid)
                spent.update(i.outpoint for i in tx.inputs)
                progress = True
        return chosen

    def connect(self, txs, miner):
        self.height += 1
        event = block(self.height, *txs, miner=miner)
        self.chain.append(list(event.block.txs))
        self.coinbases.update(tx.txid for tx in event.block.txs if tx.is_coinbase)
        self.feed(event)

    def disconnect(self):
        event = undo(self.height)
        for tx in self.chain.pop():
            if not tx.is_coinbase:
                self.known.setdefault(tx.txid, tx)
        self.height -= 1
        self.feed(event)

    def check(self):
        check_state(self.state)
        state = self.state
        found = {}
        for outpoint, coin in state.coins.items():
            spender = state.spenders.get(outpoint)
            if coin.height is not None and (spender is None or state.recent[spender].height is None):
                found[outpoint] = int(coin.height)
        assert found == self.confirmed()
        chain_spends = self.spent()
        for one in state.unconfirmed():
            assert not any(outpoint in chain_spends for outpoint in one.spends), "a loser is still hoped for"


actions = st.lists(
    st.tuples(
        st.sampled_from(["pay", "see", "spend", "rival", "mine", "mine", "reorg", "drop"]), st.integers(0, 1 << 30)
    ),
    min_size=4,
    max_size=30,
)


@given(actions)
@settings(max_examples=120, deadline=None)
@example([("mine", 0), ("mine", 0), ("spend", 0), ("reorg", 0), ("reorg", 0), ("mine", 0), ("mine", 0)])
@example([("pay", 0), ("pay", 0), ("mine", 0), ("spend", 0), ("rival", 128), ("mine", 0)])
def test_after_any_history_the_wallet_owns_what_the_best_chain_says(history):
    model = Model()
    for action, number in history:
        known = list(model.known.values())
        if action == "pay":
            kind, chain = ("wpkh", "tr")[number % 2], number // 2 % 2
            index = number // 4 % model.state.branches[kind, chain].watched
            tx = payment(ours(kind, chain, index), 10_000 + number % 1000)
            model.known[tx.txid] = tx
        elif action == "spend" and model.state.coins:
            coins = sorted(model.state.coins)
            tx = spending(
                model.state, coins[number % len(coins)], to=(STRANGER, ours("tr", 1, number % 20))[number % 2]
            )
            model.known[tx.txid] = tx
            model.feed(TxSeen(tx))
        elif action == "rival" and known:
            loser = known[number % len(known)]
            coin = model.state.coins.get(loser.inputs[0].outpoint)
            amount = 20_000 if coin is None else int(coin.value) - 100
            tx = payment((STRANGER, ours())[number % 2], amount, spends=[loser.inputs[0].outpoint])
            model.known = {tx.txid: tx, **model.known} if number % 3 else {**model.known, tx.txid: tx}
        elif action == "see" and known:
            # A mempool accepts nothing that the chain has spent; the wallet need only know of spends that concern it.
            seen = known[number % len(known)]
            if all(i.outpoint in model.state.spenders or i.outpoint not in model.spent() for i in seen.inputs):
                model.feed(TxSeen(seen))
        elif action == "drop" and known:
            model.feed(TxDropped(known[number % len(known)].txid))
        elif action == "mine":
            minable = model.minable()
            miner = ours("tr", 0, number % 20) if number % 5 == 0 else STRANGER
            model.connect(minable[: number % (len(minable) + 1)] if number % 4 else minable, miner)
        elif action == "reorg":
            for _ in range(min(1 + number % 3, model.height)):
                model.disconnect()
        model.check()
    check_restart(model.state)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_a_replay_from_an_earlier_block_ends_in_the_same_wallet(indexes):
    """After a crash the shell may feed blocks again that the wallet has already seen, in the order they came."""
    old = [block(1 + n, payment(ours("tr", 0, index), 1_000 + n)) for n, index in enumerate(indexes)]
    new = [block(1 + n, payment(ours("wpkh", 0, index), 2_000 + n)) for n, index in enumerate(indexes)]
    events = [*old, *[undo(n) for n in range(len(indexes), 0, -1)], *new]
    once = play(EMPTY, *events)
    assert play(once, *events) == once


def test_a_block_that_pays_out_more_than_it_spends_stops_nobody():
    """Only a back-end that is wrong says so; the wallet books what it sees and names no fee."""
    deposit = payment(ours(), 10_000)
    state = play(EMPTY, block(3, deposit))
    impossible = payment(STRANGER, 20_000, spends=[deposit.outpoint(1)])
    (row,) = step(state, block(4, impossible), env()).rows
    assert (row.spent, row.fee) == (Sat(10_000), None)
