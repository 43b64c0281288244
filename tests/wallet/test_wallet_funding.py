"""Coin selection and change: value conserved, the fee asked for and hardly more, never dust; and keys that fit."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pbk import ScriptPubkey, ScriptVerificationFlags, Transaction, TransactionOutput
from pbk.script import PrecomputedTransactionData
from wallet_world import ACCOUNTS, STRANGER, coin, ours, secret_of

from salama.base.machine import CommandRefused
from salama.base.units import FeeratePerKw, Sat
from salama.bitcoin import address
from salama.bitcoin.networks import MAINNET, REGTEST
from salama.bitcoin.script import dust_limit, p2tr, p2wsh
from salama.bitcoin.tx import Tx, TxOut
from salama.crypto.seeds import ExtendedKey, seed_of_words
from salama.wallet.funding import fund, fund_all
from salama.wallet.keys import Accounts, KeyPath, account_path, full_path
from salama.wallet.selection import (
    INPUT_WEIGHT,
    LONG_TERM_FEERATE,
    MAX_INPUTS,
    _branch_and_bound,
    fee_for,
    output_weight,
)
from salama.wallet.signing import inputs_to_sign, sign, sign_inputs

CHANGE = ours("tr", 1)
ENTROPY = b"\x01" * 32
RATE = FeeratePerKw(1000)

coins = st.lists(
    st.builds(
        coin,
        st.integers(300, 3_000_000),
        st.sampled_from(["wpkh", "tr"]),
        index=st.integers(0, 3),
    ),
    min_size=1,
    max_size=12,
)
requests = st.lists(
    st.builds(
        TxOut,
        st.integers(1_000, 2_000_000).map(Sat),
        st.sampled_from([STRANGER, p2wsh(b"x"), p2tr(bytes(32)), ours("wpkh", 0, 5)]),
    ),
    min_size=1,
    max_size=4,
)
feerates = st.integers(253, 50_000).map(FeeratePerKw)


def slack_of(feerate, change_script):
    """What may go to the fee rather than into change: making that output and spending it one day."""
    later = min(feerate, LONG_TERM_FEERATE)
    return (
        fee_for(feerate, output_weight(change_script))
        + max(fee_for(later, INPUT_WEIGHT["wpkh"]), int(dust_limit(change_script)))
        + 2
    )


@given(requests, coins, feerates, st.sampled_from([CHANGE, ours("wpkh", 1)]), st.binary(min_size=32, max_size=32))
@settings(max_examples=150, deadline=None)
def test_funding_keeps_its_promises(outputs, owned, feerate, change_script, entropy):
    try:
        funded = fund(outputs, owned, feerate, change_script, entropy=entropy)
    except CommandRefused as refused:
        assert refused.code == "insufficient_funds"
        # Refused only if spending every coin worth its fee would not have sufficed without change.
        worth = sum(max(int(c.value) - fee_for(feerate, INPUT_WEIGHT[c.key.kind]), 0) for c in owned)
        base = 42 + sum(output_weight(o.script) for o in outputs)
        assert worth < sum(int(o.value) for o in outputs) + fee_for(feerate, base)
        return
    tx = funded.tx
    assert [i.outpoint for i in tx.inputs] == [c.outpoint for c in funded.coins]
    assert set(funded.coins) <= set(owned) and len(set(funded.coins)) == len(funded.coins)
    paid_in = sum(int(c.value) for c in funded.coins)
    assert paid_in == sum(int(o.value) for o in tx.outputs) + int(funded.fee)
    assert [tx.outputs[funded.index_of(n)] for n in range(len(outputs))] == outputs
    assert len(tx.outputs) == len(outputs) + (funded.change_index is not None)
    asked = fee_for(feerate, funded.weight)
    assert int(funded.fee) >= asked
    if funded.change_index is None:
        assert int(funded.fee) <= asked + slack_of(feerate, change_script)
    else:
        change = tx.outputs[funded.change_index]
        assert change.script == change_script
        assert change.value >= dust_limit(change_script)
        assert int(funded.fee) <= asked * 1.01 + 1
    signed = sign(funded, secret_of)
    assert signed.txid == tx.txid
    # Signatures may come out a byte shorter than the 72 reckoned with: never longer.
    assert funded.weight - 4 * len(funded.coins) <= signed.weight <= funded.weight
    assert int(funded.fee) * 1000 >= int(feerate) * signed.weight
    assert fund(outputs, owned, feerate, change_script, entropy=entropy) == funded


@given(coins, feerates)
@settings(max_examples=60, deadline=None)
def test_sending_everything(owned, feerate):
    try:
        funded = fund_all(owned, STRANGER, feerate, entropy=ENTROPY)
    except CommandRefused as refused:
        assert refused.code in ("insufficient_funds", "dust_output")
        return
    left = [c for c in owned if c not in funded.coins]
    assert all(int(c.value) <= fee_for(feerate, INPUT_WEIGHT[c.key.kind]) for c in left)
    [output] = funded.tx.outputs
    assert sum(int(c.value) for c in funded.coins) == int(output.value) + int(funded.fee)
    asked = fee_for(feerate, funded.weight)
    assert asked <= int(funded.fee) <= asked + 1
    assert output.value >= dust_limit(STRANGER)


def test_an_exact_sum_needs_no_change():
    rate = FeeratePerKw(1000)
    owned = [coin(value) for value in (10_000, 31_000, 57_000, 240_000)]
    weight = 42 + output_weight(STRANGER) + 2 * INPUT_WEIGHT["wpkh"]
    wanted = TxOut(Sat(31_000 + 57_000 - fee_for(rate, weight)), STRANGER)
    funded = fund([wanted], owned, rate, CHANGE, entropy=ENTROPY)
    assert funded.change_index is None
    assert {int(c.value) for c in funded.coins} == {31_000, 57_000}
    assert int(funded.fee) == fee_for(rate, weight)


def test_the_smallest_sufficient_coin_is_preferred_to_breaking_a_large_one():
    owned = [coin(value) for value in (1_000, 5_000_000, 90_000, 200_000, 20_000_000)]
    funded = fund([TxOut(Sat(100_000), STRANGER)], owned, RATE, CHANGE, entropy=ENTROPY)
    assert [int(c.value) for c in funded.coins] == [200_000]


def test_a_coin_that_costs_more_than_it_brings_is_left_alone():
    owned = [coin(270), coin(100_000)]
    funded = fund([TxOut(Sat(50_000), STRANGER)], owned, RATE, CHANGE, entropy=ENTROPY)
    assert [int(c.value) for c in funded.coins] == [100_000]


def test_change_that_would_be_dust_goes_to_the_fee():
    owned = [coin(100_000, "tr")]
    weight = 42 + output_weight(STRANGER) + INPUT_WEIGHT["tr"]
    for left in (0, 1, 329 + fee_for(RATE, output_weight(CHANGE))):
        funded = fund(
            [TxOut(Sat(100_000 - fee_for(RATE, weight) - left), STRANGER)], owned, RATE, CHANGE, entropy=ENTROPY
        )
        assert funded.change_index is None and int(funded.fee) == fee_for(RATE, weight) + left
    enough = 100_000 - fee_for(RATE, weight + output_weight(CHANGE)) - 600
    funded = fund([TxOut(Sat(enough), STRANGER)], owned, RATE, CHANGE, entropy=ENTROPY)
    assert funded.change_index is not None
    assert int(funded.tx.outputs[funded.change_index].value) == 600


@given(st.lists(st.integers(1, 40), min_size=1, max_size=10), st.integers(1, 200), st.integers(0, 15))
@settings(max_examples=200)
def test_a_sum_without_change_is_found_whenever_there_is_one(values, need, slack):
    values = sorted(values, reverse=True)
    sums = {0}
    for value in values:
        sums |= {total + value for total in sums}
    best = min((total for total in sums if need <= total <= need + slack), default=None)
    found = _branch_and_bound(values, need, slack)
    if best is None:
        assert found is None
    else:
        assert found is not None and len(set(found)) == len(found)
        assert sum(values[index] for index in found) == best


def test_many_equal_coins_do_not_exhaust_the_search():
    """Leaving out one of forty equal coins or another is the same choice."""
    values = [1000] * 40 + [993, 992, 991, 990]
    found = _branch_and_bound(values, 16_000 + 3_966, 0)
    assert found is not None and sum(values[index] for index in found) == 19_966


def test_refusals_tell_the_numbers():
    with pytest.raises(CommandRefused) as refused:
        fund([TxOut(Sat(50_000), STRANGER)], [coin(40_000)], RATE, CHANGE, entropy=ENTROPY)
    assert refused.value.code == "insufficient_funds"
    assert "40000 satoshis in 1 coins" in refused.value.reason and "50000" in refused.value.reason
    least = fund([TxOut(dust_limit(STRANGER), STRANGER)], [coin(40_000)], RATE, CHANGE, entropy=ENTROPY)
    assert least.tx.outputs[least.index_of(0)].value == 294
    for outputs, code in (
        ([TxOut(Sat(293), STRANGER)], "dust_output"),
        ([], "too_many_outputs"),
        ([TxOut(Sat(1000), STRANGER)] * 2001, "too_many_outputs"),
    ):
        with pytest.raises(CommandRefused) as refused:
            fund(outputs, [coin(10**9)], RATE, CHANGE, entropy=ENTROPY)
        assert refused.value.code == code
    for owned in ([], [coin(200)], [coin(500)]):
        with pytest.raises(CommandRefused):
            fund_all(owned, STRANGER, RATE, entropy=ENTROPY)


def test_thousands_of_coins_are_chosen_from_in_bounded_time_and_weight():
    owned = [coin(1_000 + n) for n in range(3_000)]
    funded = fund([TxOut(Sat(1_100_000), STRANGER)], owned, RATE, CHANGE, entropy=ENTROPY)
    assert 252 < len(funded.coins) <= MAX_INPUTS
    assert fee_for(RATE, funded.weight) <= int(funded.fee)
    assert sign(funded, secret_of).weight <= min(funded.weight, 400_000)
    with pytest.raises(CommandRefused):
        fund([TxOut(Sat(1_800_000), STRANGER)], owned, RATE, CHANGE, entropy=ENTROPY)


def test_entropy_decides_where_change_stands_and_how_inputs_are_ordered():
    owned = [coin(60_000) for _ in range(6)]
    outputs = [TxOut(Sat(100_000), STRANGER), TxOut(Sat(101_000), p2wsh(b""))]
    found = [fund(outputs, owned, RATE, CHANGE, entropy=bytes((n,)) * 32) for n in range(60)]
    assert {f.change_index for f in found} == {0, 1, 2}
    assert len({f.coins for f in found}) > 10
    for funded in found:
        assert [funded.tx.outputs[funded.index_of(n)] for n in range(2)] == outputs


def core_accepts(tx: Tx, spent):
    assert len(tx.inputs) == len(spent)
    kernel_tx = Transaction(tx.encode())
    outs = [TransactionOutput(ScriptPubkey(o.script), int(o.value)) for o in spent]
    precomputed = PrecomputedTransactionData(kernel_tx, outs)
    return [
        ScriptPubkey(o.script).verify(int(o.value), kernel_tx, precomputed, n, ScriptVerificationFlags.ALL)
        for n, o in enumerate(spent)
    ]


def test_core_accepts_what_we_sign_and_refuses_it_changed():
    owned = [coin(50_000, kind, index=n) for n in range(3) for kind in ("wpkh", "tr")]
    funded = fund([TxOut(Sat(280_000), STRANGER)], owned, RATE, CHANGE, entropy=ENTROPY, locktime=77)
    assert {c.key.kind for c in funded.coins} == {"wpkh", "tr"}
    signed = sign(funded, secret_of)
    spent = [c.output for c in funded.coins]
    assert all(core_accepts(signed, spent))
    bent = Tx(signed.version, signed.inputs, signed.outputs[::-1] + signed.outputs[:1], signed.locktime)
    assert not any(core_accepts(bent, spent))
    crossed = sign(funded, lambda key: secret_of(KeyPath(key.kind, key.chain, key.index + 1)))
    assert not any(core_accepts(crossed, spent))


def test_signing_our_part_of_a_transaction_of_several_people():
    owned = [coin(50_000, kind) for kind in ("wpkh", "tr")]
    funded = fund([TxOut(Sat(95_000), STRANGER)], owned, RATE, CHANGE, entropy=ENTROPY)
    spent = [c.output for c in funded.coins]
    tr = next(n for n, c in enumerate(funded.coins) if c.key.kind == "tr")
    partly = sign_inputs(funded.tx, spent, {tr: funded.coins[tr].key}, secret_of)
    assert [bool(i.witness) for i in partly.inputs] == [n == tr for n in range(2)]
    assert core_accepts(partly, spent)[tr]
    with pytest.raises(ValueError, match="1 spent outputs for 2 inputs"):
        inputs_to_sign(funded.tx, spent[:1], {0: funded.coins[0].key})
    with pytest.raises(ValueError, match="is not wpkh"):
        inputs_to_sign(funded.tx, spent, {tr: KeyPath("wpkh", 0, 0)})


@given(st.integers(0, 2**256 - 1), st.sampled_from(["wpkh", "tr"]), st.integers(0, 1), st.integers(0, 1000))
@settings(max_examples=15)
def test_public_derivation_meets_the_secret_one(number, kind, chain, index):
    master = ExtendedKey.of_seed(number.to_bytes(32, "big"))
    key = KeyPath(kind, chain, index)
    secret = master.derive(full_path(key, REGTEST)).secret
    assume(secret is not None)
    assert Accounts.of_master(master, REGTEST).public_key(key) == secret.public_key


WORDS = "abandon " * 11 + "about"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (KeyPath("wpkh", 0, 0), "bc1qcr8te4kr609gcawutmrza0j4xv80jy8z306fyu"),
        (KeyPath("wpkh", 0, 1), "bc1qnjg0jd8228aq7egyzacy8cys3knf9xvrerkf9g"),
        (KeyPath("wpkh", 1, 0), "bc1q8c6fshw2dlwun7ekn9qwf37cu2rn755upcp6el"),
        (KeyPath("tr", 0, 0), "bc1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqkedrcr"),
        (KeyPath("tr", 0, 1), "bc1p4qhjn9zdvkux4e44uhx8tc55attvtyu358kutcqkudyccelu0was9fqzwh"),
        (KeyPath("tr", 1, 0), "bc1p3qkhfews2uk44qtvauqyr2ttdsw7svhkl9nkm9s9c3x4ax5h60wqwruhk7"),
    ],
)
def test_published_addresses_of_bip_84_and_86(key, text):
    accounts = Accounts.of_master(ExtendedKey.of_seed(seed_of_words(WORDS)), MAINNET)
    assert address.render(accounts.script(key), MAINNET) == text


def test_the_wallet_takes_no_secrets():
    master = ExtendedKey.of_seed(bytes(32))
    with pytest.raises(ValueError, match="public"):
        Accounts(master, master)
    assert ACCOUNTS.wpkh.secret is None and ACCOUNTS.tr.secret is None
    assert account_path("tr", MAINNET) == "m/86'/0'/0'"
    assert full_path(KeyPath("wpkh", 1, 7), REGTEST) == "m/84'/1'/0'/1/7"
