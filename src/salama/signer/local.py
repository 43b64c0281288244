"""The keys' keeper on this machine: answers what a turn owes, and refuses what would lose money (BOLT 3, B3.10, B3.11).

Paths below the BIP 32 root of the seed:

    m/1017'/0'             node key
    m/1017'/1'/i'/0'..4'   channel i: funding, revocation, payment, delayed payment and HTLC base secrets
    m/1017'/1'/i'/5'       channel i: seed of its per-commitment secrets

A channel is named by its key index alone, so the seed and a list of numbers bring every key back.

**Refused**, whatever the caller believes: to sign a remote commitment older than one already signed, or two ahead; to
give away a per-commitment secret out of turn; to publish a commitment whose secret was given away; to give away the
secret of one that was signed for publication; to pay an absurd fee for a claim or a close (``policy``). What was done
before a restart is told with ``remember``.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Final

from salama.base.ids import NodeId
from salama.base.machine import Owed
from salama.channel.keys import Basepoints, derive_secret
from salama.channel.signing import (
    AnnouncementSigned,
    Answer,
    ClosingSignatures,
    CommitmentSignatures,
    OweAnnouncement,
    OweClosingComplete,
    OweClosingSig,
    OweClosingSigned,
    OweCommitmentSigned,
    OweFundingCreated,
    OweFundingSigned,
    OwePublication,
    OweRevocation,
    OweSecretCheck,
    Revocation,
    SecretChecked,
    Signature,
)
from salama.channel.state import OurKeys
from salama.crypto import secp256k1
from salama.crypto.hashes import equal
from salama.crypto.secrets import SecretKey
from salama.crypto.seeds import ExtendedKey
from salama.crypto.shachain import FIRST_INDEX, branch_at, secret_below
from salama.onchain.signing import ClaimSignatures, OweClaim
from salama.signer.claims import ForeignScript, sign_claim
from salama.signer.policy import SigningRefused as SigningRefused
from salama.signer.policy import check_claim_fee, check_closing_fee

NODE_PATH: Final = "m/1017'/0'"
CHANNELS_PATH: Final = "m/1017'/1'"
_CHANNELS_REMEMBERED: Final = 4096
_BRANCH_BITS: Final = 8
"""Of a per-commitment secret's index: so many hashes are left of 48 while a channel stays in the same branch."""
_WORTH_SHARING: Final = 64
"""Signatures from which on handing them to other threads pays: one takes about 25 us, a hand-over about 100."""
_THREADS: Final = 4


@dataclass(frozen=True, slots=True)
class _ChannelSecrets:
    """Hidden from ``repr``: whoever holds it may spend."""

    funding: SecretKey = field(repr=False)
    revocation: SecretKey = field(repr=False)
    payment: SecretKey = field(repr=False)
    delayed_payment: SecretKey = field(repr=False)
    htlc: SecretKey = field(repr=False)
    commitments_seed: SecretKey = field(repr=False)
    basepoints: Basepoints


@dataclass(slots=True)
class _History:
    """What was done with the keys of one channel; commitment numbers, -1 if it never happened."""

    signed_remote: int = -1
    revoked: int = -1
    published: int | None = None


