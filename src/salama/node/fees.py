"""What we ask for relaying, channel by channel: set by hand, kept over restarts, and the previous terms honoured for
ten minutes, because payments on their way were built on them (B7.06).

Terms are those that somebody set for the channel, else those set for all channels, else the settings'.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from salama.base.ids import ChannelId
from salama.base.machine import CommandRefused
from salama.channel.policy import Policy
from salama.storage.errors import CorruptRecord

KEY: Final = "relay.terms"
HONOURED_SECONDS: Final = 600
MOST_BEFORE: Final = 20
"""Sets of terms a channel honours at a time: somebody may change them more often than every half minute."""
LEAST_DELTA: Final = 34
"""3R + 2G + 2S of B2.49 with R 2, G 2 and S 12: with fewer blocks a preimage may reach us too late."""
MOST_DELTA: Final = 2016
MOST_BASE: Final = 0xFFFF_FFFF
"""In msat: what a channel_update can carry."""
MOST_PPM: Final = 1_000_000


class Terms(msgspec.Struct, frozen=True, array_like=True):
    """Fee in msat and millionths of what is relayed, and blocks between the two HTLCs."""

    base_msat: int
    ppm: int
    cltv_delta: int

    def check(self) -> None:
        """Raises CommandRefused unless we could keep them and a channel_update could say them."""
        if not 0 <= self.base_msat <= MOST_BASE or not 0 <= self.ppm <= MOST_PPM:
            raise CommandRefused("bad_fee", "The fee is out of range.", f"At most {MOST_BASE} msat and {MOST_PPM} ppm.")
        if not LEAST_DELTA <= self.cltv_delta <= MOST_DELTA:
            reason = (
                f"{self.cltv_delta} blocks are {'too few to be safe' if self.cltv_delta < LEAST_DELTA else 'too many'}."
            )
            raise CommandRefused("bad_cltv_delta", reason, f"Choose {LEAST_DELTA} to {MOST_DELTA}.")


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    """What is on disk. Channels by their ids in hex."""

    usual: Terms | None = None
    """For all channels, None while the settings decide."""
    channels: dict[str, Terms] = {}
    in_force: dict[str, Terms] = {}
    """What each channel asked for when we last looked: changes of the settings are found by it."""
    before: dict[str, list[tuple[Terms, int]]] = {}
    """What was asked before, the latest first, and until when, in unix seconds, it counts."""


@dataclass(frozen=True, slots=True)
class Change:
    """Terms to be put in force once ``row`` is on disk under KEY."""

    row: bytes
    kept: _Kept
    channels: tuple[ChannelId, ...]
    """Those that ask for something else than before."""


class RelayTerms:
    """The terms of every channel. Changes are made in two steps, so that the disk knows first."""

    def __init__(self, policy: Policy, row: bytes | None = None) -> None:
        """``row`` is what lies under KEY. Raises CorruptRecord."""
        self._settings = Terms(int(policy.fee_base), policy.fee_proportional_millionths, policy.cltv_expiry_delta)
        try:
            self._kept = _Kept() if row is None else msgspec.json.decode(row, type=_Kept)
        except msgspec.MsgspecError as error:
            raise CorruptRecord("table of relay terms", str(error)) from None

    @property
    def usual(self) -> Terms:
        """What a new channel asks for."""
        return self._kept.usual or self._settings

    def of(self, channel: ChannelId) -> Terms:
        """What the channel asks for."""
        return _terms(self._kept, channel, self._settings)

    def before(self, channel: ChannelId, now: float) -> tuple[Terms, ...]:
        """What it asked for until a moment ago and must still accept, the latest first."""
        if not self._kept.before:
            return ()
        return tuple([terms for terms, until in self._kept.before.get(channel.hex(), ()) if now < until])

    def settled(self, channels: Iterable[ChannelId], now: float) -> Change:
        """The terms as they are, noted for ``channels``, all that are open: at the start, after other settings."""
        return self._change(list(channels), self._kept.usual, dict(self._kept.channels), now)

    def set_for(self, chosen: Iterable[ChannelId], terms: Terms, channels: Iterable[ChannelId], now: float) -> Change:
        """``terms`` for the ``chosen`` ones of the open ``channels``."""
        terms.check()
        own = self._kept.channels | {channel.hex(): terms for channel in chosen}
        return self._change(list(channels), self._kept.usual, own, now)

    def set_for_all(self, terms: Terms | None, channels: Iterable[ChannelId], now: float) -> Change:
        """``terms`` for every channel, also those to come; None: what the settings say."""
        if terms is not None:
            terms.check()
        return self._change(list(channels), terms, {}, now)

    def install(self, change: Change) -> None:
        """Put in force what is on disk."""
        self._kept = change.kept

    def _change(self, channels: list[ChannelId], usual: Terms | None, own: dict[str, Terms], now: float) -> Change:
        names = {channel.hex(): channel for channel in channels}
        kept = _Kept(usual, {name: terms for name, terms in own.items() if name in names})
        changed = []
        for name, channel in names.items():
            terms = _terms(kept, channel, self._settings)
            kept.in_force[name] = terms
            last = self._kept.in_force.get(name) or self.of(channel)
            before = [one for one in self._kept.before.get(name, ()) if now < one[1] and one[0] != terms]
            if last != terms:
                changed.append(channel)
                before.insert(0, (last, int(now) + HONOURED_SECONDS))
            if before:
                kept.before[name] = before[:MOST_BEFORE]
        return Change(msgspec.json.encode(kept), kept, tuple(changed))


def _terms(kept: _Kept, channel: ChannelId, settings: Terms) -> Terms:
    return kept.channels.get(channel.hex()) or kept.usual or settings
