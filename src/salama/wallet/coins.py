"""What the wallet owns: coins, the recent transactions they come from, and who has leased them.

Nothing is advanced that can be derived: the state keeps recent transactions with the height that confirmed each, and
coins, spends and conflicts follow from those, so a reorg is only another set of heights. A transaction is forgotten at
``FORGET_DEPTH``; of its outputs those still unspent stay as settled coins.

The tip is not part of the state, or else every block would change it: whoever asks about maturity says the height.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from salama.base.ids import OutPoint, Txid
from salama.base.units import BlockHeight, Sat
from salama.bitcoin.tx import Tx, TxOut
from salama.wallet.keys import BRANCHES, Accounts, KeyPath, Kind, script_for

GAP_LIMIT: Final = 20
"""Scripts watched beyond the last one issued or used (BIP 44)."""
COINBASE_MATURITY: Final = 100
FORGET_DEPTH: Final = 100
"""Confirmations after which no reorg is expected to bring a transaction back."""


@dataclass(frozen=True, slots=True)
class Coin:
    """An output that pays us. ``height`` is None while unconfirmed."""

    outpoint: OutPoint
    value: Sat
    script: bytes
    key: KeyPath
    height: BlockHeight | None = None
    coinbase: bool = False

    @property
    def output(self) -> TxOut:
        return TxOut(self.value, self.script)

    def is_mature(self, height: BlockHeight) -> bool:
        """Whether the block after ``height`` may spend it."""
        return not self.coinbase or (self.height is not None and int(height) + 1 - self.height >= COINBASE_MATURITY)


@dataclass(frozen=True, slots=True)
class WalletTx:
    """What matters to us of a transaction that pays us or spends from us."""

    txid: Txid
    spends: tuple[OutPoint, ...]
    """Every input, ours or not: they tell a conflict. Empty for a coinbase, since all of those name the same one."""
    coins: tuple[Coin, ...]
    """The outputs that pay us, with ``height``."""
    height: BlockHeight | None
    tx: Tx | None
    """The whole transaction if every input was ours, so that we can broadcast it again; nobody else can replace it."""

    @property
    def ours(self) -> bool:
        return self.tx is not None

    @property
    def is_coinbase(self) -> bool:
        return not self.spends

    def at(self, height: BlockHeight | None) -> WalletTx:
        """The same transaction confirmed at another height, or not at all."""
        coins = tuple(replace(coin, height=height) for coin in self.coins)
        return WalletTx(self.txid, self.spends, coins, height, self.tx)


class Branch(NamedTuple):
    """One chain of keys: the next index to issue, and how many scripts are watched."""

    next_index: int
    watched: int


@dataclass(frozen=True, slots=True)
class Balance:
    """Each unspent coin is counted once, in the first of reserved (leased or frozen), immature, unconfirmed and
    confirmed that fits.
    """

    confirmed: Sat
    unconfirmed: Sat
    immature: Sat
    reserved: Sat

    @property
    def total(self) -> Sat:
        return self.confirmed + self.unconfirmed + self.immature + self.reserved


@dataclass(frozen=True, slots=True)
class WalletState:
    """The whole wallet. Mappings are never changed in place; make one with ``new_wallet`` or ``evolve``."""

    accounts: Accounts
    branches: Mapping[tuple[Kind, int], Branch]
    recent: Mapping[Txid, WalletTx]
    settled: Mapping[OutPoint, Coin]
    leases: Mapping[OutPoint, str]
    """Purpose for which a coin is set aside."""
    scripts: Mapping[bytes, KeyPath] = field(compare=False, repr=False)
    """Watched scripts: derived from ``accounts`` and ``branches``."""
    coins: Mapping[OutPoint, Coin] = field(compare=False, repr=False)
    """All outputs of ours, also spent ones not yet forgotten: derived from ``recent`` and ``settled``."""
    spenders: Mapping[OutPoint, Txid] = field(compare=False, repr=False)
    """What each input of a recent transaction is spent by, ours or not: derived from ``recent``."""
    expiries: Mapping[str, BlockHeight] = field(default_factory=dict)
    """Height at which the leases of a purpose end by themselves; those that are not named stay until released."""
    frozen: frozenset[OutPoint] = frozenset()
    """Coins that the user wants left alone."""
    labels: Mapping[OutPoint, str] = field(default_factory=dict)
    """What the user calls a coin."""

    def is_free(self, outpoint: OutPoint) -> bool:
        """Whether nobody and nothing holds the coin: it is unspent, not leased and not frozen."""
        return outpoint not in self.spenders and outpoint not in self.leases and outpoint not in self.frozen

    def unspent(self) -> Iterator[Coin]:
        """Coins that no known transaction spends, leased or not."""
        return (coin for coin in self.coins.values() if coin.outpoint not in self.spenders)

    def spendable(self, height: BlockHeight, *, min_depth: int = 1, own_change: bool = False) -> tuple[Coin, ...]:
        """Coins free for a new transaction when the tip is at ``height``, in a stable order.

        ``min_depth``: confirmations asked for. ``own_change``: also outputs of unconfirmed transactions of our own.
        """
        trusted = self.trusted() if own_change else frozenset()
        return tuple(
            coin
            for coin in sorted(self.unspent(), key=lambda one: one.outpoint)
            if self.is_free(coin.outpoint)
            and coin.is_mature(height)
            and (
                int(height) + 1 - coin.height >= min_depth if coin.height is not None else coin.outpoint.txid in trusted
            )
        )

    def balance(self, height: BlockHeight) -> Balance:
        """What we own when the tip is at ``height``."""
        confirmed = unconfirmed = immature = reserved = 0
        for coin in self.unspent():
            if not self.is_free(coin.outpoint):
                reserved += coin.value
            elif not coin.is_mature(height):
                immature += coin.value
            elif coin.height is None:
                unconfirmed += coin.value
            else:
                confirmed += coin.value
        return Balance(Sat(confirmed), Sat(unconfirmed), Sat(immature), Sat(reserved))

    def leased_to(self, purpose: str) -> tuple[OutPoint, ...]:
        """Coins set aside for ``purpose``."""
        return tuple(sorted(outpoint for outpoint, reason in self.leases.items() if reason == purpose))

    def unconfirmed(self) -> tuple[WalletTx, ...]:
        """Transactions that wait for a block, parents first: what to broadcast again, and in which order."""
        waiting = {txid: one for txid, one in self.recent.items() if one.height is None}
        ordered: dict[Txid, WalletTx] = {}
        for start in sorted(waiting):
            stack = [start]
            while stack:
                one = waiting[stack[-1]]
                missing = [o.txid for o in one.spends if o.txid in waiting and o.txid not in ordered]
                if missing:
                    stack.extend(missing)
                else:
                    ordered.setdefault(stack.pop(), one)
        return tuple(ordered.values())

    def trusted(self) -> frozenset[Txid]:
        """Unconfirmed transactions made of nothing but our own confirmed coins, through any number of our own steps."""
        safe: set[Txid] = set()
        for one in self.unconfirmed():
            if all(
                o.txid in safe or ((coin := self.coins.get(o)) is not None and coin.height is not None)
                for o in one.spends
            ):
                safe.add(one.txid)
        return frozenset(safe)


def new_wallet(accounts: Accounts) -> WalletState:
    """An empty wallet that watches the first scripts of every chain."""
    return assemble(accounts, {branch: Branch(0, GAP_LIMIT) for branch in BRANCHES}, {}, {}, {})


def assemble(
    accounts: Accounts,
    branches: Mapping[tuple[Kind, int], Branch],
    recent: Mapping[Txid, WalletTx],
    settled: Mapping[OutPoint, Coin],
    leases: Mapping[OutPoint, str],
    scripts: Mapping[bytes, KeyPath] | None = None,
    *,
    expiries: Mapping[str, BlockHeight] | None = None,
    frozen: frozenset[OutPoint] = frozenset(),
    labels: Mapping[OutPoint, str] | None = None,
) -> WalletState:
    """A state from its facts. ``scripts`` saves deriving them when the branches are unchanged."""
    if scripts is None:
        scripts = dict(watched_scripts(accounts, {branch: (0, b.watched) for branch, b in branches.items()}))
    coins = dict(settled)
    spenders: dict[OutPoint, Txid] = {}
    for one in recent.values():
        coins.update({coin.outpoint: coin for coin in one.coins})
        spenders.update(dict.fromkeys(one.spends, one.txid))
    return WalletState(
        accounts, branches, recent, settled, leases, scripts, coins, spenders, expiries or {}, frozen, labels or {}
    )


def coins_of(tx: Tx, height: BlockHeight | None, scripts: Mapping[bytes, KeyPath]) -> tuple[Coin, ...]:
    """The outputs of ``tx`` that pay us."""
    return tuple(
        Coin(OutPoint(tx.txid, vout), output.value, output.script, scripts[output.script], height, tx.is_coinbase)
        for vout, output in enumerate(tx.outputs)
        if output.script in scripts
    )


def watched_scripts(
    accounts: Accounts, ranges: Mapping[tuple[Kind, int], tuple[int, int]]
) -> Iterator[tuple[bytes, KeyPath]]:
    """Scripts with their keys for each branch and its half-open range of indexes."""
    for (kind, chain), (start, end) in ranges.items():
        if start < end:
            parent = accounts.branch(kind, chain)
            for index in range(start, end):
                yield script_for(kind, parent.child(index).point), KeyPath(kind, chain, index)
