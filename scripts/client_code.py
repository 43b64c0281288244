#!/usr/bin/env python3
"""Writes src/salama/api/calls.py: every method of the schema as a typed method of the Python client.

With ``--check`` nothing is written and the exit status says whether the file is up to date.
"""

from __future__ import annotations

import subprocess
import sys
import types
import typing
from collections import defaultdict
from typing import Any

import msgspec
from made_file import ROOT, write_or_check

from salama.api.method import Method
from salama.api.schema import METHODS

FILE = ROOT / "src" / "salama" / "api" / "calls.py"
HEAD = '''"""Every method of a node as a Python method with types. Written by scripts/client_code.py from the schema."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any, TypeVar

'''
CLASS = '''
R = TypeVar("R", bound=Result)
STREAM_SECONDS = 60
"""How long one question of a stream waits for its answer."""


class Calls(ABC):
    """The methods of a node, wherever it is. All of them raise CommandRefused.

    Amounts go in with their unit (``"1000sat"``) and come out as millisatoshis in fields ending ``_msat``.
    """

    @abstractmethod
    async def ask(self, method: str, params: Params, result: type[R]) -> R:
        """Ask the node. Raises CommandRefused."""

    async def stream(self, after: int | None = None) -> AsyncIterator[Event]:
        """Every event after the one with the id ``after``, oldest first, and then each as it happens; without end.

        None begins with what happens from now on. Whoever remembers the id of the last one misses nothing and sees
        nothing twice, also over restarts of either side.
        """
        last = -1 if after is None else after
        while True:
            page = await self.events(after=last, limit=1000, wait=STREAM_SECONDS)
            for event in page.events:
                yield event
            last = page.last_id
'''


def spelled(hint: Any) -> str:
    """A type as it is written in code."""
    if hint is Any:
        return "Any"
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(spelled(part) for part in typing.get_args(hint))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(spelled(part) for part in typing.get_args(hint))}]"
    return "None" if hint is type(None) else str(hint.__name__)


def method_text(method: Method) -> str:
    hints = typing.get_type_hints(method.params)
    fields = msgspec.structs.fields(method.params)
    known = {field.name: field for field in fields}
    order = [known[name] for name in method.positional]
    # What has no default comes first, as Python wants it of positional parameters.
    plain, named = [], []
    for field in [*order, *(f for f in fields if f.name not in method.positional)]:
        default = "" if field.required else f" = {quoted(field.default)}"
        (plain if field.name in method.positional else named).append(
            f"{field.name}: {spelled(hints[field.name])}{default}"
        )
    arguments = ["self", *plain, *(["*", *named] if named else [])]
    given = ", ".join(f"{field.name}={field.name}" for field in fields)
    return (
        f"\n    async def {method.name}({', '.join(arguments)}) -> {method.result.__name__}:\n"
        f'        """{method.summary}"""\n'
        f'        return await self.ask("{method.name}", {method.params.__name__}({given}), {method.result.__name__})\n'
    )


def quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def text() -> str:
    shapes = defaultdict(set)
    shapes["salama.api.method"] |= {"Params", "Result"}
    shapes["salama.api.node_schema"].add("Event")
    for method in METHODS.values():
        for shape in (method.params, method.result):
            shapes[shape.__module__].add(shape.__name__)
    body = CLASS + "".join(method_text(method) for method in METHODS.values())
    imports = "".join(f"from {module} import {', '.join(sorted(names))}\n" for module, names in sorted(shapes.items()))
    names = [name for found in shapes.values() for name in found]
    assert len(names) == len(set(names)), "two shapes of the schema have the same name"
    return tidy(HEAD + imports + body)


def tidy(code: str) -> str:
    """As ruff writes it."""
    for words in (("check", "--quiet", "--fix", "--select", "I,F401"), ("format", "--quiet")):
        command = [sys.executable, "-m", "ruff", *words, "--stdin-filename", str(FILE), "-"]
        code = subprocess.run(command, input=code, capture_output=True, text=True, check=True).stdout
    return code


if __name__ == "__main__":
    sys.exit(write_or_check(FILE, text()))
