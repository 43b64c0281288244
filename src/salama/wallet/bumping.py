"""A transaction of ours that waits too long: replaced by one that pays more, or drawn along by a child (BIP 125, CPFP).

Replacing changes the txid, so it is done only where nobody counts on the old one: no coin of it may be set aside for
somebody (the funding of a channel is), and nothing known may spend from it. Everything else gets a child.

Fees are reckoned with upper bounds of the weight, so that what is paid never falls short of what was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from salama.base.ids import Txid
from salama.base.machine import CommandRefused
from salama.base.units import FeeratePerKw, Sat
from salama.bitcoin.script import dust_limit
from salama.bitcoin.tx import Tx, TxOut
from salama.wallet.coins import Coin, WalletState, WalletTx
from salama.wallet.funding import Funded, check_dust, overhead_weight, shuffled, unsigned
from salama.wallet.keys import CHANGE
from salama.wallet.selection import INPUT_WEIGHT, fee_for, output_weight

INCREMENTAL: Final = FeeratePerKw(250)
"""What a replacement pays for itself on top of all that it replaces: 1 sat/vB, the relay's rule (BIP 125)."""
MAX_SPARE: Final = 50
"""Coins looked at to pay a higher fee, the largest ones."""
MAX_ANCESTORS: Final = 25
"""Unconfirmed transactions that one child may draw along, itself included: what relays keep (Bitcoin Core's limit)."""


@dataclass(frozen=True, slots=True)
class Bump:
    """An unsigned transaction; ``replaces`` is None for a child."""

    funded: Funded
    replaces: Txid | None


def bump(
    state: WalletState,
    txid: Txid,
    feerate: FeeratePerKw,
    spare: Sequence[Coin],
    fresh_script: bytes,
    *,
    how: str,
    subtract: bool,
    entropy: bytes,
    locktime: int,
    funds_channel: bool = False,
) -> Bump:
    """The transaction that brings ``txid`` to ``feerate``.

    ``spare``: confirmed coins that may be added; ``fresh_script``: for change where there was none. Raises
    CommandRefused: unknown_transaction, already_confirmed, cannot_replace, cannot_draw, feerate_too_low,
    insufficient_funds, dust_output.
    """
    one = state.recent.get(txid)
    if one is None:
        raise CommandRefused("unknown_transaction", f"{txid} is no recent transaction of this wallet.")
    if one.height is not None:
        raise CommandRefused("already_confirmed", f"{txid} is in block {one.height}.")
    obstacle = "it funds a channel" if funds_channel else _obstacle(state, one)
    if how == "rbf" and obstacle:
        raise CommandRefused("cannot_replace", f"{txid} cannot be replaced: {obstacle}.", "Let a child pay: cpfp.")
    if how == "cpfp" or obstacle:
        return Bump(_child(state, one, feerate, spare, fresh_script, entropy, locktime), None)
    return Bump(_replacement(state, one, feerate, spare, fresh_script, subtract, entropy, locktime), txid)


def fee_of(state: WalletState, one: WalletTx) -> int:
    """Satoshis that a transaction of nothing but our inputs pays."""
    assert one.tx is not None
    return sum(int(state.coins[o].value) for o in one.spends) - sum(int(o.value) for o in one.tx.outputs)


def _obstacle(state: WalletState, one: WalletTx) -> str:
    """Why the transaction must keep its txid; empty if it need not."""
    if one.tx is None:
        return "not all of its inputs are ours"
    holder = next((state.leases[o] for o in one.spends if o in state.leases), None)
    if holder is not None:
        return f"it was made for {holder}"
    for vout in range(len(one.tx.outputs)):
        if one.tx.outpoint(vout) in state.spenders:
            return "another transaction spends from it"
    if any(coin.outpoint in state.leases for coin in one.coins):
        return "its change is set aside"
    return ""


def _replacement(
    state: WalletState,
    one: WalletTx,
    feerate: FeeratePerKw,
    spare: Sequence[Coin],
    fresh_script: bytes,
    subtract: bool,
    entropy: bytes,
    locktime: int,
) -> Funded:
    """The same payments from the same coins; the fee comes from the change, then from spare coins."""
    tx = one.tx
    assert tx is not None
    paid = fee_of(state, one)
    if int(feerate) * tx.weight <= paid * 1000:
        raise CommandRefused(
            "feerate_too_low",
            f"The transaction pays {paid * 1000 // tx.weight} sat per 1000 weight already.",
            "Ask for more than that.",
        )
    change = {coin.outpoint.vout: coin for coin in one.coins if coin.key.chain == CHANGE}
    fixed = [output for vout, output in enumerate(tx.outputs) if vout not in change]
    script = next((coin.script for coin in change.values()), fresh_script)
    coins = [state.coins[o] for o in one.spends]
    more = sorted(spare, key=lambda coin: (int(coin.value), coin.outpoint))[-MAX_SPARE:]
    # Nothing if that is enough, else the smallest single coin that is, else the largest together.
    for added in ([], *([coin] for coin in more), *(more[-count:] for count in range(2, len(more) + 1))):
        made = _try(tx, [*coins, *added], fixed, script, feerate, paid, entropy, locktime)
        if made is not None:
            return made
    if subtract and len(fixed) == 1:
        return _try_subtracting(tx, coins, fixed[0], feerate, paid, entropy, locktime)
    raise CommandRefused(
        "insufficient_funds",
        "Neither its change nor any other coin can pay the higher fee.",
        "Deposit more, lower the fee rate, or take it from the amount sent: --subtract.",
    )


