"""What a user says about coins: left alone, named, set aside for a while; and fees raised after the fact."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wallet_world import EMPTY, STRANGER, block, check_state, env, fresh_outpoint, ours, payment, play, secret_of, undo

from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.bitcoin.script import dust_limit
from salama.bitcoin.tx import TxOut
from salama.wallet.bumping import INCREMENTAL
from salama.wallet.events import BumpFee, Freeze, FundTransaction, LabelCoin, Lease, Release, TxDropped, TxSeen
from salama.wallet.selection import fee_for
from salama.wallet.signing import sign
from salama.wallet.step import step

TIP = BlockHeight(1000)
LOW, HIGH = FeeratePerKw(500), FeeratePerKw(5_000)


def funded_wallet(*values):
    """A wallet with a confirmed coin of each value."""
    deposits = [payment(ours("tr", 0, n), value) for n, value in enumerate(values)]
    return play(EMPTY, block(3, *deposits)), [one.outpoint(1) for one in deposits]


def refusal(state, event):
    with pytest.raises(CommandRefused) as refused:
        step(state, event, env())
    return refused.value.code


def sends(state, value, *, feerate=LOW, everything=False, purpose="withdraw a", keep=False):
    """A payment that is under way; the state, the signed transaction, what it pays as fee."""
    done = step(state, FundTransaction((TxOut(Sat(value), STRANGER),), feerate, purpose, everything), env())
    funded = done.effects[0].funded
    tx = sign(funded, secret_of)
    state = play(done.state, TxSeen(tx), *([] if keep else [Release(purpose)]))
    return state, tx, int(funded.fee)


# --- freezing, names, leases that end ---


def test_a_frozen_coin_is_left_alone_until_it_thaws():
    state, (first, second) = funded_wallet(100_000, 200_000)
    state = play(state, Freeze((second,)))
    assert [coin.outpoint for coin in state.spendable(TIP)] == [first]
    assert int(state.balance(TIP).reserved) == 200_000 and int(state.balance(TIP).confirmed) == 100_000
    pay = FundTransaction((TxOut(Sat(150_000), STRANGER),), LOW, "x")
    assert refusal(state, pay) == "insufficient_funds"
    assert refusal(state, FundTransaction(pay.outputs, LOW, "x", only=(second,))) == "coin_unavailable"
    _, tx, _ = sends(state, 0, everything=True)
    assert [one.outpoint for one in tx.inputs] == [first]
    state = play(state, Freeze((second,), frozen=False))
    assert step(state, pay, env()).effects


def test_a_frozen_coin_stays_frozen_through_a_reorganisation():
    state, (coin,) = funded_wallet(100_000)
    state = play(state, Freeze((coin,)), LabelCoin(coin, "savings"), undo(3), block(3))
    assert coin in state.frozen and state.labels[coin] == "savings" and not state.spendable(TIP)


def test_names_come_and_go():
    state, (coin,) = funded_wallet(100_000)
    assert play(state, LabelCoin(coin, "rent"), LabelCoin(coin, "from Bob")).labels == {coin: "from Bob"}
    assert play(state, LabelCoin(coin, "rent"), LabelCoin(coin, "")).labels == {}
    assert refusal(state, LabelCoin(coin, "x" * 101)) == "bad_label"
    assert refusal(state, LabelCoin(coin, "two\nlines")) == "bad_label"
    assert refusal(state, LabelCoin(fresh_outpoint(), "x")) == "unknown_coin"
    assert refusal(state, Freeze((fresh_outpoint(),))) == "unknown_coin"


def test_what_was_said_of_a_coin_goes_with_it():
    state, (coin,) = funded_wallet(100_000)
    state = play(state, LabelCoin(coin, "rent"))
    state, tx, _ = sends(state, 0, everything=True)
    state = play(state, block(4, tx), block(104, payment(ours("tr", 0, 9))), at=104)
    assert not state.labels and coin not in state.coins


def test_a_lease_ends_at_its_height_and_not_before():
    state, (first, second) = funded_wallet(100_000, 200_000)
    state = play(state, Lease((first,), "psbt a", BlockHeight(10)), Lease((second,), "open b"))
    state = play(state, block(9))
    assert state.leased_to("psbt a") == (first,)
    state = play(state, block(10))
    assert not state.leased_to("psbt a") and state.leased_to("open b") == (second,) and not state.expiries
    assert play(state, block(5_000)).leased_to("open b") == (second,)


def test_a_lease_is_prolonged_by_asking_again():
    state, (coin,) = funded_wallet(100_000)
    state = play(state, Lease((coin,), "psbt a", BlockHeight(10)), Lease((coin,), "psbt a", BlockHeight(20)), block(15))
    assert state.leased_to("psbt a") == (coin,)
    assert not play(state, block(20)).leases


def test_a_released_lease_leaves_nothing_behind():
    state, (coin,) = funded_wallet(100_000)
    state = play(state, Lease((coin,), "psbt a", BlockHeight(10)), Release("psbt a"))
    assert not state.leases and not state.expiries


# --- raising the fee ---


def bumped(state, tx, feerate=HIGH, **more):
    done = step(state, BumpFee(tx.txid, feerate, "bump 1", **more), env())
    check_state(done.state)
    (made,) = done.effects
    return done.state, made


def test_a_replacement_pays_the_same_from_its_change():
    state, _ = funded_wallet(100_000, 200_000)
    state, tx, fee = sends(state, 30_000)
    after, made = bumped(state, tx)
    new = sign(made.funded, secret_of)
    assert made.replaces == tx.txid
    assert {one.outpoint for one in new.inputs} == {one.outpoint for one in tx.inputs}
    assert TxOut(Sat(30_000), STRANGER) in new.outputs and len(new.outputs) == len(tx.outputs)
    assert {o.script for o in new.outputs} == {o.script for o in tx.outputs}
    assert [o.script for o in new.outputs] == [o.script for o in tx.outputs], "its change stands where it stood"
    assert int(made.funded.fee) >= fee_for(HIGH, new.weight) and int(made.funded.fee) > fee
    after = play(after, TxSeen(new), Release("bump 1"))
    assert tx.txid not in after.recent and new.txid in after.recent
    assert int(after.balance(TIP).total) == 300_000 - 30_000 - int(made.funded.fee)


def test_a_replacement_that_the_network_refuses_gives_way_to_the_first():
    state, _ = funded_wallet(100_000)
    state, tx, _ = sends(state, 30_000)
    after, made = bumped(state, tx)
    new = sign(made.funded, secret_of)
    after = play(after, TxSeen(new), TxDropped(new.txid), Release("bump 1"), TxSeen(tx))
    assert tx.txid in after.recent and new.txid not in after.recent
    assert after.balance(TIP) == state.balance(TIP)


def test_what_is_sent_whole_needs_another_coin_or_leave_to_take_from_it():
    state, _ = funded_wallet(100_000)
    state, tx, fee = sends(state, 0, everything=True)
    assert refusal(state, BumpFee(tx.txid, HIGH, "b")) == "insufficient_funds"
    _, made = bumped(state, tx, subtract=True)
    (only,) = made.funded.tx.outputs
    assert only.script == STRANGER and int(only.value) == 100_000 - int(made.funded.fee) and int(made.funded.fee) > fee
    assert refusal(state, BumpFee(tx.txid, FeeratePerKw(260_000), "b", subtract=True)) == "dust_output"
    more = payment(ours("tr", 0, 5), 40_000)
    state = play(state, block(5, more))
    _, made = bumped(state, tx)
    assert {c.outpoint for c in made.funded.coins} == {tx.inputs[0].outpoint, more.outpoint(1)}
    assert TxOut(tx.outputs[0].value, STRANGER) in made.funded.tx.outputs


def test_a_replacement_brings_in_nothing_unconfirmed():
    state, _ = funded_wallet(100_000)
    state, tx, _ = sends(state, 0, everything=True)
    state = play(state, TxSeen(payment(ours("tr", 0, 7), 50_000)))
    assert refusal(state, BumpFee(tx.txid, HIGH, "b")) == "insufficient_funds"


def test_a_fee_is_only_ever_raised():
    state, _ = funded_wallet(100_000)
    state, tx, _ = sends(state, 30_000, feerate=HIGH)
    assert refusal(state, BumpFee(tx.txid, LOW, "b")) == "feerate_too_low"
    assert refusal(state, BumpFee(tx.txid, LOW, "b", how="cpfp")) == "feerate_too_low"


def test_a_replacement_outbids_all_of_what_it_replaces():
    """Only a little more a unit is not enough for a relay: the difference must pay for the replacement itself."""
    state, _ = funded_wallet(100_000)
    state, tx, fee = sends(state, 30_000)
    _, made = bumped(state, tx, FeeratePerKw(510))
    weight = sign(made.funded, secret_of).weight
    assert int(made.funded.fee) >= fee + fee_for(INCREMENTAL, weight)


def test_the_funding_of_a_channel_is_never_replaced():
    state, _ = funded_wallet(100_000)
    state, tx, _ = sends(state, 30_000, purpose="open 1", keep=True)
    assert refusal(state, BumpFee(tx.txid, HIGH, "b", how="rbf")) == "cannot_replace"
    _, made = bumped(state, tx)
    assert made.replaces is None
    (one,) = made.funded.tx.inputs
    assert one.outpoint.txid == tx.txid


def test_what_something_spends_from_is_not_replaced():
    """Its child would vanish with it, and a channel's funding could be that child."""
    state, _ = funded_wallet(100_000)
    state, parent, _ = sends(state, 30_000)
    done = step(state, FundTransaction((TxOut(Sat(10_000), STRANGER),), LOW, "c", own_change=True), env())
    child = sign(done.effects[0].funded, secret_of)
    state = play(done.state, TxSeen(child), Release("c"))
    assert refusal(state, BumpFee(parent.txid, HIGH, "b")) == "cannot_draw"
    _, made = bumped(state, child)
    assert made.replaces == child.txid


