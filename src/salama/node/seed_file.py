"""The file that holds the words, in the clear or sealed under a passphrase (BIP 39; scrypt of RFC 7914; RFC 8439).

Lines of a name and a value. In the clear:

    version 1
    birthday 1763734000 made
    words abandon abandon ... about
    extension "the passphrase of BIP 39, if there is one"

Sealed, the last two are inside, and everything above the seal is authenticated with it:

    version 1
    birthday 1763734000 made
    scrypt 131072 8 1 SALT
    sealed CIPHERTEXT

A file of words and nothing else, as earlier versions wrote it, is read too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from salama.base.machine import CommandRefused
from salama.crypto.seeds import InvalidMnemonic, check_words, seed_of_words

VERSION: Final = 1
COST: Final = 1 << 17
"""scrypt's N: 128 MiB of memory and about half a second for each guess."""
MAX_COST: Final = 1 << 20
BLOCK_SIZE: Final = 8
SALT_SIZE: Final = 16
KEY_SIZE: Final = 32
MAX_FILE: Final = 4096
MAX_EXTENSION: Final = 256
MAX_BIRTHDAY: Final = 1 << 40
_NONCE: Final = bytes(12)
"""Every seal has a salt of its own and so a key of its own: the nonce need not change."""


class MalformedSeed(ValueError):
    """Bytes that are not a seed file of a version we know."""


class WrongPassphrase(CommandRefused):
    """The seal does not open."""

    def __init__(self) -> None:
        super().__init__("wrong_passphrase", "This passphrase does not open the seed.", "Try again.")


