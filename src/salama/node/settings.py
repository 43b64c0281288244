"""Every setting of a node in one table: its name, what it means, and how text or a TOML value becomes it.

A setting has one name everywhere: ``poll_seconds`` in the file, ``SALAMA_POLL_SECONDS`` in the environment,
``--set poll_seconds=1`` as a flag. What a node asks of its peers (``channel.policy``) are settings of the same kind.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from salama.base.amounts import parse_amount
from salama.base.machine import CommandRefused
from salama.base.units import Msat, Sat
from salama.channel.policy import DEFAULT_POLICY, Policy
from salama.net.tcp import PeerAddress

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
MAX_TEXT: Final = 4096
"""Bytes of a value given as text."""
MAX_ENTRIES: Final = 1000
"""Of a list."""


class Unsuitable(ValueError):
    """A value that cannot be what its setting asks for; ``wanted`` is what to write instead."""

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted
        super().__init__(wanted)


@dataclass(frozen=True, slots=True)
class Setting:
    """``parse`` takes what was given (text, or a value of TOML) and raises Unsuitable. A ``secret`` is never shown,
    and not taken from a command line, which others on the machine can read.
    """

    name: str
    words: str
    parse: Callable[[object], Any]
    policy: bool = False
    secret: bool = False


# --- kinds of values --------------------------------------------------------------------------------------------------


def text(given: object) -> str:
    if not isinstance(given, str) or len(given) > MAX_TEXT or not given.isprintable():
        raise Unsuitable("Write a text in quotes.")
    return given


def whole(given: object) -> int:
    if isinstance(given, str) and given.isascii() and given.isdigit() and len(given) <= 18:
        return int(given)
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given < 10**18:
        raise Unsuitable("Write a whole number, not below zero.")
    return given


def seconds(given: object) -> float:
    try:
        number = float(given) if isinstance(given, str | int | float) and not isinstance(given, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not 0 < number < 1e9:
        raise Unsuitable("Write a number of seconds above zero.")
    return number


def switch(given: object) -> bool:
    if isinstance(given, bool):
        return given
    if isinstance(given, str) and given.lower() in ("1", "true", "yes", "on"):
        return True
    if isinstance(given, str) and given.lower() in ("0", "false", "no", "off"):
        return False
    raise Unsuitable("Write true or false.")


def amount(given: object) -> Msat:
    """With its unit."""
    try:
        return parse_amount(given if isinstance(given, str) else "")
    except CommandRefused:
        raise Unsuitable("Write an amount with its unit: 1000sat, 25k or 0.001btc.") from None


def sat(given: object) -> Sat:
    """With its unit, or a bare number of satoshis."""
    if isinstance(given, int) or (isinstance(given, str) and given.isdigit()):
        return _within(Sat, whole(given))
    if int(amount(given)) % 1000:
        raise Unsuitable("Write whole satoshis.")
    return amount(given).sat


def msat(given: object) -> Msat:
    """With its unit, or a bare number of millisatoshis."""
    if isinstance(given, int) or (isinstance(given, str) and given.isdigit()):
        return _within(Msat, whole(given))
    return amount(given)


U = TypeVar("U")


def _within(kind: Callable[[int], U], number: int) -> U:
    try:
        return kind(number)
    except ValueError:
        raise Unsuitable("Write a smaller number.") from None


def texts(given: object) -> tuple[str, ...]:
    """A list of texts; as text, separated by commas."""
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",") if part.strip()]
    if not isinstance(given, list) or len(given) > MAX_ENTRIES:
        raise Unsuitable('Write a list: ["one", "two"], or one,two outside of a file.')
    return tuple(text(entry) for entry in given)


def path(given: object) -> Path | None:
    name = text(given)
    return Path(name).expanduser() if name else None


def paths(given: object) -> tuple[Path, ...]:
    return tuple(Path(name).expanduser() for name in texts(given))


def one_of(*choices: str) -> Callable[[object], str]:
    def parse(given: object) -> str:
        if given not in choices:
            raise Unsuitable(f"Use one of: {', '.join(choices)}.")
        return str(given)

    return parse


def listen(given: object) -> PeerAddress | None:
    """``HOST:PORT``, ``[v6]:PORT`` or ``none``."""
    wanted = Unsuitable("Write HOST:PORT or none.")
    try:
        where = text(given)
    except Unsuitable:
        raise wanted from None
    if where == "none":
        return None
    host, colon, port = where.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
        raise wanted
    return PeerAddress(host.strip("[]"), int(port))


def alias(given: object) -> str:
    name = text(given)
    if len(name.encode("utf-8", "surrogatepass")) > 32:
        raise Unsuitable("An alias has at most 32 bytes.")
    return name


def url(given: object) -> str:
    wanted = Unsuitable("Write http://HOST:PORT.")
    try:
        where = text(given)
        parts = urlsplit(where)
        sound = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and parts.username is None
    except ValueError:
        raise wanted from None
    if not sound:
        raise wanted
    return where


# --- the table --------------------------------------------------------------------------------------------------------

NODE: Final = (
    Setting("alias", "Name that the network sees, at most 32 bytes.", alias),
    Setting("listen", "HOST:PORT for peers, or none.", listen),
    Setting("bitcoind", "JSON-RPC of bitcoind or of `salama devnet`.", url),
    Setting("cookie", "bitcoind's cookie file.", path),
    Setting("bitcoind_user", "Login at bitcoind, if not by cookie.", text),
    Setting("bitcoind_password", "Password at bitcoind, if not by cookie.", text, secret=True),
    Setting("mainnet_cap", "Most that may stand in channels on mainnet, with its unit.", sat),
    Setting("gossip_flush_seconds", "Gossip of others is passed on in bursts this far apart.", seconds),
    Setting("poll_seconds", "How often the chain is asked for a block if it cannot tell by itself.", seconds),
    Setting("reconnect_seconds", "First pause before a lost peer is called again.", seconds),
    Setting("backup_copies", "Files or directories that get a copy of every backup of the channels.", paths),
    Setting("database_copy", "File or directory on another disk: everything is written there too.", path),
    Setting("log_level", f"One of {', '.join(LOG_LEVELS)}.", one_of(*LOG_LEVELS)),
)


def _kind_of(default: object) -> Callable[[object], Any]:
    """How a term of the policy is read, from what its default is."""
    if isinstance(default, bool):
        return switch
    if isinstance(default, Sat):
        return sat
    if isinstance(default, Msat):
        return msat
    if isinstance(default, tuple | frozenset):
        kind = type(default)
        return lambda given: kind(texts(given))
    exact = type(default)
    return whole if exact is int else lambda given: _within(exact, whole(given))


@cache
def _terms_in_words() -> dict[str, str]:
    """What the policy says of its terms, in its own source, so that it is written once."""
    try:
        (body,) = [node.body for node in ast.parse(inspect.getsource(Policy)).body if isinstance(node, ast.ClassDef)]
    except OSError:
        return {}
    words = {}
    for field, after in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
            if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
                words[field.target.id] = " ".join(after.value.value.split())
    return words


SETTINGS: Final[dict[str, Setting]] = {
    setting.name: setting
    for setting in (
        *NODE,
        *(
            Setting(f.name, _terms_in_words().get(f.name, ""), _kind_of(getattr(DEFAULT_POLICY, f.name)), policy=True)
            for f in fields(Policy)
        ),
    )
}


def shown(value: object) -> str:
    """A value as somebody would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | frozenset):
        return ",".join(sorted(map(str, value)))
    if isinstance(value, Sat):
        return f"{int(value)}sat"
    if isinstance(value, Msat):
        return f"{int(value)}msat"
    return str(value)


def nearest(name: str, among: list[str]) -> str:
    """The known name that somebody most likely meant; empty if none is close."""
    close = difflib.get_close_matches(name[:64], among, n=1, cutoff=0.6)
    return close[0] if close else ""
