"""What every command shares: where the node is, and how a refusal looks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from salama.api.places import SOCKET_NAME
from salama.api.places import data_directory as data_directory
from salama.api.places import default_network as default_network
from salama.base.machine import CommandRefused

NETWORKS = ("regtest", "signet", "testnet4", "mainnet")
F = TypeVar("F", bound=Callable[..., Any])


def run_options(command: F) -> F:
    """The options of whatever starts a node."""
    for option in reversed(_RUN_OPTIONS):
        command = option(command)
    return command


def place_options(command: F) -> F:
    """The options that say which node is meant."""
    for option in (
        click.option("--network", default=default_network, help="Network of the node and its default data directory."),
        click.option("--dir", "directory", type=click.Path(file_okay=False), help="Data directory of the node."),
    ):
        command = option(command)
    return command


json_option = click.option("--json", "json_", is_flag=True, help="Print JSON also on a terminal.")


_RUN_OPTIONS = (
    click.option(
        "--network",
        type=click.Choice(NETWORKS),
        required=True,
        envvar="SALAMA_NETWORK",
        help="Which Bitcoin network; none is taken unless it is named.",
    ),
    click.option(
        "--dir", "directory", type=click.Path(file_okay=False), help="Data directory; default ~/.salama/NETWORK."
    ),
    click.option(
        "--config", "file", type=click.Path(), help="Settings file; default salama.toml in the data directory."
    ),
    click.option("--listen", help="HOST:PORT for peers, `none` for none; default 127.0.0.1 and the network's port."),
    click.option("--alias", help="Name that the network sees."),
    click.option("--bitcoind", help="JSON-RPC of bitcoind or `salama devnet`; default http://127.0.0.1 and its port."),
    click.option("--cookie", type=click.Path(), help="bitcoind's cookie file."),
    click.option("--mainnet-cap", help="Most that may stand in channels on mainnet, all together; default 0.01btc."),
    click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any setting; see `salama settings`."),
)


class Refusal(Exception):
    """A command that could not be done, on its way to the terminal."""

    def __init__(self, error: CommandRefused, as_json: bool) -> None:
        self.error, self.as_json = error, as_json
        super().__init__(error.reason)

    def show(self) -> None:
        if self.as_json:
            fields = {"ok": False, "error": self.error.code, "reason": self.error.reason, "remedy": self.error.remedy}
            click.echo(json.dumps(fields))
            return
        click.echo(f"{self.error.code}: {self.error.reason}", err=True)
        if self.error.remedy:
            click.echo(f"  {self.error.remedy}", err=True)


@contextmanager
def refusing() -> Iterator[None]:
    """Turns a refusal into a sentence on standard error."""
    try:
        yield
    except CommandRefused as refused:
        raise Refusal(refused, False) from None
    except OSError as fault:
        reason = f"{fault.filename or ''}: {fault.strerror or fault}."
        raise Refusal(CommandRefused("disk", reason), False) from None


def answer_of(directory: str | None, network: str, as_json: bool, method: str, params: dict[str, Any]) -> Any:
    """What the node says to ``method``. Raises Refusal."""
    from salama.api.client import call

    try:
        return call(data_directory(directory, network) / SOCKET_NAME, method, params)
    except CommandRefused as refused:
        raise Refusal(refused, as_json) from None


def wants_json(flag: bool) -> bool:
    """JSON when asked for or when nobody is looking."""
    return flag or not sys.stdout.isatty()
