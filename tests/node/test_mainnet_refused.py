"""Mainnet through the real program: refused before anything is written, however it is asked for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

REFUSAL = "Salama does not run on mainnet yet."


def salama(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "salama", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        input="abandon ability able\n",
        env=os.environ | (environment or {}),
    )


@pytest.mark.parametrize("how", ["flag", "environment", "recover", "init"])
def test_nothing_is_written_and_nobody_is_called(tmp_path: Path, how: str) -> None:
    directory = tmp_path / "node"
    with socket.create_server(("127.0.0.1", 0)) as bitcoind:
        bitcoind.settimeout(0)
        where = ("--dir", str(directory), "--bitcoind", f"http://127.0.0.1:{bitcoind.getsockname()[1]}")
        if how == "environment":
            done = salama("run", *where, "--mainnet-cap", "0.001btc", environment={"SALAMA_NETWORK": "mainnet"})
        elif how == "init":
            done = salama("init", "--network", "mainnet", "--dir", str(directory))
        else:
            done = salama("run" if how == "flag" else "recover", "--network", "mainnet", *where)
        with pytest.raises(BlockingIOError):
            bitcoind.accept()
    assert done.returncode == 1 and REFUSAL in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == "" and not directory.exists()


def test_no_setting_turns_another_network_into_it(tmp_path: Path) -> None:
    directory = tmp_path / "node"
    directory.mkdir()
    (directory / "salama.toml").write_text('network = "mainnet"\n')
    done = salama("run", "--network", "regtest", "--dir", str(directory), environment={"SALAMA_NETWORK": "mainnet"})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "network is not set here" in done.stderr and [one.name for one in directory.iterdir()] == ["salama.toml"]


def test_a_cap_that_is_none_stops_the_start(tmp_path: Path) -> None:
    done = salama("run", "--network", "regtest", "--dir", str(tmp_path / "node"), "--mainnet-cap", "1 dollar")
    assert done.returncode == 1 and "no value for mainnet_cap" in done.stderr
    assert not (tmp_path / "node").exists()
