"""The terminal against a real node: every command that only asks, refusals in words and in JSON, and nobody there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from salama.cli.main import salama
from salama.cli.options import Refusal
from salama.testing.network import LocalNetwork, LocalNode


@pytest.fixture(scope="module")
def node(network: LocalNetwork) -> LocalNode:
    return network.start("alice")


def run(*words: str) -> str:
    """What a command prints, within this process."""
    result = CliRunner().invoke(salama, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def process(*words: str) -> subprocess.CompletedProcess[str]:
    """A command as a person runs it."""
    environment = {**os.environ, "PYTHONWARNINGS": ""}
    command = [sys.executable, "-m", "salama", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def ask(node: LocalNode, *words: str) -> Any:
    return json.loads(run(*words, "--dir", str(node.directory), "--json"))


def test_what_only_asks(node: LocalNode) -> None:
    assert ask(node, "getinfo")["node_id"] == node.node_id
    assert ask(node, "balance")["onchain_confirmed_msat"] == 0
    for command in ("peers", "channels", "payments", "invoices", "forwards"):
        (rows, *_) = ask(node, command).values()
        assert rows == []
    assert ask(node, "newaddr")["address"].startswith("bcrt1q")
    assert ask(node, "newaddr", "--kind", "p2tr")["address"].startswith("bcrt1p")


def test_an_invoice_and_what_it_says(node: LocalNode) -> None:
    made = ask(node, "invoice", "5sat", "\x1b[31mred\x07")
    assert made["amount_msat"] == 5000
    (line,) = ask(node, "invoices")["invoices"]
    assert line["payment_hash"] == made["payment_hash"]
    # on a terminal no control character gets through
    shown = run("invoices", "--dir", str(node.directory))
    assert "\x07" not in shown


def test_names_that_other_nodes_use(node: LocalNode) -> None:
    done = process("listpeers", "--dir", str(node.directory), "--json")
    assert json.loads(done.stdout)["peers"] == []
    assert "`peers`" in done.stderr


def test_a_refusal_in_json_and_in_words(node: LocalNode) -> None:
    with pytest.raises(Refusal) as refusal:
        run("close", "no-such-channel", "--dir", str(node.directory))
    assert refusal.value.error.code == "unknown_channel"
    done = process("close", "no-such-channel", "--dir", str(node.directory))
    assert done.returncode == 1
    said = json.loads(done.stdout)  # nobody looks at a terminal here
    assert (said["ok"], said["error"]) == (False, "unknown_channel")
    assert said["remedy"]
    assert done.stderr == ""


def test_nobody_is_there(tmp_path: Path) -> None:
    done = process("getinfo", "--dir", str(tmp_path))
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"] == "not_running"
    assert "Traceback" not in done.stderr


def test_stop(network: LocalNetwork, node: LocalNode) -> None:
    ask(node, "stop")
    assert network.ended(node) == 0
    assert not node.socket.exists()
    assert node.complaints() == ""
