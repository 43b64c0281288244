"""`salama doctor`: a machine that is well is called well, each thing that is broken is named with what to do, and
nothing is changed.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from salama.base.ids import BlockHash
from salama.base.units import BlockHeight
from salama.chain.backend import BackendError, BackendUnavailable, ChainInfo
from salama.cli.main import salama
from salama.node import doctor, doctor_chain
from salama.node.config import load_config
from salama.node.doctor import Finding, Verdict
from salama.node.seed import load_or_make_seed
from salama.storage.database import DATABASE_NAME
from salama.storage.journal import Journal
from salama.testing.network import LocalNetwork


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    found = {finding.check: finding for finding in findings}
    assert all(finding.remedy for finding in found.values() if finding.verdict is not Verdict.OK)
    return found


def examined(*words: str) -> tuple[int, dict[str, Any]]:
    """Exit status and findings by name of the command."""
    result = CliRunner().invoke(salama, ["doctor", "--json", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    said = json.loads(result.stdout)
    assert said["ok"] is (result.exit_code == 0)
    return result.exit_code, {finding["check"]: finding for finding in said["findings"]}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A data directory as a first start leaves it."""
    directory = tmp_path / "node"
    directory.mkdir(mode=0o700)
    load_or_make_seed(directory)
    Journal.open(directory).close()
    return directory


def left(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mode, path.read_bytes()) for path in directory.iterdir()}


def test_a_running_node_is_well(network: LocalNetwork) -> None:
    node = network.start("examined")
    arguments = network.arguments("examined", node.listen)
    chain = [f"{n}={arguments[arguments.index(f'--{n}') + 1]}" for n in ("bitcoind", "cookie", "listen")]
    words = ["--dir", str(node.directory), "--network", "regtest"]
    status, found = examined(*words, *(word for one in chain for word in ("--set", one)))
    assert status == 0, found
    assert str(node.child.pid) in found["process"]["seen"]
    for check in ("python", "libraries", "curve", "directory", "database", "seed", "bitcoind", "chain", "txindex"):
        assert found[check]["verdict"] == "ok", found[check]
    assert "answers" in found["port"]["seen"]
    # the wrong network is noticed
    status, found = examined(
        "--dir", str(node.directory), "--network", "signet", *(w for o in chain for w in ("--set", o))
    )
    assert status == 1
    assert "serves regtest, not signet" in found["bitcoind"]["seen"]


def test_nothing_is_changed(home: Path) -> None:
    before = left(home)
    by_name((*doctor.look_at_directory(home), *doctor.look_at_data(home)))
    assert left(home) == before
    # and where there is nothing, nothing is made
    missing = home.parent / "missing"
    found = by_name((*doctor.look_at_directory(missing), *doctor.look_at_data(missing)))
    assert found["directory"].verdict is Verdict.WARN
    assert not missing.exists()


def test_what_others_can_read(home: Path) -> None:
    home.chmod(0o755)
    (finding, *_) = doctor.look_at_directory(home)
    assert finding.verdict is Verdict.WARN
    assert finding.remedy == f"chmod 700 {home}"
    (home / "seed.words").chmod(0o644)
    (finding, *_) = doctor.look_at_directory(home)
    assert finding.verdict is Verdict.FAIL
    assert "seed.words" in finding.seen


def test_a_lost_or_damaged_seed(home: Path) -> None:
    (home / "seed.words").write_text("abandon abandon")
    seed = by_name(doctor.look_at_data(home))["seed"]
    assert seed.verdict is Verdict.FAIL
    assert "abandon" not in seed.seen
    (home / "seed.words").unlink()
    assert by_name(doctor.look_at_data(home))["seed"].verdict is Verdict.FAIL
    (home / DATABASE_NAME).unlink()
    assert by_name(doctor.look_at_data(home))["seed"].verdict is Verdict.WARN


def test_a_damaged_database(home: Path) -> None:
    path = home / DATABASE_NAME
    sound = path.read_bytes()
    path.write_bytes(sound[:4096] + b"\xaa" * (len(sound) - 4096))
    assert by_name(doctor.look_at_data(home))["database"].verdict is Verdict.FAIL
    path.write_bytes(b"no database at all")
    assert by_name(doctor.look_at_data(home))["database"].verdict is Verdict.FAIL


def test_a_database_of_a_newer_version(home: Path) -> None:
    with sqlite3.connect(home / DATABASE_NAME) as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()
    found = by_name(doctor.look_at_data(home))["database"]
    assert found.verdict is Verdict.FAIL
    assert "newer" in found.seen


