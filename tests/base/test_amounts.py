"""Amounts as people write them: with a unit, exact, and nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.api.errors import from_json, sentence
from salama.base.amounts import parse_amount, render_amount
from salama.base.machine import CommandRefused
from salama.base.units import Msat

MOST = 21_000_000 * 100_000_000_000


@pytest.mark.parametrize(
    ("text", "msat"),
    [
        ("1msat", 1),
        ("1sat", 1000),
        ("1 sat", 1000),
        (" 5SATS ", 5000),
        ("0sat", 0),
        ("0.001sat", 1),
        ("25k", 25_000_000),
        ("25.5ksat", 25_500_000),
        ("0.00000000001btc", 1),
        ("0.1btc", 10_000_000_000),
        ("1_000_000sat", 1_000_000_000),
        ("21000000btc", MOST),
    ],
)
def test_amounts(text: str, msat: int) -> None:
    assert parse_amount(text) == msat


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "1000", "sat", "-1sat", "+1sat", "1e3sat", "0x10sat", "1,000sat", "1.sat", ".5sat", "1..5sat",
        "0.0001sat", "0.5msat", "0.000000000001btc", "21000000.00000000001btc", "\u0661sat", "1\u00a0sat", "1  sat",
        "nansat", "infbtc", "1satoshi", "1\nsat", "1sat\n1sat", "9" * 17 + "sat", "1" * 10_000 + "sat",
    ],
)  # fmt: skip
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(CommandRefused) as refused:
        parse_amount(text)
    assert refused.value.code == "bad_amount"
    assert len(refused.value.reason) < 120


@settings(max_examples=100, deadline=None)
@given(st.integers(0, MOST))
def test_no_amount_is_rounded(msat: int) -> None:
    whole, rest = divmod(msat, 1000)
    assert parse_amount(f"{msat // 100_000_000_000}.{msat % 100_000_000_000:011d}btc") == msat
    if len(str(whole)) <= 16:
        assert parse_amount(f"{whole}.{rest:03d}sat") == msat
    assert render_amount(msat).replace(",", "").removesuffix(" sat") in (str(whole), f"{whole}.{rest:03d}")
    assert isinstance(parse_amount("1msat"), Msat)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_an_amount_or_refused(text: str) -> None:
    try:
        assert 0 <= int(parse_amount(text)) <= MOST
    except CommandRefused as refused:
        assert refused.code == "bad_amount"


def test_reasons_are_sentences() -> None:
    assert sentence("the channel is closing already") == "The channel is closing already."
    assert sentence("'x' is no node id.") == "'x' is no node id."
    assert sentence("Why?") == "Why?"
    assert sentence("") == ""


def test_errors_of_any_server_are_understood() -> None:
    assert from_json({"code": -1, "message": "words"}).reason == "words"
    assert from_json({"data": [1, 2]}).code == "error"
    assert from_json({}).reason == "unknown error"
