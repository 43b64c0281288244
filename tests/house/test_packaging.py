"""What is handed to people: the wheel, the container file and the service unit."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
UNIT = PACKAGING / "salama@.service"
EXPOSURE = re.compile(r"Overall exposure level for \S+: ([0-9.]+)")


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.mark.slow
def test_a_wheel_in_a_fresh_environment(tmp_path: Path) -> None:
    """Built from what git knows, installed where no source is in sight, and a node of it starts and stops."""
    tree, wheels, place = tmp_path / "tree", tmp_path / "wheels", tmp_path / "place"
    tree.mkdir()
    for name in run("git", "ls-files", "-z", "src", "pyproject.toml", "README.md", "LICENSE", cwd=ROOT).split("\0"):
        if name and (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, tree)
    (wheel,) = wheels.glob("salama-*.whl")
    inside = zipfile.ZipFile(wheel).namelist()
    assert "salama/py.typed" in inside
    assert not [name for name in inside if name.startswith(("tests", "bench", "scripts"))]
    run(sys.executable, "-m", "venv", place)
    run(place / "bin" / "pip", "--disable-pip-version-check", "install", "--no-index", "--no-deps", wheel)
    # The libraries are those that are here; the registry is not asked in a test.
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = place / "bin" / "python"
    where = run(python, "-I", "-c", "import salama; print(salama.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(place)
    assert "0.1.0" in run(place / "bin" / "salama", "--version", cwd=tmp_path)
    script = (
        "import asyncio, json, salama\n"
        "async def main():\n"
        "    async with salama.Node.regtest() as node:\n"
        "        await node.mine(1)\n"
        "        print(json.dumps((await node.getinfo()).block_height))\n"
        "asyncio.run(main())\n"
    )
    assert json.loads(run(python, "-I", "-c", script, cwd=tmp_path)) == 1


def test_the_container_file_copies_what_is_there() -> None:
    text = (PACKAGING / "Containerfile").read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line]
    assert copied
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists(), name
    assert "--require-hashes" in text
    assert "USER salama" in text


def test_the_unit_starts_what_the_program_understands() -> None:
    from salama.cli.main import salama as program

    (start,) = [line for line in UNIT.read_text().splitlines() if line.startswith("ExecStart=")]
    words = start.replace("%i", "regtest").split()[1:]
    command = program.commands[words[0]]
    command.make_context("run", words[1:])  # raises for an option that is not there


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # Only the program is not where the unit looks for it.
    unit.write_text(UNIT.read_text().replace("/opt/salama/bin/salama", sys.executable))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "Failed to" in done.stderr and "salama" not in done.stderr:
        pytest.skip("this systemd cannot look at a unit that is not installed")
    assert (done.returncode, "salama" in done.stdout + done.stderr) == (0, False), done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_the_unit_is_shut_in(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    shutil.copy(UNIT, unit)
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip("this systemd cannot look at a unit that is not installed")
    level = EXPOSURE.search(done.stdout)
    assert level is not None
    assert float(level.group(1)) < 2.0
