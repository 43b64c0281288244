"""What a demo reads from logs and how it prints; how its processes start and end."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from rich.console import Console

from salama.demo.processes import Processes, ProcessFailed
from salama.demo.stage import Stage
from salama.demo.traces import Logs, Spoken

IDS = {"alice": "02" + "a" * 64, "bob": "03" + "b" * 64}


def _log(directory: Path, name: str, *lines: str) -> None:
    (directory / name).mkdir(exist_ok=True)
    with (directory / name / "salama.log").open("a") as log:
        log.writelines(f"2026-01-02T03:04:05.{line}\n" for line in lines)


def test_conversation_is_read_from_both_logs_in_order(tmp_path: Path) -> None:
    alice, bob = IDS["alice"][:12], IDS["bob"][:12]
    _log(tmp_path, "alice", f"000 DEBUG salama.wire: {bob} > update_add_htlc")
    _log(tmp_path, "bob")
    logs = Logs(tmp_path, IDS)
    logs.mark()
    _log(
        tmp_path,
        "alice",
        f"100 DEBUG salama.wire: {bob} > update_add_htlc",
        f"101 DEBUG salama.wire [channel 12345678]: {bob} > commitment_signed",
        f"150 DEBUG salama.wire: {bob} < revoke_and_ack",
        f"160 DEBUG salama.wire: {bob} > ping",
        "161 INFO salama.peers: update_add_htlc > commitment_signed",
    )
    _log(tmp_path, "bob", f"140 DEBUG salama.wire: {alice} > revoke_and_ack")
    spoken = logs.spoken(("update_add_htlc", "commitment_signed", "revoke_and_ack"))
    assert [(one.sender, one.receiver, one.messages) for one in spoken] == [
        ("alice", "bob", ("update_add_htlc", "commitment_signed")),
        ("bob", "alice", ("revoke_and_ack",)),
    ]
    assert round(spoken[1].at - spoken[0].at, 3) == 0.04


def test_stage_prints_plain_lines_that_fit(tmp_path: Path) -> None:
    out = io.StringIO()
    stage = Stage(Console(file=out, highlight=False, width=80))
    stage.title("A title [with brackets]")
    stage.act("An act")
    stage.say("A [bold]long[/] sentence. " * 20)
    stage.spoken([Spoken(1.0, "alice", "bob", ("shutdown",)), Spoken(1.25, "bob", "alice", ("shutdown",))])
    text = out.getvalue()
    assert "A title [with brackets]" in text and "1. An act" in text and "250 ms  bob → alice" in text
    assert "\x1b" not in text and max(map(len, text.splitlines())) <= 80


def test_process_that_does_not_start_says_why(tmp_path: Path) -> None:
    async def run() -> None:
        processes = Processes(tmp_path)
        try:
            with pytest.raises(ProcessFailed) as failed:
                await processes.start("main", ["run", "--network", "nowhere", "--dir", str(tmp_path / "main")])
            assert "nowhere" in failed.value.reason and failed.value.log == tmp_path / "main.stderr"
            chain = await processes.start("chain", ["devnet", "--dir", str(tmp_path / "chain"), "--port", "0"])
            assert chain.ready["ready"] is True and chain.is_running
            await chain.kill()
            assert processes.dead() is not None
        finally:
            await processes.stop_all()
        assert processes.children == [] and not chain.is_running

    asyncio.run(run())
