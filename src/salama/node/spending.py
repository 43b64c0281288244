"""What the user spends on chain: built by the wallet, written down, then shown to the network; never the other way.

A transaction is on disk before the back-end hears of it, so that a crash in between can only mean that it is published
again at the next start, from the same record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from salama.base.ids import OutPoint, Txid
from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.bitcoin.tx import Tx, TxOut
from salama.chain.backend import BackendError, BackendUnavailable, ChainBackend
from salama.node.chain import Broadcaster
from salama.node.outside import Outside
from salama.node.wallet import WalletActor
from salama.storage.writes import ExplainTransaction

LEASE_BLOCKS: Final = 6
"""How long coins stay aside for a transaction that a crash kept from being written down."""


@dataclass(frozen=True, slots=True)
class Spent:
    """A transaction that the network has taken, its fee, and what it replaces."""

    tx: Tx
    fee: Sat
    replaces: Txid | None = None


class Spending:
    """Withdrawals and raised fees."""

    def __init__(
        self,
        wallet: WalletActor,
        backend: ChainBackend,
        broadcaster: Broadcaster,
        feerate: Callable[[], FeeratePerKw],
        height: Callable[[], BlockHeight],
        outside: Outside,
        reserve: Callable[[], Sat] = lambda: Sat(0),
        funds_channel: Callable[[Txid], bool] = lambda txid: False,
    ) -> None:
        self._wallet, self._backend, self._broadcaster = wallet, backend, broadcaster
        self._feerate, self._height, self._outside = feerate, height, outside
        self._reserve, self._funds_channel = reserve, funds_channel
        self._withdrawing = asyncio.Lock()
        """One after another, or two that begin together would count on the same coins for the reserve."""

    async def withdraw(
        self, script: bytes, amount: Sat | None, feerate: FeeratePerKw | None, coins: tuple[OutPoint, ...] = ()
    ) -> Spent:
        """Pay ``amount`` (None: everything) to ``script``, from ``coins`` alone if any are named.

        Raises CommandRefused, also if the network refuses the transaction; then the coins are free again.
        """
        async with self._withdrawing:
            return await self._withdraw(script, amount, feerate, coins)

    async def _withdraw(
        self, script: bytes, amount: Sat | None, feerate: FeeratePerKw | None, coins: tuple[OutPoint, ...]
    ) -> Spent:
        available = self._wallet.spendable()
        self._check_reserve(amount, available)
        output = TxOut(amount if amount is not None else Sat(0), script)
        purpose = self._purpose("withdraw")
        leased = self._wallet.promise(Sat(available) if amount is None else amount)
        try:
            funded = await self._wallet.draft(
                (output,),
                feerate or self._feerate(),
                purpose,
                everything=amount is None,
                only=coins,
                until=self._until(),
            )
        finally:
            leased()
        try:
            self._check_reserve(amount, available - int(funded.fee))
        except CommandRefused:
            self._wallet.release(purpose)
            raise
        tx = self._wallet.sign(funded, purpose)
        await self.publish(tx, purpose)
        return Spent(tx, funded.fee)

    def _check_reserve(self, amount: Sat | None, available: int) -> None:
        """Of ``available`` satoshis what channels need for fees stays (immunity C20). Raises CommandRefused."""
        reserve = int(self._reserve())
        if reserve and (amount is None or available - int(amount) < reserve):
            raise CommandRefused(
                "reserve_missing",
                f"{reserve:,} sat must stay for the fees of closing every channel by force.",
                f"Withdraw {max(0, available - reserve):,} sat at most, or close channels first.",
            )

    async def bump(
        self, txid: Txid, feerate: FeeratePerKw, how: Literal["auto", "rbf", "cpfp"] = "auto", subtract: bool = False
    ) -> Spent:
        """Make a transaction of ours confirm sooner. Raises CommandRefused; then the first one stands as it was."""
        purpose = self._purpose("bumpfee")
        old = self._wallet.state.recent.get(txid)
        tx, made = await self._wallet.bump(
            txid, feerate, purpose, how, subtract, self._until(), funds_channel=self._funds_channel(txid)
        )
        if made.replaces is None:
            await self._wallet.journal.commit([ExplainTransaction(tx.txid, "bump")])
        replaced = old.tx if old is not None and made.replaces is not None else None
        await self.publish(tx, purpose, replaced)
        return Spent(tx, made.funded.fee, made.replaces)

    async def publish(self, tx: Tx, purpose: str, replaced: Tx | None = None) -> None:
        """Write a transaction down, show it to the network, and free its lease. Raises CommandRefused."""
        await self._wallet.record(tx)
        try:
            result = await self._backend.broadcast(tx)
        except (BackendUnavailable, BackendError) as error:
            # It may have arrived all the same: it stays on record and is tried again.
            self._broadcaster.publish(tx, "wallet transaction")
            raise CommandRefused(
                "not_published", f"The chain back-end did not answer: {error}.", "The node keeps trying to publish it."
            ) from None
        if not result.accepted:
            self._wallet.dropped(tx)
            self._wallet.release(purpose)
            if replaced is not None:
                await self._wallet.record(replaced)
            raise CommandRefused(
                "refused_by_network",
                f"The network refused the transaction: {result.reason}.",
                "Offer a higher fee rate." if "fee" in result.reason else "Its coins are free again.",
            )
        self._wallet.release(purpose)
        if replaced is not None:
            self._broadcaster.forget(replaced.txid)
        self._broadcaster.publish(tx, "wallet transaction")

    def _purpose(self, what: str) -> str:
        return f"{what} {self._outside.entropy(8).hex()}"

    def _until(self) -> BlockHeight:
        return BlockHeight(int(self._height()) + LEASE_BLOCKS)