def test_a_disk_that_is_full_or_slow(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LITTLE_SPACE", 1 << 80)
    assert by_name(doctor.look_at_directory(home))["disk space"].verdict is Verdict.WARN
    monkeypatch.setattr(doctor, "NO_SPACE", 1 << 80)
    monkeypatch.setattr(doctor, "SLOW_SYNC", 0.0)
    found = by_name(doctor.look_at_directory(home))
    assert found["disk space"].verdict is Verdict.FAIL
    assert found["disk sync"].verdict is Verdict.WARN
    monkeypatch.setattr(doctor, "NETWORK_FILE_SYSTEMS", {doctor._file_system(home)})
    if doctor._file_system(home):
        assert by_name(doctor.look_at_directory(home))["file system"].verdict is Verdict.FAIL


def test_a_clock_that_was_never_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.time, "time", lambda: 100.0)
    assert by_name(doctor.look_at_machine())["clock"].verdict is Verdict.FAIL


def test_a_backup_that_is_missing_or_on_the_same_disk_only(home: Path) -> None:
    config = load_config("regtest", home)
    assert doctor.look_at_backup(config).verdict is Verdict.WARN
    (home / doctor.BACKUP_NAME).write_bytes(b"sealed")
    assert "this disk only" in doctor.look_at_backup(config).seen
    elsewhere = load_config("regtest", home, flags={"backup_copies": str(home.parent / "copy")})
    assert "copy" in doctor.look_at_backup(elsewhere).seen
    (home.parent / "copy").write_bytes(b"sealed")
    assert doctor.look_at_backup(elsewhere).verdict is Verdict.OK


def test_a_port_that_is_taken(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = load_config("regtest", home, flags={"listen": f"127.0.0.1:{taken.getsockname()[1]}"})
        assert doctor.look_at_port(config, running=False).verdict is Verdict.FAIL
        assert doctor.look_at_port(config, running=True).verdict is Verdict.WARN
    assert doctor.look_at_port(config, running=True).verdict is Verdict.FAIL


def test_settings_that_make_no_sense(home: Path) -> None:
    (home / "salama.toml").write_text("fee_bass = 1\n")
    status, found = examined("--dir", str(home))
    assert status == 1
    assert "fee_base" in found["settings"]["remedy"]


def test_a_flag_that_sets_nothing(home: Path) -> None:
    status, found = examined("--dir", str(home), "--set", "alias")
    assert status == 1
    assert "--set NAME=VALUE" in found["settings"]["remedy"]


def test_a_back_end_that_is_not_there(home: Path) -> None:
    status, found = examined("--dir", str(home), "--set", "bitcoind=http://127.0.0.1:1")
    assert status == 1
    assert "salama devnet" in found["bitcoind"]["remedy"]
    assert found["database"]["verdict"] == "ok"


@pytest.mark.parametrize("network", ["testnet4", "signet", "regtest"])
def test_the_chain_is_doubted_as_soon_as_a_node_doubts_it(home: Path, network: str) -> None:
    config = load_config(network, home)
    genesis, now = BlockHash(config.network.chain_hash), 1_800_000_000
    silence = config.network.longest_silence or 10**8
    for age in (0, silence - 1, silence):
        info = ChainInfo(network, BlockHeight(9), genesis, genesis, True, now - age)
        found = by_name(doctor_chain._chain(config, info, now))["chain"].verdict
        assert (found is Verdict.FAIL) == (age == config.network.longest_silence)


@pytest.mark.parametrize(
    ("published", "seen"),
    [
        ([], "-zmqpubhashblock and -zmqpubrawtx"),
        (["pubrawblock"], "-zmqpubhashblock and -zmqpubrawtx"),
        (["pubhashblock", "pubrawtx"], "hashblock, rawtx"),
        (BackendError(-32601, "Method not found"), "not there"),
        (BackendUnavailable("gone meanwhile"), "not there"),
    ],
)
def test_of_publishers_those_count_that_a_node_listens_to(published: list[str] | Exception, seen: str) -> None:
    async def rpc(method: str) -> object:
        if isinstance(published, Exception):
            raise published
        return [{"type": kind, "address": "tcp://127.0.0.1:28332"} for kind in published]

    backend = SimpleNamespace(rpc=rpc, host="127.0.0.1")
    finding = asyncio.run(doctor_chain._zmq(backend))  # type: ignore[arg-type]
    assert finding.verdict is Verdict.OK and seen in finding.seen


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert by_name(doctor.look_at_directory(tmp_path / "file"))["directory"].verdict is Verdict.FAIL


def test_a_directory_that_cannot_be_written(home: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("nothing is forbidden to root")
    home.chmod(0o500)
    try:
        assert by_name(doctor.look_at_directory(home))["directory"].verdict is Verdict.FAIL
    finally:
        home.chmod(0o700)
        shutil.rmtree(home)
