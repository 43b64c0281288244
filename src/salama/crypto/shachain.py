"""Per-commitment secrets: made from a seed, and stored in 49 places however many come (BOLT 3, B3.11).

The index runs downward from 2^48 - 1. The secret of an index that ends in n zero bits yields those of all 2^n indexes
with the same high bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from salama.crypto.hashes import equal, sha256

INDEX_BITS = 48
FIRST_INDEX = (1 << INDEX_BITS) - 1


class InconsistentSecret(ValueError):
    """A secret that does not yield those received before it, or does not come in its turn."""

    def __init__(self, index: int, reason: str) -> None:
        self.index = index
        super().__init__(f"secret for index {index}: {reason}")


def _derive(secret: bytes, bits: int, index: int) -> bytes:
    """The secret for ``index`` from that of the index with the same high bits and ``bits`` low zero bits."""
    for bit in range(bits - 1, -1, -1):
        if index >> bit & 1:
            flipped = bytearray(secret)
            flipped[bit // 8] ^= 1 << bit % 8
            secret = sha256(bytes(flipped))
    return secret


def secret_at(seed: bytes, index: int) -> bytes:
    """The per-commitment secret for ``index`` (0 to 2^48 - 1) of a 32-byte ``seed``."""
    if len(seed) != 32 or not 0 <= index <= FIRST_INDEX:
        raise ValueError("a seed of 32 bytes and an index of 48 bits are needed")
    return _derive(seed, INDEX_BITS, index)


def branch_at(seed: bytes, index: int, bits: int) -> bytes:
    """The secret of ``index`` with its low ``bits`` bits zero: ``secret_below`` finds 2^bits others from it alone."""
    return secret_at(seed, index >> bits << bits)


def secret_below(branch: bytes, bits: int, index: int) -> bytes:
    """The secret for ``index`` from ``branch_at(seed, index, bits)``: a hash for each low bit that is set."""
    return _derive(branch, bits, index)


def _bucket(index: int) -> int:
    return (index & -index).bit_length() - 1 if index else INDEX_BITS


@dataclass(frozen=True, slots=True)
class ShachainStore:
    """Every secret received so far, from FIRST_INDEX down to ``lowest``, in at most 49 entries.

    ``buckets[b]`` is the newest secret whose index ends in exactly b zero bits; since secrets arrive in order,
    ``lowest`` says which index that is.
    """

    lowest: int = FIRST_INDEX + 1
    buckets: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def next_index(self) -> int | None:
        """The index of the secret to come, or None when all have come."""
        return self.lowest - 1 if self.lowest else None

    def insert(self, index: int, secret: bytes) -> ShachainStore:
        """The store with one more secret. Raises InconsistentSecret if out of turn or contrary to an earlier one."""
        if index != self.lowest - 1 or index < 0:
            raise InconsistentSecret(index, f"expected index {self.lowest - 1}")
        if len(secret) != 32:
            raise InconsistentSecret(index, f"{len(secret)} bytes instead of 32")
        bucket = _bucket(index)
        for below in range(bucket):
            if not equal(_derive(secret, bucket, self._index_in(below)), self.buckets[below]):
                raise InconsistentSecret(index, "does not yield an earlier secret")
        return ShachainStore(index, (*self.buckets[:bucket], bytes(secret), *self.buckets[bucket + 1 :]))

    def secret_at(self, index: int) -> bytes | None:
        """The secret for ``index``, or None if it has not been received."""
        if not self.lowest <= index <= FIRST_INDEX:
            return None
        for bucket, secret in enumerate(self.buckets):
            if self._index_in(bucket) >> bucket == index >> bucket:
                return _derive(secret, bucket, index)
        return None

    def _index_in(self, bucket: int) -> int:
        """The lowest index received that ends in exactly ``bucket`` zero bits."""
        if bucket == INDEX_BITS:
            return 0
        prefix = -(-self.lowest >> bucket)
        return (prefix | 1) << bucket

    def encode(self) -> bytes:
        """7 bytes for ``lowest``, then 32 for each bucket."""
        return self.lowest.to_bytes(7, "big") + b"".join(self.buckets)

    @classmethod
    def decode(cls, data: bytes) -> ShachainStore:
        """Inverse of ``encode``. Raises ValueError."""
        lowest = int.from_bytes(data[:7], "big")
        received = FIRST_INDEX + 1 - lowest
        # The n-th secret fills a new bucket when n is a power of two.
        if len(data) < 7 or received < 0 or len(data) != 7 + 32 * received.bit_length():
            raise ValueError("not a shachain store")
        return cls(lowest, tuple(data[i : i + 32] for i in range(7, len(data), 32)))
