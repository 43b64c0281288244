"""Which coins to spend: a set that needs no change if one is found in bounded time, else few coins and change.

Weights are upper bounds (a signature of 72 bytes with its type), so the fee paid is never below the rate asked for. A
coin counts for its *effective value*: what is left of it after paying for its own input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from salama.base.machine import CommandRefused
from salama.base.units import FeeratePerKw, Sat
from salama.bitcoin.script import dust_limit, is_p2tr
from salama.bitcoin.tx import compact_size
from salama.wallet.coins import Coin
from salama.wallet.keys import Kind

INPUT_WEIGHT: Final[dict[Kind, int]] = {
    # 41 bytes outside the witness; then item count, 72-byte signature and 33-byte key, each behind its length.
    "wpkh": 4 * 41 + 1 + 73 + 34,
    # One 64-byte signature, without a type byte.
    "tr": 4 * 41 + 1 + 65,
}
MAX_TRIES: Final = 20_000
"""Branches looked at before a changeless set is given up."""
MAX_INPUTS: Final = 500
"""More inputs could make a transaction too heavy to relay (400,000 weight units)."""
LONG_TERM_FEERATE: Final = FeeratePerKw(2500)
"""What spending a change output later is reckoned to cost: 10 satoshis a virtual byte."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Coins with the fee they leave; ``change`` is None when there is no change output."""

    coins: tuple[Coin, ...]
    fee: Sat
    change: Sat | None


def fee_for(feerate: FeeratePerKw, weight: int) -> int:
    """Satoshis for ``weight`` weight units, rounded up: a fee rounded down may miss the relay minimum."""
    return -(-int(feerate) * weight // 1000)


def output_weight(script: bytes) -> int:
    """Weight units of an output that pays to ``script``."""
    return 4 * (8 + len(compact_size(len(script))) + len(script))


def _spending_weight(script: bytes) -> int:
    """Weight of an input that will spend our change; 272 also covers scripts that we do not know."""
    return INPUT_WEIGHT["tr" if is_p2tr(script) else "wpkh"]


def select(
    coins: Sequence[Coin],
    target: Sat,
    base_weight: int,
    feerate: FeeratePerKw,
    change_script: bytes,
) -> Selection:
    """Coins that pay ``target`` and the fee of the whole transaction.

    ``base_weight``: everything but the coins chosen here and the change output (an interactive transaction may hold
    inputs and outputs of others). Raises CommandRefused("insufficient_funds") with the numbers.
    """
    rate = int(feerate)
    priced = [(int(coin.value) - fee_for(feerate, INPUT_WEIGHT[coin.key.kind]), coin) for coin in coins]
    # A coin that costs more than it brings never helps.
    useful = sorted((pair for pair in priced if pair[0] > 0), key=lambda pair: (-pair[0], pair[1].outpoint))
    need = int(target) + fee_for(feerate, base_weight)
    change_cost = fee_for(feerate, output_weight(change_script))
    later = LONG_TERM_FEERATE if rate > LONG_TERM_FEERATE else feerate
    slack = change_cost + fee_for(later, _spending_weight(change_script))
    least_change = int(dust_limit(change_script))
    values = [value for value, _ in useful]
    indexes = _branch_and_bound(values, need, slack)
    if indexes is None:
        indexes = _accumulate(values, need, need + change_cost + least_change)
    if indexes is None:
        have = sum(int(coin.value) for coin in coins)
        raise CommandRefused(
            "insufficient_funds",
            f"{have} satoshis in {len(coins)} coins can be spent, worth {max(sum(values[:MAX_INPUTS]), 0)} after the"
            f" fee of spending them, but {int(target)} and {need - int(target)} of fee are needed.",
            "Deposit more, wait for confirmations, or lower the fee rate.",
        )
    chosen = tuple(useful[index][1] for index in indexes)
    total = sum(int(coin.value) for coin in chosen)
    inputs_weight = sum(INPUT_WEIGHT[coin.key.kind] for coin in chosen)
    fee = fee_for(feerate, base_weight + inputs_weight)
    with_change = fee_for(feerate, base_weight + inputs_weight + output_weight(change_script))
    change = total - int(target) - with_change
    if change >= least_change and total - int(target) - fee > slack:
        return Selection(chosen, Sat(with_change), Sat(change))
    return Selection(chosen, Sat(total - int(target)), None)


def _branch_and_bound(values: Sequence[int], need: int, slack: int) -> list[int] | None:
    """Indexes of values (descending, positive) whose sum is in ``need .. need + slack``, the least waste found."""
    remaining = sum(values)
    if remaining < need:
        return None
    best: list[int] | None = None
    best_excess = slack + 1
    chosen: list[int] = []
    total, index = 0, 0
    for _ in range(MAX_TRIES):
        backtrack = False
        if total + remaining < need or total > need + slack or len(chosen) > MAX_INPUTS:
            backtrack = True
        elif total >= need:
            if total - need < best_excess:
                best, best_excess = chosen.copy(), total - need
                if best_excess == 0:
                    break
            backtrack = True
        if backtrack:
            # Give back what was passed over since the last coin taken, and take the branch without that coin.
            if not chosen:
                break
            last = chosen.pop()
            for passed in range(index - 1, last, -1):
                remaining += values[passed]
            total -= values[last]
            index = last + 1
            continue
        value = values[index]
        remaining -= value
        # Equal coins are alike: having left one out, taking the next would repeat a branch already seen.
        alike = index > 0 and values[index - 1] == value and (not chosen or chosen[-1] != index - 1)
        if not alike:
            chosen.append(index)
            total += value
        index += 1
    return best


def _accumulate(values: Sequence[int], need: int, comfortable: int) -> list[int] | None:
    """The smallest single value that leaves usable change, else the largest ones until they do, or at least suffice."""
    single = None
    for index, value in enumerate(values):
        if value < comfortable:
            break
        single = index
    if single is not None:
        return [single]
    total, enough = 0, None
    for index, value in enumerate(values[:MAX_INPUTS]):
        total += value
        if total >= comfortable:
            return list(range(index + 1))
        if enough is None and total >= need:
            enough = index
    return None if enough is None else list(range(enough + 1))
