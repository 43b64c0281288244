"""The shape of every protocol machine: a pure step from one frozen state to the next, with what it asks of the shell.

    step(state, event, env) -> Transition(state, effects, rows)

A *row* is a durable fact that the shell writes in the same database transaction as the new state. An *effect* is done
only after that transaction is on disk. What only a key can answer is *owed* and collected for one request to the
signer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

S = TypeVar("S", covariant=True)


class Event:
    """Something that happened; past tense, or an imperative when somebody asks for it."""

    __slots__ = ()


class Effect:
    """Something the shell shall do after the commit."""

    __slots__ = ()


class Row:
    """A durable fact written with the state that caused it."""

    __slots__ = ()


class Owed(Effect):
    """An effect that needs a key first: the signer's answer turns it into another effect (``signing.complete``)."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Transition(Generic[S]):
    """Result of one step: the next state, what to do after the commit, and what to write with it.

    ``effects`` keep their order, also between those that are owed and those that are not.
    """

    state: S
    effects: tuple[Effect, ...] = ()
    rows: tuple[Row, ...] = ()

    @property
    def owed(self) -> tuple[Owed, ...]:
        return tuple(e for e in self.effects if isinstance(e, Owed))


class Reaction(Enum):
    """What a peer's violation leads to; ordered from mild to severe."""

    FAIL_HTLC = "fail the HTLC"
    WARN = "send a warning and disconnect"
    ERROR = "send an error and disconnect, the channel stays"
    FAIL_CHANNEL = "send an error and close the channel on chain"
    STOP = "stop the node"


class PeerViolation(Exception):
    """A peer broke a rule. The reaction is data, so that one table lists which violations may close a channel."""

    reaction: Reaction = Reaction.WARN

    def __init__(self, reason: str, reaction: Reaction | None = None) -> None:
        self.reason = reason
        if reaction is not None:
            self.reaction = reaction
        super().__init__(reason)


class CommandRefused(Exception):
    """A command of the user or of another machine cannot be done; nothing changed.

    ``code`` is stable and snake_case, ``reason`` a sentence for a person, ``remedy`` what to do about it.
    """

    def __init__(self, code: str, reason: str, remedy: str = "") -> None:
        self.code, self.reason, self.remedy = code, reason, remedy
        super().__init__(reason)
