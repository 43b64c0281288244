"""The words on the terminal: made, restored, shown to their owner alone, sealed. None of it needs a node, and no word
is ever taken from the command line, where other programs could read it.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from salama.base.machine import CommandRefused
from salama.cli.options import data_directory, place_options, refusing

if TYPE_CHECKING:
    from salama.node.seed_file import Seed


@click.command()
@click.option("--words", "count", type=click.Choice(["12", "24"]), default="24", show_default=True, help="How many.")
@click.option("--restore", is_flag=True, help="Ask for the words of another directory instead of making new ones.")
@click.option("--birthday", default="", help="YYYY-MM-DD when the restored words were made: the chain is read from it.")
@click.option("--extension", is_flag=True, help="Ask for a BIP 39 passphrase that belongs to the words.")
@click.option("--seal", "sealed", is_flag=True, help="Ask for a passphrase, without which the node cannot start.")
@place_options
def init(count: str, restore: bool, birthday: str, extension: bool, sealed: bool, directory: str, network: str) -> None:
    """Make or restore the words of a node before its first start.

    `salama run` does this by itself: 24 new words, not sealed. Answers are read from the terminal or, line by line,
    from standard input.
    """
    import os

    from salama.node import seed as seeds
    from salama.node.config import load_config
    from salama.node.mainnet import caution

    where = data_directory(directory, network)
    with refusing():
        # Settings that the node would refuse are told before anybody writes words down.
        if words := caution(load_config(network, where, environment=os.environ)):
            click.echo(words, err=True)
        where.mkdir(parents=True, exist_ok=True, mode=0o700)
        if (where / seeds.FILE_NAME).exists():
            raise CommandRefused("seed_exists", f"There is a seed in {where} already.", "Choose another directory.")
        if birthday and not restore:
            raise CommandRefused("bad_birthday", "New words are born today.", "Leave --birthday away.")
        made, passphrase = take_words(int(count), restore, birthday, extension, sealed)
        seeds.write_seed(where, made, passphrase)
    click.echo(f"{'Restored' if restore else 'Made'}: {where / seeds.FILE_NAME}")
    if not restore:
        click.echo("`salama words` shows the words; write them down before there is money on them.")


def take_words(count: int, restore: bool, birthday: str, extension: bool, sealed: bool) -> tuple[Seed, str]:
    """New words, or those that somebody types; and the passphrase to seal them under, empty for none.

    Raises CommandRefused.
    """
    from salama.node.seed import new_seed
    from salama.node.seed_file import MalformedSeed, Seed

    born = _birthday(birthday)
    words = " ".join(_ask("Words").lower().split()) if restore else ""
    extra = _ask_twice("BIP 39 passphrase") if extension else ""
    passphrase = _ask_twice("Passphrase of the seed") if sealed else ""
    if sealed and not passphrase:
        raise CommandRefused("bad_passphrase", "A seal needs a passphrase.")
    try:
        return Seed(words, extra, born, True) if restore else new_seed(count, extra), passphrase
    except MalformedSeed as wrong:
        raise CommandRefused("bad_seed", f"These are no valid words: {wrong}.", "Check each of them.") from None


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask: for a printer in a safe place.")
@place_options
def words(yes: bool, directory: str, network: str) -> None:
    """Show the words to whoever may see all the money."""
    from salama.node import seed as seeds

    where = data_directory(directory, network)
    if not yes:
        click.echo("Whoever reads these words owns the money. Is nobody looking, and nothing recording?", err=True)
        if _ask("Type yes to see them").strip().lower() != "yes":
            sys.exit(1)
    with refusing():
        found = seeds.load_seed(where, open_passphrase(where))
    for number, word in enumerate(found.words.split(), 1):
        click.echo(f"{number:>2} {word}")
    if found.extension:
        click.echo(f"with the BIP 39 passphrase {found.extension!r}")
    born = datetime.fromtimestamp(found.birthday, UTC)
    click.echo(f"born {born:%Y-%m-%d}" if found.birthday else "birthday unknown")


@click.command()
@click.option("--remove", is_flag=True, help="Leave the words in the clear from now on.")
@place_options
def passphrase(remove: bool, directory: str, network: str) -> None:
    """Seal the words under a passphrase, or change or remove it."""
    from salama.node import seed as seeds

    where = data_directory(directory, network)
    with refusing():
        old = open_passphrase(where)
        seeds.load_seed(where, old)  # before a new one is asked for
        new = "" if remove else _ask_twice("New passphrase")
        if not remove and not new:
            raise CommandRefused("bad_passphrase", "A seal needs a passphrase.", "Use --remove to do without one.")
        seeds.change_passphrase(where, old, new)
    click.echo("The words lie in the clear." if remove else "Sealed.")


COMMANDS = (init, words, passphrase)


def _ask(what: str) -> str:
    """One line, unseen on a terminal."""
    if sys.stdin.isatty():
        import getpass

        return getpass.getpass(f"{what}: ")
    return sys.stdin.readline().rstrip("\r\n")


def _ask_twice(what: str) -> str:
    first = _ask(what)
    if sys.stdin.isatty() and _ask(f"{what}, again") != first:
        raise CommandRefused("bad_passphrase", "The two are not the same.", "Try again.")
    return first


def open_passphrase(where: Path) -> str:
    """That of a sealed seed: as the node takes it, else from standard input."""
    from salama.node import seed as seeds
    from salama.node.seed_file import Sealed

    if not isinstance(seeds.read_file(where), Sealed):
        return ""
    return seeds.ask_passphrase(where) or _ask("Passphrase of the seed")


def _birthday(text: str) -> int:
    if not text:
        return 0
    try:
        born = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise CommandRefused("bad_birthday", f"{text[:20]!r} is no day.", "Write YYYY-MM-DD.") from None
    return max(0, int(born.timestamp()))
