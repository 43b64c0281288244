"""What the methods of every area share: the node, pages, whole satoshis."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from salama.api.method import PageParams
from salama.base.machine import CommandRefused
from salama.base.units import Msat, Sat
from salama.node.node import Node

Id = TypeVar("Id", bound=bytes)


class Area:
    """Methods of one area: a coroutine for each name in its schema, from its parameters to its result."""

    def __init__(self, node: Node) -> None:
        self.node = node


def whole_sat(amount: Msat) -> Sat:
    """``amount`` in satoshis. Raises CommandRefused if that is no whole number."""
    if int(amount) % 1000:
        raise CommandRefused("bad_amount", "On chain there are whole satoshis only.", "Leave the millisatoshis away.")
    return amount.sat


def page_of(ids: Collection[Id], params: PageParams) -> tuple[list[Id], bool]:
    """The ids of a page in their order, which nothing that happens between two pages disturbs, and whether there are
    more. The cursor is the id that the last page ended with. Raises CommandRefused.
    """
    after = params.cursor.lower()
    if not set(after) <= set("0123456789abcdef"):
        raise CommandRefused("bad_cursor", "This is no cursor of ours.", "Use next_cursor of the last page.")
    later = sorted(one for one in ids if one.hex() > after)
    return later[: params.limit], len(later) > params.limit


def page_before(cursor: str) -> int | None:
    """The row that a page ends before; None for the newest page. Raises CommandRefused."""
    if not cursor:
        return None
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise CommandRefused("bad_cursor", "This is no cursor of ours.", "Use next_cursor of the last page.")
    return int(cursor)


def next_cursor(older: int | None) -> str:
    """What asks for the page after this one; empty if there is none."""
    return "" if older is None else str(older)
