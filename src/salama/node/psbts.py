"""PSBTs between our wallet and others: made for an offline signer, signed where they are right, finished, published.

Coins of ours in a PSBT are set aside while it is out, and free again after a while. What a PSBT wants signed may only
spend coins that are free or were set aside for a PSBT: never those of a channel's funding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from salama.base.ids import OutPoint, Txid
from salama.base.machine import CommandRefused
from salama.base.units import BlockHeight, FeeratePerKw, Sat
from salama.bitcoin.networks import Network
from salama.bitcoin.psbt import Psbt
from salama.bitcoin.tx import Tx, TxOut
from salama.chain.backend import BackendError, BackendUnavailable, ChainBackend
from salama.node.joint_funding import JointFunding
from salama.node.outside import Outside
from salama.node.spending import Spending
from salama.node.wallet import WalletActor
from salama.wallet.coins import Coin
from salama.wallet.psbts import all_spent, described, finalised, ours

PURPOSE = "psbt "


@dataclass(frozen=True, slots=True)
class Signed:
    """A PSBT after we signed: what of it is ours, in satoshis."""

    psbt: Psbt
    inputs: int
    """Inputs that we signed."""
    spends: Sat
    receives: Sat


class Psbts:
    """The desk at which PSBTs are handed over."""

    def __init__(
        self,
        wallet: WalletActor,
        backend: ChainBackend,
        spending: Spending,
        joint: JointFunding,
        network: Network,
        outside: Outside,
    ) -> None:
        self._wallet, self._backend, self._spending, self._joint = wallet, backend, spending, joint
        self._network, self._outside = network, outside

    async def fund(
        self,
        outputs: tuple[TxOut, ...],
        feerate: FeeratePerKw,
        until: BlockHeight,
        *,
        everything: bool,
        coins: tuple[OutPoint, ...] = (),
    ) -> tuple[Psbt, Sat]:
        """An unsigned PSBT from our coins, set aside until a height, and its fee. Raises CommandRefused."""
        purpose = f"{PURPOSE}{self._outside.entropy(8).hex()}"
        funded = await self._wallet.draft(outputs, feerate, purpose, everything=everything, only=coins, until=until)
        previous = await self._previous(funded.coins)
        psbt = described(Psbt.of(funded.tx), self._wallet.state, self._wallet.fingerprint, self._network, previous)
        return psbt, funded.fee

    async def _previous(self, coins: Iterable[Coin]) -> dict[Txid, Tx]:
        """The whole transactions behind coins that are not taproot, as far as the back-end still has them: hardware
        wallets compare amounts with them."""
        found: dict[Txid, Tx] = {}
        for coin in coins:
            if coin.key.kind == "tr" or coin.outpoint.txid in found:
                continue
            known = self._wallet.state.recent.get(coin.outpoint.txid)
            if known is not None and known.tx is not None:
                found[known.txid] = known.tx
                continue
            try:
                if coin.height is None:
                    tx = await self._backend.transaction(coin.outpoint.txid)
                    block: tuple[Tx, ...] = (tx,) if tx is not None else ()
                else:
                    name = await self._backend.block_hash(int(coin.height))
                    block = (await self._backend.block(name)).txs if name is not None else ()
            except (BackendError, BackendUnavailable):
                continue  # pruned, or away: the amounts in the PSBT must do
            found.update({tx.txid: tx for tx in block if tx.txid == coin.outpoint.txid})
        return found

    async def sign(self, psbt: Psbt, until: BlockHeight) -> Signed:
        """Sign what is ours, and set those coins aside until a height. Raises CommandRefused."""
        state = self._wallet.state
        mine = ours(psbt, state)
        if not mine:
            raise CommandRefused("nothing_to_sign", "No input of this PSBT spends a coin of ours.")
        for coin in mine.values():
            holder = state.leases.get(coin.outpoint, PURPOSE)
            if not holder.startswith(PURPOSE):
                raise CommandRefused("coin_leased", f"{coin.outpoint} is set aside for {holder}.", "Use another coin.")
            if coin.outpoint in state.frozen:
                raise CommandRefused("coin_frozen", f"{coin.outpoint} is frozen.", "Unfreeze it first.")
        all_spent(psbt, mine)
        free = tuple(coin.outpoint for coin in mine.values() if coin.outpoint not in state.leases)
        if free:
            await self._wallet.lease(free, f"{PURPOSE}{str(psbt.tx.txid)[:16]}", until)
        full = described(psbt, state, self._wallet.fingerprint, self._network)
        done = self._wallet.sign_psbt(full, mine)
        received = sum(int(output.value) for output in psbt.tx.outputs if output.script in state.scripts)
        return Signed(done, len(mine), Sat.total(coin.value for coin in mine.values()), Sat(received))

    async def publish(self, psbt: Psbt) -> Tx:
        """Finish, write down, publish. Raises CommandRefused and MalformedPsbt."""
        tx = finalised(psbt).extract()
        self._joint.check_all_signed(tx)
        if waiting := self._joint.held_for(tx.txid):
            # On record with its channels before it is out: none of them may be given up any more.
            return await self._joint.finish(waiting[0], psbt)
        held = {self._wallet.state.leases.get(one.outpoint, "") for one in tx.inputs}
        purposes = sorted(one for one in held if one.startswith(PURPOSE))
        await self._spending.publish(tx, purposes[0] if purposes else PURPOSE)
        for purpose in purposes[1:]:
            self._wallet.release(purpose)
        return tx

    def release(self, psbt: Psbt) -> int:
        """Free the coins that were set aside for a PSBT; how many."""
        leases = self._wallet.state.leases
        held = [leases[one.outpoint] for one in psbt.tx.inputs if one.outpoint in leases]
        purposes = {one for one in held if one.startswith(PURPOSE)}
        for purpose in purposes:
            self._wallet.release(purpose)
        return sum(one in purposes for one in held)
