"""Closing transactions of both kinds: who pays, who is left out, in which order, and that they spend the funding
(B3.08)."""

from __future__ import annotations

from typing import Any

import pytest
from bolt3_bench import ALICE, BOB, CAPACITY, FUNDING, verifies
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.base.units import Msat, Sat
from salama.bitcoin.script import p2tr, p2wpkh, p2wsh
from salama.bitcoin.tx import TxOut
from salama.channel.closing_txs import ClosingImpossible, ClosingTx, make_closing_tx, make_simple_closing_tx
from salama.channel.scripts import funding_script
from salama.channel.transactions import funding_output, funding_sighash
from salama.channel.witnesses import funding_witness
from salama.crypto.secp256k1 import public_key, sign, xonly

KEYS = ALICE.basepoints.funding_pubkey, BOB.basepoints.funding_pubkey
FUNDING_SCRIPT = funding_script(*KEYS)
OURS = p2wpkh(public_key(ALICE.secret("shutdown")))
THEIRS = p2tr(xonly(public_key(BOB.secret("shutdown"))))
BURN = b"\x6a\x06salama"


def legacy(ours: int, theirs: int, **changes: Any) -> ClosingTx:
    arguments: dict[str, Any] = {
        "funding": FUNDING,
        "capacity": CAPACITY,
        "funding_script": FUNDING_SCRIPT,
        "our_balance": Msat(ours),
        "their_balance": Msat(theirs),
        "our_script": OURS,
        "their_script": THEIRS,
        "fee": Sat(1_000),
        "dust_limit": Sat(354),
        "we_are_opener": True,
    }
    return make_closing_tx(**{**arguments, **changes})


def simple(ours: int, theirs: int, **changes: Any) -> ClosingTx:
    arguments: dict[str, Any] = {
        "funding": FUNDING,
        "capacity": CAPACITY,
        "funding_script": FUNDING_SCRIPT,
        "our_balance": Msat(ours),
        "their_balance": Msat(theirs),
        "our_script": OURS,
        "their_script": THEIRS,
        "fee": Sat(1_000),
        "locktime": 800_000,
        "we_are_closer": True,
        "with_closer": True,
        "with_closee": True,
    }
    return make_simple_closing_tx(**{**arguments, **changes})


def paid(closing: ClosingTx) -> tuple[int | None, int | None]:
    """Satoshis to us and to them."""
    ours, theirs = (
        None if index is None else int(closing.tx.outputs[index].value)
        for index in (closing.our_index, closing.their_index)
    )
    assert int(closing.fee) == int(CAPACITY) - sum(int(out.value) for out in closing.tx.outputs)
    for index, script in ((closing.our_index, OURS), (closing.their_index, THEIRS)):
        assert index is None or closing.tx.outputs[index].script in (script, BURN)
    return ours, theirs


def test_legacy_fee_is_the_openers() -> None:
    assert paid(legacy(700_000_000, 300_000_000)) == (699_000, 300_000)
    assert paid(legacy(700_000_000, 300_000_000, we_are_opener=False)) == (700_000, 299_000)
    assert paid(legacy(700_000_999, 299_999_001)) == (699_000, 299_999)
    closing = legacy(700_000_000, 300_000_000)
    assert closing.tx.version == 2 and closing.tx.locktime == 0
    assert [one.sequence for one in closing.tx.inputs] == [0xFFFFFFFF]


def test_legacy_dust_is_the_signers_own() -> None:
    assert paid(legacy(999_646_000, 354_000)) == (998_646, 354)
    assert paid(legacy(999_646_001, 353_999)) == (998_646, None)
    assert paid(legacy(999_000_000, 1_000_000, dust_limit=Sat(1_001))) == (998_000, None)
    assert paid(legacy(1_353_000, 998_647_000)) == (None, 998_647)
    assert paid(legacy(1_354_000, 998_646_000)) == (354, 998_646)


def test_legacy_sides_may_leave_out_their_own_output() -> None:
    assert paid(legacy(700_000_000, 300_000_000, with_ours=False)) == (None, 300_000)
    assert paid(legacy(700_000_000, 300_000_000, with_theirs=False)) == (699_000, None)


@pytest.mark.parametrize(
    ("ours", "theirs", "changes"),
    [
        (999_999, 999_000_001, {}),  # the fee is more than the opener has
        (999_000_001, 999_999, {"we_are_opener": False}),
        (1_100_000, 100_000, {}),  # nothing but dust
        (700_000_000, 300_000_000, {"with_ours": False, "with_theirs": False}),
        (700_000_000, 302_000_000, {}),  # more than the channel holds
    ],
)
def test_legacy_impossible(ours: int, theirs: int, changes: dict[str, Any]) -> None:
    with pytest.raises(ClosingImpossible):
        legacy(ours, theirs, **changes)


