"""Mainnet through the real program: by explicit choice alone, with a word of caution, and without settings of tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from salama.base.machine import CommandRefused
from salama.bitcoin.networks import NETWORKS
from salama.cli.main import salama as command_line
from salama.net.tcp import PeerAddress
from salama.node.config import load_config
from salama.node.mainnet import BOUNDS, caution
from salama.node.settings import SETTINGS

CAUTION = "Salama is young and nobody has audited it: on mainnet its channels may hold {} sat together"


def salama(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    usual = {name: value for name, value in os.environ.items() if name != "SALAMA_NETWORK"}
    return subprocess.run(
        [sys.executable, "-m", "salama", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        input="abandon ability able\n",
        env=usual | (environment or {}),
    )


@pytest.mark.parametrize("how", ["flag", "environment", "recover"])
def test_whoever_names_it_is_told(tmp_path: Path, how: str) -> None:
    """No bitcoind is there: what is said before it is asked for stands in the log and on the terminal."""
    directory = tmp_path / "node"
    made = salama("init", "--network", "mainnet", "--dir", str(directory))
    assert made.returncode == 0 and made.stderr.count(CAUTION.format("1,000,000")) == 1
    where = ("--dir", str(directory), "--bitcoind", "http://127.0.0.1:1", "--cookie", "")
    cap, told = ((), "1,000,000") if how != "environment" else (("--mainnet-cap", "0.001btc"), "100,000")
    if how == "environment":
        done = salama("run", *where, *cap, environment={"SALAMA_NETWORK": "mainnet"})
    else:
        done = salama("run" if how == "flag" else "recover", "--network", "mainnet", *where)
    first, *rest = done.stderr.splitlines()
    assert done.returncode == 1 and done.stdout == ""
    assert CAUTION.format(told) in first and "does not answer" in rest[0], done.stderr
    (line,) = [line for line in (directory / "salama.log").read_text().splitlines() if "young" in line]
    assert "WARNING" in line and CAUTION.format(told) in line


@pytest.mark.parametrize("command", ["run", "recover"])
def test_it_is_nobodys_default(tmp_path: Path, command: str) -> None:
    done = salama(command, "--bitcoind", "http://127.0.0.1:1", environment={"HOME": str(tmp_path)})
    assert done.returncode == 2 and "--network" in done.stderr and list(tmp_path.iterdir()) == []


def test_words_are_made_for_it_only_when_it_is_named(tmp_path: Path) -> None:
    done = salama("init", environment={"HOME": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")
    assert [one.name for one in (tmp_path / ".salama").iterdir()] == ["regtest"]


def test_no_setting_turns_another_network_into_it(tmp_path: Path) -> None:
    directory = tmp_path / "node"
    directory.mkdir()
    (directory / "salama.toml").write_text('network = "mainnet"\n')
    done = salama("run", "--network", "regtest", "--dir", str(directory), environment={"SALAMA_NETWORK": "mainnet"})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "network is not set here" in done.stderr and [one.name for one in directory.iterdir()] == ["salama.toml"]


def test_a_cap_that_is_none_stops_the_start(tmp_path: Path) -> None:
    done = salama("run", "--network", "mainnet", "--dir", str(tmp_path / "node"), "--mainnet-cap", "1 dollar")
    assert done.returncode == 1 and "no value for mainnet_cap" in done.stderr
    assert not (tmp_path / "node").exists()


@pytest.mark.parametrize("command", ["run", "recover", "init"])
def test_what_is_for_tests_is_refused_before_anything_is_written(tmp_path: Path, command: str) -> None:
    where = ("--network", "mainnet", "--dir", str(tmp_path / "node"))
    done = salama(command, *where, environment={"SALAMA_MIN_DEPTH": "0"})
    assert done.returncode == 1 and "On mainnet min_depth cannot be 0 (environment)" in done.stderr
    assert "at least 3" in done.stderr and "young" not in done.stderr and "Words" not in done.stderr
    assert not (tmp_path / "node").exists()


@pytest.mark.parametrize("name", BOUNDS)
def test_each_setting_that_protects_money_has_its_bound_there_alone(tmp_path: Path, name: str) -> None:
    least, most = BOUNDS[name]
    usual = float(load_config("regtest", tmp_path).value(name))
    assert (least is None or least <= usual) and (most is None or usual <= most)
    for bound, step in ((least, -1), (most, 1)):
        if bound is None:
            continue
        at, past = str(bound), str(bound / 2 if isinstance(bound, float) else bound + step)
        load_config("mainnet", tmp_path, flags={name: at})
        load_config("regtest", tmp_path, flags={name: past})
        with pytest.raises(CommandRefused) as refused:
            load_config("mainnet", tmp_path, flags={name: past})
        assert refused.value.code == "bad_setting" and f"On mainnet {name} cannot be" in refused.value.reason


def test_each_bound_is_written_down() -> None:
    page = (Path(__file__).parents[2] / "docs" / "running.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 3]
    for name, bounds in BOUNDS.items():
        (row,) = [row.replace(",", "") for row in rows if f"`{name}`" in row]
        least, most = bounds
        # What is announced as msat is written in sat.
        shown = [int(most or 0) // 1000 if name == "max_dust_exposure" else bound for bound in (least, most)]
        assert all(f" {bound} " in row for bound in shown if bound), row


def test_the_haste_of_tests_is_not_for_mainnet(tmp_path: Path) -> None:
    from salama.api.embedded import QUICK
    from salama.testing.network import SETTINGS as OF_TESTS

    hasty = {*QUICK.items(), *(tuple(one.split("=", 1)) for one in OF_TESTS)} - {("log_level", "debug")}
    for name, value in sorted(hasty):
        assert name in SETTINGS
        with pytest.raises(CommandRefused):
            load_config("mainnet", tmp_path, flags={name: value})


def test_its_own_places_and_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    other = tmp_path / ".bitcoin" / "regtest" / ".cookie"
    other.parent.mkdir(parents=True)
    other.write_text("__cookie__:other")
    assert load_config("mainnet", tmp_path).cookie is None
    cookie = tmp_path / ".bitcoin" / ".cookie"
    cookie.write_text("__cookie__:secret")
    config = load_config("mainnet", tmp_path)
    assert (config.bitcoind, config.cookie) == ("http://127.0.0.1:8332", cookie)
    assert config.listen == PeerAddress("127.0.0.1", 9735) and int(config.mainnet_cap) == 1_000_000


def test_every_channel_needs_a_reserve_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    usual = load_config("mainnet", tmp_path)
    told = load_config("mainnet", tmp_path, flags={"unreserved_capacity": "200000sat"})
    assert [int(one.policy.unreserved_capacity) for one in (usual, told)] == [0, 200_000]


def test_other_networks_say_nothing_of_it(tmp_path: Path) -> None:
    said = {network: caution(load_config(network, tmp_path)) for network in NETWORKS}
    assert [network for network, words in said.items() if words] == ["mainnet"]


def test_the_doctor_says_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    where = ("--dir", str(tmp_path / "node"), "--set", "bitcoind=http://127.0.0.1:1", "--set", "listen=none")
    for network in ("mainnet", "signet"):
        result = CliRunner().invoke(command_line, ["doctor", "--network", network, *where, "--json"])
        found = {one["check"]: one for one in json.loads(result.stdout)["findings"]}
        assert ("network" in found) == (network == "mainnet"), result.stdout
        assert network == "signet" or CAUTION.format("1,000,000") in found["network"]["seen"]