class LocalSigner:
    """Answers from a seed in memory. May be used from several threads."""

    def __init__(self, seed: bytes) -> None:
        """``seed``: 16 to 64 bytes. Raises ValueError."""
        root = ExtendedKey.of_seed(seed)
        self._channels = root.derive(CHANNELS_PATH)
        self._node_key = _secret_of(root.derive(NODE_PATH))
        self.node_id = NodeId(self._node_key.public_key)
        self._histories: dict[int, _History] = {}
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._secrets = lru_cache(maxsize=_CHANNELS_REMEMBERED)(self._derive)
        self._branch = lru_cache(maxsize=_CHANNELS_REMEMBERED)(self._derive_branch)
        self.signatures = 0
        """Made for channels since the start."""

    def __repr__(self) -> str:
        return f"LocalSigner({self.node_id})"

    def close(self) -> None:
        """End the threads, if there are any."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    # --- keys ---

    def channel_keys(self, key_index: int) -> OurKeys:
        """Public keys of channel ``key_index`` (0 to 2^31 - 1) with its first two per-commitment points."""
        secrets = self._secrets(key_index)
        return OurKeys(key_index, secrets.basepoints, self._point(key_index, 0), self._point(key_index, 1))

    def _derive(self, key_index: int) -> _ChannelSecrets:
        if not 0 <= key_index < 1 << 31:
            raise ValueError(f"{key_index} is not a key index")
        channel = self._channels.child(key_index | 1 << 31)
        funding, revocation, payment, delayed, htlc, seed = (
            _secret_of(channel.child(purpose | 1 << 31)) for purpose in range(6)
        )
        points = Basepoints(*(key.public_key for key in (funding, revocation, payment, delayed, htlc)))
        return _ChannelSecrets(funding, revocation, payment, delayed, htlc, seed, points)

    def _derive_branch(self, key_index: int, branch: int) -> SecretKey:
        index = branch << _BRANCH_BITS
        return SecretKey(branch_at(self._secrets(key_index).commitments_seed, index, _BRANCH_BITS))

    def _commitment_secret(self, key_index: int, number: int) -> bytes:
        index = FIRST_INDEX - number
        return secret_below(self._branch(key_index, index >> _BRANCH_BITS), _BRANCH_BITS, index)

    def _point(self, key_index: int, number: int) -> bytes:
        return secp256k1.public_key(self._commitment_secret(key_index, number))

    def ecdh(self, point: bytes) -> bytes:
        """Shared secret of the node key with ``point`` (onions, handshakes). Raises InvalidPoint."""
        return secp256k1.ecdh(self._node_key, point)

    def sign_digest_with_node_key(self, digest: bytes) -> bytes:
        """Compact signature (gossip)."""
        return secp256k1.sign(self._node_key, digest)

    def sign_recoverable(self, digest: bytes) -> tuple[bytes, int]:
        """Compact signature and recovery id (invoices)."""
        return secp256k1.sign_recoverable(self._node_key, digest)

    # --- what a turn owes ---

    def remember(self, key_index: int, *, signed_remote: int, revoked: int) -> None:
        """At start-up, from the record: the last remote commitment signed and the last of ours revoked (-1: none)."""
        with self._lock:
            history = self._histories.setdefault(key_index, _History())
            history.signed_remote = max(history.signed_remote, signed_remote)
            history.revoked = max(history.revoked, revoked)

    def sign_claim(self, owed: OweClaim) -> ClaimSignatures:
        """Signatures for outputs of a channel's closing transaction. Raises SigningRefused."""
        check_claim_fee(
            owed.tx, sum(int(one.amount) for one in owed.claims), sum(int(coin.value) for coin in owed.sweep.coins)
        )
        secrets = self._secrets(owed.key_index)
        try:
            return sign_claim(
                owed,
                funding=secrets.funding,
                revocation=secrets.revocation,
                payment=secrets.payment,
                delayed_payment=secrets.delayed_payment,
                htlc=secrets.htlc,
            )
        except (ForeignScript, ValueError) as mistake:
            raise SigningRefused(str(mistake)) from None

    def answer(self, owed: Sequence[Owed]) -> list[Answer]:
        """One answer for each request, in order. Raises SigningRefused; then nothing of this batch may be used."""
        answers = [self._answer_one(one) for one in owed]
        made = sum([1 + len(one.htlc_signatures) for one in answers if isinstance(one, CommitmentSignatures)])
        with self._lock:
            self.signatures += made + sum([isinstance(one, Signature) for one in answers])
        return answers

    def _answer_one(self, owed: Owed) -> Answer:
        if isinstance(owed, OweCommitmentSigned):
            return self._sign_commitment(owed)
        if isinstance(owed, OweRevocation):
            return self._revoke(owed)
        if isinstance(owed, OwePublication):
            return self._sign_publication(owed)
        if isinstance(owed, OweFundingCreated | OweFundingSigned):
            self._check_remote_number(owed.key_index, 0)
            return Signature(secp256k1.sign(self._secrets(owed.key_index).funding, owed.digest))
        if isinstance(owed, OweClosingComplete):
            check_closing_fee(int(owed.draft.fee_satoshis))
            funding = self._secrets(owed.key_index).funding
            return ClosingSignatures(tuple([secp256k1.sign(funding, digest) for _, digest in owed.digests]))
        if isinstance(owed, OweClosingSigned | OweClosingSig):
            check_closing_fee(int(owed.draft.fee_satoshis if isinstance(owed, OweClosingSig) else owed.fee))
            return Signature(secp256k1.sign(self._secrets(owed.key_index).funding, owed.digest))
        if isinstance(owed, OweAnnouncement):
            return AnnouncementSigned(
                secp256k1.sign(self._node_key, owed.digest),
                secp256k1.sign(self._secrets(owed.key_index).funding, owed.digest),
            )
        if isinstance(owed, OweSecretCheck):
            secret = self._commitment_secret(owed.key_index, owed.number)
            return SecretChecked(equal(secret, owed.claimed))
        raise SigningRefused(f"no answer to {type(owed).__name__}")

    def _check_remote_number(self, key_index: int, number: int) -> None:
        with self._lock:
            history = self._histories.setdefault(key_index, _History())
            # A signer that was told nothing (-1) after a restart may begin anywhere.
            if number < history.signed_remote or (history.signed_remote >= 0 and number > history.signed_remote + 1):
                raise SigningRefused(f"remote commitment {number} after {history.signed_remote}")
            history.signed_remote = number

    def _sign_commitment(self, owed: OweCommitmentSigned) -> CommitmentSignatures:
        self._check_remote_number(owed.key_index, owed.number)
        secrets = self._secrets(owed.key_index)
        signature = secp256k1.sign(secrets.funding, owed.digest)
        if not owed.htlc_digests:
            return CommitmentSignatures(signature)
        key = derive_secret(secrets.htlc, owed.point, secrets.basepoints.htlc)
        return CommitmentSignatures(signature, self._sign_many(key, owed.htlc_digests))

    def _sign_many(self, key: SecretKey, digests: Sequence[bytes]) -> tuple[bytes, ...]:
        """libsecp256k1 works without the interpreter's lock, so many signatures are shared among threads."""
        if len(digests) < _WORTH_SHARING:
            return tuple([secp256k1.sign(key, digest) for digest in digests])
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="signer")
            pool = self._pool
        share = -(-len(digests) // _THREADS)
        parts = [digests[at : at + share] for at in range(0, len(digests), share)]
        done = pool.map(lambda part: [secp256k1.sign(key, digest) for digest in part], parts)
        return tuple([signature for part in done for signature in part])

    def _revoke(self, owed: OweRevocation) -> Revocation:
        with self._lock:
            history = self._histories.setdefault(owed.key_index, _History())
            if history.published is not None and owed.number >= history.published:
                raise SigningRefused(f"the secret of commitment {owed.number}, which was signed for publication")
            if history.revoked >= 0 and not history.revoked <= owed.number <= history.revoked + 1:
                raise SigningRefused(f"the secret of commitment {owed.number} after that of {history.revoked}")
            history.revoked = owed.number
        secret = self._commitment_secret(owed.key_index, owed.number)
        return Revocation(secret, self._point(owed.key_index, owed.number + 2))

    def _sign_publication(self, owed: OwePublication) -> Signature:
        if owed.commitment_number is not None:
            with self._lock:
                history = self._histories.setdefault(owed.key_index, _History())
                if owed.commitment_number <= history.revoked:
                    raise SigningRefused(f"commitment {owed.commitment_number} is revoked")
                earlier = owed.commitment_number if history.published is None else history.published
                history.published = min(owed.commitment_number, earlier)
        return Signature(secp256k1.sign(self._secrets(owed.key_index).funding, owed.digest))


def _secret_of(key: ExtendedKey) -> SecretKey:
    secret = key.secret
    assert secret is not None
    return SecretKey(secret)
