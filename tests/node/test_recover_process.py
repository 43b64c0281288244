"""A machine is lost; its owner has the words and a copy of the backup: `salama recover`, `salama recovery`,
`salama backup verify` as a person uses them (immunity J1, J2).
"""

from __future__ import annotations

import json
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from salama.base.machine import CommandRefused
from salama.cli.main import salama
from salama.cli.options import Refusal
from salama.testing.network import LocalNetwork, LocalNode, until


def say(*words: str, told: str = "") -> Result:
    """A command, in this process."""
    return CliRunner().invoke(salama, list(words), input=told)


def refusal_of(done: Result) -> str:
    assert isinstance(done.exception, Refusal), done.output
    return done.exception.error.reason


def verify(file: Path, directory: Path) -> tuple[int, dict[str, Any]]:
    done = say("backup", "verify", str(file), "--dir", str(directory), "--json")
    return done.exit_code, json.loads(done.stdout)


def words_of(node: LocalNode) -> str:
    lines = say("words", "--yes", "--dir", str(node.directory)).stdout.splitlines()
    return " ".join(line.split()[1] for line in lines if line[:2].strip().isdigit())


@pytest.fixture(scope="module")
def lost(network: LocalNetwork) -> dict[str, Any]:
    """Bob had 400,000 sat in a channel that Alice opened, and his machine is gone."""
    copy = network.directory / "elsewhere" / "channels.backup"
    alice, bob = network.start("alice"), network.start("bob", f"backup_copies={copy}")
    network.fund(alice)
    bob.call("connect", peer=alice.uri)
    network.open(alice, bob, "1000000sat")
    assert alice.pays(bob, "400000sat")["status"] == "succeeded"
    before = copy.read_bytes()
    state = bob.call("backup", write=True)
    here = state["places"][:2]  # the next is Alice's box, as soon as she has it
    assert [place["place"] for place in here] == [str(bob.directory / "channels.backup"), str(copy)]
    assert all(place["is_current"] for place in here) and state["channels"] == 1
    assert copy.read_bytes() != before
    return {"copy": copy, "words": words_of(bob)}


def test_a_backup_is_verified(network: LocalNetwork, lost: dict[str, Any], tmp_path: Path) -> None:
    bob = network.nodes["bob"]
    status, seen = verify(lost["copy"], bob.directory)
    assert (status, seen["missing"], seen["compared"]) == (0, [], True)
    (channel,) = seen["channels"]
    assert channel["capacity_sat"] == 1_000_000 and channel["addresses"] == [network.nodes["alice"].listen]
    # Nothing here but the words.
    done = say("backup", "verify", str(lost["copy"]), "--words", told=lost["words"] + "\n")
    assert done.exit_code == 0 and json.loads(done.stdout)["compared"] is False
    # Those of somebody else.
    other = say("backup", "verify", str(lost["copy"]), "--dir", str(network.nodes["alice"].directory), "--json")
    assert "other words" in refusal_of(other)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(lost["copy"].read_bytes()[:-1])
    assert "damaged or cut off" in refusal_of(say("backup", "verify", str(damaged), "--dir", str(bob.directory)))


