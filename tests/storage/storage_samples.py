"""Records with every field filled, for the tests of this room."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from typing import Any

from salama.base.ids import (
    BlockHash,
    ChannelId,
    FixedBytes,
    HtlcRef,
    NodeId,
    OutPoint,
    PaymentHash,
    Preimage,
    ShortChannelId,
    Side,
    Txid,
)
from salama.base.units import BlockHeight, CltvExpiry, FeeratePerKw, Msat, Sat
from salama.bitcoin.networks import NETWORKS
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.channel.backup import ChannelBackup
from salama.channel.events import Origin
from salama.channel.keys import Basepoints
from salama.channel.params import ChannelParams, PartyParams
from salama.channel.spec import CommitmentSpec, SpecHtlc
from salama.channel.state import (
    ActiveFunding,
    ChannelRecord,
    Confirmation,
    Failure,
    Fulfilment,
    FundingSpend,
    Htlc,
    LocalCommitment,
    MalformedFailure,
    MutualClose,
    Phase,
    PointWindow,
    RemoteCommitment,
    htlcs_in_local,
    htlcs_in_remote,
)
from salama.crypto.seeds import ExtendedKey
from salama.crypto.shachain import FIRST_INDEX, ShachainStore, secret_at
from salama.onchain.state import Confirmed, OnchainRecord, Sweep
from salama.payments.records import (
    Invoice,
    InvoiceStatus,
    Part,
    PartStatus,
    Payment,
    PaymentStatus,
    RouteHop,
)
from salama.storage.backup import StaticBackup
from salama.wallet.coins import Coin, WalletState, WalletTx, assemble, new_wallet
from salama.wallet.keys import Accounts, KeyPath
from salama.wire.features import OPTION_ANCHORS, OPTION_STATIC_REMOTEKEY, Features


def example(hint: Any) -> Any:
    """Some value of a declared type."""
    hint = getattr(hint, "__supertype__", hint)
    arguments = typing.get_args(hint)
    if arguments:
        return (
            ()
            if typing.get_origin(hint) is tuple
            else {}
            if typing.get_origin(hint) is Mapping
            else example(arguments[0])
        )
    if issubclass(hint, Enum):
        return next(iter(hint))
    if issubclass(hint, FixedBytes):
        return hint(b"\x02" * hint.SIZE)
    if issubclass(hint, bool | int):
        return hint(1)
    if issubclass(hint, bytes | str):
        return hint(b"some bytes" if issubclass(hint, bytes) else "some text")
    return make(hint)


def make(cls: Any, **fields: Any) -> Any:
    """A dataclass with ``fields``; other required ones are filled, so that a new one breaks no test of another room."""
    hints = typing.get_type_hints(cls)
    for one in dataclasses.fields(cls):
        if one.default is one.default_factory is dataclasses.MISSING and one.name not in fields:
            fields[one.name] = example(hints[one.name])
    return cls(**fields)


def point(number: int) -> bytes:
    return bytes((2 + number % 2,)) + number.to_bytes(32, "big")


def channel_id(number: int = 1) -> ChannelId:
    return ChannelId(number.to_bytes(32, "big"))


def sample_tx(number: int = 1) -> Tx:
    return Tx(
        2,
        (TxIn(OutPoint(Txid(number.to_bytes(32, "big")), 1), witness=(b"\x01" * 71, b"\x02" * 33)),),
        (TxOut(Sat(100_000), b"\x00\x20" + b"\x07" * 32),),
        0,
    )


def party(number: int) -> PartyParams:
    return make(
        PartyParams,
        basepoints=Basepoints(*(point(number * 10 + i) for i in range(5))),
        dust_limit=Sat(354),
        channel_reserve=Sat(1_000),
        max_htlc_value_in_flight=Msat(90_000_000),
        max_accepted_htlcs=30,
        htlc_minimum=Msat(1),
        to_self_delay=144,
        upfront_shutdown_script=b"\x00\x14" + b"\x09" * 20 if number == 1 else None,
    )


PARAMS = make(
    ChannelParams,
    our_node_id=NodeId(point(1)),
    their_node_id=NodeId(point(2)),
    chain_hash=BlockHash(b"\x06" * 32),
    is_opener=True,
    announce=False,
    channel_type=Features.of(mandatory=(OPTION_STATIC_REMOTEKEY, OPTION_ANCHORS)),
    key_index=7,
    minimum_depth=3,
    ours=party(1),
    theirs=party(2),
)


def htlc(number: int, side: Side = Side.OUTGOING, **fields: object) -> Htlc:
    values: dict[str, object] = {
        "origin": Origin(b"origin of %d" % number) if side is Side.OUTGOING else None,
        "first_remote": 4,
        "first_local": 5,
    } | fields
    terms = SpecHtlc(
        side, number, Msat(1_000_000 + number), PaymentHash(bytes([number % 256]) * 32), CltvExpiry(700_000)
    )
    return Htlc(terms, onion=number.to_bytes(2, "big") * 683, **values)  # type: ignore[arg-type]


def of(*htlcs: Htlc) -> dict[int, Htlc]:
    return {one.key: one for one in htlcs}


def record(htlcs: dict[int, Htlc] | None = None, number: int = 1, **fields: object) -> ChannelRecord:
    """A channel in mid-life at local commitment 5 and remote commitments 4 and 5."""
    htlcs = {} if htlcs is None else htlcs

    def spec(owner_is_us: bool, held: dict[int, SpecHtlc]) -> CommitmentSpec:
        return CommitmentSpec(owner_is_us, FeeratePerKw(2_500), Msat(60_000_001), Msat(30_000_999), held)

    secrets = ShachainStore()
    for index in range(4):
        secrets = secrets.insert(FIRST_INDEX - index, secret_at(b"\x05" * 32, FIRST_INDEX - index))
    funding = make(
        ActiveFunding,
        outpoint=OutPoint(Txid(number.to_bytes(32, "little")), 1),
        capacity=Sat(100_000),
        our_funding_pubkey=point(10),
        their_funding_pubkey=point(20),
        local=LocalCommitment(5, spec(True, htlcs_in_local(htlcs, 5)), b"\x0a" * 64, (b"\x0b" * 64, b"\x0c" * 64)),
        remote=RemoteCommitment(4, spec(False, htlcs_in_remote(htlcs, 4)), point(31)),
        next_remote=RemoteCommitment(5, spec(False, htlcs_in_remote(htlcs, 5)), point(32)),
        tx=sample_tx(),
        confirmation=Confirmation(BlockHeight(690_000), 3),
    )
    full = make(
        ChannelRecord,
        channel_id=channel_id(number),
        params=PARAMS,
        phase=Phase.NORMAL,
        active=(funding,),
        opened_at=BlockHeight(689_990),
        our_points=PointWindow(3, (point(40), point(41), point(42), point(43))),
        their_next_point=point(33),
        our_alias=ShortChannelId((1 << 64) - 5),
        their_alias=ShortChannelId(77),
        their_secrets=secrets,
        htlcs=htlcs,
        next_outgoing_id=9,
        next_incoming_id=11,
        owes_signature=True,
        sent_after_local_number=4,
        our_ready=True,
        their_ready=True,
    )
    return replace(full, **fields)  # type: ignore[arg-type]


def full_record() -> ChannelRecord:
    """Every optional field set, every kind of decision about an HTLC."""
    htlcs = of(
        htlc(1),
        htlc(2, removal=Fulfilment(Preimage(b"\x21" * 32)), last_local=5),
        htlc(3, removal=Failure(b"\x22" * 292), last_remote=4),
        htlc(4, Side.INCOMING, removal=MalformedFailure(b"\x23" * 32, 0xC005), path_key=point(50)),
        htlc(5, Side.INCOMING, first_local=6, first_remote=None),
        htlc(6, Side.INCOMING, last_remote=4, removal=Failure(b"\x24" * 2_000)),
    )
    close = MutualClose(sample_tx(2), b"\x0d" * 64)
    return record(
        htlcs,
        phase=Phase.ON_CHAIN,
        inactive=record(htlcs, 3).active,
        their_announcement=(b"\x0e" * 64, b"\x0f" * 64),
        our_shutdown=b"\x00\x14" + b"\x10" * 20,
        their_shutdown=b"\x00\x14" + b"\x11" * 20,
        closing_feerate=FeeratePerKw(300),
        mutual_close=close,
        spend=FundingSpend(sample_tx(3), BlockHeight(700_001)),
        error="they sent ✗ nonsense",
        stale=True,
    )


INVOICE = make(
    Invoice,
    payment_hash=PaymentHash(b"\x31" * 32),
    preimage=Preimage(b"\x32" * 32),
    payment_secret=b"\x33" * 32,
    amount=Msat(5_000),
    text="lnbcrt50n1...",
    description="ein Kaffee ☕",
    created=1_700_000_000,
    expires=1_700_003_600,
    min_final_cltv_expiry=18,
    status=InvoiceStatus.PAID,
    received=Msat(5_001),
    paid_at=1_700_000_100,
    claiming=(HtlcRef(channel_id(1), Side.INCOMING, 4), HtlcRef(channel_id(2), Side.INCOMING, 9)),
)

_HOP = RouteHop(NodeId(point(3)), ShortChannelId(1 << 63), Msat(1_010), CltvExpiry(700_100))
PAYMENT = make(
    Payment,
    payment_hash=PaymentHash(b"\x41" * 32),
    payee=NodeId(point(3)),
    invoice="lnbcrt1...",
    payment_secret=b"\x42" * 32,
    payment_metadata=b"\x43",
    amount=Msat(1_000),
    max_fee=Msat(50),
    final_cltv_delta=18,
    created=1_700_000_000,
    deadline=1_700_000_060,
    status=PaymentStatus.SUCCEEDED,
    preimage=Preimage(b"\x44" * 32),
    finished=1_700_000_002,
    parts=(
        Part(
            0, channel_id(1), (_HOP, replace(_HOP, amount=Msat(1_000))), b"\x45" * 32, Msat(1_000), PartStatus.SETTLED
        ),
        Part(1, channel_id(2), (_HOP,), b"\x46" * 32, Msat(1_000), PartStatus.FAILED, "temporary_channel_failure"),
    ),
    next_part=2,
)


def onchain_record() -> OnchainRecord:
    """A close with everything that a restart must find, every field with a value of its own."""
    script = b"\x00\x14" + bytes(range(20))
    coin = Coin(OutPoint(sample_tx(4).txid, 1), Sat(50_000), script, KeyPath("tr", 1, 7), BlockHeight(699_000), True)
    sweep = Sweep(
        claims=(sample_tx(1).outpoint(0), sample_tx(2).outpoint(0)),
        coins=(coin,),
        tx=sample_tx(3),
        feerate=FeeratePerKw(2_500),
        fee=Sat(1_234),
        made_at=BlockHeight(700_010),
        purpose="claim 0102 0304:1",
        parent=sample_tx(1).txid,
        deadline=700_040,
        refused="min relay fee not met",
    )
    return OnchainRecord(
        channel_id=channel_id(),
        confirmed=(Confirmed(sample_tx(1), BlockHeight(700_001)), Confirmed(sample_tx(2), BlockHeight(700_002))),
        sweeps=(sweep,),
        settled=(3, 4),
        failed=(5,),
        alone=(sample_tx(2).outpoint(0),),
        noted=("close", "spent"),
    )


def full_wallet() -> WalletState:
    """A wallet of which every fact has a value of its own."""
    empty = new_wallet(Accounts.of_master(ExtendedKey.of_seed(bytes(range(32))), NETWORKS["regtest"]))
    script, key = next(iter(empty.scripts.items()))
    coin = Coin(OutPoint(Txid(b"\x01" * 32), 1), Sat(5_000), script, key, BlockHeight(7), True)
    waiting = replace(coin, outpoint=OutPoint(sample_tx().txid, 0), height=None, coinbase=False)
    return assemble(
        empty.accounts,
        empty.branches,
        {sample_tx().txid: WalletTx(sample_tx().txid, (coin.outpoint,), (waiting,), None, sample_tx())},
        {coin.outpoint: coin},
        {coin.outpoint: "channel 1"},
        expiries={"channel 1": BlockHeight(700_100)},
        frozen=frozenset((waiting.outpoint,)),
        labels={coin.outpoint: "Geschenk ☕"},
    )


def full_backup() -> StaticBackup:
    """Words and one channel."""
    keys = Basepoints(*(point(n) for n in range(2, 7)))
    one = ChannelBackup(
        channel_id=channel_id(),
        outpoint=sample_tx().outpoint(0),
        capacity=Sat(1_000_000),
        peer=NodeId(point(3)),
        addresses=("10.0.0.1:9735", "[::1]:9735"),
        is_opener=True,
        channel_type=Features.of(mandatory=(OPTION_STATIC_REMOTEKEY, OPTION_ANCHORS)),
        key_index=7,
        their_basepoints=keys,
        our_delay=144,
        their_delay=720,
        closing_script=b"\x00\x14" + bytes(range(20)),
        opened_at=BlockHeight(700_000),
    )
    chain, birthday = BlockHash(b"\x0a" * 32), BlockHeight(5)
    return StaticBackup(7, 1_700_000_000, NodeId(point(9)), chain, birthday, {("wpkh", 0): 3, ("tr", 1): 4}, (one,))