def test_simple_fee_is_the_closers() -> None:
    assert paid(simple(700_000_000, 300_000_000)) == (699_000, 300_000)
    assert paid(simple(700_000_000, 300_000_000, we_are_closer=False)) == (700_000, 299_000)
    closing = simple(700_000_000, 300_000_000)
    assert closing.tx.version == 2 and closing.tx.locktime == 800_000
    assert [one.sequence for one in closing.tx.inputs] == [0xFFFFFFFD]


def test_simple_variants() -> None:
    assert paid(simple(700_000_000, 300_000_000, with_closee=False)) == (699_000, None)
    assert paid(simple(700_000_000, 300_000_000, with_closer=False)) == (None, 300_000)
    assert paid(simple(700_000_000, 300_000_000, we_are_closer=False, with_closee=False)) == (None, 299_000)
    assert paid(simple(700_000_000, 300_000_000, we_are_closer=False, with_closer=False)) == (700_000, None)


def test_simple_op_return_carries_nothing() -> None:
    assert paid(simple(700_000_000, 300_000_000, our_script=BURN)) == (0, 300_000)
    assert paid(simple(700_000_000, 300_000_000, their_script=BURN)) == (699_000, 0)
    assert paid(simple(700_000_000, 300_000_000, their_script=BURN, we_are_closer=False)) == (700_000, 0)


@pytest.mark.parametrize(
    ("ours", "theirs", "changes"),
    [
        (999_999, 999_000_001, {}),
        (999_000_001, 999_999, {"we_are_closer": False}),
        (700_000_000, 300_000_000, {"with_closer": False, "with_closee": False}),
        (700_000_000, 302_000_000, {}),
    ],
)
def test_simple_impossible(ours: int, theirs: int, changes: dict[str, Any]) -> None:
    with pytest.raises(ClosingImpossible):
        simple(ours, theirs, **changes)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, int(CAPACITY) * 1000),
    st.integers(0, 5_000),
    st.booleans(),
    st.sampled_from([legacy, simple]),
    st.sampled_from([OURS, THEIRS, p2wsh(b"x")]),
)
def test_both_sides_make_the_same_transaction(ours: int, fee: int, first: bool, make: Any, their_script: bytes) -> None:
    role = "we_are_opener" if make is legacy else "we_are_closer"
    theirs = int(CAPACITY) * 1000 - ours
    changes = {"fee": Sat(fee), "our_script": OURS, "their_script": their_script}
    try:
        at_us = make(ours, theirs, **changes, **{role: first})
    except ClosingImpossible:
        with pytest.raises(ClosingImpossible):
            make(theirs, ours, fee=Sat(fee), our_script=their_script, their_script=OURS, **{role: not first})
        return
    at_them = make(theirs, ours, fee=Sat(fee), our_script=their_script, their_script=OURS, **{role: not first})
    assert at_us.tx == at_them.tx and at_us.fee == at_them.fee
    assert at_us.fee >= Sat(fee)
    outputs = at_us.tx.outputs
    assert [(int(out.value), out.script) for out in outputs] == sorted((int(out.value), out.script) for out in outputs)
    if at_us.our_index is not None:
        assert outputs[at_us.our_index].script == OURS
    if their_script != OURS:
        assert (at_us.our_index, at_us.their_index) == (at_them.their_index, at_them.our_index)


@pytest.mark.parametrize("make", [legacy, simple])
def test_closing_spends_the_funding(make: Any) -> None:
    closing = make(700_000_000, 300_000_000)
    digest = funding_sighash(closing.tx, closing.funding_script, closing.capacity)
    signatures = [sign(person.secret("funding"), digest) for person in (ALICE, BOB)]
    signed = closing.tx.with_witness(0, funding_witness(KEYS[0], signatures[0], KEYS[1], signatures[1]))
    assert verifies(signed, 0, funding_output(CAPACITY, *KEYS))
    wrong = closing.tx.with_witness(0, funding_witness(KEYS[0], signatures[1], KEYS[1], signatures[0]))
    assert not verifies(wrong, 0, funding_output(CAPACITY, *KEYS))
    assert not verifies(signed, 0, TxOut(CAPACITY, p2wsh(funding_script(KEYS[0], KEYS[0]))))
