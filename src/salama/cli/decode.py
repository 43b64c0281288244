"""`salama decode`: says what a thing is, to a person or to a program. Needs no node."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from salama.api.decoding import MAX_ITEM, decode_item
from salama.base.machine import CommandRefused

_READABLE = ("alias", "data")
"""Fields whose bytes are often text."""


def run_decode(items: tuple[str, ...], as_json: bool) -> int:
    """Decode ``items``; ``-`` stands for one item a line of standard input. 0 if all could be decoded, else 1."""
    if not items:
        if sys.stdin.isatty():
            sys.stderr.write("Nothing to decode: name an item, or `-` to read one a line.\n")
            return 1
        items = ("-",)
    all_ok = True
    try:
        for item in items:
            if item == "-":
                all_ok &= _decode_lines(sys.stdin.buffer)
            elif as_json:
                all_ok &= _print_json(item)
            else:
                all_ok &= _print_text(item)
    except BrokenPipeError:
        # Whoever reads us has seen enough. Python would complain once more when it flushes at exit.
        sys.stdout = None
        return 1
    return 0 if all_ok else 1


def answer(item: str) -> dict[str, Any]:
    """What is printed for ``item``: always an object with ``ok``."""
    try:
        return {"ok": True, **decode_item(item)}
    except CommandRefused as refused:
        return {"ok": False, "error": refused.code, "reason": refused.reason}
    except Exception as error:
        # A mistake of ours in one item must not take the answers to the others with it.
        return {"ok": False, "error": "internal_error", "reason": f"{error.__class__.__name__} while decoding"}


def lines_of(stream: BinaryIO) -> Iterator[str]:
    """Each line without its end; of a line that is too long only as much as shows that it is."""
    while line := stream.readline(MAX_ITEM + 2):
        if not line.endswith(b"\n") and len(line) > MAX_ITEM:
            while (rest := stream.readline(1 << 16)) and not rest.endswith(b"\n"):
                pass
        yield line.rstrip(b"\r\n").decode("utf-8", "replace")


def _decode_lines(stream: BinaryIO) -> bool:
    all_ok = True
    for line in lines_of(stream):
        all_ok &= _print_json(line)
    return all_ok


def _print_json(item: str) -> bool:
    said = answer(item)
    sys.stdout.write(json.dumps(said) + "\n")
    # A program may wait for this answer before it writes the next line.
    sys.stdout.flush()
    return bool(said["ok"])


def _print_text(item: str) -> bool:
    said = answer(item)
    from rich.console import Console
    from rich.text import Text

    if not said["ok"]:
        Console(stderr=True).print(Text(f"{said['error']}: {said['reason']}"), soft_wrap=True)
        return False
    console = Console()
    kind, name = said["kind"], said["name"]
    title = Text(name, style="bold")
    if kind != name:
        title.append(f"  {kind}", style="dim")
    if "type" in said:
        title.append(f" {said['type']}", style="dim")
    if said.get("flags"):
        title.append(f" {' '.join(said['flags'])}", style="dim")
    console.print(title)
    for line in _lines(said["fields"], 1):
        console.print(line, soft_wrap=True, highlight=False)
    for number, value in said.get("extension", {}).items():
        console.print(Text(f"  unknown record {number}  ", style="dim").append(value or "(empty)"), soft_wrap=True)
    return True


def _lines(fields: dict[str, Any], depth: int) -> Iterator[Any]:
    from rich.text import Text

    indent = "  " * depth
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        label = Text(indent + name.ljust(width), style="cyan")
        if isinstance(value, dict) and value:
            yield label
            yield from _lines(value, depth + 1)
        elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            for number, item in enumerate(value):
                yield Text(f"{indent}{name} {number}", style="cyan")
                yield from _lines(item if isinstance(item, dict) else dict(_numbered(item)), depth + 1)
        else:
            yield label.append("  ").append(_shown(name, value), style="default")


def _numbered(items: list[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"hop {number}", item) for number, item in enumerate(items))


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value in ("", None, [], {}):
        return "-"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if isinstance(value, int):
        return f"{value:,}" if name.endswith(("_msat", "_sat", "_satoshis")) else str(value)
    text = str(value)
    if name in _READABLE:
        text += _readable(text)
    # Descriptions and aliases come from strangers: no control character reaches the terminal.
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _readable(text: str) -> str:
    try:
        words = bytes.fromhex(text).rstrip(b"\0").decode("utf-8")
    except ValueError:
        return ""
    return f"  {words!r}" if words.isprintable() and words else ""