def _least_fee(feerate: FeeratePerKw, weight: int, paid: int) -> int:
    return max(fee_for(feerate, weight), paid + fee_for(INCREMENTAL, weight))


def _try(
    old: Tx,
    coins: Sequence[Coin],
    fixed: Sequence[TxOut],
    script: bytes,
    feerate: FeeratePerKw,
    paid: int,
    entropy: bytes,
    locktime: int,
) -> Funded | None:
    total = sum(int(coin.value) for coin in coins) - sum(int(output.value) for output in fixed)
    inputs = sum(INPUT_WEIGHT[coin.key.kind] for coin in coins)
    outputs = sum(output_weight(output.script) for output in fixed)
    weight = overhead_weight(len(coins), len(fixed) + 1) + inputs + outputs + output_weight(script)
    fee = _least_fee(feerate, weight, paid)
    ordered = shuffled(coins, entropy)
    if total - fee >= int(dust_limit(script)):
        place = min(_change_place(old, script), len(fixed))
        placed = [*fixed[:place], TxOut(Sat(total - fee), script), *fixed[place:]]
        return Funded(unsigned(ordered, placed, locktime), ordered, Sat(fee), place)
    if not fixed:
        return None
    fee = _least_fee(feerate, weight - output_weight(script), paid)
    if total < fee:
        return None
    return Funded(unsigned(ordered, list(fixed), locktime), ordered, Sat(total), None)


def _change_place(old: Tx, script: bytes) -> int:
    """Where the change was, so that comparing the two transactions tells nobody more."""
    return next((vout for vout, output in enumerate(old.outputs) if output.script == script), len(old.outputs))


def _try_subtracting(
    old: Tx, coins: Sequence[Coin], output: TxOut, feerate: FeeratePerKw, paid: int, entropy: bytes, locktime: int
) -> Funded:
    weight = overhead_weight(len(coins), 1) + output_weight(output.script)
    weight += sum(INPUT_WEIGHT[coin.key.kind] for coin in coins)
    fee = _least_fee(feerate, weight, paid)
    left = sum(int(coin.value) for coin in coins) - fee
    smaller = TxOut(Sat(max(left, 0)), output.script)
    check_dust(smaller)
    ordered = shuffled(coins, entropy)
    return Funded(unsigned(ordered, [smaller], locktime), ordered, Sat(fee), None)


def _child(
    state: WalletState,
    one: WalletTx,
    feerate: FeeratePerKw,
    spare: Sequence[Coin],
    script: bytes,
    entropy: bytes,
    locktime: int,
) -> Funded:
    """A transaction to ourselves whose fee also pays for what it spends from."""
    own = sorted((c for c in one.coins if state.is_free(c.outpoint)), key=lambda c: (-int(c.value), c.outpoint))
    if not own:
        raise CommandRefused(
            "cannot_draw", f"{one.txid} has no output of ours that is free.", "Only its receiver can make it confirm."
        )
    missing, weight_above = _missing_above(state, one, feerate)
    if missing <= 0:
        raise CommandRefused("feerate_too_low", "The transaction and what it spends from pay that already.")
    confirmed = sorted((c for c in spare if c.height is not None), key=lambda c: (-int(c.value), c.outpoint))
    coins: list[Coin] = own[:1]
    for extra in [None, *own[1:], *confirmed]:
        if extra is not None:
            coins.append(extra)
        weight = overhead_weight(len(coins), 1) + output_weight(script)
        weight += sum(INPUT_WEIGHT[coin.key.kind] for coin in coins)
        fee = max(missing, 0) + fee_for(feerate, weight)
        left = sum(int(coin.value) for coin in coins) - fee
        if left >= int(dust_limit(script)):
            ordered = shuffled(coins, entropy)
            return Funded(unsigned(ordered, [TxOut(Sat(left), script)], locktime), ordered, Sat(fee), 0)
    raise CommandRefused(
        "insufficient_funds",
        f"A child would have to pay {missing} satoshis for {weight_above} weight units above it, and cannot.",
        "Deposit more, or lower the fee rate.",
    )


def _missing_above(state: WalletState, one: WalletTx, feerate: FeeratePerKw) -> tuple[int, int]:
    """Satoshis by which ``one`` and its unconfirmed ancestors fall short of ``feerate``, and their weight.

    Raises CommandRefused where a stranger's transaction is among them, whose fee we do not know.
    """
    todo, seen, missing, weight = [one], {one.txid}, 0, 0
    while todo:
        each = todo.pop()
        if each.tx is None:
            raise CommandRefused(
                "cannot_draw",
                f"{each.txid} was made by somebody else, so that its fee is not known here.",
                "Ask its sender to raise the fee.",
            )
        weight += each.tx.weight
        missing += fee_for(feerate, each.tx.weight) - fee_of(state, each)
        for outpoint in each.spends:
            parent = state.recent.get(outpoint.txid)
            if parent is not None and parent.height is None and parent.txid not in seen:
                seen.add(parent.txid)
                todo.append(parent)
        if len(seen) >= MAX_ANCESTORS:
            raise CommandRefused("cannot_draw", "Too many unconfirmed transactions depend on each other.", "Wait.")
    return missing, weight
