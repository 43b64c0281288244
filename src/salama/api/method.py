"""What a method is: the shapes that every part of the schema is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

Amount = Annotated[str, Meta(description="a number with its unit: 1000sat, 5000msat, 25k, 0.001btc", max_length=40)]
PER_KW: Final = "sat per 1000 weight (250 are 1 sat/vB)"
"""The unit of every fee rate but that of ``stress``."""
Feerate = Annotated[int, Meta(description=f"{PER_KW}; 0 asks the node", ge=0, le=1_000_000)]
PeerAddress = Annotated[str, Meta(description="node id, or node id@host:port", max_length=400)]
Limit = Annotated[int, Meta(description="how many entries at most", ge=1, le=1000)]
Cursor = Annotated[str, Meta(description="where the last page ended (its next_cursor)", max_length=100)]


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of a method; an unknown one is refused."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of a method."""


class Nothing(Params, frozen=True, kw_only=True):
    """No parameters."""


class PageParams(Params, frozen=True, kw_only=True):
    """Which page of a list, newest first."""

    limit: Limit = 100
    cursor: Cursor = ""


class Done(Result, frozen=True, kw_only=True):
    """It is done."""

    ok: bool = True


@dataclass(frozen=True, slots=True)
class Method:
    """A method as every face shows it. ``positional`` names the parameters that the terminal takes without a flag,
    ``columns`` what the rows of its result should show first where there is no room for all.
    """

    name: str
    summary: str
    params: type[Params]
    result: type[Result]
    positional: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
