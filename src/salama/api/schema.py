"""The methods of a node: parameters, results, words. The server, the terminal and the documentation are made from
this page.

Amounts come in with a unit (``api.amounts``) and go out as integers in fields ending ``_msat``. Ids are text.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from salama.api.method import Amount as Amount
from salama.api.method import Cursor as Cursor
from salama.api.method import Done as Done
from salama.api.method import Limit as Limit
from salama.api.method import Method as Method
from salama.api.method import Nothing as Nothing
from salama.api.method import Params as Params
from salama.api.method import PeerAddress as PeerAddress
from salama.api.method import Result as Result


class Info(Result, frozen=True, kw_only=True):
    node_id: str
    alias: str
    network: str
    version: str
    block_height: int
    block_hash: str
    synced: bool
    addresses: list[str]
    peers: int
    channels_active: int
    channels_pending: int
    channels_inactive: int
    graph_nodes: int
    graph_channels: int


class NewAddrParams(Params, frozen=True, kw_only=True):
    kind: Annotated[str, Meta(description="p2tr or p2wpkh", pattern="^(p2tr|p2wpkh)$")] = "p2wpkh"


class NewAddr(Result, frozen=True, kw_only=True):
    address: str


class Balance(Result, frozen=True, kw_only=True):
    onchain_confirmed_msat: int
    onchain_unconfirmed_msat: int
    onchain_immature_msat: int
    onchain_reserved_msat: int
    channels_ours_msat: int
    channels_theirs_msat: int
    channels_pending_msat: int
    can_send_msat: int
    can_receive_msat: int


class WithdrawParams(Params, frozen=True, kw_only=True):
    address: Annotated[str, Meta(description="where the coins go", max_length=120)]
    amount: Annotated[str, Meta(description="with its unit, or `all`", max_length=40)]
    feerate: Annotated[int, Meta(description="sat per 1000 weight; 0 asks the node", ge=0, le=1_000_000)] = 0


class Withdrawn(Result, frozen=True, kw_only=True):
    txid: str
    amount_msat: int
    fee_msat: int
    tx: str


class DisconnectParams(Params, frozen=True, kw_only=True):
    peer: Annotated[str, Meta(description="node id", max_length=66)]


class ConnectParams(Params, frozen=True, kw_only=True):
    peer: PeerAddress


class Connected(Result, frozen=True, kw_only=True):
    node_id: str


class Peer(Result, frozen=True, kw_only=True):
    node_id: str
    alias: str
    connected: bool
    inbound: bool
    address: str
    channels: int


class Peers(Result, frozen=True, kw_only=True):
    peers: list[Peer]


class OpenParams(Params, frozen=True, kw_only=True):
    peer: PeerAddress
    amount: Amount
    push: Annotated[Amount, Meta(description="given to the peer at once; cannot be taken back")] = "0sat"
    private: Annotated[bool, Meta(description="do not announce the channel to the network")] = False
    feerate: Annotated[
        int, Meta(description="of the funding transaction, sat per 1000 weight; 0 asks the node", ge=0)
    ] = 0


class Opened(Result, frozen=True, kw_only=True):
    channel_id: str
    funding_txid: str
    funding_vout: int


class CloseParams(Params, frozen=True, kw_only=True):
    channel: Annotated[str, Meta(description="channel id, short channel id, alias or funding outpoint", max_length=100)]
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


class Channels(Result, frozen=True, kw_only=True):
    channels: list[Channel]


class ChannelsParams(Params, frozen=True, kw_only=True):
    closed: Annotated[bool, Meta(description="also those that are closed for good")] = False


class InvoiceParams(Params, frozen=True, kw_only=True):
    amount: Annotated[str, Meta(description="with its unit, or `any`", max_length=40)]
    description: Annotated[str, Meta(max_length=639)] = ""
    expiry: Annotated[int, Meta(description="seconds", ge=1, le=31_536_000)] = 3600


class InvoiceCreated(Result, frozen=True, kw_only=True):
    invoice: str
    payment_hash: str
    amount_msat: int | None
    expires_at: int


class PayParams(Params, frozen=True, kw_only=True):
    request: Annotated[str, Meta(description="a BOLT 11 invoice", max_length=20_000)]
    amount: Annotated[str, Meta(description="needed, and allowed, only when the invoice names none", max_length=40)] = (
        ""
    )
    max_fee: Annotated[str, Meta(description="most to pay in fees; default 1 % + 10 sat", max_length=40)] = ""
    timeout: Annotated[int, Meta(description="seconds until no new attempt is made", ge=1, le=3600)] = 60


class Part(Result, frozen=True, kw_only=True):
    status: str
    delivered_msat: int
    fee_msat: int
    route: list[str]
    failure: str


class Paid(Result, frozen=True, kw_only=True):
    payment_hash: str
    status: str
    amount_msat: int
    fee_msat: int
    preimage: str
    failure_code: str
    failure_reason: str
    seconds: float
    parts: list[Part]


class DecodeParams(Params, frozen=True, kw_only=True):
    item: Annotated[str, Meta(max_length=200_000)]


class Decoded(Result, frozen=True, kw_only=True):
    decoded: dict[str, Any]


class PageParams(Params, frozen=True, kw_only=True):
    limit: Limit = 100
    cursor: Cursor = ""


class Forward(Result, frozen=True, kw_only=True):
    in_channel: str
    out_channel: str
    amount_in_msat: int
    amount_out_msat: int
    fee_msat: int
    status: str
    at: int


class Forwards(Result, frozen=True, kw_only=True):
    forwards: list[Forward]
    next_cursor: str
    total_fee_msat: int
    settled: int


class PaymentLine(Result, frozen=True, kw_only=True):
    payment_hash: str
    status: str
    amount_msat: int
    fee_msat: int
    payee: str
    created: int
    failure_code: str


class Payments(Result, frozen=True, kw_only=True):
    payments: list[PaymentLine]
    next_cursor: str


class InvoiceLine(Result, frozen=True, kw_only=True):
    payment_hash: str
    status: str
    amount_msat: int | None
    received_msat: int
    description: str
    created: int
    expires_at: int
    invoice: str


class Invoices(Result, frozen=True, kw_only=True):
    invoices: list[InvoiceLine]
    next_cursor: str


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
    after: Annotated[int, Meta(description="id of the last event that you know", ge=0)] = 0
    limit: Limit = 100


class Event(Result, frozen=True, kw_only=True):
    id: int
    at: int
    name: str
    fields: dict[str, str | int | bool]


class Events(Result, frozen=True, kw_only=True):
    events: list[Event]
    last_id: int


class WhyParams(Params, frozen=True, kw_only=True):
    channel: Annotated[str, Meta(description="id, short channel id, alias or funding outpoint of a channel")]


class WhyLine(Result, frozen=True, kw_only=True):
    at: int
    """Unix seconds."""
    text: str


class Why(Result, frozen=True, kw_only=True):
    channel_id: str
    lines: list[WhyLine]


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method("getinfo", "Who this node is and how it is doing.", Nothing, Info, aliases=("nodeid",)),
        Method(
            "newaddr", "A new address to receive bitcoin on chain.", NewAddrParams, NewAddr,
            aliases=("newaddress", "getnewaddress"),
        ),
        Method("balance", "What we own on chain and in channels.", Nothing, Balance, aliases=("getbalance",)),
        Method(
            "withdraw", "Send coins on chain.", WithdrawParams, Withdrawn, ("address", "amount"),
            aliases=("sendcoins", "sendonchain", "sendtoaddress"),
        ),
        Method("disconnect", "Disconnect from a peer and do not call it again.", DisconnectParams, Done, ("peer",)),
        Method("connect", "Connect to a peer and remember it.", ConnectParams, Connected, ("peer",)),
        Method("peers", "Peers that are connected or have a channel with us.", Nothing, Peers, aliases=("listpeers",)),
        Method(
            "open", "Open a channel with a peer.", OpenParams, Opened, ("peer", "amount"),
            aliases=("openchannel", "fundchannel", "open_channel"),
        ),
        Method(
            "close", "Close a channel, together with the peer unless forced.", CloseParams, Closed, ("channel",),
            aliases=("closechannel", "close_channel"),
        ),
        Method(
            "channels", "Our channels.", ChannelsParams, Channels,
            aliases=("listchannels", "list_channels", "listpeerchannels"),
        ),
        Method(
            "invoice", "Ask for a payment (BOLT 11).", InvoiceParams, InvoiceCreated, ("amount", "description"),
            aliases=("addinvoice", "createinvoice"),
        ),
        Method(
            "pay", "Pay an invoice and wait for the result.", PayParams, Paid, ("request",),
            aliases=("payinvoice", "xpay", "lnpay"),
        ),
        Method("payments", "Our payments, newest first.", PageParams, Payments, aliases=("listpays", "listpayments")),
        Method("invoices", "Our invoices, newest first.", PageParams, Invoices, aliases=("listinvoices",)),
        Method(
            "decode",
            "Say what a thing is: message, invoice, transaction, script, address, features.",
            DecodeParams,
            Decoded,
            ("item",), aliases=("decodepayreq", "parseinvoice", "decode_invoice"),
        ),
        Method(
            "forwards",
            "What we relayed for others, newest first.",
            PageParams,
            Forwards,
            aliases=("listforwards", "fwdinghistory"),
        ),
        Method("counters", "How often it wrote, synced and signed since its start.", Nothing, Counters),
        Method("events", "What happened, oldest first, each event once and for ever.", EventsParams, Events),
        Method("why", "What became of a channel and why, in words.", WhyParams, Why, ("channel",)),
        Method("stop", "Stop the node in good order.", Nothing, Done),
    )
}  # fmt: skip
ALIASES: dict[str, str] = {alias: m.name for m in METHODS.values() for alias in m.aliases}


def find_method(name: str) -> Method | None:
    """The method of that name or alias."""
    return METHODS.get(ALIASES.get(name, name))
