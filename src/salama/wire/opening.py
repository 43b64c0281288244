"""Opening a channel: version 1, version 2 (dual funding), and ``channel_ready`` (BOLT 2, B2.02 to B2.06, B2.16)."""

from __future__ import annotations

from typing import Final

from salama.base.ids import BlockHash, ChannelId, ShortChannelId, Txid
from salama.base.units import FeeratePerKw, Msat, Sat
from salama.codec.fields import (
    BYTE,
    CHAIN_HASH,
    CHANNEL_ID,
    FEERATE_PER_KW,
    MSAT,
    POINT,
    REST,
    SAT,
    SHORT_CHANNEL_ID,
    SIGNATURE,
    TXID,
    U16,
    U32,
    U64,
)
from salama.codec.message import Message, field, flag, message, tlv
from salama.wire.features import FEATURES_REST, Features

ANNOUNCE_CHANNEL: Final = 1
"""Bit of ``channel_flags``: the opener wants the channel to be announced."""


@message(32)
class OpenChannel(Message):
    """The opener proposes a channel that it alone funds."""

    chain_hash: BlockHash = field(CHAIN_HASH)
    temporary_channel_id: ChannelId = field(CHANNEL_ID)
    funding_satoshis: Sat = field(SAT)
    push_msat: Msat = field(MSAT)
    dust_limit_satoshis: Sat = field(SAT)
    # A limit rather than an amount: peers that want none send 2^64-1, so the bound on amounts is not applied to it.
    max_htlc_value_in_flight_msat: int = field(U64)
    channel_reserve_satoshis: Sat = field(SAT)
    htlc_minimum_msat: Msat = field(MSAT)
    feerate_per_kw: FeeratePerKw = field(FEERATE_PER_KW)
    to_self_delay: int = field(U16)
    max_accepted_htlcs: int = field(U16)
    funding_pubkey: bytes = field(POINT)
    revocation_basepoint: bytes = field(POINT)
    payment_basepoint: bytes = field(POINT)
    delayed_payment_basepoint: bytes = field(POINT)
    htlc_basepoint: bytes = field(POINT)
    first_per_commitment_point: bytes = field(POINT)
    channel_flags: int = field(BYTE)
    upfront_shutdown_script: bytes | None = tlv(0, REST)
    channel_type: Features | None = tlv(1, FEATURES_REST)


@message(33)
class AcceptChannel(Message):
    """The accepter agrees and names its own terms."""

    temporary_channel_id: ChannelId = field(CHANNEL_ID)
    dust_limit_satoshis: Sat = field(SAT)
    max_htlc_value_in_flight_msat: int = field(U64)
    channel_reserve_satoshis: Sat = field(SAT)
    htlc_minimum_msat: Msat = field(MSAT)
    minimum_depth: int = field(U32)
    to_self_delay: int = field(U16)
    max_accepted_htlcs: int = field(U16)
    funding_pubkey: bytes = field(POINT)
    revocation_basepoint: bytes = field(POINT)
    payment_basepoint: bytes = field(POINT)
    delayed_payment_basepoint: bytes = field(POINT)
    htlc_basepoint: bytes = field(POINT)
    first_per_commitment_point: bytes = field(POINT)
    upfront_shutdown_script: bytes | None = tlv(0, REST)
    channel_type: Features | None = tlv(1, FEATURES_REST)


@message(34)
class FundingCreated(Message):
    """The opener names the funding output and signs the accepter's first commitment transaction."""

    temporary_channel_id: ChannelId = field(CHANNEL_ID)
    funding_txid: Txid = field(TXID)
    funding_output_index: int = field(U16)
    signature: bytes = field(SIGNATURE)


@message(35)
class FundingSigned(Message):
    """The accepter signs the opener's first commitment transaction."""

    channel_id: ChannelId = field(CHANNEL_ID)
    signature: bytes = field(SIGNATURE)


@message(36)
class ChannelReady(Message):
    """The sender regards the funding transaction as deep enough. The record carries an alias for routing (B2.06)."""

    channel_id: ChannelId = field(CHANNEL_ID)
    second_per_commitment_point: bytes = field(POINT)
    short_channel_id: ShortChannelId | None = tlv(1, SHORT_CHANNEL_ID)


@message(64)
class OpenChannel2(Message):
    """The opener proposes a channel that both may fund."""

    chain_hash: BlockHash = field(CHAIN_HASH)
    temporary_channel_id: ChannelId = field(CHANNEL_ID)
    funding_feerate_perkw: FeeratePerKw = field(FEERATE_PER_KW)
    commitment_feerate_perkw: FeeratePerKw = field(FEERATE_PER_KW)
    funding_satoshis: Sat = field(SAT)
    dust_limit_satoshis: Sat = field(SAT)
    max_htlc_value_in_flight_msat: int = field(U64)
    htlc_minimum_msat: Msat = field(MSAT)
    to_self_delay: int = field(U16)
    max_accepted_htlcs: int = field(U16)
    locktime: int = field(U32)
    funding_pubkey: bytes = field(POINT)
    revocation_basepoint: bytes = field(POINT)
    payment_basepoint: bytes = field(POINT)
    delayed_payment_basepoint: bytes = field(POINT)
    htlc_basepoint: bytes = field(POINT)
    first_per_commitment_point: bytes = field(POINT)
    second_per_commitment_point: bytes = field(POINT)
    channel_flags: int = field(BYTE)
    upfront_shutdown_script: bytes | None = tlv(0, REST)
    channel_type: Features | None = tlv(1, FEATURES_REST)
    require_confirmed_inputs: bool = flag(2)


@message(65)
class AcceptChannel2(Message):
    """The accepter agrees, names its own terms and what it contributes (possibly nothing)."""

    temporary_channel_id: ChannelId = field(CHANNEL_ID)
    funding_satoshis: Sat = field(SAT)
    dust_limit_satoshis: Sat = field(SAT)
    max_htlc_value_in_flight_msat: int = field(U64)
    htlc_minimum_msat: Msat = field(MSAT)
    minimum_depth: int = field(U32)
    to_self_delay: int = field(U16)
    max_accepted_htlcs: int = field(U16)
    funding_pubkey: bytes = field(POINT)
    revocation_basepoint: bytes = field(POINT)
    payment_basepoint: bytes = field(POINT)
    delayed_payment_basepoint: bytes = field(POINT)
    htlc_basepoint: bytes = field(POINT)
    first_per_commitment_point: bytes = field(POINT)
    second_per_commitment_point: bytes = field(POINT)
    upfront_shutdown_script: bytes | None = tlv(0, REST)
    channel_type: Features | None = tlv(1, FEATURES_REST)
    require_confirmed_inputs: bool = flag(2)
