"""The audit: where every satoshi began, what moved it, and whether the chain agrees at the end.

Amounts are millisatoshis unless a name says otherwise; the chain knows whole satoshis only, so what a channel cannot
pay out at its close goes to the miner and is shown as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from salama.demo.books.chain import Chain, ChainOutput, ChainTx, Place
from salama.demo.books.databases import NodeBooks
from salama.demo.books.figures import MSAT, render_msat
from salama.demo.books.flows import Flows
from salama.demo.books.kept import Manifest

MINER: Final = "miner"
DUST: Final = 1000
"""Satoshis: outputs this small may be left out of a closing transaction."""


@dataclass(slots=True)
class Account:
    """One node's statement. ``mined`` and ``final`` come from the chain, the rest from chain and databases."""

    mined: int = 0
    funding_fees: int = 0
    closing_fees: int = 0
    received: int = 0
    sent: int = 0
    routing_paid: int = 0
    routing_earned: int = 0
    rounded: int = 0
    """Fractions of a satoshi, and dust, that a closing transaction could not pay out."""
    final: int = 0
    """What the UTXO set holds for the node."""

    @property
    def expected(self) -> int:
        """What the node should own on chain after all this."""
        costs = self.funding_fees + self.closing_fees + self.sent + self.routing_paid + self.rounded
        return self.mined + self.received + self.routing_earned - costs


@dataclass(frozen=True, slots=True)
class Closing:
    """A channel that was closed: what each side got, in satoshis, and who paid the miner."""

    channel: bytes
    paid_by: str
    fee_sat: int


@dataclass(slots=True)
class Audit:
    """The result. The books balance if ``problems`` is empty."""

    accounts: dict[str, Account]
    chain_txs: int = 0
    """Transactions that are not a miner's reward."""
    payments: int = 0
    failed_payments: int = 0
    miner_sat: int = 0
    """What the UTXO set holds for the miner."""
    supply_sat: int = 0
    closings: list[Closing] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def audit(
    chain: Chain, coins: Mapping[Place, int], nodes: Mapping[str, NodeBooks], flows: Flows, manifest: Manifest
) -> Audit:
    """Check everything. ``coins``: the UTXO set for the scripts of ``scripts_of``."""
    found = Audit({name: Account() for name in nodes}, problems=list(flows.problems))
    ledger = _Ledger(chain, nodes, flows, manifest, found)
    for tx in chain.txs:
        ledger.enter(tx)
    ledger.check_coins(coins)
    _add_payments(found, nodes)
    for name, account in found.accounts.items():
        if account.expected != account.final:
            due, owned = render_msat(account.expected), render_msat(account.final)
            found.problems.append(f"{name} should own {due} sat and owns {owned} sat")
    paid = sum(a.routing_paid for a in found.accounts.values())
    earned = sum(a.routing_earned for a in found.accounts.values())
    if paid != earned:
        found.problems.append(f"routing fees: {paid:,} msat paid, {earned:,} msat earned")
    return found


def channel_id_of(place: Place) -> bytes:
    """The id of a channel whose funding output is ``place``: txid in wire order, its last two bytes XOR the index."""
    txid = bytes.fromhex(place[0])[::-1]
    return txid[:30] + bytes((txid[30] ^ place[1] >> 8 & 0xFF, txid[31] ^ place[1] & 0xFF))


