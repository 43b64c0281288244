"""Transactions that more than one wallet or channel has a part in: PSBTs, descriptors, joint openings."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from salama.api.method import Amount, Done, Feerate, Method, Params, PeerAddress, Result
from salama.api.wallet_schema import Outpoints

Text = Annotated[str, Meta(description="a PSBT in base64 or hexadecimal", max_length=4_000_000)]
Blocks = Annotated[int, Meta(description="blocks for which our coins in it stay set aside", ge=1, le=10_000)]
Channel = Annotated[str, Meta(description="channel id, alias or funding outpoint", max_length=100)]


class PsbtFundParams(Params, frozen=True, kw_only=True):
    address: Annotated[str, Meta(description="where the coins go", max_length=120)]
    amount: Annotated[str, Meta(description="with its unit, or `all`", max_length=40)]
    feerate: Feerate = 0
    coins: Annotated[Outpoints, Meta(description="spend from these alone: txid:index, with commas between them")] = ""
    blocks: Blocks = 144


class PsbtFunded(Result, frozen=True, kw_only=True):
    psbt: str
    fee_msat: int
    reserved_until: int


class PsbtSignParams(Params, frozen=True, kw_only=True):
    psbt: Text
    blocks: Blocks = 144


class PsbtSigned(Result, frozen=True, kw_only=True):
    psbt: str
    signed: int
    """Inputs that are ours."""
    spends_msat: int
    """What these hold."""
    receives_msat: int
    """What of the outputs is ours."""
    fee_msat: int | None
    complete: bool


class PsbtParams(Params, frozen=True, kw_only=True):
    psbt: Text


class PsbtFinaliseParams(Params, frozen=True, kw_only=True):
    psbt: Text
    publish: Annotated[bool, Meta(description="show the transaction to the network")] = False


class PsbtFinalised(Result, frozen=True, kw_only=True):
    psbt: str
    complete: bool
    txid: str
    tx: str
    """Empty while a signature is missing."""


class PsbtReleased(Result, frozen=True, kw_only=True):
    coins: int


class DescriptorsParams(Params, frozen=True, kw_only=True):
    private: Annotated[bool, Meta(description="with the keys: whoever has them may spend every coin")] = False


class DescriptorLine(Result, frozen=True, kw_only=True):
    """In the shape that Bitcoin Core's importdescriptors takes."""

    desc: str
    active: bool
    internal: bool
    range: list[int]
    next_index: int
    timestamp: int
    """Unix seconds from which on the chain must be looked through."""


class Descriptors(Result, frozen=True, kw_only=True):
    descriptors: list[DescriptorLine]


class OpenBatchParams(Params, frozen=True, kw_only=True):
    channels: Annotated[
        str, Meta(description="PEER=AMOUNT with commas between them; PEER as in `open`", max_length=20_000)
    ]
    private: Annotated[bool, Meta(description="do not announce the channels to the network")] = False
    feerate: Feerate = 0


class OpenedOne(Result, frozen=True, kw_only=True):
    channel_id: str
    peer: str
    funding_vout: int


class OpenedBatch(Result, frozen=True, kw_only=True):
    funding_txid: str
    channels: list[OpenedOne]


class OpenPsbtParams(Params, frozen=True, kw_only=True):
    peer: PeerAddress
    amount: Amount
    push: Annotated[Amount, Meta(description="given to the peer at once; cannot be taken back")] = "0sat"
    private: Annotated[bool, Meta(description="do not announce the channel to the network")] = False


class OpenPsbtBegun(Result, frozen=True, kw_only=True):
    opening: str
    address: str
    """To be paid by the other wallet, in a transaction that it does not publish."""
    amount_msat: int
    seconds: int
    """Within which `openverify` must come."""


class OpenVerifyParams(Params, frozen=True, kw_only=True):
    opening: Annotated[str, Meta(max_length=40)]
    psbt: Text


class OpenVerified(Result, frozen=True, kw_only=True):
    channel_id: str
    funding_txid: str
    funding_vout: int


class OpenFinishParams(Params, frozen=True, kw_only=True):
    channel: Channel
    psbt: Text


class OpenFinished(Result, frozen=True, kw_only=True):
    channel_id: str
    funding_txid: str


class OpenAbortParams(Params, frozen=True, kw_only=True):
    opening: Annotated[str, Meta(description="an opening, or a channel whose funding is not signed", max_length=100)]


METHODS: tuple[Method, ...] = (
    Method(
        "psbtfund",
        "An unsigned PSBT that pays an address from our coins.",
        PsbtFundParams,
        PsbtFunded,
        ("address", "amount"),
        aliases=("fundpsbt", "walletcreatefundedpsbt"),
    ),
    Method(
        "psbtsign",
        "Sign our inputs of a PSBT.",
        PsbtSignParams,
        PsbtSigned,
        ("psbt",),
        aliases=("signpsbt", "walletprocesspsbt"),
    ),
    Method(
        "psbtfinalise",
        "Put the signatures of a PSBT in place, and publish it if asked to.",
        PsbtFinaliseParams,
        PsbtFinalised,
        ("psbt",),
        aliases=("finalizepsbt", "sendpsbt"),
    ),
    Method(
        "psbtrelease",
        "Free the coins that were set aside for a PSBT.",
        PsbtParams,
        PsbtReleased,
        ("psbt",),
        aliases=("unreserveinputs",),
    ),
    Method(
        "descriptors",
        "The wallet as descriptors, for other programs to watch it.",
        DescriptorsParams,
        Descriptors,
        aliases=("listdescriptors",),
    ),
    Method(
        "openbatch",
        "Open several channels by one transaction: all of them or none.",
        OpenBatchParams,
        OpenedBatch,
        ("channels",),
        aliases=("batchopenchannel", "multifundchannel"),
    ),
    Method(
        "openpsbt",
        "Begin a channel that another wallet pays for.",
        OpenPsbtParams,
        OpenPsbtBegun,
        ("peer", "amount"),
        aliases=("fundchannel_start",),
    ),
    Method(
        "openverify",
        "Have the peer sign for the funding in a PSBT; after it, and not before, the PSBT may be signed.",
        OpenVerifyParams,
        OpenVerified,
        ("opening", "psbt"),
        aliases=("fundchannel_complete",),
    ),
    Method(
        "openfinish",
        "Publish the signed funding of a channel.",
        OpenFinishParams,
        OpenFinished,
        ("channel", "psbt"),
    ),
    Method(
        "openabort",
        "Give up a channel whose funding nobody has signed.",
        OpenAbortParams,
        Done,
        ("opening",),
        aliases=("fundchannel_cancel",),
    ),
)
