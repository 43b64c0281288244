"""Settings of a node, each in one place with its meaning."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import urlsplit

from salama.base.machine import CommandRefused
from salama.bitcoin.networks import NETWORKS, Network
from salama.channel.policy import DEFAULT_POLICY, Policy
from salama.net.tcp import PeerAddress


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a node is told from outside."""

    directory: Path
    network: Network
    bitcoind: str
    cookie: Path | None = None
    listen: PeerAddress | None = field(default=PeerAddress("127.0.0.1", 9735))
    alias: str = ""
    policy: Policy = field(default=DEFAULT_POLICY)
    gossip_flush_seconds: float = 60.0
    """Gossip of others is passed on in bursts this far apart (B7.07)."""
    poll_seconds: float = 1.0
    """How often the back-end is asked for a new block when it cannot tell by itself."""
    reconnect_seconds: float = 1.0
    """First pause before a lost peer is called again; doubles up to five minutes."""
    log_level: str = "info"

    @property
    def socket(self) -> Path:
        return self.directory / "salama.sock"


LOG_LEVELS = ("debug", "info", "warning", "error")
_NUMBERS = {"gossip_flush_seconds", "poll_seconds", "reconnect_seconds"}


def parse_listen(text: str) -> PeerAddress | None:
    """``HOST:PORT``, ``[v6]:PORT`` or ``none``. Raises CommandRefused."""
    if text == "none":
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise CommandRefused("bad_setting", f"{text!r} is no address to listen on.", "Write HOST:PORT or none.")
    return PeerAddress(host.strip("[]"), int(port))


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e9:
        raise ValueError("no length of time")
    return seconds


def _log_level(text: str) -> str:
    if text not in LOG_LEVELS:
        raise CommandRefused(
            "bad_setting", f"{text[:40]!r} is no value for log_level.", f"Use one of: {', '.join(LOG_LEVELS)}."
        )
    return text


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        sound = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and parts.username is None
    except ValueError:
        sound = False
    if not sound:
        raise CommandRefused("bad_setting", f"{text[:80]!r} is no address of a bitcoind.", "Write http://HOST:PORT.")
    return text


def make_config(
    *,
    network: str,
    directory: Path,
    bitcoind: str,
    cookie: str,
    listen: str,
    alias: str,
    settings: tuple[str, ...] = (),
) -> Config:
    """A configuration from text; unknown settings and impossible values are refused (CommandRefused)."""
    if network == "mainnet":
        raise CommandRefused(
            "mainnet_refused",
            "Salama does not run on mainnet yet.",
            "Its crash, power-loss and on-chain suites must exist and be green first; use regtest or signet.",
        )
    if len(alias.encode()) > 32:
        raise CommandRefused("bad_setting", "An alias has at most 32 bytes.", "Choose a shorter one.")
    values: dict[str, object] = {}
    policy: dict[str, object] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        policy_types = {f.name: type(getattr(DEFAULT_POLICY, f.name)) for f in fields(Policy)}
        try:
            if name in _NUMBERS:
                values[name] = _seconds(value)
            elif name == "log_level":
                values[name] = _log_level(value)
            elif name in policy_types:
                kind = policy_types[name]
                policy[name] = value in ("1", "true", "yes") if kind is bool else kind(int(value))
            else:
                known = ", ".join(sorted(_NUMBERS | {"log_level"} | set(policy_types)))
                raise CommandRefused("bad_setting", f"There is no setting {name[:40]!r}.", f"Settings: {known}.")
        except ValueError:
            raise CommandRefused("bad_setting", f"{value[:40]!r} is no value for {name}.", "Write a number.") from None
    from dataclasses import replace

    return Config(
        directory=directory,
        network=NETWORKS[network],
        bitcoind=_url(bitcoind),
        cookie=Path(cookie) if cookie else None,
        listen=parse_listen(listen),
        alias=alias,
        policy=replace(DEFAULT_POLICY, **policy),  # type: ignore[arg-type]
        **values,  # type: ignore[arg-type]
    )
