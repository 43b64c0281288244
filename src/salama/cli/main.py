"""Entry point of the `salama` command. Everything heavy is imported only by the command that needs it."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from typing import Any

import click

from salama import __version__
from salama.api.schema import ALIASES, AREAS, METHODS, area_name
from salama.cli.doctor import COMMANDS as DOCTOR_COMMANDS
from salama.cli.ledger import COMMANDS as LEDGER_COMMANDS
from salama.cli.methods import method_command
from salama.cli.options import Refusal, run_options
from salama.cli.recovery import COMMANDS as RECOVERY_COMMANDS
from salama.cli.seed import COMMANDS as SEED_COMMANDS
from salama.demo import SCRIPTS

_PLACES = {"ledgeraccounts": "ledger accounts"}
"""Where a method's command is, if it has another name than the method."""


class _Commands(click.Group):
    """Accepts the names that other nodes use, and says ours once."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As always, but a name that does not exist is told with those that are like it."""
        name = args[0]
        if name in ALIASES and name not in self.commands:
            ours = _PLACES.get(ALIASES[name], ALIASES[name])
            click.echo(f"(here this is called `{ours}`)", err=True)
            args = [*ours.split(), *args[1:]]
        elif name not in self.commands and not name.startswith("-"):
            near = get_close_matches(name, (*self.commands, *ALIASES), 3)
            meant = f" Did you mean {', '.join(near)}?" if near else ""
            ctx.fail(f"There is no command {name!r}.{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by area, in the schema's order; what needs no running node comes first."""
        shown = {name: command for name, command in sorted(self.commands.items()) if not command.hidden}
        asked = {method.name for area in AREAS for method in area}
        sections = [("This machine", [name for name in shown if name not in asked])]
        sections += [(area_name(area).capitalize(), [m.name for m in area if m.name in shown]) for area in AREAS]
        room = formatter.width - 6 - max(map(len, shown))
        for title, names in sections:
            with formatter.section(title):
                formatter.write_dl([(name, shown[name].get_short_help_str(room)) for name in names])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="salama")
def salama() -> None:
    """Salama: a complete Lightning node.

    `salama demo` shows a whole network on this machine; `salama run --network regtest` starts a node, and every other
    command talks to it.
    """


for _method in METHODS.values():
    if _method.name not in ("decode", "backup", "ledger", "ledgeraccounts", "ledgercheck"):  # see below: there is more
        salama.add_command(method_command(_method))
for _command in (*SEED_COMMANDS, *DOCTOR_COMMANDS, *RECOVERY_COMMANDS, *LEDGER_COMMANDS):
    salama.add_command(_command)


@salama.command()
@run_options
def run(**options: Any) -> None:
    """Start a node and run until it is told to stop.

    A setting is taken from its flag, else from the environment (SALAMA_NAME), else from the settings file.
    """
    from salama.api.daemon import run_node

    sys.exit(run_node(options))


@salama.command()
@click.option("--dir", "directory", type=click.Path(file_okay=False), required=True, help="Where the chain is kept.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=18443, show_default=True, help="For JSON-RPC; 0 picks a free one.")
def devnet(directory: str, host: str, port: int) -> None:
    """A private Bitcoin network with Bitcoin Core's consensus, mined on demand."""
    from pathlib import Path

    from salama.chain.devnet.main import run as run_devnet

    sys.exit(run_devnet(Path(directory), host, port))


@salama.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per item.")
@click.argument("items", nargs=-1, metavar="[-|ITEM...]")
def decode(items: tuple[str, ...], as_json: bool) -> None:
    """Say what a thing is: a wire message in hex, an invoice, a transaction, a script, an address, features.

    With `-`, one item a line comes in and one JSON object a line goes out.
    """
    from salama.cli.decode import run_decode

    sys.exit(run_decode(items, as_json))


@salama.command()
@click.option("--keep", type=click.Path(file_okay=False), help="Keep everything in DIR to look at afterwards.")
@click.option("--payments", default=1000, show_default=True, help="How many micro-payments the tour has.")
@click.option("--script", type=click.Choice(tuple(SCRIPTS)), default="tour", show_default=True, help="What is played.")
def demo(keep: str | None, payments: int, script: str) -> None:
    """A Lightning network on this machine, on a private chain, and its books to the satoshi."""
    from salama.demo.main import run_demo

    sys.exit(run_demo(keep, payments, script))


demo.help = f"{demo.help}\n\n\b\n" + "\n".join(f"{name:<12} {about}" for name, about in SCRIPTS.items())


def main() -> None:
    """Run; an expected failure is a sentence and an exit status, never a traceback."""
    try:
        salama(prog_name="salama")
    except Refusal as refusal:
        refusal.show()
        sys.exit(1)
