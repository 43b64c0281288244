"""``python -m salama.demo.books DIR``: check a kept demo again.

Exit status 1 if any sum is off, 2 if there is nothing to read.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from salama.demo.books.chain import ChainRpc, ChainUnreadable, open_chain
from salama.demo.books.check import check
from salama.demo.books.databases import DatabaseUnreadable
from salama.demo.books.kept import CHAIN, NotADemo
from salama.demo.books.statement import make_console, show


@contextmanager
def _served(chain: Path) -> Iterator[ChainRpc]:
    """The kept chain, served again by a process of its own that ends with us."""
    command = [sys.executable, "-m", "salama", "devnet", "--dir", str(chain), "--port", "0"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline() or "{}")
        if said.get("ready") is not True:
            raise ChainUnreadable(f"the chain in {chain} does not start: {said.get('error', 'no answer')}")
        with open_chain(said["rpc"], Path(said["cookie"])) as rpc:
            yield rpc
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    console = make_console()
    if len(arguments) != 1:
        console.print("usage: python -m salama.demo.books DIR   (a directory that `salama demo --keep DIR` left)")
        return 2
    directory = Path(arguments[0])
    try:
        if not (directory / CHAIN).is_dir():
            raise NotADemo(f"{directory} has no chain in it; give a directory that `salama demo --keep` left")
        with _served(directory / CHAIN) as rpc:
            found = check(directory, rpc)
    except (NotADemo, DatabaseUnreadable, ChainUnreadable) as problem:
        console.print(f"books: {problem}", markup=False)
        return 2
    show(found, console)
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