@dataclass(frozen=True, slots=True)
class Seed:
    """The words with what belongs to them. Hidden from ``repr``: whoever reads them owns the money."""

    words: str = field(repr=False)
    extension: str = field(default="", repr=False)
    """BIP 39's own passphrase: other words, other money."""
    birthday: int = 0
    """Unix seconds before which no coin of ours can exist; 0 if nobody knows."""
    restored: bool = False
    """The words are older than this directory, so the chain since ``birthday`` must be looked through."""

    def __post_init__(self) -> None:
        try:
            check_words(self.words)
        except InvalidMnemonic as wrong:
            raise MalformedSeed(str(wrong)) from None
        if len(self.extension) > MAX_EXTENSION or not 0 <= self.birthday < MAX_BIRTHDAY:
            raise MalformedSeed("a birthday or an extension out of range")

    def __str__(self) -> str:
        return repr(self)

    def bytes(self) -> bytes:
        """64 bytes from which every key is derived."""
        return seed_of_words(self.words, self.extension)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A seed that only its passphrase opens. What stands outside the seal may be read without it."""

    birthday: int
    restored: bool
    cost: int
    salt: bytes = field(repr=False)
    box: bytes = field(repr=False)

    def head(self) -> str:
        """The lines above the seal, which it authenticates."""
        return f"{_front(self.birthday, self.restored)}scrypt {self.cost} {BLOCK_SIZE} 1 {self.salt.hex()}\n"

    def open(self, passphrase: str) -> Seed:
        """Raises WrongPassphrase; MalformedSeed if what is inside is no seed."""
        try:
            inside = ChaCha20Poly1305(_key(passphrase, self.salt, self.cost)).decrypt(
                _NONCE, self.box, self.head().encode()
            )
        except InvalidTag:
            raise WrongPassphrase from None
        return _read_secrets(_lines(inside), self.birthday, self.restored)


def seal(seed: Seed, passphrase: str, salt: bytes, cost: int = COST) -> Sealed:
    """``salt``: fresh random bytes. ValueError for an empty passphrase, or a salt or cost out of range."""
    if not passphrase or len(salt) != SALT_SIZE or not _is_cost(cost):
        raise ValueError("a seal needs a passphrase, a salt and a cost in range")
    empty = Sealed(seed.birthday, seed.restored, cost, salt, b"")
    box = ChaCha20Poly1305(_key(passphrase, salt, cost)).encrypt(_NONCE, _secrets(seed), empty.head().encode())
    return Sealed(seed.birthday, seed.restored, cost, salt, box)


def render(one: Seed | Sealed) -> bytes:
    """The whole file."""
    if isinstance(one, Sealed):
        return f"{one.head()}sealed {one.box.hex()}\n".encode()
    return _front(one.birthday, one.restored).encode() + _secrets(one)


def parse(data: bytes) -> Seed | Sealed:
    """What a file holds. Raises MalformedSeed, which never quotes the file."""
    lines = _lines(data)
    if set(lines) == {""}:  # words alone
        return Seed(lines[""])
    if lines.pop("version", "") != str(VERSION):
        raise MalformedSeed("it is of a version that this program does not know")
    birthday, _, origin = lines.pop("birthday", "").partition(" ")
    if not _is_number(birthday, MAX_BIRTHDAY) or origin not in ("made", "restored"):
        raise MalformedSeed("its birthday cannot be read")
    restored = origin == "restored"
    if "sealed" not in lines:
        return _read_secrets(lines, int(birthday), restored)
    if set(lines) != {"scrypt", "sealed"}:
        raise MalformedSeed("it has lines too many or too few")
    try:
        cost, size, parallel, salt_text = lines["scrypt"].split(" ")
        salt, box = bytes.fromhex(salt_text), bytes.fromhex(lines["sealed"])
    except ValueError:
        raise MalformedSeed("its seal cannot be read") from None
    if not _is_number(cost, MAX_COST + 1) or not _is_cost(int(cost)) or (size, parallel) != (str(BLOCK_SIZE), "1"):
        raise MalformedSeed("its seal asks for more work than we ever do")
    if len(salt) != SALT_SIZE:
        raise MalformedSeed("its seal cannot be read")
    return Sealed(int(birthday), restored, int(cost), salt, box)


def _front(birthday: int, restored: bool) -> str:
    return f"version {VERSION}\nbirthday {birthday} {'restored' if restored else 'made'}\n"


def _secrets(seed: Seed) -> bytes:
    extension = f"extension {json.dumps(seed.extension)}\n" if seed.extension else ""
    return f"words {seed.words}\n{extension}".encode()


def _read_secrets(lines: dict[str, str], birthday: int, restored: bool) -> Seed:
    if not {"words"} <= set(lines) <= {"words", "extension"}:
        raise MalformedSeed("it has lines too many or too few")
    try:
        extension = json.loads(lines.get("extension", '""'))
    except (ValueError, RecursionError):
        extension = None
    if not isinstance(extension, str):
        raise MalformedSeed("its extension cannot be read")
    return Seed(lines["words"], extension, birthday, restored)


def _lines(data: bytes) -> dict[str, str]:
    """Value by name; a file of bare words has them under no name."""
    if len(data) > MAX_FILE:
        raise MalformedSeed("it is too long")
    try:
        text = data.decode("ascii").strip()
    except UnicodeDecodeError:
        raise MalformedSeed("it holds what no seed file holds") from None
    if not text.startswith(("version ", "words ")) and "\n" not in text:
        return {"": " ".join(text.split())}
    found: dict[str, str] = {}
    for line in text.split("\n"):
        name, _, value = line.rstrip("\r").partition(" ")
        if name in found or not name:
            raise MalformedSeed("a line that is empty or comes twice")
        found[name] = value
    return found


def _is_number(text: str, limit: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15 and int(text) < limit


def _is_cost(cost: int) -> bool:
    return 1 < cost <= MAX_COST and cost & (cost - 1) == 0


def _key(passphrase: str, salt: bytes, cost: int) -> bytes:
    derive: Callable[[bytes], bytes] = Scrypt(salt=salt, length=KEY_SIZE, n=cost, r=BLOCK_SIZE, p=1).derive
    return derive(passphrase.encode())
