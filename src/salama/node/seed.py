"""The words from which every key comes, in a file that only its owner may read (BIP 39)."""

from __future__ import annotations

import os
from pathlib import Path

from salama.base.machine import CommandRefused
from salama.crypto.seeds import InvalidMnemonic, check_words, make_words, seed_of_words

FILE_NAME = "seed.words"


def load_or_make_seed(directory: Path) -> bytes:
    """64 bytes of BIP 39 seed. The words are made from the system's randomness at the first start."""
    path = directory / FILE_NAME
    if path.exists():
        words = path.read_text("ascii", "replace").strip()
        try:
            check_words(words)
        except InvalidMnemonic as error:
            raise CommandRefused(
                "bad_seed", f"{path} does not hold valid words: {error}.", "Restore it from your backup."
            ) from None
        return seed_of_words(words)
    words = make_words(os.urandom(32))
    # On disk, whole and synced, before anything is derived from it.
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(words + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return seed_of_words(words)
