"""What every command shares: where the node is, and how a refusal looks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from salama.api.places import SOCKET_NAME
from salama.api.places import data_directory as data_directory
from salama.api.places import default_network as default_network
from salama.base.machine import CommandRefused


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


def socket_path(directory: str | None, network: str) -> Path:
    return data_directory(directory, network) / SOCKET_NAME


def wants_json(flag: bool) -> bool:
    """JSON when asked for or when nobody is looking."""
    return flag or not sys.stdout.isatty()
