"""`salama doctor` and `salama settings`: what helps before there is a node that could answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from salama.cli.options import Refusal, data_directory, json_option, place_options, wants_json

if TYPE_CHECKING:
    from salama.node.config import Config
    from salama.node.doctor import Finding


@click.command()
@place_options
@click.option("--config", "file", type=click.Path(), help="Settings file; default salama.toml in the data directory.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting, as for `salama run`.")
@json_option
def doctor(network: str, directory: str | None, file: str | None, settings: tuple[str, ...], json_: bool) -> None:
    """Look whether a node can live here: program, disk, clock, data, settings, Bitcoin, port.

    Changes nothing, and works beside a running node. The exit status is 1 if something must be mended.
    """
    as_json = wants_json(json_)
    failed = False
    findings = []
    for finding in _findings(data_directory(directory, network), network, file, settings):
        failed = failed or finding.verdict.value == "fail"
        if as_json:
            fields = {"check": finding.check, "verdict": finding.verdict.value, "seen": finding.seen}
            findings.append(fields | ({"remedy": finding.remedy} if finding.remedy else {}))
            continue
        colour = {"ok": "green", "warn": "yellow", "fail": "red"}[finding.verdict.value]
        click.echo(f"{click.style(f'{finding.verdict.value:<5}', fg=colour)}{finding.check:<17}{finding.seen}")
        if finding.remedy:
            click.echo(f"{'':<22}{finding.remedy}")
    if as_json:
        click.echo(json.dumps({"ok": not failed, "findings": findings}, indent=2))
    sys.exit(int(failed))


def _findings(directory: Path, network: str, file: str | None, settings: tuple[str, ...]) -> Iterator[Finding]:
    import os

    from salama.api.daemon import settings_given
    from salama.base.machine import CommandRefused
    from salama.node import doctor as looks
    from salama.node.config import load_config
    from salama.node.mainnet import caution
    from salama.storage.database import DATABASE_NAME

    yield from looks.look_at_program()
    yield from looks.look_at_machine()
    yield from looks.look_at_directory(directory)
    yield from looks.look_at_data(directory)
    try:
        path = Path(file) if file else None
        flags = settings_given(settings)
        config = load_config(network, directory, file=path, environment=os.environ, flags=flags)
    except CommandRefused as refused:
        yield looks.Finding("settings", looks.Verdict.FAIL, refused.reason, refused.remedy)
        return
    yield looks.Finding("settings", looks.Verdict.OK, f"{len(config.sources)} are not at their defaults")
    if words := caution(config):
        yield looks.Finding("network", looks.Verdict.WARN, words, "Set mainnet_cap to what you would lose.")
    if (directory / DATABASE_NAME).exists():
        yield looks.look_at_backup(config)
    yield looks.look_at_port(config, looks.held_by(directory) is not None)
    yield from _about_the_chain(config)


def _about_the_chain(config: Config) -> list[Finding]:
    import asyncio

    from salama.node.doctor_chain import look_at_chain

    async def look() -> list[Finding]:
        return [finding async for finding in look_at_chain(config)]

    return asyncio.run(look())


@click.command()
@click.argument("word", default="")
def settings(word: str) -> None:
    """List every setting with its default, or those whose name contains WORD.

    NAME = VALUE goes into salama.toml of the data directory; SALAMA_NAME is the environment's; --set NAME=VALUE a flag.
    """
    from salama.base.machine import CommandRefused
    from salama.node.config import load_config
    from salama.node.settings import SETTINGS, shown

    usual = load_config("regtest", Path("/nonexistent"))
    chosen = [setting for setting in SETTINGS.values() if word.lower() in setting.name]
    if not chosen:
        raise Refusal(CommandRefused("unknown_setting", f"No setting has {word[:40]!r} in its name."), False)
    for setting in chosen:
        value = "" if setting.secret else shown(usual.value(setting.name))
        click.echo(f"{setting.name:<32}{value:<26}{setting.words}".rstrip())


COMMANDS = (doctor, settings)
