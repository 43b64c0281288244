"""Unsigned transactions from our coins: exact outputs with change, or everything to one script.

The order of inputs and the place of change come from the entropy given, so that neither tells an onlooker which output
is ours. Knows no keys: see ``signing``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from salama.base.machine import CommandRefused
from salama.base.units import FeeratePerKw, Sat
from salama.bitcoin.script import dust_limit
from salama.bitcoin.tx import RBF_SEQUENCE, Tx, TxIn, TxOut, compact_size
from salama.crypto.hashes import tagged_hash
from salama.wallet.coins import Coin
from salama.wallet.selection import INPUT_WEIGHT, MAX_INPUTS, fee_for, output_weight, select

MAX_OUTPUTS: Final = 2000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Funded:
    """An unsigned transaction and what is needed to sign it. ``coins`` are in the order of its inputs."""

    tx: Tx
    coins: tuple[Coin, ...]
    fee: Sat
    change_index: int | None

    def index_of(self, requested: int) -> int:
        """Where the requested output stands now; those keep their order, change is put between them."""
        return requested if self.change_index is None or requested < self.change_index else requested + 1

    @property
    def weight(self) -> int:
        """Upper bound of the weight once signed."""
        return 4 * len(self.tx.encode_stripped()) + 2 + sum(INPUT_WEIGHT[c.key.kind] - 164 for c in self.coins)


def overhead_weight(input_count: int, output_count: int) -> int:
    """Version, locktime, both counts and the witness marker, without inputs and outputs."""
    return 4 * (8 + len(compact_size(input_count)) + len(compact_size(output_count))) + 2


def fund(
    outputs: Sequence[TxOut],
    coins: Sequence[Coin],
    feerate: FeeratePerKw,
    change_script: bytes,
    *,
    entropy: bytes,
    locktime: int = 0,
) -> Funded:
    """A transaction that pays ``outputs`` from ``coins``, with change to ``change_script`` unless it would be dust.

    Raises CommandRefused: insufficient_funds, dust_output, too_many_outputs.
    """
    if not 1 <= len(outputs) <= MAX_OUTPUTS:
        raise CommandRefused("too_many_outputs", f"A transaction pays 1 to {MAX_OUTPUTS} outputs, not {len(outputs)}.")
    for output in outputs:
        check_dust(output)
    target = Sat.total(output.value for output in outputs)
    base = overhead_weight(1, len(outputs) + 1) + sum(output_weight(output.script) for output in outputs)
    chosen = select(coins, target, base, feerate, change_script)
    if len(chosen.coins) > 0xFC:
        # Only now is it known that their count takes two more bytes.
        chosen = select(coins, target, base + 4 * 2, feerate, change_script)
    placed, change_index = list(outputs), None
    if chosen.change is not None:
        change_index = draw(entropy, b"change", len(outputs) + 1)
        placed.insert(change_index, TxOut(chosen.change, change_script))
    ordered = shuffled(chosen.coins, entropy)
    return Funded(unsigned(ordered, placed, locktime), ordered, chosen.fee, change_index)


def fund_all(
    coins: Sequence[Coin], script: bytes, feerate: FeeratePerKw, *, entropy: bytes, locktime: int = 0
) -> Funded:
    """A transaction that pays all ``coins`` to ``script``, less the fee; coins that cost more than they bring stay.

    Raises CommandRefused: insufficient_funds, dust_output.
    """
    useful = [coin for coin in coins if int(coin.value) > fee_for(feerate, INPUT_WEIGHT[coin.key.kind])]
    useful.sort(key=lambda coin: (-int(coin.value), coin.outpoint))
    del useful[MAX_INPUTS:]
    total = sum(int(coin.value) for coin in useful)
    weight = overhead_weight(len(useful), 1) + output_weight(script)
    weight += sum(INPUT_WEIGHT[coin.key.kind] for coin in useful)
    fee = fee_for(feerate, weight)
    if total <= fee:
        raise CommandRefused(
            "insufficient_funds",
            f"{total} satoshis in {len(useful)} coins worth spending do not cover the fee of {fee}.",
            "Deposit more, wait for confirmations, or lower the fee rate.",
        )
    output = TxOut(Sat(total - fee), script)
    check_dust(output)
    ordered = shuffled(useful, entropy)
    return Funded(unsigned(ordered, [output], locktime), ordered, Sat(fee), None)


def unsigned(coins: Sequence[Coin], outputs: Sequence[TxOut], locktime: int) -> Tx:
    return Tx(2, tuple(TxIn(coin.outpoint, RBF_SEQUENCE) for coin in coins), tuple(outputs), locktime)


def check_dust(output: TxOut) -> None:
    least = dust_limit(output.script)
    if output.value < least:
        raise CommandRefused(
            "dust_output",
            f"An output of {output.value} satoshis is below the {least} that the network relays.",
            "Send more, or leave that output out.",
        )


def draw(entropy: bytes, label: bytes, bound: int) -> int:
    """A number below ``bound``, the same for the same entropy and label."""
    return int.from_bytes(tagged_hash(b"salama/funding", label + b"/" + entropy), "big") % bound


def shuffled(items: Sequence[T], entropy: bytes) -> tuple[T, ...]:
    """``items`` in an order that nobody without the entropy can foretell (Fisher and Yates)."""
    mixed = list(items)
    for last in range(len(mixed) - 1, 0, -1):
        other = draw(entropy, b"input %d" % last, last + 1)
        mixed[last], mixed[other] = mixed[other], mixed[last]
    return tuple(mixed)
