"""The public networks, each on a real bitcoind that has no peers: its chain is as old as its first block.

What a node can do without a network is what must hold on the first day: it knows the chain by its first block, makes
addresses of that network and no other, says that its view is old, and opens no channel on it (immunity G3). On mainnet
it says besides what it is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from interop_bench import Chain, missing_bitcoind, need

from salama.api.client import call
from salama.base.machine import CommandRefused

pytestmark = pytest.mark.interop

OTHERS = {
    "mainnet": "tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx",
    "signet": "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
    "testnet4": "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
}
"""Addresses of another network."""
BEGINNINGS = {"mainnet": ("bc1q", "lnbc"), "signet": ("tb1q", "lntbs"), "testnet4": ("tb1q", "lntb")}
"""Of addresses and of invoices."""


@contextmanager
def node_on(chain: Chain, network: str, directory: Path, *more: str) -> Iterator[tuple[Path, dict[str, object]]]:
    """The socket of a node on that network, and what it said when it was ready."""
    command = [sys.executable, "-m", "salama", "run", "--network", network, "--dir", str(directory)]
    command += ["--listen", "127.0.0.1:0", "--bitcoind", chain.url, "--cookie", str(chain.cookie), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line, process.stderr.read()
        said = json.loads(line)
        yield Path(said["socket"]), said
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.fixture
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Chain]:
    need("bitcoind", missing_bitcoind())
    found = Chain.lonely(tmp_path, {"mainnet": "main"}.get(request.param, request.param))
    try:
        yield found
    finally:
        found.stop()


@pytest.mark.parametrize(("chain", "network"), [(n, n) for n in BEGINNINGS], indirect=["chain"], ids=sorted(BEGINNINGS))
def test_a_node_on_a_public_network(chain: Chain, network: str, tmp_path: Path) -> None:
    of_addresses, of_invoices = BEGINNINGS[network]
    with (
        node_on(chain, network, tmp_path / "node") as (node, said),
        node_on(chain, network, tmp_path / "peer") as (_, peer),
    ):
        assert said["network"] == network
        info = call(node, "getinfo", {})
        assert (info["network"], info["block_height"]) == (network, 0)
        assert any("We do not see the chain as it is" in warning for warning in info["warnings"])
        young = [warning for warning in info["warnings"] if "channels may hold 1,000,000 sat together" in warning]
        assert len(young) == (network == "mainnet")
        address = call(node, "newaddr", {})["address"]
        assert address.startswith(of_addresses) and chain.call("validateaddress", address)["isvalid"]
        for amount in ("100000sat", "1000001sat"):
            assert refusal(node, "open", peer=f"{peer['node_id']}@{peer['listen']}", amount=amount) == "chain_stale"
        assert refusal(node, "withdraw", address=OTHERS[network], amount="1000sat") == "bad_address"
        assert call(node, "invoice", {"amount": "1000sat", "description": "x"})["invoice"].startswith(
            of_invoices + "10u1"
        )


@pytest.mark.parametrize("chain", ["signet"], indirect=True)
def test_a_node_of_another_network_is_not_started(chain: Chain, tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="serves signet, not testnet4"),
        node_on(chain, "testnet4", tmp_path / "node"),
    ):
        pass


@pytest.mark.parametrize("chain", ["mainnet"], indirect=True)
def test_what_is_said_to_whoever_starts_on_mainnet(chain: Chain, tmp_path: Path) -> None:
    assert chain.call("getblockchaininfo")["initialblockdownload"] and chain.call("getconnectioncount") == 0
    directory = tmp_path / "node"
    with node_on(chain, "mainnet", directory, "--mainnet-cap", "250000sat") as (node, _):
        info = call(node, "getinfo", {})
        assert any("may hold 250,000 sat together" in warning for warning in info["warnings"])
        (line,) = [line for line in (directory / "salama.log").read_text().splitlines() if "250,000 sat" in line]
        assert " WARNING " in line and "nobody has audited it" in line
        looked = [sys.executable, "-m", "salama", "doctor", "--network", "mainnet", "--dir", str(directory), "--json"]
        looked += ["--set", f"bitcoind={chain.url}", "--set", f"cookie={chain.cookie}", "--set", "listen=none"]
        done = subprocess.run(looked, capture_output=True, text=True, check=False, timeout=60)
        found = {one["check"]: one for one in json.loads(done.stdout)["findings"]}
        assert found["bitcoind"] == {"check": "bitcoind", "verdict": "ok", "seen": f"{chain.url} serves mainnet"}
        assert found["network"]["verdict"] == "warn" and "catching up" in found["chain"]["seen"]
    assert chain.call("getconnectioncount") == 0


def refusal(node: Path, method: str, **params: str) -> str:
    with pytest.raises(CommandRefused) as refused:
        call(node, method, params)
    return refused.value.code
