"""The audit: where every satoshi began, what moved it, and whether the chain agrees at the end.

Amounts are millisatoshis unless a name says otherwise; the chain knows whole satoshis only, so what a channel cannot
pay out at its close goes to the miner and is shown as such.
"""

from __future__ import annotations

from collections.abc import Mapping

from salama.demo.books.accounts import Account, Audit
from salama.demo.books.chain import Chain, Place
from salama.demo.books.databases import NodeBooks
from salama.demo.books.figures import render_msat
from salama.demo.books.flows import Flows
from salama.demo.books.kept import Manifest
from salama.demo.books.ledger import Ledger


def audit(
    chain: Chain, coins: Mapping[Place, int], nodes: Mapping[str, NodeBooks], flows: Flows, manifest: Manifest
) -> Audit:
    """Check everything. ``coins``: the UTXO set for the scripts of ``scripts_of``."""
    found = Audit({name: Account() for name in nodes}, problems=list(flows.problems))
    ledger = Ledger(chain, nodes, flows, manifest, found)
    for tx in chain.txs:
        ledger.enter(tx)
    ledger.settle()
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
