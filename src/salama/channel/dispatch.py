"""Which function answers which event: one table keyed by phase, state of the link, and kind of event.

The kind is the class of the event, or of the message if the event is ``MessageReceived``. What the rooms' modules do
not register falls to the rules of ``step``, so every combination is either handled or refused, and a test walks them
all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, TypeVar

from salama.base.machine import Transition
from salama.channel.env import ChannelEnv
from salama.channel.state import Channel, LinkState, Phase

Handler = Callable[[Channel, Any, ChannelEnv], Transition[Channel]]
"""Gets the message itself, not the ``MessageReceived`` round it."""
H = TypeVar("H", bound=Handler)
Kind = type

TABLE: Final[dict[tuple[Phase, LinkState, Kind], Handler]] = {}

ALL_PHASES: Final = frozenset(Phase)
OPEN_PHASES: Final = frozenset((Phase.AWAITING_FUNDING, Phase.NORMAL, Phase.SHUTTING_DOWN, Phase.NEGOTIATING))
"""Nothing of the channel is on the chain yet but its funding."""
UPDATE_PHASES: Final = frozenset((Phase.NORMAL, Phase.SHUTTING_DOWN))
ALL_LINKS: Final = frozenset(LinkState)
CONNECTED: Final = frozenset((LinkState.SYNCING, LinkState.READY))
READY: Final = frozenset((LinkState.READY,))


def on(
    *kinds: Kind, phases: Collection[Phase] = ALL_PHASES, links: Collection[LinkState] = ALL_LINKS
) -> Callable[[H], H]:
    """Register the decorated function; a place that is taken already is a mistake in the code."""

    def register(handler: H) -> H:
        for kind in kinds:
            for phase in phases:
                for link in links:
                    place = (phase, link, kind)
                    assert place not in TABLE, f"two handlers for {place}"
                    TABLE[place] = handler
        return handler

    return register
