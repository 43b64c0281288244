"""The walk over the chain: every transaction entered once, every output known whose it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from salama.demo.books.accounts import Audit
from salama.demo.books.chain import Chain, ChainOutput, ChainTx, Place
from salama.demo.books.closes import DUST, ForcedClose
from salama.demo.books.databases import NodeBooks
from salama.demo.books.figures import MSAT, render_msat
from salama.demo.books.flows import Flows
from salama.demo.books.kept import Manifest

MINER: Final = "miner"


@dataclass(frozen=True, slots=True)
class Funding:
    """The output of a channel that is open."""

    channel: bytes


@dataclass(frozen=True, slots=True)
class Branch:
    """An output that came of a forced close and is in no wallet yet."""

    channel: bytes


Owner = str | Funding | Branch


def channel_id_of(place: Place) -> bytes:
    """The id of a channel whose funding output is ``place``: txid in wire order, its last two bytes XOR the index."""
    txid = bytes.fromhex(place[0])[::-1]
    return txid[:30] + bytes((txid[30] ^ place[1] >> 8 & 0xFF, txid[31] ^ place[1] & 0xFF))


class Ledger:
    """Goes through the chain once and knows of every output whose it is: a node's, the miner's or a channel's."""

    def __init__(
        self, chain: Chain, nodes: Mapping[str, NodeBooks], flows: Flows, manifest: Manifest, out: Audit
    ) -> None:
        self._chain, self._nodes, self._flows, self._manifest, self._out = chain, nodes, flows, manifest, out
        self._open: dict[Place, tuple[ChainOutput, Owner]] = {}
        self._openers: dict[bytes, tuple[str, int]] = {}
        self._forced: dict[bytes, ForcedClose] = {}
        self._channels: dict[bytes, list[str]] = {}
        for node in nodes.values():
            for channel in node.channels:
                self._channels.setdefault(channel, []).append(node.name)
        self._fees = 0

    def enter(self, tx: ChainTx) -> None:
        """Take one transaction into the books."""
        if tx.is_coinbase:
            self._coinbase(tx)
            return
        self._out.chain_txs += 1
        spent = [self._open.pop(place, None) for place in tx.inputs]
        if None in spent:
            self._out.problems.append(f"transaction {tx.txid[:16]} spends what is not there")
        known = [one for one in spent if one is not None]
        fee = sum(output.sat for output, _ in known) - sum(output.sat for output in tx.outputs)
        self._fees += fee
        owners = {owner for _, owner in known}
        branches = {owner for owner in owners if isinstance(owner, Branch)}
        owner = owners.pop() if len(owners) == 1 else None
        if len(branches) == 1:
            self._claim(tx, branches.pop().channel, spent, fee)
        elif isinstance(owner, str) and owner in self._nodes:
            self._funding(tx, owner, fee)
        elif isinstance(owner, Funding):
            self._closing(tx, owner.channel, fee)
        else:
            self._out.problems.append(f"transaction {tx.txid[:16]} is nobody's: several owners")

    def _coinbase(self, tx: ChainTx) -> None:
        names = {script: name for name, script in self._manifest.scripts.items()} | {self._manifest.miner: MINER}
        for output in tx.outputs:
            name = names.get(output.script)
            if name is not None:
                self._open[output.place] = (output, name)
                if name != MINER:
                    self._out.accounts[name].mined += output.sat * MSAT
            elif output.sat:
                self._out.problems.append(f"block {tx.height} pays {output.sat:,} sat to nobody we know")

    def _funding(self, tx: ChainTx, owner: str, fee: int) -> None:
        """A node spends its own coins: into channels, and the rest back to itself."""
        self._out.accounts[owner].funding_fees += fee * MSAT
        for output in tx.outputs:
            channel = channel_id_of(output.place)
            if channel in self._channels:
                self._openers[channel] = (owner, output.sat)
                self._open[output.place] = (output, Funding(channel))
            else:
                self._open[output.place] = (output, owner)

    # --- the end of a channel -----------------------------------------------------------------------------------------

    def _wallets(self, channel: bytes) -> dict[str, str]:
        """The scripts to which a channel's money leaves it, and whose wallets they are."""
        return {script: name for name in self._channels[channel] for script in self._nodes[name].channels[channel]}

    def _balance(self, channel: bytes, name: str) -> int:
        """What is a node's in a channel by all that was paid in it, in millisatoshis."""
        opener, capacity = self._openers[channel]
        return (capacity * MSAT if name == opener else 0) + self._flows.paid.get((channel, name), 0)

    def _closing(self, tx: ChainTx, channel: bytes, fee: int) -> None:
        """A channel ends. Paying nobody but wallets is a close that both agreed to."""
        opener, capacity = self._openers[channel]
        names, scripts = self._channels[channel], self._wallets(channel)
        if any(output.script not in scripts for output in tx.outputs):
            forced = self._forced[channel] = ForcedClose.of(channel, opener, capacity, tx, names)
            for output in tx.outputs:
                self._open[output.place] = (output, Branch(channel))
                forced.left[output] = None
            return
        got = dict.fromkeys(names, 0)
        for output in tx.outputs:
            name = scripts[output.script]
            got[name] += output.sat
            self._open[output.place] = (output, name)
        paid_by = ""
        for name in names:
            account = self._out.accounts[name]
            whole, fraction = divmod(self._balance(channel, name), MSAT)
            missing = whole - got[name]
            account.rounded += fraction
            if missing == 0:
                continue
            if got[name] == 0 and 0 < whole < DUST:
                account.rounded += whole * MSAT
            elif missing > 0 and not paid_by:
                paid_by = name
                account.closing_fees += missing * MSAT
                if missing > fee:
                    self._problem_of_close(channel, name, whole, got[name], fee)
            else:
                self._problem_of_close(channel, name, whole, got[name], fee)

    def _problem_of_close(self, channel: bytes, name: str, due: int, got: int, fee: int) -> None:
        what = f"the close of channel {channel.hex()[:8]} owes {name} {due:,} sat, pays {got:,} sat"
        self._out.problems.append(f"{what}, and the miner {fee:,} sat")

    def _claim(self, tx: ChainTx, channel: bytes, spent: list[tuple[ChainOutput, Owner] | None], fee: int) -> None:
        """Somebody takes outputs of a forced close home, or one step nearer to it; its wallet may add coins."""
        forced, scripts = self._forced[channel], self._wallets(channel)
        claimers = {scripts[output.script] for output in tx.outputs if output.script in scripts}
        added = 0
        for one in spent:
            if one is None:
                continue
            output, owner = one
            if isinstance(owner, Branch):
                forced.left.pop(output, None)
            elif isinstance(owner, str):
                claimers.add(owner)
                added += output.sat
        claimer = claimers.pop() if len(claimers) == 1 else ""
        if claimer not in forced.taken:
            self._out.problems.append(f"transaction {tx.txid[:16]} takes from channel {channel.hex()[:8]} for nobody")
            return
        forced.fees[claimer] += fee
        forced.taken[claimer] -= added
        for index, output in enumerate(tx.outputs):
            source = spent[index] if index < len(spent) else None
            if output.script in scripts:
                forced.taken[claimer] += output.sat
                self._open[output.place] = (output, claimer)
            elif source is not None and isinstance(source[1], Branch):
                # The second stage of an HTLC stands beside its input.
                self._open[output.place] = (output, Branch(channel))
                forced.left[output] = None
            else:
                self._out.problems.append(f"transaction {tx.txid[:16]} pays {output.sat:,} sat to nobody we know")

    def settle(self) -> None:
        """Once every transaction is entered: what each forced close meant for both sides."""
        for channel, forced in self._forced.items():
            names = self._channels[channel]
            cheated = [name for name in names if channel in self._nodes[name].revoked]
            balances = {name: self._balance(channel, name) for name in names}
            self._out.problems += forced.settle(self._out.accounts, balances, cheated[0] if cheated else "")

    # --- the sums -----------------------------------------------------------------------------------------------------

    def check_coins(self, coins: Mapping[Place, int]) -> None:
        """Our walk over the chain against the UTXO set of the chain itself."""
        out, sums = self._out, dict.fromkeys((*self._nodes, MINER), 0)
        for place, (output, owner) in self._open.items():
            if isinstance(owner, Funding):
                out.problems.append(f"channel {owner.channel.hex()[:8]} is still open on chain with {output.sat:,} sat")
            elif coins.get(place) != output.sat:
                out.problems.append(
                    f"the UTXO set has {coins.get(place, 0):,} sat in {place[0][:16]}:{place[1]}, not {output.sat:,}"
                )
        for place, sat in coins.items():
            whose = self._open[place][1] if place in self._open else None
            if isinstance(whose, str):
                sums[whose] += sat
            elif isinstance(whose, Branch):
                out.left_sat += sat
            elif whose is None:
                out.problems.append(
                    f"the UTXO set has {sat:,} sat in {place[0][:16]}:{place[1]} that nobody accounts for"
                )
        out.miner_sat, out.supply_sat = sums.pop(MINER), self._chain.supply
        for name, sat in sums.items():
            out.accounts[name].final = sat * MSAT
            wallet = sum(received - spent for received, spent in self._nodes[name].wallet.values())
            if wallet != sat:
                out.problems.append(
                    f"{name}'s wallet has written down {wallet:,} sat, the chain has {sat:,} sat for it"
                )
        held = sum(sums.values()) + out.miner_sat + out.left_sat
        if held != self._chain.supply or self._chain.supply != self._chain.subsidies:
            out.problems.append(
                f"{self._chain.subsidies:,} sat were ever created, the UTXO set holds {self._chain.supply:,} sat,"
                f" nodes, miner and leftovers {held:,} sat"
            )
        paid = sum(account.miner for account in out.accounts.values())
        if paid != self._fees * MSAT:
            out.problems.append(f"the miner was paid {self._fees:,} sat, the nodes paid {render_msat(paid)} sat")