class _Ledger:
    """Goes through the chain once and knows of every output whose it is: a node's, the miner's or a channel's."""

    def __init__(
        self, chain: Chain, nodes: Mapping[str, NodeBooks], flows: Flows, manifest: Manifest, out: Audit
    ) -> None:
        self._chain, self._nodes, self._flows, self._manifest, self._out = chain, nodes, flows, manifest, out
        self._open: dict[Place, tuple[ChainOutput, str | bytes]] = {}
        self._openers: dict[bytes, tuple[str, int]] = {}
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
        owner = owners.pop() if len(owners) == 1 else None
        if isinstance(owner, str) and owner in self._nodes:
            self._funding(tx, owner, fee)
        elif isinstance(owner, bytes):
            self._closing(tx, owner, fee)
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
                self._open[output.place] = (output, channel)
            else:
                self._open[output.place] = (output, owner)

    def _closing(self, tx: ChainTx, channel: bytes, fee: int) -> None:
        """A channel ends: each side gets what its HTLCs say, in whole satoshis, and one of them pays the miner."""
        opener, capacity = self._openers[channel]
        names = self._channels[channel]
        got = dict.fromkeys(names, 0)
        scripts = {self._nodes[name].channels[channel]: name for name in names}
        for output in tx.outputs:
            name = scripts.get(output.script)
            if name is None:
                self._out.problems.append(
                    f"the close of channel {channel.hex()[:8]} pays {output.sat:,} sat to nobody we know"
                )
                continue
            got[name] += output.sat
            self._open[output.place] = (output, name)
        paid_by = ""
        for name in names:
            account = self._out.accounts[name]
            balance = (capacity * MSAT if name == opener else 0) + self._flows.paid.get((channel, name), 0)
            whole, fraction = divmod(balance, MSAT)
            missing = whole - got[name]
            account.rounded += fraction
            if missing == 0:
                continue
            if got[name] == 0 and 0 < whole < DUST:
                account.rounded += whole * MSAT
            elif missing > 0 and not paid_by:
                paid_by = name
                account.closing_fees += missing * MSAT
                self._out.closings.append(Closing(channel, name, missing))
                if missing > fee:
                    self._problem_of_close(channel, name, whole, got[name], fee)
            else:
                self._problem_of_close(channel, name, whole, got[name], fee)
        if not paid_by:
            self._out.closings.append(Closing(channel, "", 0))

    def _problem_of_close(self, channel: bytes, name: str, due: int, got: int, fee: int) -> None:
        what = f"the close of channel {channel.hex()[:8]} owes {name} {due:,} sat, pays {got:,} sat"
        self._out.problems.append(f"{what}, and the miner {fee:,} sat")

    def check_coins(self, coins: Mapping[Place, int]) -> None:
        """Our walk over the chain against the UTXO set of the chain itself."""
        out, sums = self._out, dict.fromkeys((*self._nodes, MINER), 0)
        for place, (output, owner) in self._open.items():
            if isinstance(owner, bytes):
                out.problems.append(f"channel {owner.hex()[:8]} is still open on chain with {output.sat:,} sat")
            elif coins.get(place) != output.sat:
                out.problems.append(
                    f"the UTXO set has {coins.get(place, 0):,} sat in {place[0][:16]}:{place[1]}, not {output.sat:,}"
                )
        for place, sat in coins.items():
            if place not in self._open:
                out.problems.append(
                    f"the UTXO set has {sat:,} sat in {place[0][:16]}:{place[1]} that nobody accounts for"
                )
            elif isinstance(name := self._open[place][1], str):
                sums[name] += sat
        out.miner_sat, out.supply_sat = sums.pop(MINER), self._chain.supply
        for name, sat in sums.items():
            out.accounts[name].final = sat * MSAT
            wallet = sum(received - spent for received, spent in self._nodes[name].wallet.values())
            if wallet != sat:
                out.problems.append(
                    f"{name}'s wallet has written down {wallet:,} sat, the chain has {sat:,} sat for it"
                )
        if sum(sums.values()) + out.miner_sat != self._chain.supply or self._chain.supply != self._chain.subsidies:
            out.problems.append(
                f"{self._chain.subsidies:,} sat were ever created, the UTXO set holds {self._chain.supply:,} sat,"
                f" nodes and miner {sum(sums.values()) + out.miner_sat:,} sat"
            )
        paid = sum(a.funding_fees + a.closing_fees + a.rounded for a in out.accounts.values())
        if paid != self._fees * MSAT:
            out.problems.append(f"the miner was paid {self._fees:,} sat, the nodes paid {render_msat(paid)} sat")


def scripts_of(chain: Chain) -> set[str]:
    """Every script that was ever paid: what to look for in the UTXO set."""
    return {output.script for tx in chain.txs for output in tx.outputs if output.sat}


def _add_payments(found: Audit, nodes: Mapping[str, NodeBooks]) -> None:
    for node in nodes.values():
        account = found.accounts[node.name]
        for payment in node.payments.values():
            if payment.status == "succeeded":
                account.sent += payment.amount
                account.routing_paid += payment.fee
                found.payments += 1
            else:
                found.failed_payments += 1
        account.received = sum(invoice.received for invoice in node.invoices.values())
        account.routing_earned = sum(
            forward.amount_in - forward.amount_out for forward in node.forwards.values() if forward.status == "settled"
        )
