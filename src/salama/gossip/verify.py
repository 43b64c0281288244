"""What makes an announcement true: its signatures, its form, and the output it points at (BOLT 7, B7.03-B7.05).

Signatures are collected as ``SignatureCheck``s, so that a whole batch can be verified in one call, by several threads
if the shell likes. The funding output is asked of the shell; here is only what it must look like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from salama.base.ids import NodeId
from salama.bitcoin.script import OP_2, OP_CHECKMULTISIG, p2wsh, script
from salama.codec.fields import Malformed
from salama.crypto import secp256k1
from salama.crypto.hashes import sha256d
from salama.wire.addresses import decode_addresses
from salama.wire.gossip import ChannelAnnouncement, ChannelUpdate, NodeAnnouncement


class SignatureCheck(NamedTuple):
    """``signature`` (64 bytes) of ``digest`` by the key ``point`` (33 bytes), none of which need be well formed."""

    point: bytes
    digest: bytes
    signature: bytes


Verify = Callable[[Sequence[SignatureCheck]], Sequence[bool]]
"""Answers a list of checks in order."""


def verify_in_turn(checks: Sequence[SignatureCheck]) -> list[bool]:
    """The plain ``Verify``: one after the other, about 40 microseconds each."""
    return [secp256k1.verify(*check) for check in checks]


def channel_announcement_checks(announcement: ChannelAnnouncement) -> tuple[SignatureCheck, ...]:
    """Both nodes and both funding keys sign the same digest."""
    digest = sha256d(announcement.signed_part)
    return (
        SignatureCheck(announcement.node_id_1, digest, announcement.node_signature_1),
        SignatureCheck(announcement.node_id_2, digest, announcement.node_signature_2),
        SignatureCheck(announcement.bitcoin_key_1, digest, announcement.bitcoin_signature_1),
        SignatureCheck(announcement.bitcoin_key_2, digest, announcement.bitcoin_signature_2),
    )


def channel_update_check(update: ChannelUpdate, nodes: tuple[NodeId, NodeId]) -> SignatureCheck:
    """Signed by ``nodes[direction]``; ``nodes`` are ``node_id_1`` and ``node_id_2`` of the announcement."""
    return SignatureCheck(nodes[update.direction], sha256d(update.signed_part), update.signature)


def node_announcement_check(announcement: NodeAnnouncement) -> SignatureCheck:
    return SignatureCheck(announcement.node_id, sha256d(announcement.signed_part), announcement.signature)


def announcement_fault(announcement: ChannelAnnouncement) -> str | None:
    """What is wrong with the form of an announcement, apart from its signatures."""
    if announcement.node_id_1 >= announcement.node_id_2:
        return "channel_announcement with its nodes out of order"
    return None


def node_fault(announcement: NodeAnnouncement) -> str | None:
    """What is wrong with the form of a node announcement, apart from its signature."""
    try:
        decode_addresses(announcement.addresses)
    except Malformed as error:
        return f"node_announcement with bad addresses: {error.reason}"
    return None


def funding_script(bitcoin_key_1: bytes, bitcoin_key_2: bytes) -> bytes:
    """The scriptpubkey that an announced channel's output must have: P2WSH of the sorted 2-of-2 (B3 funding output)."""
    first, second = sorted((bitcoin_key_1, bitcoin_key_2))
    return p2wsh(script(OP_2, first, second, OP_2, OP_CHECKMULTISIG))
