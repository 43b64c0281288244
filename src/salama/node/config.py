"""What a node is told from outside, and where each of it was said: default < file < environment < flag."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from salama.base.machine import CommandRefused
from salama.base.units import Sat
from salama.bitcoin.networks import MAINNET, NETWORKS, Network
from salama.channel.policy import DEFAULT_POLICY, Policy
from salama.net.tcp import PeerAddress
from salama.node.mainnet import USUAL, check_settings
from salama.node.settings import SETTINGS, Unsuitable, nearest

FILE_NAME: Final = "salama.toml"
PREFIX: Final = "SALAMA_"
MAX_FILE: Final = 1 << 20
"""Bytes of a settings file: far more than all settings, and little enough to read at once."""
ENVIRONMENT_OF_OTHERS: Final = frozenset(
    ("NETWORK", "DIR", "CONFIG", "PASSPHRASE", "PASSPHRASE_FILE", "PYTHON", "SHARE", "REQUIRE", "CI_INTEROP")
)
"""Variables with our prefix that choose the node, unlock its seed or belong to the project's own scripts."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a node is told from outside."""

    directory: Path
    network: Network
    bitcoind: str
    cookie: Path | None = None
    bitcoind_user: str = ""
    bitcoind_password: str = field(default="", repr=False)
    listen: PeerAddress | None = field(default=PeerAddress("127.0.0.1", 9735))
    alias: str = ""
    policy: Policy = field(default=DEFAULT_POLICY)
    mainnet_cap: Sat = field(default=Sat(1_000_000))
    """All channels together may hold 0.01 bitcoin on mainnet: what a young node may lose."""
    gossip_flush_seconds: float = 60.0
    """Gossip of others is passed on in bursts this far apart (B7.07)."""
    poll_seconds: float = 1.0
    """How often the back-end is asked for a new block when it cannot tell by itself."""
    reconnect_seconds: float = 1.0
    """First pause before a lost peer is called again; doubles up to five minutes."""
    log_level: str = "info"
    backup_copies: tuple[Path, ...] = ()
    """Files or directories to which every backup of the channels is copied."""
    database_copy: Path | None = None
    """File or directory, on another disk, that holds a copy of the database at every moment."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where each setting that is not at its default was said."""

    def value(self, name: str) -> Any:
        """The value of a setting of the table."""
        return getattr(self.policy if SETTINGS[name].policy else self, name)


def load_config(
    network: str,
    directory: Path,
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Config:
    """The configuration of one node. ``file`` must exist if given; else ``salama.toml`` of the directory may.

    Raises CommandRefused for an unknown setting, naming the nearest one and where it was written, and for a value that
    cannot be, or not on this network.
    """
    if network not in NETWORKS:
        raise CommandRefused(
            "bad_network", f"There is no network {network[:40]!r}.", f"Choose one of: {', '.join(NETWORKS)}."
        )
    values: dict[str, Any] = {}
    policy: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, given, source in _all_given(directory, file, environment or {}, flags or {}):
        setting = SETTINGS.get(name)
        if setting is None:
            raise _unknown(name, source)
        if setting.secret and source == "flag":
            raise CommandRefused(
                "bad_setting", f"{name} does not belong on a command line, which others can read.",
                f"Write it into {directory / FILE_NAME} or {PREFIX}{name.upper()}.",
            )  # fmt: skip
        try:
            (policy if setting.policy else values)[name] = setting.parse(given)
        except Unsuitable as unsuitable:
            shown = "This" if setting.secret else ascii(given)[:60]
            raise CommandRefused(
                "bad_setting", f"{shown} is no value for {name} ({source}).", unsuitable.wanted
            ) from None
        sources[name] = source
    ours = NETWORKS[network]
    usual: dict[str, Any] = {
        "bitcoind": f"http://127.0.0.1:{ours.rpc_port}",
        "listen": PeerAddress("127.0.0.1", ours.default_port),
    }
    if not {"cookie", "bitcoind_user"} & values.keys():
        usual["cookie"] = usual_cookie(ours)
    config = Config(
        directory=directory,
        network=ours,
        policy=replace(DEFAULT_POLICY, **((USUAL if ours == MAINNET else {}) | policy)),
        sources=sources,
        **(usual | values),
    )
    check_settings(config)
    return config


def usual_cookie(network: Network) -> Path | None:
    """Where bitcoind on this machine leaves its cookie when nobody told it otherwise; None if there is none."""
    home = Path.home()
    places = (home / ".bitcoin", home / "Library" / "Application Support" / "Bitcoin")
    part = "" if network.name == "mainnet" else network.name
    return next((path for place in places if (path := place / part / ".cookie").exists()), None)


def _all_given(
    directory: Path, file: Path | None, environment: Mapping[str, str], flags: Mapping[str, str]
) -> Iterator[tuple[str, object, str]]:
    """Name, value and source, the one that counts last."""
    path = file or directory / FILE_NAME
    if file is not None or path.exists():
        for name, value in read_file(path).items():
            yield name, value, f"file {path}"
    for variable in sorted(environment):
        name = variable.removeprefix(PREFIX)
        if name != variable and name not in ENVIRONMENT_OF_OTHERS:
            yield name.lower(), environment[variable], "environment"
    for name, given in flags.items():
        yield name, given, "flag"


def read_file(path: Path) -> dict[str, object]:
    """The settings in a TOML file, not yet looked at. Raises CommandRefused."""
    try:
        # Not through a pipe or a device: reading one may never end.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as opened:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CommandRefused("bad_file", f"{path} is no file.", "Name a TOML file.")
            content = opened.read(MAX_FILE + 1)
    except OSError as error:
        raise CommandRefused("bad_file", f"{path}: {error.strerror or error}.", "Check the file.") from None
    if len(content) > MAX_FILE:
        raise CommandRefused("bad_file", f"{path} is larger than a settings file can be.", "Is it the right file?")
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        # What TOML says of a mistake may quote the file.
        reason = ascii(str(error))[1:-1][:200] or "nested too deep"
        raise CommandRefused("bad_file", f"{path} is no TOML: {reason}.", "Write NAME = VALUE, one a line.") from None


def _unknown(name: str, source: str) -> CommandRefused:
    shown = ascii(name)[1:-1][:60]
    if name in ("network", "dir", "directory"):
        return CommandRefused(
            "bad_setting", f"{name} is not set here ({source}).", "Use --network and --dir: they choose the node."
        )
    close = nearest(name, list(SETTINGS))
    remedy = f"Did you mean {close}?" if close else "`salama settings` lists them all."
    return CommandRefused("unknown_setting", f"There is no setting {shown} ({source}).", remedy)
