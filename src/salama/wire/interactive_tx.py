"""Building a transaction together (BOLT 2, B2.10 to B2.15)."""

from __future__ import annotations

from salama.base.ids import ChannelId, Txid
from salama.base.units import FeeratePerKw, Sat
from salama.codec.fields import (
    CHANNEL_ID,
    FEERATE_PER_KW,
    S64,
    SAT,
    SIGNATURE,
    TXID,
    U32,
    U64,
    VARBYTES,
    counted,
)
from salama.codec.message import Message, field, flag, message, tlv


@message(66)
class TxAddInput(Message):
    """Adds an input: the whole transaction that it spends, or ``shared_input_txid`` for the channel's own funding
    output.
    """

    channel_id: ChannelId = field(CHANNEL_ID)
    serial_id: int = field(U64)
    prevtx: bytes = field(VARBYTES)
    prevtx_vout: int = field(U32)
    sequence: int = field(U32)
    shared_input_txid: Txid | None = tlv(0, TXID)


@message(67)
class TxAddOutput(Message):
    """Adds an output."""

    channel_id: ChannelId = field(CHANNEL_ID)
    serial_id: int = field(U64)
    sats: Sat = field(SAT)
    script: bytes = field(VARBYTES)


@message(68)
class TxRemoveInput(Message):
    """Takes back an input of the sender."""

    channel_id: ChannelId = field(CHANNEL_ID)
    serial_id: int = field(U64)


@message(69)
class TxRemoveOutput(Message):
    """Takes back an output of the sender."""

    channel_id: ChannelId = field(CHANNEL_ID)
    serial_id: int = field(U64)


@message(70)
class TxComplete(Message):
    """The sender has nothing to change; two of these in a row end the construction."""

    channel_id: ChannelId = field(CHANNEL_ID)


@message(71)
class TxSignatures(Message):
    """One serialised witness stack per input of the sender, by serial id, and its signature for a shared input."""

    channel_id: ChannelId = field(CHANNEL_ID)
    txid: Txid = field(TXID)
    witnesses: tuple[bytes, ...] = field(counted(VARBYTES))
    shared_input_signature: bytes | None = tlv(0, SIGNATURE)


@message(72)
class TxInitRbf(Message):
    """Proposes to replace the transaction by one that pays ``feerate``. An absent contribution is zero, not the former
    one.
    """

    channel_id: ChannelId = field(CHANNEL_ID)
    locktime: int = field(U32)
    feerate: FeeratePerKw = field(FEERATE_PER_KW)
    funding_output_contribution: int | None = tlv(0, S64)
    require_confirmed_inputs: bool = flag(2)


@message(73)
class TxAckRbf(Message):
    """Agrees to the replacement. An absent contribution is zero."""

    channel_id: ChannelId = field(CHANNEL_ID)
    funding_output_contribution: int | None = tlv(0, S64)
    require_confirmed_inputs: bool = flag(2)


@message(74)
class TxAbort(Message):
    """Gives up this construction, but not the channel."""

    channel_id: ChannelId = field(CHANNEL_ID)
    data: bytes = field(VARBYTES)
