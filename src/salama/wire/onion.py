"""What travels inside onions: payloads, encrypted recipient data, blinded paths, onion messages (BOLT 4, B4.04 to
B4.16).

A ``PaymentPayload`` is decoded without its length in front. Which records may stand together depends on the hop's
part in the payment and is judged by ``payments``. BOLT 12 values stay bytes here: ``invoices`` reads them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from salama.base.ids import NodeId, ShortChannelId
from salama.base.units import Msat
from salama.codec.fields import (
    BYTE,
    NODE_POINT,
    POINT,
    REST,
    SCIDDIR_OR_PUBKEY,
    SHORT_CHANNEL_ID,
    TU32,
    TU32_MSAT,
    TU64_MSAT,
    U16,
    U32,
    VARBYTES,
    FieldType,
    ScidDir,
    counted,
    group,
    raw,
)
from salama.codec.message import Message, TlvStream, field, message, tlv, tlv_stream
from salama.wire.features import FEATURES_REST, Features


@message(513)
class OnionMessage(Message):
    """An onion that carries a message instead of a payment."""

    path_key: bytes = field(POINT)
    onion_message_packet: bytes = field(VARBYTES)


class PaymentData(NamedTuple):
    """From the invoice: the secret that proves who paid, and the sum of all parts."""

    payment_secret: bytes
    total_msat: Msat

    def __repr__(self) -> str:
        return f"PaymentData(payment_secret=..., total_msat={self.total_msat})"


@tlv_stream
class PaymentPayload(TlvStream):
    """The instructions for one hop of a payment."""

    amt_to_forward: Msat | None = tlv(2, TU64_MSAT)
    outgoing_cltv_value: int | None = tlv(4, TU32)
    short_channel_id: ShortChannelId | None = tlv(6, SHORT_CHANNEL_ID)
    payment_data: PaymentData | None = tlv(8, group(PaymentData, payment_secret=raw(32), total_msat=TU64_MSAT))
    encrypted_recipient_data: bytes | None = tlv(10, REST)
    current_path_key: bytes | None = tlv(12, POINT)
    payment_metadata: bytes | None = tlv(16, REST)
    total_amount_msat: Msat | None = tlv(18, TU64_MSAT)


class BlindedPathHop(NamedTuple):
    """A node of a blinded path under its blinded key, and what its creator tells it."""

    blinded_node_id: bytes
    encrypted_recipient_data: bytes


class BlindedPath(NamedTuple):
    """A path to somebody who stays unknown: the first node by name, the others blinded; at least one hop."""

    first_node_id: NodeId | ScidDir
    first_path_key: bytes
    path: tuple[BlindedPathHop, ...]


BLINDED_PATH_HOP: Final[FieldType[BlindedPathHop]] = group(
    BlindedPathHop, "blinded_path_hop", blinded_node_id=POINT, encrypted_recipient_data=VARBYTES
)
BLINDED_PATH: Final[FieldType[BlindedPath]] = group(
    BlindedPath,
    "blinded_path",
    first_node_id=SCIDDIR_OR_PUBKEY,
    first_path_key=POINT,
    path=counted(BLINDED_PATH_HOP, BYTE, least=1),
)


class PaymentRelay(NamedTuple):
    """What a blinded hop takes for relaying a payment."""

    cltv_expiry_delta: int
    fee_proportional_millionths: int
    fee_base_msat: Msat


class PaymentConstraints(NamedTuple):
    """What a payment over a blinded hop must keep to."""

    max_cltv_expiry: int
    htlc_minimum_msat: Msat


@tlv_stream
class EncryptedData(TlvStream):
    """What the creator of a blinded path tells one of its nodes (``encrypted_data_tlv``)."""

    padding: bytes | None = tlv(1, REST)
    short_channel_id: ShortChannelId | None = tlv(2, SHORT_CHANNEL_ID)
    next_node_id: NodeId | None = tlv(4, NODE_POINT)
    path_id: bytes | None = tlv(6, REST, secret=True)
    next_path_key_override: bytes | None = tlv(8, POINT)
    payment_relay: PaymentRelay | None = tlv(
        10, group(PaymentRelay, cltv_expiry_delta=U16, fee_proportional_millionths=U32, fee_base_msat=TU32_MSAT)
    )
    payment_constraints: PaymentConstraints | None = tlv(
        12, group(PaymentConstraints, max_cltv_expiry=U32, htlc_minimum_msat=TU64_MSAT)
    )
    allowed_features: Features | None = tlv(14, FEATURES_REST)


@tlv_stream
class OnionMessagePayload(TlvStream):
    """The contents of an onion message for one of its nodes (``onionmsg_tlv``)."""

    reply_path: BlindedPath | None = tlv(2, BLINDED_PATH)
    encrypted_recipient_data: bytes | None = tlv(4, REST)
    invoice_request: bytes | None = tlv(64, REST)
    invoice: bytes | None = tlv(66, REST)
    invoice_error: bytes | None = tlv(68, REST)
