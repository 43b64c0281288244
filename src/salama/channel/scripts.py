"""Witness scripts of funding, commitment and HTLC transactions (BOLT 3, B3.03).

Every function returns the witness script; ``p2wsh`` of it is the scriptpubkey. ``owner`` is the side that can broadcast
the commitment, ``other`` its counterparty. Nothing here knows which of them is us, nor what a commitment contains.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from salama.bitcoin.script import (
    OP_2,
    OP_16,
    OP_CHECKLOCKTIMEVERIFY,
    OP_CHECKMULTISIG,
    OP_CHECKSEQUENCEVERIFY,
    OP_CHECKSIG,
    OP_CHECKSIGVERIFY,
    OP_DROP,
    OP_DUP,
    OP_ELSE,
    OP_ENDIF,
    OP_EQUAL,
    OP_EQUALVERIFY,
    OP_HASH160,
    OP_IF,
    OP_IFDUP,
    OP_NOTIF,
    OP_SIZE,
    OP_SWAP,
    number,
    p2wsh,
    push,
    script,
)
from salama.channel.keys import CommitmentKeys
from salama.crypto.hashes import hash160, ripemd160

ANCHOR_CSV: Final = 16
"""Blocks after which anybody may sweep an anchor."""

# Keys that a channel keeps: a commitment comes back to the same four scripts each time.
_CHANNELS_REMEMBERED: Final = 4096

# What no key and no payment changes, encoded once: a commitment takes each of these several times.
_IF, _ELSE, _EQUALVERIFY = script(OP_IF), script(OP_ELSE), script(OP_EQUALVERIFY)
_ELSE_DROP, _NOTIF_DROP = script(OP_ELSE, OP_DROP), script(OP_NOTIF, OP_DROP)
_DELAYED, _TO_LOCAL_END = script(OP_CHECKSEQUENCEVERIFY, OP_DROP), script(OP_ENDIF, OP_CHECKSIG)
_DUP_HASH160, _EQUAL_IF_CHECKSIG_ELSE = script(OP_DUP, OP_HASH160), script(OP_EQUAL, OP_IF, OP_CHECKSIG, OP_ELSE)
_SIZE_IS_32 = script(OP_SWAP, OP_SIZE, 32, OP_EQUAL)
_TWO_SWAP, _TWO_CHECKMULTISIG = script(2, OP_SWAP), script(2, OP_CHECKMULTISIG)
_TAIL, _CSV_TAIL = script(OP_ENDIF, OP_ENDIF), script(OP_ENDIF, 1, OP_CHECKSEQUENCEVERIFY, OP_DROP, OP_ENDIF)
_PUSH_HASH = script(OP_HASH160) + b"\x14"
_EQUALVERIFY_CHECKSIG = script(OP_EQUALVERIFY, OP_CHECKSIG)
_CLTV_DROP_CHECKSIG = script(OP_CHECKLOCKTIMEVERIFY, OP_DROP, OP_CHECKSIG)

# The same payment hash comes back in both commitments and in each of their successors.
_payment_hash160 = lru_cache(maxsize=8192)(ripemd160)


@lru_cache(maxsize=_CHANNELS_REMEMBERED)
def funding_script(one: bytes, another: bytes) -> bytes:
    """Two-of-two of both funding keys, which may be given in any order."""
    lesser, greater = sorted((one, another))
    return script(OP_2, lesser, greater, OP_2, OP_CHECKMULTISIG)


def to_local_script(revocation: bytes, delayed_payment: bytes, to_self_delay: int) -> bytes:
    """The owner's money after ``to_self_delay`` blocks, or the other side's at once after a revocation.

    Also the only output of HTLC-timeout and HTLC-success transactions.
    """
    return b"".join(
        (
            *(_IF, push(revocation)),
            *(_ELSE, number(to_self_delay), _DELAYED, push(delayed_payment)),
            _TO_LOCAL_END,
        )
    )


@lru_cache(maxsize=_CHANNELS_REMEMBERED)
def to_remote_script(other_payment: bytes) -> bytes:
    """The other side's money, spendable after one confirmation (commitments with anchors)."""
    return script(other_payment, OP_CHECKSIGVERIFY, 1, OP_CHECKSEQUENCEVERIFY)


@lru_cache(maxsize=2 * _CHANNELS_REMEMBERED)
def anchor_script(funding_pubkey: bytes) -> bytes:
    """An output for fee bumping by one side; anybody's after 16 blocks."""
    return script(funding_pubkey, OP_CHECKSIG, OP_IFDUP, OP_NOTIF, OP_16, OP_CHECKSEQUENCEVERIFY, OP_ENDIF)


@lru_cache(maxsize=2 * _CHANNELS_REMEMBERED)
def anchor_scriptpubkey(funding_pubkey: bytes) -> bytes:
    """What pays to ``anchor_script``."""
    return p2wsh(anchor_script(funding_pubkey))


class HtlcScripts:
    """HTLC scripts of one commitment: what its keys fix is encoded once, only hash and expiry vary.

    ``csv`` delays both direct spends by the other side, except the revocation, by one block (commitments with anchors).
    """

    __slots__ = ("_after_expiry", "_after_hash", "_offered_head", "_received_head", "_received_middle")

    def __init__(self, keys: CommitmentKeys, *, csv: bool) -> None:
        revoked = _DUP_HASH160 + push(hash160(keys.revocation)) + _EQUAL_IF_CHECKSIG_ELSE
        head = revoked + push(keys.other_htlc) + _SIZE_IS_32
        both_sign = _TWO_SWAP + push(keys.owner_htlc) + _TWO_CHECKMULTISIG
        tail = _CSV_TAIL if csv else _TAIL
        self._offered_head = head + _NOTIF_DROP + both_sign + _ELSE + _PUSH_HASH
        self._after_hash = _EQUALVERIFY_CHECKSIG + tail
        self._received_head = head + _IF + _PUSH_HASH
        self._received_middle = _EQUALVERIFY + both_sign + _ELSE_DROP
        self._after_expiry = _CLTV_DROP_CHECKSIG + tail

    def offered(self, payment_hash: bytes) -> bytes:
        """Offered by the owner: back to it with HTLC-timeout, or to the other side with the preimage."""
        return self._offered_head + _payment_hash160(payment_hash) + self._after_hash

    def received(self, payment_hash: bytes, cltv_expiry: int) -> bytes:
        """Received by the owner: to it with HTLC-success, or back to the other side from height ``cltv_expiry``."""
        return b"".join(
            (
                self._received_head,
                _payment_hash160(payment_hash),
                self._received_middle,
                number(cltv_expiry),
                self._after_expiry,
            )
        )