def test_words_and_backup_bring_the_coins_home(network: LocalNetwork, lost: dict[str, Any]) -> None:
    alice, bob = network.nodes["alice"], network.nodes.pop("bob")
    network.kill(bob)
    shutil.rmtree(bob.directory)

    # The wrong words are noticed before anything is written.
    wrong = say("recover", *options(network, "bob"), "--backup", str(lost["copy"]), told="abandon " * 11 + "about\n")
    assert "other words" in refusal_of(wrong) and not bob.directory.exists()

    told = say("init", "--restore", "--dir", str(bob.directory), told=lost["words"] + "\n")
    assert told.exit_code == 0, told.output
    # The copy is where the node itself would write: it is found there also if nobody names it.
    settings = (f"backup_copies={lost['copy']}",)
    arguments = ["recover", *network.arguments("bob", settings=settings)[1:]]
    child = network._runner.run(network.processes.start("bob", arguments))
    bob = network.nodes["bob"] = LocalNode("bob", bob.directory, child, settings)

    until("alice hears of the loss and publishes", lambda: network.mempool())
    state = bob.call("recovery")
    assert state["is_recovering"] and state["channels"][0]["stage"] == "asking", state
    network.mine(2)
    until(
        "our share is claimed", lambda: bob.call("recovery")["channels"][0]["stage"] == "claimed" and network.mempool()
    )
    assert bob.call("recovery")["ours_msat"] == 400_000_000
    network.mine(1)
    state = bob.call("recovery")
    assert state["channels"][0]["stage"] == "swept" and "home" in state["answer"], state
    assert state["onchain_msat"] > 395_000_000
    assert alice.channels() and not bob.log().count("force close")

    # Stopped and started again as any node; a second recovery changes nothing.
    network.stop(bob)
    network.start("bob")
    assert bob.call("recovery")["channels"][0]["stage"] == "swept"
    assert bob.call("balance")["onchain_confirmed_msat"] > 395_000_000


def options(network: LocalNetwork, name: str) -> list[str]:
    return network.arguments(name)[1:]


@pytest.mark.slow
def test_words_alone_bring_home_what_peers_remember(network: LocalNetwork) -> None:
    """No file is left: Dora's peer has her box, and her node starts again with what is in it."""
    carol, dora = network.start("carol"), network.start("dora")
    network.fund(carol)
    dora.call("connect", peer=carol.uri)
    network.open(carol, dora, "1000000sat")
    assert carol.pays(dora, "400000sat")["status"] == "succeeded"
    until("carol has it", lambda: any("peer" in p["place"] and p["is_current"] for p in dora.call("backup")["places"]))
    time.sleep(3)  # and has it on disk
    words = words_of(dora)
    network.kill(dora)
    shutil.rmtree(dora.directory)
    assert say("init", "--restore", "--dir", str(dora.directory), told=words + "\n").exit_code == 0
    arguments = ["recover", *options(network, "dora"), "--peer", carol.uri]
    child = network._runner.run(network.processes.start("dora", arguments))
    dora = network.nodes["dora"] = LocalNode("dora", dora.directory, child, ())
    until("carol publishes", lambda: network.mempool())
    assert "brought a backup of 1 channels" in dora.log()

    def is_back() -> bool:
        with suppress(CommandRefused):  # while it starts again
            return bool(dora.call("recovery")["channels"])
        return False

    until("dora is back", is_back)
    network.mine(2)
    until("our share is claimed", lambda: network.mempool())
    network.mine(1)
    assert dora.call("recovery")["onchain_msat"] > 395_000_000
    assert dora.call("ledgercheck")["balanced"]


@pytest.mark.slow
def test_a_database_older_than_its_copy_is_refused_in_a_sentence(network: LocalNetwork) -> None:
    copy = network.directory / "third disk.sqlite3"
    erin = network.start("erin", f"database_copy={copy}")
    network.stop(erin)
    shutil.copytree(erin.directory, network.directory / "old")
    network.start("erin")
    erin.call("newaddr")
    network.stop(erin)
    newest = (erin.directory / "seed.words").read_bytes()
    shutil.rmtree(erin.directory)
    shutil.copytree(network.directory / "old", erin.directory)
    said = network.refused("erin", network.arguments("erin", settings=erin.settings))
    assert "The database is older than its copy" in said and said.count("\n") == 1
    # The copy in its place: the node is back as it was.
    shutil.rmtree(erin.directory)
    erin.directory.mkdir()
    (erin.directory / "seed.words").write_bytes(newest)
    copy.rename(erin.directory / "salama.sqlite3")
    network.start("erin")
    assert erin.call("getinfo")["node_id"] == erin.node_id and copy.exists()
