"""What keeps a node from starting is one sentence that helps, never a traceback, and changes nothing."""

import logging
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from salama.api.daemon import run_node
from salama.storage.database import DATABASE_NAME
from salama.storage.schema import SCHEMA_VERSION
from salama.testing.network import LocalNetwork

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Refused]:
    """Runs a node that must not come up, within this process; what it says on standard error."""
    umask = os.umask(0o022)
    os.umask(umask)

    def run(**changes: Any) -> str:
        options: dict[str, Any] = {
            "network": "regtest",
            "directory": str(tmp_path / "node"),
            "bitcoind": "http://127.0.0.1:1",
            "cookie": "",
            "listen": "none",
            "alias": "",
            "settings": (),
        }
        assert run_node(options | changes) == 1
        said = capsys.readouterr()
        assert said.out == ""
        return one_sentence(said.err)

    yield run
    os.umask(umask)
    logger = logging.getLogger("salama")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def one_sentence(said: str) -> str:
    lines = said.strip().splitlines()
    assert len(lines) == 1, said
    assert lines[0].startswith("salama: "), said
    assert "Traceback" not in said
    return lines[0]


def chain_of(network: LocalNetwork) -> dict[str, str]:
    """How to reach the network's chain."""
    arguments = network.arguments("")
    return {name: arguments[arguments.index(f"--{name}") + 1] for name in ("bitcoind", "cookie")}


def test_no_back_end(refused: Refused, tmp_path: Path) -> None:
    said = refused()
    assert "does not answer" in said
    assert "salama devnet" in said
    # what was made so far is good, and used when the back-end is there
    words = (tmp_path / "node" / "seed.words").read_text()
    refused()
    assert (tmp_path / "node" / "seed.words").read_text() == words


def test_a_back_end_that_serves_another_chain(refused: Refused, network: LocalNetwork) -> None:
    assert "serves regtest, not signet" in refused(network="signet", **chain_of(network))


def test_a_directory_that_belongs_to_another_chain(refused: Refused, network: LocalNetwork, tmp_path: Path) -> None:
    from salama.node.node import GENESIS
    from salama.storage.journal import Journal
    from salama.storage.writes import PutKeyValue

    with Journal.open(tmp_path / "node") as journal:
        journal.commit_now([PutKeyValue(GENESIS, bytes(32))])
    assert "another chain" in refused(**chain_of(network))


def test_a_cookie_that_is_not_there(refused: Refused, network: LocalNetwork) -> None:
    assert "/no/such/cookie" in refused(**(chain_of(network) | {"cookie": "/no/such/cookie"}))


def test_two_nodes_in_one_directory(refused: Refused, network: LocalNetwork) -> None:
    node = network.start("one")
    said = refused(directory=str(node.directory), **chain_of(network))
    assert f"process {node.child.pid}" in said
    assert "in use" in said
    # the first one has not even noticed
    assert node.call("getinfo")["node_id"] == node.node_id
    assert network.stop(node) == 0


def test_a_port_that_is_taken(refused: Refused, network: LocalNetwork) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port) in refused(listen=f"127.0.0.1:{port}", **chain_of(network))


@pytest.mark.parametrize("words", [b"abandon " * 24, b"\xff\x00\xfe", b""])
def test_a_damaged_seed(refused: Refused, tmp_path: Path, words: bytes) -> None:
    (tmp_path / "node").mkdir()
    path = tmp_path / "node" / "seed.words"
    path.write_bytes(words)
    said = refused()
    assert "seed.words" in said
    assert "abandon" not in said
    assert path.read_bytes() == words


def test_a_database_that_is_none(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    path = tmp_path / "node" / DATABASE_NAME
    path.write_bytes(b"This is no database. " * 1000)
    assert "do not delete it" in refused()
    assert path.read_bytes() == b"This is no database. " * 1000


def test_a_database_of_a_newer_version(network: LocalNetwork, tmp_path: Path) -> None:
    """By a real process: what it wrote is not touched, and the version that wrote it goes on with it."""
    node = network.start("newer")
    node_id = node.node_id
    assert network.stop(node) == 0
    path = node.directory / DATABASE_NAME
    set_schema(path, SCHEMA_VERSION + 1)
    before = path.read_bytes()
    command = [sys.executable, "-m", "salama", *network.arguments("newer", "none")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    said = one_sentence(done.stderr)
    assert "was written by a newer Salama" in said and "use that version" in said
    assert path.read_bytes() == before
    set_schema(path, SCHEMA_VERSION)
    assert network.start("newer").node_id == node_id
    assert network.stop(network.nodes["newer"]) == 0


def set_schema(path: Path, number: int) -> None:
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {number}")
    database.close()


def test_a_directory_that_is_a_file_or_too_deep(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(directory=str(tmp_path / "file"))
    assert "shorter" in refused(directory=str(tmp_path / ("d" * 120)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "mainnet", "settings": ("min_depth=0",)}, "On mainnet min_depth"),
        ({"listen": "nowhere"}, "HOST:PORT"),
        ({"listen": "127.0.0.1:70000"}, "HOST:PORT"),
        ({"settings": ("colour=blue",)}, "no setting"),
        ({"settings": ("poll_seconds=soon",)}, "no value"),
        ({"settings": ("poll_seconds=nan",)}, "no value"),
        ({"settings": ("poll_seconds=-1",)}, "no value"),
        ({"settings": ("max_queued_adds=1e9",)}, "no value"),
        ({"settings": ("min_feerate=-5",)}, "no value"),
        ({"settings": ("log_level=loud",)}, "no value"),
        ({"alias": "x" * 33}, "alias"),
        ({"bitcoind": "ftp://example"}, "ftp"),
        ({"bitcoind": "http://[::1"}, "http://"),
        ({"bitcoind": "http://host:99999"}, "99999"),
    ],
)
def test_settings_that_cannot_be(refused: Refused, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refused(**options)
    assert not (tmp_path / "node").exists()
