"""The order of things in a node: what it said against what was safe on its disk, from the notes of a doomed node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum


class Safety(IntEnum):
    """How far the record behind a message has come."""

    MADE = 0
    BEGUN = 1
    WRITTEN = 2
    SYNCED = 3


@dataclass(slots=True)
class Order:
    """How many messages of each name were sent, and which of them too early."""

    sent: dict[str, int] = field(default_factory=dict)
    early: list[str] = field(default_factory=list)


def order_of(moments: Iterable[str]) -> Order:
    """Follow each message from the turn that made it, through the next transaction, its writes and the sync after
    them, to the socket.
    """
    order = Order()
    safety: dict[str, Safety] = {}
    under_way: set[str] = set()

    def advance(come_from: Safety) -> None:
        for name in list(under_way):
            if safety[name] is come_from:
                safety[name] = Safety(come_from + 1)
                if safety[name] is Safety.SYNCED:
                    under_way.discard(name)

    for line in moments:
        match line.split():
            case ["made", kind, digest]:
                name = f"{kind} {digest}"
                if name not in safety:
                    safety[name] = Safety.MADE
                    under_way.add(name)
            case ["begin"]:
                advance(Safety.MADE)
            case ["write", path] if path.endswith("-wal"):
                advance(Safety.BEGUN)
            case ["sync", path] if path.endswith("-wal"):
                advance(Safety.WRITTEN)
            case ["sent", kind, digest]:
                name = f"{kind} {digest}"
                order.sent[kind] = order.sent.get(kind, 0) + 1
                if safety.get(name) is not Safety.SYNCED:
                    order.early.append(f"{name} was {safety[name].name if name in safety else 'never made'}")
    return order
