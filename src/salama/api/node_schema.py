"""The node itself: who it is, what happened to it, and what a thing that you hold is."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from salama.api.method import Done, Limit, Method, Nothing, Params, Result


class Info(Result, frozen=True, kw_only=True):
    node_id: str
    alias: str
    network: str
    version: str
    block_height: int
    block_hash: str
    synced: bool
    warnings: list[str]
    """What a person should look at, in sentences; usually empty."""
    addresses: list[str]
    peers: int
    channels_active: int
    channels_pending: int
    channels_inactive: int
    graph_nodes: int
    graph_channels: int


class DecodeParams(Params, frozen=True, kw_only=True):
    item: Annotated[str, Meta(max_length=200_000)]


class Decoded(Result, frozen=True, kw_only=True):
    decoded: dict[str, Any]


class Counters(Result, frozen=True, kw_only=True):
    """What the node has done since its start."""

    commits: int
    syncs: int
    """Transactions that went to the disk: many commits share one."""
    statements: int
    bytes_written: int
    checkpoints: int
    longest_write_us: int
    signatures: int
    """Made for commitments, fundings and closes."""


class EventsParams(Params, frozen=True, kw_only=True):
    after: Annotated[
        int, Meta(description="id of the last event that you know; -1 begins with the next one", ge=-1, le=1 << 62)
    ] = 0
    limit: Limit = 100
    wait: Annotated[int, Meta(description="seconds to wait for an event if there is none yet", ge=0, le=600)] = 0


class Event(Result, frozen=True, kw_only=True):
    id: int
    at: int
    name: str
    fields: dict[str, str | int | bool]


class Events(Result, frozen=True, kw_only=True):
    events: list[Event]
    last_id: int


class ConfigParams(Params, frozen=True, kw_only=True):
    changed: Annotated[bool, Meta(description="only what is not at its default")] = False


class SettingLine(Result, frozen=True, kw_only=True):
    name: str
    value: str
    source: str
    """default, environment, flag, or the file."""
    description: str


class Settings(Result, frozen=True, kw_only=True):
    directory: str
    network: str
    settings: list[SettingLine]


METHODS: tuple[Method, ...] = (
    Method("getinfo", "Who this node is and how it is doing.", Nothing, Info, aliases=("nodeid",)),
    Method("counters", "How often it wrote, synced and signed since its start.", Nothing, Counters),
    Method("events", "What happened, oldest first, each event once and for ever.", EventsParams, Events),
    Method(
        "decode",
        "Say what a thing is: message, invoice, transaction, script, address, features.",
        DecodeParams,
        Decoded,
        ("item",),
        aliases=("decodepayreq", "parseinvoice", "decode_invoice"),
    ),
    Method("config", "What is set, and where it was said.", ConfigParams, Settings, aliases=("listconfigs",)),
    Method("stop", "Stop the node in good order.", Nothing, Done),
)
