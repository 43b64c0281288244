"""The wallet's actor: answers commands, follows blocks, signs what it funded (BIP 84, BIP 86)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from salama.base.ids import OutPoint, Txid
from salama.base.machine import CommandRefused, Effect, Event, Row, Transition
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.bitcoin.networks import Network
from salama.bitcoin.psbt import Psbt
from salama.bitcoin.tx import Tx, TxOut
from salama.node.actor import Actor
from salama.node.outside import Outside
from salama.signer.policy import SigningRefused
from salama.signer.wallet import WalletKeys
from salama.storage.journal import Journal
from salama.storage.writes import AnyWrite, PutWallet
from salama.wallet.coins import Balance, Coin, WalletState
from salama.wallet.descriptors import Descriptor, export
from salama.wallet.events import (
    AddressIssued,
    BumpFee,
    Freeze,
    FundTransaction,
    LabelCoin,
    Lease,
    NewAddress,
    Release,
    TransactionFunded,
    TxDropped,
    TxSeen,
    WalletEnv,
)
from salama.wallet.funding import Funded
from salama.wallet.keys import Kind
from salama.wallet.step import step


@dataclass(frozen=True, slots=True)
class Asked(Event):
    """A command whose caller waits for its answer."""

    command: Event
    answer: asyncio.Future[Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answered(Effect):
    """Give the caller its answer, after the commit."""

    answer: asyncio.Future[Any] = field(repr=False)
    value: Effect | CommandRefused | None


class WalletActor(Actor[WalletState]):
    """Coins, addresses and leases of this node."""

    def __init__(
        self,
        state: WalletState,
        journal: Journal,
        keys: WalletKeys,
        height: Callable[[], BlockHeight],
        outside: Outside | None = None,
    ) -> None:
        super().__init__("wallet", state, journal)
        self._keys, self._height, self._outside = keys, height, outside or Outside()
        self._promised: dict[object, int] = {}
        """Satoshis by who asked."""

    # --- commands -----------------------------------------------------------------------------------------------------

    async def _ask(self, command: Event) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.tell(Asked(command, answer))
        return await answer

    async def new_script(self, kind: Kind = "wpkh") -> bytes:
        """A fresh script of ours."""
        issued: AddressIssued = await self._ask(NewAddress(kind))
        return issued.script

    async def draft(
        self,
        outputs: tuple[TxOut, ...],
        feerate: FeeratePerKw,
        purpose: str,
        *,
        everything: bool = False,
        only: tuple[OutPoint, ...] = (),
        until: BlockHeight | None = None,
    ) -> Funded:
        """An unsigned transaction paying ``outputs``, its coins leased to ``purpose``. Raises CommandRefused.

        ``everything``: all that is spendable goes to the script of the only output. ``only``: from these coins.
        ``until``: height at which the lease ends by itself.
        """
        command = FundTransaction(
            outputs, feerate, purpose, everything=everything, own_change=True, only=only, until=until
        )
        made: TransactionFunded = await self._ask(command)
        return made.funded

    async def bump(
        self,
        txid: Txid,
        feerate: FeeratePerKw,
        purpose: str,
        how: Literal["auto", "rbf", "cpfp"],
        subtract: bool,
        until: BlockHeight,
        *,
        funds_channel: bool = False,
    ) -> tuple[Tx, TransactionFunded]:
        """A signed transaction that makes ``txid`` confirm sooner, its coins leased. Raises CommandRefused."""
        made: TransactionFunded = await self._ask(BumpFee(txid, feerate, purpose, how, subtract, until, funds_channel))
        return self.sign(made.funded, purpose), made

    def sign(self, funded: Funded, purpose: str) -> Tx:
        """The transaction with every input signed; if the signer refuses, its coins are free again. Raises
        CommandRefused.
        """
        try:
            return self._keys.sign(funded)
        except SigningRefused as refused:
            self.release(purpose)
            raise CommandRefused("signer_refused", f"The signer refuses: {refused}.") from None

    @property
    def fingerprint(self) -> bytes:
        """Of the master key."""
        return self._keys.fingerprint

    def sign_psbt(self, psbt: Psbt, mine: dict[int, Coin]) -> Psbt:
        """The PSBT with our signatures. Raises CommandRefused."""
        try:
            return self._keys.sign_psbt(psbt, mine)
        except SigningRefused as refused:
            raise CommandRefused("signer_refused", f"The signer refuses: {refused}.") from None

    def descriptors(self, network: Network, *, private: bool) -> tuple[Descriptor, ...]:
        """The four chains of keys; ``private`` ones may spend."""
        secrets = self._keys.account_secrets() if private else None
        return export(self.state, self._keys.fingerprint, network, secrets)

    async def record(self, tx: Tx) -> None:
        """Write down a transaction that is about to be published; returns when it is on disk."""
        await self._ask(TxSeen(tx))

    async def freeze(self, outpoints: tuple[OutPoint, ...], frozen: bool) -> None:
        """Leave coins alone from now on, or no longer. Raises CommandRefused."""
        await self._ask(Freeze(outpoints, frozen))

    async def label(self, outpoint: OutPoint, text: str) -> None:
        """Give a coin a name, an empty one to take it away. Raises CommandRefused."""
        await self._ask(LabelCoin(outpoint, text))

    async def lease(self, outpoints: tuple[OutPoint, ...], purpose: str, until: BlockHeight | None = None) -> None:
        """Set coins aside, until a height if one is given. Raises CommandRefused."""
        await self._ask(Lease(outpoints, purpose, until))

    def spendable(self) -> int:
        """Satoshis that fees could be paid with, our own unconfirmed change included; less what is promised."""
        coins = sum(int(coin.value) for coin in self.state.spendable(self._height(), own_change=True))
        return max(0, coins - sum(self._promised.values()))

    def promise(self, amount: Sat) -> Callable[[], object]:
        """Count ``amount`` as spent, whose coins are not chosen yet, until what is returned is called: as soon as they
        are leased, or not needed. Twice does no harm."""
        key = object()
        self._promised[key] = int(amount)
        return partial(self._promised.pop, key, None)

    def release(self, purpose: str) -> None:
        self.tell(Release(purpose))

    def seen(self, tx: Tx) -> None:
        """A transaction is on its way to the chain."""
        self.tell(TxSeen(tx))

    def dropped(self, tx: Tx) -> None:
        self.tell(TxDropped(tx.txid))

    def balance(self) -> Balance:
        return self.state.balance(self._height())

    # --- the actor ----------------------------------------------------------------------------------------------------

    def turn(self, state: WalletState, events: Sequence[Event]) -> Transition[WalletState]:
        effects: list[Effect] = []
        rows: list[Row] = []
        env = WalletEnv(self._height(), self._outside.entropy(32))
        for event in events:
            asked = event if isinstance(event, Asked) else None
            try:
                done = step(state, asked.command if asked else event, env)
            except CommandRefused as refused:
                if asked is None:
                    raise
                effects.append(Answered(asked.answer, refused))
                continue
            state = done.state
            rows += done.rows
            if asked:
                effects.append(Answered(asked.answer, done.effects[0] if done.effects else None))
        return Transition(state, tuple(effects), tuple(rows))

    def writes(self, old: WalletState, done: Transition[WalletState]) -> list[AnyWrite]:
        changed: list[AnyWrite] = [PutWallet(done.state)] if done.state is not old else []
        return [*changed, *done.rows]

    def perform(self, effect: Effect) -> None:
        assert isinstance(effect, Answered)
        if effect.answer.done():
            return
        if isinstance(effect.value, CommandRefused):
            effect.answer.set_exception(effect.value)
        else:
            effect.answer.set_result(effect.value)
