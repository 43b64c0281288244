"""A channel that was closed by one side alone: what each side took from what came of it, and what it should have got.

Its commitment transaction, and everything spent from there, is a tree that begins with the channel's capacity and ends
in wallets, in fees, and in outputs that nobody takes. Scripts in between are the nodes' secret; who takes an output
shows when the money reaches a wallet. What each side should get is known from its HTLCs: the opener also pays for the
commitment and its anchors, whoever claims pays for the claim, and who was cheated gets everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from salama.demo.books.accounts import Account
from salama.demo.books.chain import ChainOutput, ChainTx
from salama.demo.books.figures import MSAT, render_msat

DUST: Final = 1000
"""Satoshis: outputs this small may be left out of a closing transaction, or be worth less than their fee."""


@dataclass(slots=True)
class ForcedClose:
    """One channel's tree. Amounts in satoshis."""

    channel: bytes
    opener: str
    capacity: int
    commitment: ChainTx
    taken: dict[str, int]
    """Node to what reached its wallet, less what its wallet added to pay fees."""
    fees: dict[str, int]
    """Node to what its claims paid to the miner."""
    left: dict[ChainOutput, None] = field(default_factory=dict)
    """Outputs that nobody has spent."""

    @classmethod
    def of(cls, channel: bytes, opener: str, capacity: int, commitment: ChainTx, names: Iterable[str]) -> ForcedClose:
        both = list(names)
        return cls(channel, opener, capacity, commitment, dict.fromkeys(both, 0), dict.fromkeys(both, 0))

    @property
    def commitment_fee(self) -> int:
        return self.capacity - sum(output.sat for output in self.commitment.outputs)

    def settle(self, accounts: dict[str, Account], balances: dict[str, int], punisher: str) -> list[str]:
        """Write the close into the accounts of both sides; what does not fit.

        ``balances``: node to the millisatoshis that are its by the channel's HTLCs. ``punisher``: who found a revoked
        commitment and takes everything; empty for an honest close.
        """
        name = f"the forced close of channel {self.channel.hex()[:8]}"
        problems = []
        bearer = punisher or self.opener
        due = dict(balances)
        if punisher:
            for cheater in due.keys() - {punisher}:
                accounts[punisher].penalty += due[cheater]
                accounts[cheater].penalty -= due[cheater]
                due[punisher] += due[cheater]
                due[cheater] = 0
        to_miner = self.commitment_fee * MSAT
        for side in due.keys() - {bearer}:
            short = due[side] - (self.taken[side] + self.fees[side]) * MSAT
            # A fraction of its balance, and of each HTLC; or a balance too small for an output.
            is_dust = self.taken[side] == 0 and 0 <= short < DUST * MSAT
            if not is_dust and not 0 <= short < len(self.commitment.outputs) * MSAT:
                owed, paid = render_msat(due[side]), f"{self.taken[side] + self.fees[side]:,}"
                problems.append(f"{name} owes {side} {owed} sat, and pays {paid} sat with fees")
            accounts[side].rounded += short
            to_miner -= short
        for side, fee in self.fees.items():
            accounts[side].claim_fees += fee * MSAT
        left = sum(output.sat for output in self.left)
        accounts[bearer].closing_fees += to_miner
        accounts[bearer].left += left * MSAT
        short = due[bearer] - (self.taken[bearer] + self.fees[bearer] + left) * MSAT
        if short != to_miner or to_miner < 0:
            problems.append(
                f"{name} leaves {bearer} {render_msat(short)} sat short, for a fee of {self.commitment_fee:,}"
            )
        problems += [
            f"{name} leaves {output.sat:,} sat in {output.place[0][:16]}:{output.place[1]} to nobody"
            for output in self.left
            if output.sat >= DUST
        ]
        return problems
