"""Channels: opened, closed, listed, explained."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from salama.api.method import PER_KW, Amount, Method, PageParams, Params, PeerAddress, Result


class OpenParams(Params, frozen=True, kw_only=True):
    peer: PeerAddress
    amount: Amount
    push: Annotated[Amount, Meta(description="given to the peer at once; cannot be taken back")] = "0sat"
    private: Annotated[bool, Meta(description="do not announce the channel to the network")] = False
    zero_conf: Annotated[
        bool, Meta(description="ask the peer to use the channel before it confirms, if it trusts us so far")
    ] = False
    feerate: Annotated[int, Meta(description=f"of the funding transaction, {PER_KW}; 0 asks the node", ge=0)] = 0


class Opened(Result, frozen=True, kw_only=True):
    channel_id: str
    funding_txid: str
    funding_vout: int


class CloseParams(Params, frozen=True, kw_only=True):
    channel: Annotated[str, Meta(description="channel id, short channel id, alias or funding outpoint", max_length=100)]
    feerate: Annotated[
        int,
        Meta(
            description=f"of our closing transaction, {PER_KW}; 0 asks the node. Higher: offer again",
            ge=0,
            le=500_000,
        ),
    ] = 0
    force: Annotated[bool, Meta(description="publish our commitment without the peer")] = False
    wait: Annotated[int, Meta(description="seconds to wait for the closing transaction", ge=0, le=3600)] = 30


class Closed(Result, frozen=True, kw_only=True):
    channel_id: str
    closing_txid: str
    state: str


class Channel(Result, frozen=True, kw_only=True):
    channel_id: str
    short_channel_id: str
    alias: str
    funding_txid: str
    funding_vout: int
    peer: str
    state: str
    connected: bool
    opener: bool
    private: bool
    capacity_msat: int
    ours_msat: int
    theirs_msat: int
    can_send_msat: int
    can_receive_msat: int
    reserve_ours_msat: int
    reserve_theirs_msat: int
    feerate_per_kw: int
    htlcs_incoming: int
    htlcs_outgoing: int
    confirmations: int
    closing_txid: str
    fee_base_msat: int
    """What we ask for relaying over it."""
    fee_ppm: int
    cltv_delta: int


class Channels(Result, frozen=True, kw_only=True):
    channels: list[Channel]
    next_cursor: str


class SetFeesParams(Params, frozen=True, kw_only=True):
    channel: Annotated[str, Meta(description="any name of a channel, or `all` for every one, also later ones")]
    base: Annotated[str, Meta(description="for each payment, with its unit; empty keeps it", max_length=40)] = ""
    ppm: Annotated[int, Meta(description="millionths of the amount; -1 keeps it", ge=-1, le=1_000_000)] = -1
    cltv_delta: Annotated[int, Meta(description="blocks between the two HTLCs; -1 keeps it", ge=-1, le=2016)] = -1
    usual: Annotated[bool, Meta(description="with `all`: forget what was set, ask what the settings say")] = False


class Fees(Result, frozen=True, kw_only=True):
    """What a channel asks for relaying."""

    channel_id: str
    fee_base_msat: int
    fee_ppm: int
    cltv_delta: int


class FeesSet(Result, frozen=True, kw_only=True):
    channels: list[Fees]
    honoured_seconds: int
    """How long payments on the previous terms are still relayed."""


class ChannelsParams(PageParams, frozen=True, kw_only=True):
    closed: Annotated[bool, Meta(description="also those that are closed for good")] = False


class WhyParams(Params, frozen=True, kw_only=True):
    channel: Annotated[str, Meta(description="id, short channel id, alias or funding outpoint of a channel")]


class WhyLine(Result, frozen=True, kw_only=True):
    at: int
    """Unix seconds."""
    text: str


class Why(Result, frozen=True, kw_only=True):
    channel_id: str
    lines: list[WhyLine]


METHODS: tuple[Method, ...] = (
    Method(
        "open",
        "Open a channel with a peer.",
        OpenParams,
        Opened,
        ("peer", "amount"),
        aliases=("openchannel", "fundchannel", "open_channel"),
    ),
    Method(
        "close",
        "Close a channel, together with the peer unless forced.",
        CloseParams,
        Closed,
        ("channel",),
        aliases=("closechannel", "close_channel"),
    ),
    Method(
        "channels",
        "Our channels.",
        ChannelsParams,
        Channels,
        aliases=("listchannels", "list_channels", "listpeerchannels"),
        columns=(
            "channel_id",
            "short_channel_id",
            "peer",
            "state",
            "connected",
            "capacity_msat",
            "ours_msat",
            "can_send_msat",
            "can_receive_msat",
        ),
    ),
    Method(
        "setfees",
        "Set what a channel asks for relaying; the previous terms are honoured for ten minutes.",
        SetFeesParams,
        FeesSet,
        ("channel",),
        aliases=("setchannel", "updatechanpolicy", "updaterelayfee"),
    ),
    Method("why", "What became of a channel and why, in words.", WhyParams, Why, ("channel",)),
)