def test_a_child_pays_for_all_that_waits_above_it():
    state, _ = funded_wallet(100_000)
    state, parent, fee = sends(state, 30_000)
    done = step(state, FundTransaction((TxOut(Sat(10_000), STRANGER),), LOW, "c", own_change=True), env())
    child = sign(done.effects[0].funded, secret_of)
    state = play(done.state, TxSeen(child))
    _, made = bumped(state, child, how="cpfp")
    grandchild = sign(made.funded, secret_of)
    fees = fee + int(done.effects[0].funded.fee) + int(made.funded.fee)
    assert fees >= fee_for(HIGH, parent.weight + child.weight + grandchild.weight)
    assert fees < 1.1 * fee_for(HIGH, parent.weight + child.weight + grandchild.weight)


def test_what_a_stranger_sent_cannot_be_judged():
    incoming = payment(ours("tr"))
    state = play(EMPTY, TxSeen(incoming))
    assert refusal(state, BumpFee(incoming.txid, HIGH, "b")) == "cannot_draw"
    assert refusal(play(state, block(4, incoming)), BumpFee(incoming.txid, HIGH, "b")) == "already_confirmed"
    assert refusal(EMPTY, BumpFee(incoming.txid, HIGH, "b")) == "unknown_transaction"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1_000, 300_000), min_size=1, max_size=6),
    st.integers(600, 200_000),
    st.integers(253, 20_000),
    st.integers(253, 60_000),
    st.sampled_from(["auto", "rbf", "cpfp"]),
    st.booleans(),
)
def test_raising_a_fee_keeps_its_promises(values, amount, before, after, how, subtract):
    """Never more than there is, no dust, at least the rate asked for, at most a little above it, and the payment
    stays what it was."""
    state, _ = funded_wallet(*values)
    try:
        state, tx, fee = sends(state, amount, feerate=FeeratePerKw(before))
        done = step(state, BumpFee(tx.txid, FeeratePerKw(after), "b", how, subtract), env())
    except CommandRefused:
        return
    check_state(done.state)
    funded, replaces = done.effects[0].funded, done.effects[0].replaces
    new = sign(funded, secret_of)
    paid = sum(int(coin.value) for coin in funded.coins) - sum(int(o.value) for o in new.outputs)
    assert paid == int(funded.fee) > 0
    assert all(o.value >= dust_limit(o.script) for o in new.outputs)
    assert set(done.state.leased_to("b")) == {one.outpoint for one in new.inputs}
    if replaces is None:
        rate = (fee + paid) * 1000 / (tx.weight + new.weight)
        assert after <= rate
        assert all(o.script in done.state.scripts for o in new.outputs)
    else:
        rate = paid * 1000 / new.weight
        assert rate >= after and paid >= fee + fee_for(INCREMENTAL, new.weight)
        # Change that would be dust is left to the miners, with what its output would have cost.
        most = max(fee_for(FeeratePerKw(after), new.weight + 200), fee + fee_for(INCREMENTAL, new.weight + 200))
        assert paid <= most * 1.02 + 400
        if not subtract:
            assert TxOut(Sat(amount), STRANGER) in new.outputs
