"""Which coins of the wallet pay for a claim: few, confirmed, and enough (BOLT 5, B5.10, B5.11)."""

from __future__ import annotations

from collections.abc import Sequence

from salama.base.units import FeeratePerKw, Sat
from salama.wallet.coins import Coin
from salama.wallet.selection import INPUT_WEIGHT, fee_for

MAX_COINS = 20
"""A claim that needs more is not urgent enough to gather dust for."""
LAST_RESORT = 3
"""Coins taken when all of them together cannot pay the rate asked for: better a poor fee than none."""


def choose_coins(coins: Sequence[Coin], amount: Sat, feerate: FeeratePerKw) -> tuple[Coin, ...]:
    """The smallest single coin that is worth ``amount`` after its own input, else the largest few.

    If nothing suffices, the largest coins all the same: the claim then pays what they hold. Empty without any coin. The
    order never depends on chance, so that asking again for the same purpose gives the same.
    """
    worth = sorted(
        ((int(c.value) - fee_for(feerate, INPUT_WEIGHT[c.key.kind]), c) for c in coins),
        key=lambda pair: (pair[0], pair[1].outpoint),
    )
    for value, coin in worth:
        if value >= int(amount):
            return (coin,)
    chosen: list[Coin] = []
    total = 0
    for value, coin in reversed(worth):
        if value <= 0 or len(chosen) == MAX_COINS:
            break
        chosen.append(coin)
        total += value
        if total >= int(amount):
            return tuple(chosen)
    largest = sorted(coins, key=lambda one: (-int(one.value), one.outpoint))
    return tuple(largest[:LAST_RESORT])
