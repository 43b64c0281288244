"""Closing a channel together: ``shutdown``, simple close, and the older fee negotiation (BOLT 2, B2.35 to B2.39)."""

from __future__ import annotations

from typing import NamedTuple

from salama.base.ids import ChannelId
from salama.base.units import Sat
from salama.codec.fields import CHANNEL_ID, SAT, SIGNATURE, U32, VARBYTES, group
from salama.codec.message import Message, field, message, tlv


@message(38)
class Shutdown(Message):
    """The sender adds no more HTLCs and wants its funds at ``scriptpubkey``."""

    channel_id: ChannelId = field(CHANNEL_ID)
    scriptpubkey: bytes = field(VARBYTES)


@message(40)
class ClosingComplete(Message):
    """A closing transaction that the sender pays for, with a signature for each form of it that it would broadcast."""

    channel_id: ChannelId = field(CHANNEL_ID)
    closer_scriptpubkey: bytes = field(VARBYTES)
    closee_scriptpubkey: bytes = field(VARBYTES)
    fee_satoshis: Sat = field(SAT)
    locktime: int = field(U32)
    closer_output_only: bytes | None = tlv(1, SIGNATURE)
    closee_output_only: bytes | None = tlv(2, SIGNATURE)
    closer_and_closee_outputs: bytes | None = tlv(3, SIGNATURE)


@message(41)
class ClosingSig(Message):
    """The answer: the fields of the ``closing_complete`` and one signature, in the record of the form chosen."""

    channel_id: ChannelId = field(CHANNEL_ID)
    closer_scriptpubkey: bytes = field(VARBYTES)
    closee_scriptpubkey: bytes = field(VARBYTES)
    fee_satoshis: Sat = field(SAT)
    locktime: int = field(U32)
    closer_output_only: bytes | None = tlv(1, SIGNATURE)
    closee_output_only: bytes | None = tlv(2, SIGNATURE)
    closer_and_closee_outputs: bytes | None = tlv(3, SIGNATURE)


class FeeRange(NamedTuple):
    """What the sender would pay, both ends included."""

    min_fee_satoshis: Sat
    max_fee_satoshis: Sat


@message(39)
class ClosingSigned(Message):
    """A proposal for the fee of the closing transaction, signed (before simple close)."""

    channel_id: ChannelId = field(CHANNEL_ID)
    fee_satoshis: Sat = field(SAT)
    signature: bytes = field(SIGNATURE)
    fee_range: FeeRange | None = tlv(1, group(FeeRange, min_fee_satoshis=SAT, max_fee_satoshis=SAT))
