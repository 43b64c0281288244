"""`salama decode` as a process: one answer a line, whatever the line is, and an exit status that tells."""

import io
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from salama.api.decoding import MAX_ITEM
from salama.cli.decode import lines_of, run_decode
from salama.codec.message import MESSAGES

VECTORS = Path(__file__).parents[1] / "vectors"
# The command without the other commands' imports: what `salama decode` calls, in a process of its own.
DECODE = [
    sys.executable,
    "-c",
    "import sys; from salama.cli.decode import run_decode; sys.exit(run_decode(('-',), False))",
]
INIT = "001000000000"


def run(data: bytes, *, timeout: float = 60) -> tuple[int, list[dict[str, Any]], bytes]:
    done = subprocess.run(DECODE, input=data, capture_output=True, timeout=timeout, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_two_thousand_mixed_lines() -> None:
    dice = random.Random(20)
    queries = [c["given"]["message"] for c in json.loads((VECTORS / "bolt07-queries.json").read_text())["cases"]]
    invoices = [c["given"]["invoice"] for c in json.loads((VECTORS / "bolt11-invoices.json").read_text())["cases"]]
    good = [line.encode() for line in (INIT, invoices[0], "failure:2002", "features:02", "script:51")]
    lines = [
        (
            dice.choice(good),
            dice.choice(queries).encode(),
            dice.choice(invoices).encode(),
            b"",
            dice.randbytes(dice.randrange(200)).translate(None, b"\n"),
            dice.randbytes(dice.randrange(300)).hex().encode(),
            dice.choice(sorted(MESSAGES)).to_bytes(2, "big").hex().encode() + dice.randbytes(50).hex().encode(),
            b"\xff\xfe\0\r",
        )[number % 8]
        for number in range(2000)
    ]
    lines[1000] = b"00" * 2_000_000
    lines[1001] = b"lnbc1" + b"q" * 3_000_000
    status, answers, errors = run(b"\n".join(lines) + b"\n")
    assert errors == b""
    assert len(answers) == len(lines)
    assert status == 1
    assert all(answers[n]["ok"] for n in range(0, 2000, 8) if n != 1000)
    assert {answers[n]["error"] for n in range(3, 2000, 8)} == {"empty"}
    assert [answers[n]["error"] for n in (1000, 1001)] == ["too_long", "too_long"]
    assert not any(answer.get("error") == "internal_error" for answer in answers)
    assert {answer["kind"] for answer in answers if answer["ok"]} >= {
        "message",
        "invoice",
        "failure",
        "features",
        "script",
    }


def test_status_is_zero_only_if_every_line_could_be_decoded() -> None:
    assert run(f"{INIT}\n{INIT}".encode())[:2][0] == 0
    assert run(f"{INIT}\nnothing\n".encode())[0] == 1
    assert run(b"") == (0, [], b"")


def test_an_answer_comes_before_the_next_line_is_written() -> None:
    with subprocess.Popen(DECODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in (INIT, "zz", INIT):
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["ok"] is (line == INIT)
        process.stdin.close()
        assert process.wait(timeout=10) == 1


def test_a_reader_who_leaves_gets_no_traceback() -> None:
    with subprocess.Popen(DECODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(f"{INIT}\n".encode() * 10)
        process.stdin.close()
        assert process.wait(timeout=10) == 1
        assert process.stderr.read() == b""


def test_lines_keep_their_bounds() -> None:
    longest = "a" * MAX_ITEM
    stream = io.BytesIO(f"{longest}\r\n{longest}b\n{longest}bcdef\n\nlast".encode())
    lines = list(lines_of(stream))
    assert len(lines) == 5
    assert lines[0] == longest
    assert len(lines[1]) == len(lines[2]) - 1 == MAX_ITEM + 1
    assert lines[3:] == ["", "last"]


def test_what_a_person_sees(capsys: pytest.CaptureFixture[str]) -> None:
    error = "0011" + "00" * 32 + "0005" + b"hello".hex()
    assert run_decode((error, "400f0000000000000064000c3500"), False) == 0
    shown = capsys.readouterr().out
    assert "error  message 17" in shown
    assert "'hello'" in shown
    assert "incorrect_or_unknown_payment_details  failure 16399 PERM" in shown
    assert "htlc_msat  100" in shown

    assert run_decode((f"{INIT}c9012a", "nothing"), False) == 1
    captured = capsys.readouterr()
    assert "unknown record 201  2a" in captured.out
    assert captured.err.startswith("not_recognised: Neither hex")

    reply = "0108" + "00" * 32 + "00000001" * 2 + "01" + "0009" + "00" + "0000010000020003" + "0308" + "00000001" * 2
    assert run_decode((reply,), False) == 0
    shown = capsys.readouterr().out
    assert "1x2x3" in shown
    assert "checksum_node_id_2  1" in shown


def test_text_of_strangers_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = b"\x1b]0;owned\x07 [bold]x[/bold]"
    error = "0011" + "00" * 32 + len(evil).to_bytes(2, "big").hex() + evil.hex()
    assert run_decode((error, "\x1b[31mred"), False) == 1
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err


def test_json_items(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_decode((INIT, "nothing", "script:51"), True) == 1
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["ok"] for answer in answers] == [True, False, True]
