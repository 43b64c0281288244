"""Real nodes, real transactions: after each thing that moves money the ledger holds what is there, and nothing else."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from salama.base.machine import CommandRefused
from salama.storage.database import DATABASE_NAME
from salama.storage.writes import INVOICE, PAYMENT
from salama.testing.network import LocalNetwork, LocalNode, until


def salama(node: LocalNode, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "salama", *arguments, "--dir", str(node.directory)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def sums(node: LocalNode) -> dict[str, int]:
    return {one["account"]: one["amount_msat"] for one in node.call("ledgeraccounts")["accounts"]}


def hold(network: LocalNetwork) -> None:
    for node in network.running():
        found = node.call("ledgercheck", full=True)
        assert (found["problems"], found["balanced"]) == ([], True), node.name
        balance = node.call("balance")
        assert found["onchain_msat"] == balance["onchain_confirmed_msat"] + balance["onchain_immature_msat"]


def test_books_of_real_nodes(tmp_path: Path) -> None:
    with LocalNetwork(tmp_path) as network:
        alice, bob, carol = (network.start(name) for name in ("alice", "bob", "carol"))
        network.fund(alice, bob)
        hold(network)
        deposits = -sums(alice)["equity:deposits"]
        agreed = network.open(bob, carol, "800000sat")
        forced = network.open(alice, bob, "1000000sat")
        network.known(2)
        hold(network)
        for _ in range(2):
            assert alice.pays(bob, "10000sat")["status"] == "succeeded"
            assert alice.pays(carol, "20000123msat")["status"] == "succeeded"
        network.at_rest()
        hold(network)
        held = sums(bob)
        assert held["income:payments"] == -20_000_000 and held["income:routing"] < 0
        assert sums(carol) == {"income:payments": -40_000_246, f"assets:channels:{agreed}": 40_000_246}
        assert sums(alice)["expenses:payments"] == 60_000_246
        assert sums(alice)["expenses:fees:routing"] == -held["income:routing"]
        assert "transfers" not in sums(alice) | held | sums(carol)

        sent = alice.call("withdraw", address=carol.call("newaddr")["address"], amount="100000sat", feerate=253)
        bumped = alice.call("bumpfee", txid=sent["txid"], feerate=1000)
        child = alice.call("bumpfee", txid=bumped["txid"], feerate=2000, how="cpfp")
        bob.call("close", channel=agreed)
        until("both wait", lambda: len(network.mempool()) >= 3)
        network.mine(1)
        hold(network)
        held = sums(alice)
        assert held["equity:withdrawals"] == 100_000_000
        assert held["expenses:fees:onchain:send"] == bumped["fee_msat"]
        assert sums(carol)["equity:deposits"] == -100_000_000
        assert sums(alice)["expenses:fees:onchain:bump"] == child["fee_msat"]

        # What was in that block is not there any more, and is again.
        tip = network.chain("getbestblockhash")
        network.chain("invalidateblock", tip)
        network.mine(2)
        hold(network)
        assert sums(alice)["equity:withdrawals"] == 100_000_000

        alice.call("close", channel=forced, force=True)
        until("the commitment waits", network.mempool)
        network.mine(6)
        hold(network)
        assert sums(alice)[f"assets:pending:{forced}"] > 900_000_000
        until("bob has his share", lambda: f"assets:pending:{forced}" in sums(bob) or network.mempool())
        network.mine(1)
        hold(network)
        total = sums(alice)
        assert -total["equity:deposits"] == deposits and sum(total.values()) == 0

        files_are_right(alice, total)
        logs_hold_no_secret(network)


def logs_hold_no_secret(network: LocalNetwork) -> None:
    """At log level debug, after everything above."""
    logs = "".join(node.log() + node.complaints() for node in network.running())
    secrets: set[str] = set()
    for node in network.running():
        with closing(sqlite3.connect(f"{(node.directory / DATABASE_NAME).as_uri()}?mode=ro", uri=True)) as database:
            payments = [PAYMENT.decode(row[0]) for row in database.execute("SELECT record FROM payments")]
            invoices = [INVOICE.decode(row[0]) for row in database.execute("SELECT record FROM invoices")]
        secrets |= {bytes(one.preimage).hex() for one in (*payments, *invoices) if one.preimage is not None}
        secrets |= {one.payment_secret.hex() for one in (*payments, *invoices)}
        secrets |= {part.session_key.hex() for one in payments for part in one.parts}
        secrets |= {line for line in (node.directory / "seed.words").read_text().splitlines() if len(line) > 40}
    assert len(secrets) > 10 and len(logs) > 10_000
    assert not [secret[:8] for secret in secrets if secret in logs]


def files_are_right(node: LocalNode, total: dict[str, int]) -> None:
    told = salama(node, "ledger", "check", "--full")
    assert (told.returncode, json.loads(told.stdout)["balanced"]) == (0, True), told.stderr
    rows = list(csv.DictReader(io.StringIO(salama(node, "ledger", "--format", "csv").stdout)))
    added: dict[str, int] = {}
    for row in rows:
        for account, msat in ((row["target"], int(row["amount_msat"])), (row["source"], -int(row["amount_msat"]))):
            added[account] = added.get(account, 0) + msat
    assert {account: msat for account, msat in added.items() if msat} == total
    assert [row["id"] for row in rows] == sorted((row["id"] for row in rows), key=int)
    pages, cursor = list[Any](), ""
    while True:
        page = node.call("ledger", limit=7, cursor=cursor)
        pages += page["lines"]
        if not (cursor := page["next_cursor"]):
            break
    assert [str(one["id"]) for one in reversed(pages)] == [row["id"] for row in rows]
    assert node.call("ledger", until="2020-01-01")["lines"] == node.call("ledger", since="2999-01-01")["lines"] == []
    for wrong in ({"since": "yesterday"}, {"cursor": "x"}, {"cursor": "1"}, {"until": "9" * 30}):
        with pytest.raises(CommandRefused):
            node.call("ledger", **wrong)
