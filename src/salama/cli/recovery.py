"""`salama recover` and `salama backup`: from words and a backup to a node again, and whether that would work."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from salama.api.backup_schema import METHODS
from salama.base.machine import CommandRefused
from salama.cli.methods import method_command
from salama.cli.options import data_directory, json_option, place_options, refusing, run_options, wants_json
from salama.cli.seed import open_passphrase, take_words


@click.command()
@click.option("--backup", type=click.Path(dir_okay=False), help="The backup file: channels.backup, or a copy of it.")
@click.option("--peer", "peers", multiple=True, metavar="NODE_ID@HOST:PORT", help="A former peer; may keep a backup.")
@click.option("--birthday", default="", help="YYYY-MM-DD when the words were made: the chain is read from it.")
@click.option("--extension", is_flag=True, help="Ask for a BIP 39 passphrase that belongs to the words.")
@click.option("--seal", "sealed", is_flag=True, help="Ask for a passphrase, without which the node cannot start.")
@run_options
def recover(backup: str | None, birthday: str, extension: bool, sealed: bool, **options: Any) -> None:
    """Get the coins of a lost node back: from its words and its backup, into an empty directory.

    Asks for the words, unless they are in the directory already (`salama init --restore`). Then the node runs: it calls
    its former peers, asks each to close its channel, and takes what is ours home; `salama recovery` tells how far that
    is. It may be stopped at any time and goes on with `salama run`. Without a backup it finds the coins on chain, and
    the channels of those --peer that keep a backup for it.
    """
    from salama.api.daemon import config_of, run_node
    from salama.node import seed as seeds

    where = data_directory(options["directory"], options["network"])
    with refusing():
        config_of(options)  # what it refuses, before anybody types words
        if not (where / seeds.FILE_NAME).exists():
            made, passphrase = take_words(24, True, birthday, extension, sealed)
            if backup is not None:
                _look_into(Path(backup), made.bytes())  # before anything is written
            where.mkdir(parents=True, exist_ok=True, mode=0o700)
            seeds.write_seed(where, made, passphrase)
    sys.exit(run_node({**options, "recovers": True, "backup": backup}))


@click.group(invoke_without_command=True)
@click.option("--write", is_flag=True, help="Write it again now, here and to every copy.")
@place_options
@json_option
@click.pass_context
def backup(context: click.Context, write: bool, directory: str | None, network: str, json_: bool) -> None:
    """Where the backup of the channels is, and how old; write it now; or verify one."""
    if context.invoked_subcommand is None:
        command = method_command(METHODS[0])
        context.invoke(command, write=write, directory_=directory, network_=network, json_=json_)


@backup.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--words", is_flag=True, help="Ask for the words instead of taking those of the data directory.")
@click.option("--extension", is_flag=True, help="With --words: ask for a BIP 39 passphrase that belongs to them.")
@place_options
@json_option
def verify(file: str, words: bool, extension: bool, directory: str | None, network: str, json_: bool) -> None:
    """Restore FILE into a place that is thrown away, and tell what came back and what would be missing.

    Changes nothing, and works beside a running node. The exit status is 1 if something would be missing.
    """
    from salama.node import seed as seeds
    from salama.node.sandbox import verify_backup
    from salama.storage.backup import read_sealed
    from salama.storage.errors import StorageFault

    where = data_directory(directory, network)
    with refusing():
        if words:
            made, _ = take_words(24, True, "", extension, False)
        else:
            made = seeds.load_seed(where, open_passphrase(where))
        try:
            found = verify_backup(read_sealed(Path(file)), made.bytes(), network, None if words else where)
        except StorageFault as fault:
            raise CommandRefused("bad_backup", f"{file}: {fault}.") from None
    if wants_json(json_):
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        click.echo("\n".join(found.lines()))
    sys.exit(int(bool(found.missing)))


def _look_into(file: Path, seed: bytes) -> None:
    """Raises CommandRefused if the file is no backup of these words."""
    from salama.storage.backup import BackupKey, BackupUnusable, read_sealed

    key = BackupKey.of_seed(seed)
    try:
        key.open(read_sealed(file))
    except BackupUnusable as unusable:
        raise CommandRefused("bad_backup", f"{file}: {unusable}.", "Check the words, and the file.") from None


COMMANDS = (recover, backup)
