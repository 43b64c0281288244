"""Coins on chain."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from salama.api.method import PER_KW, Cursor, Done, Feerate, Limit, Method, Nothing, Params, Result

Outpoint = Annotated[str, Meta(description="a coin: txid:index, or its beginning: 4fbd6710:0", max_length=80)]
Outpoints = Annotated[str, Meta(description="coins, txid:index, with commas between them", max_length=80_000)]


class NewAddrParams(Params, frozen=True, kw_only=True):
    kind: Annotated[str, Meta(description="p2tr or p2wpkh", pattern="^(p2tr|p2wpkh)$")] = "p2wpkh"


class NewAddr(Result, frozen=True, kw_only=True):
    address: str


class Balance(Result, frozen=True, kw_only=True):
    onchain_confirmed_msat: int
    onchain_unconfirmed_msat: int
    onchain_immature_msat: int
    onchain_reserved_msat: int
    """Set aside for something that is under way, or frozen."""
    fee_reserve_msat: int
    """To be kept on chain for the fees of closing every channel by force; 0 while the channels are small."""
    fee_reserve_missing_msat: int
    """How much more should be deposited for that."""
    channels_ours_msat: int
    channels_theirs_msat: int
    channels_pending_msat: int
    can_send_msat: int
    can_receive_msat: int


class UtxosParams(Params, frozen=True, kw_only=True):
    limit: Limit = 100
    cursor: Cursor = ""


class Utxo(Result, frozen=True, kw_only=True):
    outpoint: str
    amount_msat: int
    confirmations: int
    label: str
    frozen: bool
    reserved_for: str
    """What it is set aside for; empty if it is free."""
    reserved_until: int
    """Height at which that ends by itself; 0 if it does not."""
    spendable: bool
    """May be chosen now: confirmed or our own change, mature, free and not frozen."""
    change: bool
    address: str


class Utxos(Result, frozen=True, kw_only=True):
    utxos: list[Utxo]
    next_cursor: str


class LabelParams(Params, frozen=True, kw_only=True):
    coin: Outpoint
    label: Annotated[str, Meta(description="empty takes it away", max_length=100)] = ""


class FreezeParams(Params, frozen=True, kw_only=True):
    coins: Outpoints


class WithdrawParams(Params, frozen=True, kw_only=True):
    address: Annotated[str, Meta(description="where the coins go", max_length=120)]
    amount: Annotated[str, Meta(description="with its unit, or `all`", max_length=40)]
    feerate: Feerate = 0
    coins: Annotated[Outpoints, Meta(description="spend from these alone: txid:index, with commas between them")] = ""


class Withdrawn(Result, frozen=True, kw_only=True):
    txid: str
    amount_msat: int
    fee_msat: int
    tx: str


class BumpFeeParams(Params, frozen=True, kw_only=True):
    txid: Annotated[str, Meta(description="a transaction of ours that is not confirmed", max_length=64)]
    feerate: Annotated[int, Meta(description=PER_KW, ge=253, le=500_000)]
    how: Annotated[
        str, Meta(description="rbf replaces it, cpfp lets a child pay, auto chooses", pattern="^(auto|rbf|cpfp)$")
    ] = "auto"
    subtract: Annotated[bool, Meta(description="if nothing else can pay, take it from the only output")] = False


class Bumped(Result, frozen=True, kw_only=True):
    txid: str
    how: str
    fee_msat: int
    """Of the new transaction."""
    replaces: str
    tx: str


METHODS: tuple[Method, ...] = (
    Method(
        "newaddr",
        "A new address to receive bitcoin on chain.",
        NewAddrParams,
        NewAddr,
        aliases=("newaddress", "getnewaddress"),
    ),
    Method("balance", "What we own on chain and in channels.", Nothing, Balance, aliases=("getbalance",)),
    Method(
        "utxos",
        "Our coins on chain, one by one.",
        UtxosParams,
        Utxos,
        aliases=("listunspent",),
        columns=("outpoint", "amount_msat", "confirmations", "spendable"),
    ),
    Method("label", "Give a coin a name.", LabelParams, Done, ("coin", "label")),
    Method("freeze", "Leave coins alone until they are unfrozen.", FreezeParams, Done, ("coins",)),
    Method("unfreeze", "Let frozen coins be spent again.", FreezeParams, Done, ("coins",)),
    Method(
        "withdraw",
        "Send coins on chain.",
        WithdrawParams,
        Withdrawn,
        ("address", "amount"),
        aliases=("sendcoins", "sendonchain", "sendtoaddress"),
    ),
    Method(
        "bumpfee",
        "Make a transaction of ours confirm sooner.",
        BumpFeeParams,
        Bumped,
        ("txid", "feerate"),
        aliases=("cpfpbumpfees",),
    ),
)
