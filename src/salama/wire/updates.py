"""Normal operation: HTLCs, commitments, fee, reconnection, quiescence and splicing (BOLT 2, B2.20, B2.25 to B2.31,
B2.45 to B2.53, B2.60 to B2.66).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from salama.base.ids import ChannelId, PaymentHash, Preimage, Txid
from salama.base.units import FeeratePerKw, Msat
from salama.codec.fields import (
    BYTE,
    CHANNEL_ID,
    FEERATE_PER_KW,
    MSAT,
    PAYMENT_HASH,
    POINT,
    PREIMAGE,
    S64,
    SHA256,
    SIGNATURE,
    TXID,
    U8,
    U16,
    U32,
    U64,
    VARBYTES,
    counted,
    group,
    raw,
)
from salama.codec.message import Message, field, flag, message, tlv

ONION_PACKET_SIZE: Final = 1366
ATTRIBUTION_DATA_SIZE: Final = 920
"""20 hold times of four bytes and 210 HMACs of four bytes; kept whole, since only ``onion`` looks inside (B4.09)."""


@message(128)
class UpdateAddHtlc(Message):
    """Offers an HTLC. ``path_key`` comes with a payment inside a blinded path."""

    channel_id: ChannelId = field(CHANNEL_ID)
    id: int = field(U64)
    amount_msat: Msat = field(MSAT)
    payment_hash: PaymentHash = field(PAYMENT_HASH)
    cltv_expiry: int = field(U32)
    onion_routing_packet: bytes = field(raw(ONION_PACKET_SIZE))
    path_key: bytes | None = tlv(0, POINT, record="blinded_path")


@message(130)
class UpdateFulfillHtlc(Message):
    """Settles an HTLC of the receiver by its preimage."""

    channel_id: ChannelId = field(CHANNEL_ID)
    id: int = field(U64)
    payment_preimage: Preimage = field(PREIMAGE)
    attribution_data: bytes | None = tlv(1, raw(ATTRIBUTION_DATA_SIZE))


@message(131)
class UpdateFailHtlc(Message):
    """Fails an HTLC of the receiver; ``reason`` is encrypted for whoever sent the payment."""

    channel_id: ChannelId = field(CHANNEL_ID)
    id: int = field(U64)
    reason: bytes = field(VARBYTES)
    attribution_data: bytes | None = tlv(1, raw(ATTRIBUTION_DATA_SIZE))


@message(135)
class UpdateFailMalformedHtlc(Message):
    """Fails an HTLC of the receiver whose onion could not be read; ``failure_code`` has the BADONION bit."""

    channel_id: ChannelId = field(CHANNEL_ID)
    id: int = field(U64)
    sha256_of_onion: bytes = field(SHA256)
    failure_code: int = field(U16)


@message(127)
class StartBatch(Message):
    """The next ``batch_size`` messages belong together; ``message_type`` says of which type they are."""

    channel_id: ChannelId = field(CHANNEL_ID)
    batch_size: int = field(U16)
    message_type: int | None = tlv(1, U16)


@message(132)
class CommitmentSigned(Message):
    """Signs the receiver's next commitment transaction, and its HTLC transactions in order of their outputs."""

    channel_id: ChannelId = field(CHANNEL_ID)
    signature: bytes = field(SIGNATURE)
    htlc_signature: tuple[bytes, ...] = field(counted(SIGNATURE))
    funding_txid: Txid | None = tlv(1, TXID)


@message(133)
class RevokeAndAck(Message):
    """Revokes the sender's previous commitment transaction and acknowledges the new one."""

    channel_id: ChannelId = field(CHANNEL_ID)
    per_commitment_secret: bytes = field(raw(32), secret=True)
    next_per_commitment_point: bytes = field(POINT)


@message(134)
class UpdateFee(Message):
    """From the opener: a new fee rate for both commitment transactions."""

    channel_id: ChannelId = field(CHANNEL_ID)
    feerate_per_kw: FeeratePerKw = field(FEERATE_PER_KW)


class NextFunding(NamedTuple):
    """The sender lacks signatures for this transaction; bit 0 of the flags asks for ``commitment_signed`` again."""

    next_funding_txid: Txid
    retransmit_flags: int


class MyCurrentFundingLocked(NamedTuple):
    """The sender has locked this transaction; bit 0 of the flags asks for ``announcement_signatures`` again."""

    my_current_funding_locked_txid: Txid
    retransmit_flags: int


RETRANSMIT_COMMITMENT_SIGNED: Final = 1
RETRANSMIT_ANNOUNCEMENT_SIGNATURES: Final = 1


@message(136)
class ChannelReestablish(Message):
    """After a reconnection: where the sender stands, so that each side knows what to send again."""

    channel_id: ChannelId = field(CHANNEL_ID)
    next_commitment_number: int = field(U64)
    next_revocation_number: int = field(U64)
    your_last_per_commitment_secret: bytes = field(raw(32), secret=True)
    my_current_per_commitment_point: bytes = field(POINT)
    next_funding: NextFunding | None = tlv(1, group(NextFunding, next_funding_txid=TXID, retransmit_flags=BYTE))
    my_current_funding_locked: MyCurrentFundingLocked | None = tlv(
        5, group(MyCurrentFundingLocked, my_current_funding_locked_txid=TXID, retransmit_flags=BYTE)
    )


@message(2)
class Stfu(Message):
    """Asks for quiescence (``initiator`` 1) or agrees to it (0)."""

    channel_id: ChannelId = field(CHANNEL_ID)
    initiator: int = field(U8)


@message(80)
class SpliceInit(Message):
    """Proposes a new funding transaction; a negative contribution takes funds out."""

    channel_id: ChannelId = field(CHANNEL_ID)
    funding_contribution_satoshis: int = field(S64)
    funding_feerate_perkw: FeeratePerKw = field(FEERATE_PER_KW)
    locktime: int = field(U32)
    funding_pubkey: bytes = field(POINT)
    require_confirmed_inputs: bool = flag(2)


@message(81)
class SpliceAck(Message):
    """Agrees to the splice and names the accepter's contribution."""

    channel_id: ChannelId = field(CHANNEL_ID)
    funding_contribution_satoshis: int = field(S64)
    funding_pubkey: bytes = field(POINT)
    require_confirmed_inputs: bool = flag(2)


@message(77)
class SpliceLocked(Message):
    """The sender regards the splice transaction as deep enough."""

    channel_id: ChannelId = field(CHANNEL_ID)
    splice_txid: Txid = field(TXID)
