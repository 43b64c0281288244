"""What no request may make the signer do, whoever sends it and whatever they believe (immunity I9).

Fees are bounded twice: as a rate, above anything that a market has asked, and as a share of the money that goes in. A
mistake in a unit or a forgotten change output breaks one of the two.
"""

from __future__ import annotations

from typing import Final

from salama.bitcoin.tx import Tx

MAX_FEERATE: Final = 500_000
"""Satoshis per 1000 weight units (2,000 sat/vB)."""
MAX_SHARE_PERCENT: Final = 50
"""Of the inputs of a transaction of the wallet."""
MAX_CLAIM_SHARE_PERCENT: Final = 95
"""Of the outputs claimed from a channel: a penalty may cost most of what it takes from the cheater (B5.11)."""
MAX_PARENT_WEIGHT: Final = 170_000
"""Of a commitment transaction that a claim of its anchor pays for, too: 966 HTLCs and no more."""
SMALL_FEE: Final = 10_000
"""Satoshis below which the share does not matter: somebody sweeps small coins."""
CLOSING_WEIGHT: Final = 1_200
"""Above the weight of any closing transaction: two outputs to the longest scripts that BOLT 2 allows."""
MAX_CLOSING_FEE: Final = MAX_FEERATE * CLOSING_WEIGHT // 1000


class SigningRefused(Exception):
    """The request would endanger money, so it comes from a mistake. Nothing was signed."""


def check_fee(tx: Tx, inputs: int, weight: int, percent: int = MAX_SHARE_PERCENT) -> None:
    """``inputs``: satoshis that the inputs of ``tx`` hold together; ``weight``: of it once signed. Raises
    SigningRefused.
    """
    fee = check_share(tx, inputs, percent)
    if fee * 1000 > MAX_FEERATE * weight:
        raise SigningRefused(f"a fee of {fee} satoshis for {weight} weight units is absurd")


def check_share(tx: Tx, inputs: int, percent: int) -> int:
    """The fee of ``tx`` in satoshis, at most ``percent`` of what goes in. Raises SigningRefused."""
    fee = inputs - sum(int(output.value) for output in tx.outputs)
    if fee < 0:
        raise SigningRefused(f"{-fee} satoshis more go out than come in")
    if fee > SMALL_FEE and fee * 100 > percent * inputs:
        raise SigningRefused(f"a fee of {fee} satoshis is more than {percent} % of what goes in")
    return fee


def check_claim_fee(tx: Tx, claimed: int, added: int) -> None:
    """``claimed``, ``added``: satoshis from the channel's outputs and from the wallet's coins. Raises SigningRefused.

    A claim alone may be worth any rate, and is bounded by its share. With coins of the wallet the fee may be for a
    commitment transaction above it, and the HTLCs at stake are elsewhere: then it is bounded by that one's size.
    """
    if added:
        check_fee(tx, claimed + added, MAX_PARENT_WEIGHT, 100)
    else:
        check_share(tx, claimed, MAX_CLAIM_SHARE_PERCENT)


def check_closing_fee(fee: int) -> None:
    """A fee that two peers agree on. Raises SigningRefused."""
    if fee > MAX_CLOSING_FEE:
        raise SigningRefused(f"a closing fee of {fee} satoshis is absurd")
