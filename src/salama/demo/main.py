"""``salama demo``: sets the stage, plays the story, closes the books, and leaves no process behind."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from salama.base.machine import CommandRefused
from salama.demo.acts import Story, StoryBroken
from salama.demo.books.chain import ChainUnreadable
from salama.demo.books.check import check
from salama.demo.books.databases import DatabaseUnreadable
from salama.demo.books.statement import show
from salama.demo.cheat import Cheat
from salama.demo.force_close import ForceClose
from salama.demo.network import Network, TookTooLong
from salama.demo.offline import Offline
from salama.demo.processes import Processes, ProcessFailed
from salama.demo.stage import Stage
from salama.demo.tour import Tour

MAX_SOCKET_DIRECTORY: Final = 70
"""Characters of a directory whose sockets still fit into the 108 bytes that the kernel gives a path."""
STORIES: Final[dict[str, type[Story]]] = {
    "tour": Tour,
    "force-close": ForceClose,
    "cheat": Cheat,
    "offline": Offline,
}
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_demo(keep: str | None, payments: int, script: str = "tour") -> int:
    """Play the demo; 0 if everything happened as told and the books balance, 1 if not, 130 after a Ctrl-C.

    ``keep``: a new or empty directory that stays for inspection. ``payments``: how many micro-payments the tour has.
    ``script``: a name of ``STORIES``.
    """
    stage, kind = Stage(), STORIES[script]
    stage.title(f"Salama demo: {kind.TITLE}")
    stage.say("A private chain and some nodes, a process each, on loopback. Nothing leaves this computer.")
    if keep is not None and Path(keep).exists() and (not Path(keep).is_dir() or any(Path(keep).iterdir())):
        print(f"salama: {keep} is not empty. Give --keep a new directory.", file=sys.stderr)
        return 1
    try:
        with _directory(keep) as directory:
            return asyncio.run(_perform(directory, kind, stage, payments, keep))
    except OSError as problem:
        print(f"salama: {problem}", file=sys.stderr)
        return 1


@contextmanager
def _directory(keep: str | None) -> Iterator[Path]:
    """Where everything lives: a temporary directory, or the one to keep by a path short enough for sockets."""
    if keep is not None:
        kept = Path(keep).absolute()
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(str(kept)) <= MAX_SOCKET_DIRECTORY:
            yield kept
            return
    base = Path(tempfile.gettempdir())
    made = Path(tempfile.mkdtemp(prefix="salama-", dir=base if len(str(base)) < MAX_SOCKET_DIRECTORY - 20 else "/tmp"))
    try:
        if keep is None:
            yield made
        else:
            link = made / "kept"
            link.symlink_to(kept)
            yield link
    finally:
        shutil.rmtree(made, ignore_errors=True)


async def _perform(directory: Path, kind: type[Story], stage: Stage, payments: int, keep: str | None) -> int:
    """Play, count, and end every process, whatever happens."""
    processes = Processes(directory)
    network = Network(directory, processes, kind.NAMES)
    caught: list[signal.Signals] = []
    playing = asyncio.create_task(_play(kind(network, stage, payments)))
    loop = asyncio.get_running_loop()

    def interrupted(number: signal.Signals) -> None:
        caught.append(number)
        if len(caught) == 1:
            playing.cancel()
        else:
            processes.kill_all()

    for number in _SIGNALS:
        loop.add_signal_handler(number, interrupted, number)
    status = 1
    try:
        status = await playing
    except asyncio.CancelledError:
        if not caught:
            raise
        stage.console.print()
        stage.say("Interrupted; ending every process.")
        status = 128 + caught[0]
    except (ProcessFailed, TookTooLong, StoryBroken, CommandRefused, ChainUnreadable, DatabaseUnreadable) as problem:
        stage.console.print()
        stage.console.print(f"salama: {problem}", style="bold red", markup=False)
        if keep is None:
            stage.say("Run it again with --keep DIR to look at the logs.")
    finally:
        await network.close()
        await processes.stop_all()
    if keep is not None:
        _tell_what_is_kept(stage, keep)
    return status


async def _play(story: Story) -> int:
    network, stage = story.network, story.stage
    await story.play()
    ledgers = {
        name: (await node.rpc.call("ledgercheck", full=True), await node.rpc.call("ledgeraccounts", limit=1))
        for name, node in network.nodes.items()
        if node.is_here
    }
    stage.act("The books")
    stage.say(
        "The nodes have stopped. From the chain's UTXO set and their databases, by code that shares nothing with"
        " them, here is every satoshi:"
    )
    await network.stop()
    assert network.chain_rpc is not None
    found = await asyncio.to_thread(check, network.directory, network.chain_rpc)
    wrong = [f"{name}'s ledger: {problem}" for name, (checked, _) in ledgers.items() for problem in checked["problems"]]
    for name, (checked, _) in ledgers.items():
        if checked["onchain_msat"] != found.accounts[name].final:
            wrong.append(f"{name}'s ledger has {checked['onchain_msat']} msat on chain, the UTXO set another sum")
    found.problems.extend(wrong)
    show(found, stage.console)
    if not wrong:
        lines = sum(accounts["last_line"] for _, accounts in ledgers.values())
        stage.console.print(f"   So say the nodes' own ledgers, in {lines:,} lines.")
    stage.console.print(f"   [dim]{stage.seconds:.1f} s in all[/]")
    return 1 if found.problems else 0


def _tell_what_is_kept(stage: Stage, keep: str) -> None:
    stage.console.print()
    stage.say("Everything is kept: a directory for the chain and one for each node, with database and log.")
    stage.console.print(f"      {keep}", markup=False, soft_wrap=True)
    stage.say("To check the books again:")
    command = f"{shlex.quote(sys.executable)} -m salama.demo.books {shlex.quote(keep)}"
    stage.console.print(f"      {command}", markup=False, soft_wrap=True)
