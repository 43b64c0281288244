"""The words from which every key comes, in a file that only its owner may read (BIP 39).

What the file holds is in ``seed_file``.
"""

from __future__ import annotations

import getpass
import os
import sys
import time
import unicodedata
from pathlib import Path
from typing import Final

from salama.base.machine import CommandRefused
from salama.crypto.seeds import make_words
from salama.node import dice
from salama.node.seed_file import SALT_SIZE, MalformedSeed, Sealed, Seed, parse, render, seal
from salama.storage.directory import replacing

FILE_NAME: Final = "seed.words"
ENTROPY_SIZE: Final = {12: 16, 24: 32}
"""Bytes of entropy for so many words."""
MAX_PASSPHRASE: Final = 1024
FILE_ENVIRONMENT: Final = "SALAMA_PASSPHRASE_FILE"
"""Name of a file that holds the passphrase: a variable with the passphrase itself would be seen by every child."""
CREDENTIAL: Final = "salama-passphrase"
"""Name under which systemd may hand it over (``LoadCredential=``)."""


def load_or_make_seed(directory: Path, passphrase: str = "") -> bytes:
    """64 bytes of BIP 39 seed. 24 words are made from the system's randomness at the first start.

    Raises CommandRefused: bad_seed, seed_locked, wrong_passphrase, no_randomness.
    """
    if not (directory / FILE_NAME).exists():
        made = new_seed()
        write_seed(directory, made)
        return made.bytes()
    return load_seed(directory, passphrase).bytes()


def new_seed(words: int = 24, extension: str = "") -> Seed:
    """Fresh words, born now. ``words``: 12 or 24. Raises CommandRefused."""
    if words not in ENTROPY_SIZE:
        raise CommandRefused("bad_seed", f"A seed has 12 or 24 words, not {words}.")
    return Seed(make_words(dice.fresh(ENTROPY_SIZE[words])), extension, int(time.time()))


def load_seed(directory: Path, passphrase: str = "") -> Seed:
    """The words of a directory. Raises CommandRefused: bad_seed, seed_locked, wrong_passphrase."""
    found = read_file(directory)
    if isinstance(found, Seed):
        return found
    if not passphrase:
        raise CommandRefused(
            "seed_locked",
            f"{directory / FILE_NAME} is sealed under a passphrase.",
            f"Start from a terminal, or name a file that holds it in {FILE_ENVIRONMENT}.",
        )
    try:
        return found.open(normal(passphrase))
    except MalformedSeed as wrong:
        raise _bad(directory, wrong) from None


def read_file(directory: Path) -> Seed | Sealed:
    """What the file holds, sealed or not. Raises CommandRefused if there is none, or none that can be read."""
    path = directory / FILE_NAME
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        raise CommandRefused("no_seed", f"There is no {path}.", "`salama init` makes one.") from None
    except MalformedSeed as wrong:
        raise _bad(directory, wrong) from None


def _bad(directory: Path, wrong: MalformedSeed) -> CommandRefused:
    return CommandRefused(
        "bad_seed", f"{directory / FILE_NAME} does not hold valid words: {wrong}.", "Restore it from your backup."
    )


def write_seed(directory: Path, seed: Seed, passphrase: str = "", *, replace: bool = False) -> None:
    """Write the file, sealed if there is a passphrase; after a crash it is the old one or the new one, whole.

    Raises CommandRefused("seed_exists") if there is one and ``replace`` was not asked for; OSError.
    """
    path = directory / FILE_NAME
    if path.exists() and not replace:
        raise CommandRefused("seed_exists", f"There is a seed in {directory} already.", "Choose another directory.")
    content = render(seal(seed, normal(passphrase), dice.fresh(SALT_SIZE)) if passphrase else seed)
    # On disk, whole and synced, before anything is derived from it or the old one is gone.
    with replacing(path) as fresh:
        fresh.write_bytes(content)


def change_passphrase(directory: Path, old: str, new: str) -> None:
    """Seal the words under ``new``, or leave them open if it is empty. Raises what ``load_seed`` raises."""
    write_seed(directory, load_seed(directory, old), new, replace=True)


def rescan_from(directory: Path) -> int | None:
    """Unix seconds since when the chain may hold coins of a restored seed; None where nothing can have been missed."""
    if not (directory / FILE_NAME).exists():
        return None
    found = read_file(directory)
    return found.birthday if found.restored else None


def birthday(directory: Path) -> int:
    """Unix seconds before which no coin of the words can exist; 0 if nobody knows."""
    return read_file(directory).birthday if (directory / FILE_NAME).exists() else 0


def normal(passphrase: str) -> str:
    """A passphrase as it is used: composed, so that two keyboards mean the same. Raises CommandRefused."""
    if len(passphrase) > MAX_PASSPHRASE:
        raise CommandRefused("bad_passphrase", f"A passphrase has at most {MAX_PASSPHRASE} characters.")
    return unicodedata.normalize("NFKC", passphrase)


def ask_passphrase(directory: Path) -> str:
    """The passphrase of a sealed seed from the environment, systemd or the terminal; empty if none is needed or known.

    To be called before an event loop runs: a prompt waits for a person. Raises CommandRefused.
    """
    if not (directory / FILE_NAME).exists() or isinstance(read_file(directory), Seed):
        return ""
    named = os.environ.get(FILE_ENVIRONMENT)
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if named is None and credentials is not None and (Path(credentials) / CREDENTIAL).exists():
        named = str(Path(credentials) / CREDENTIAL)
    if named is not None:
        try:
            return Path(named).read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as problem:
            raise CommandRefused("no_passphrase", f"{named} cannot be read: {problem}.") from None
    return getpass.getpass("Passphrase of the seed: ") if sys.stdin is not None and sys.stdin.isatty() else ""
