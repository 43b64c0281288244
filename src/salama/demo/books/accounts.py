"""The statement of each node, and the result of an audit. Amounts are millisatoshis unless a name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Account:
    """One node's statement. ``mined`` and ``final`` come from the chain, the rest from chain and databases."""

    mined: int = 0
    funding_fees: int = 0
    closing_fees: int = 0
    """For transactions that close a channel, agreed or not."""
    claim_fees: int = 0
    """For transactions that take something home from a forced close."""
    received: int = 0
    sent: int = 0
    routing_paid: int = 0
    routing_earned: int = 0
    penalty: int = 0
    """Taken from who published a revoked state; negative for that one."""
    rounded: int = 0
    """Fractions of a satoshi, and dust, that a close could not pay out."""
    left: int = 0
    """Outputs of a forced close that nobody takes: they are worth less than their fee."""
    final: int = 0
    """What the UTXO set holds for the node."""

    @property
    def miner(self) -> int:
        """Everything that went to the miner."""
        return self.funding_fees + self.closing_fees + self.claim_fees + self.rounded

    @property
    def expected(self) -> int:
        """What the node should own on chain after all this."""
        costs = self.miner + self.left + self.sent + self.routing_paid
        return self.mined + self.received + self.routing_earned + self.penalty - costs


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
    left_sat: int = 0
    """What the UTXO set holds of closed channels, for nobody."""
    supply_sat: int = 0
    problems: list[str] = field(default_factory=list)
