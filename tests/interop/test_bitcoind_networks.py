"""The public networks, each on a real bitcoind that has no peers: its chain is as old as its first block.

What a node can do without a network is what must hold on the first day: it knows the chain by its first block, makes
addresses of that network and no other, says that its view is old, and opens no channel on it (immunity G3).
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
    "signet": "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
    "testnet4": "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
}
"""Addresses of another network."""
BEGINNINGS = {"signet": ("tb1q", "lntbs"), "testnet4": ("tb1q", "lntb")}
"""Of addresses and of invoices."""


@contextmanager
def node_on(chain: Chain, network: str, directory: Path) -> Iterator[tuple[Path, dict[str, object]]]:
    """The socket of a node on that network, and what it said when it was ready."""
    command = [sys.executable, "-m", "salama", "run", "--network", network, "--dir", str(directory)]
    command += ["--listen", "127.0.0.1:0", "--bitcoind", chain.url, "--cookie", str(chain.cookie)]
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
        address = call(node, "newaddr", {})["address"]
        assert address.startswith(of_addresses) and chain.call("validateaddress", address)["isvalid"]
        assert refusal(node, "open", peer=f"{peer['node_id']}@{peer['listen']}", amount="100000sat") == "chain_stale"
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


def refusal(node: Path, method: str, **params: str) -> str:
    with pytest.raises(CommandRefused) as refused:
        call(node, method, params)
    return refused.value.code
