"""Coins on chain."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from salama.api.method import Method, Nothing, Params, Result


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
        "withdraw",
        "Send coins on chain.",
        WithdrawParams,
        Withdrawn,
        ("address", "amount"),
        aliases=("sendcoins", "sendonchain", "sendtoaddress"),
    ),
)
