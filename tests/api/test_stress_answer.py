"""What ``stress`` says of a wallet that is too poor, and of channels that are too small."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from salama.api.onchain_methods import OnchainMethods
from salama.api.onchain_schema import Stress, StressParams
from salama.channel.events import ForceClose
from salama.testing.pair import START, Pair


def ask(feerate: int, wallet: int, *states: object) -> Stress:
    node: Any = SimpleNamespace(
        channels=SimpleNamespace(states=lambda: list(states)), wallet=SimpleNamespace(spendable=lambda: wallet)
    )
    return asyncio.run(OnchainMethods(node).stress(StressParams(feerate=feerate)))


@pytest.fixture(scope="module")
def pair() -> Pair:
    made = Pair.opened()
    made.alice.adds(80_000_000, 1_000_000, expiry=int(START) + 50)
    made.settle()
    return made


def test_a_wallet_that_is_too_poor_is_told_how_much_is_missing(pair: Pair) -> None:
    rich = ask(20, 10_000_000, pair.alice.channel)
    assert rich.can_close_all and rich.missing_msat == 0 and "could be closed by force at once" in rich.answer
    poor = ask(20, 1_000, pair.alice.channel)
    assert not poor.can_close_all
    assert poor.missing_msat == poor.from_wallet_msat - 1_000_000 == rich.from_wallet_msat - 1_000_000 > 0
    assert f"lacks {poor.missing_msat // 1000:,} sat" in poor.answer
    assert poor.uneconomic_msat == 1_000_000 and "1,000 sat would not be worth claiming" in poor.answer


def test_a_commitment_that_is_not_worth_the_rate_waits(pair: Pair) -> None:
    told = ask(2_000, 10**9, pair.alice.channel)
    assert not told.can_close_all and not told.channels[0].commitment_is_economic
    assert "would offer half of what depends on it" in told.answer and "wait" in told.answer


def test_nothing_open_is_nothing_to_close() -> None:
    pair = Pair.opened()
    pair.alice.does(ForceClose("test"))
    assert ask(5, 0, pair.alice.channel).answer == "There is no open channel."
