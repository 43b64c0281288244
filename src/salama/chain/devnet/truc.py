"""Version 3 transactions and ephemeral dust: the policies that zero-fee commitments stand on (BIP 431).

A version 3 transaction is small, has at most one unconfirmed parent or child, and a late child may replace its sibling.
A transaction without any fee may carry one output of dust if a child in the same package spends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from salama.base.ids import OutPoint, Txid
from salama.chain.devnet.policy import Rejected, dust_outputs

if TYPE_CHECKING:
    from salama.chain.devnet.mempool import Entry, Mempool

TRUC_VERSION: Final = 3
UNSPENT_DUST: Final = "missing-ephemeral-spends"
TRUC_MAX_VSIZE: Final = 10_000
TRUC_CHILD_MAX_VSIZE: Final = 1_000


def check_topology(pool: Mempool, entry: Entry, ancestors: set[Txid], evicted: set[Txid]) -> Txid | None:
    """Version 3 rules; returns the sibling that this child would have to replace, if that is its only way in."""
    tx = entry.tx
    parents = pool.parents(tx)
    if tx.version != TRUC_VERSION:
        if any(pool.entries[txid].tx.version == TRUC_VERSION for txid in parents):
            raise Rejected("TRUC-violation", f"non-version=3 tx {tx.txid} cannot spend from version=3 tx")
        return None
    if entry.vsize > TRUC_MAX_VSIZE:
        raise Rejected("TRUC-violation", f"version=3 tx {tx.txid} is too big: {entry.vsize} > {TRUC_MAX_VSIZE} vB")
    if not parents:
        return None
    if any(pool.entries[txid].tx.version != TRUC_VERSION for txid in parents):
        raise Rejected("TRUC-violation", f"version=3 tx {tx.txid} cannot spend from non-version=3 tx")
    if len(ancestors) > 1:
        raise Rejected("TRUC-violation", f"tx {tx.txid} would have too many ancestors")
    if entry.vsize > TRUC_CHILD_MAX_VSIZE:
        raise Rejected("TRUC-violation", f"version=3 child tx {tx.txid} is too big: {entry.vsize} vB")
    (parent,) = parents
    siblings = pool.descendants(parent) - evicted
    if not siblings:
        return None
    sibling = next(iter(siblings))
    # Core replaces a sibling only when it is alone: two generations, two transactions.
    if len(siblings) > 1 or pool.descendants(sibling):
        raise Rejected("TRUC-violation", f"tx {parent} would exceed descendant count limit")
    return sibling


def check_ephemeral_dust(pool: Mempool, entry: Entry, ancestors: set[Txid], together: bool) -> None:
    """Dust is refused, but for one output of a transaction that pays nothing and whose child comes with it.

    Also: whoever spends from a parent with dust spends the dust.
    """
    dust = dust_outputs(entry.tx)
    if len(dust) > 1 or (dust and entry.fee > 0):
        raise Rejected("dust", "tx with dust output must be 0-fee" if len(dust) == 1 else "")
    if dust and not together:
        raise Rejected("dust", "must be spent by a child in the same package")
    spent = {one.outpoint for one in entry.tx.inputs}
    for parent in pool.parents(entry.tx) & ancestors:
        for vout in dust_outputs(pool.entries[parent].tx):
            if OutPoint(parent, vout) not in spent:
                raise Rejected(UNSPENT_DUST, f"tx {entry.tx.txid} did not spend parent's ephemeral dust")


def check_dust_swept(pool: Mempool, package: Sequence[Entry]) -> None:
    """At the end of a package no dust may be left unspent."""
    for entry in package:
        for vout in dust_outputs(entry.tx):
            if OutPoint(entry.tx.txid, vout) not in pool.spends:
                raise Rejected(UNSPENT_DUST, f"dust of {entry.tx.txid} is not spent by the package")
