"""Blocks and their headers, decoded but not judged: bitcoind or the kernel has validated what reaches us.

No limits of our own (immunity G1): what consensus accepts must decode here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from salama.base.ids import BlockHash, Txid
from salama.bitcoin.tx import MalformedTx, Tx, compact_size, read_compact_size, read_tx
from salama.crypto.hashes import sha256d

HEADER_SIZE: Final = 80
_HEADER: Final = Struct("<I32s32sIII")
_MIN_TX = 10


class MalformedBlock(ValueError):
    """Bytes that are not one whole block, or not one header."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"not a valid block: {reason}")


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """The 80 bytes that are mined. ``time`` in seconds since 1970; ``merkle_root`` in hash order."""

    version: int
    previous: BlockHash
    merkle_root: bytes
    time: int
    bits: int
    nonce: int

    @classmethod
    def decode(cls, data: bytes) -> BlockHeader:
        """Raises MalformedBlock unless ``data`` is 80 bytes."""
        if len(data) != HEADER_SIZE:
            raise MalformedBlock(f"a header of {len(data)} bytes instead of {HEADER_SIZE}")
        version, previous, root, time, bits, nonce = _HEADER.unpack(data)
        return cls(version, BlockHash(previous), root, time, bits, nonce)

    def encode(self) -> bytes:
        return _HEADER.pack(self.version, self.previous, self.merkle_root, self.time, self.bits, self.nonce)

    @property
    def hash(self) -> BlockHash:
        return BlockHash(sha256d(self.encode()))

    @property
    def target(self) -> int:
        """The number that the hash, read as little-endian, may not exceed; zero if ``bits`` cannot be met."""
        exponent, mantissa = self.bits >> 24, self.bits & 0x7FFFFF
        if self.bits & 0x800000 or exponent > 34:
            return 0
        return mantissa << 8 * (exponent - 3) if exponent >= 3 else mantissa >> 8 * (3 - exponent)


@dataclass(frozen=True, slots=True)
class Block:
    """A block with all its transactions, the coinbase first."""

    header: BlockHeader
    txs: tuple[Tx, ...]
    _hash: BlockHash | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def decode(cls, data: bytes) -> Block:
        """The block that ``data`` holds and nothing else; raises MalformedBlock."""
        header = BlockHeader.decode(data[:HEADER_SIZE])
        try:
            count, at = read_compact_size(data, HEADER_SIZE)
            if count > (len(data) - at) // _MIN_TX:
                raise MalformedBlock("truncated")
            txs: list[Tx] = []
            for _ in range(count):
                tx, at = read_tx(data, at)
                txs.append(tx)
        except MalformedTx as problem:
            raise MalformedBlock(problem.reason) from None
        if at != len(data):
            raise MalformedBlock(f"{len(data) - at} bytes after its end")
        return cls(header, tuple(txs))

    def encode(self) -> bytes:
        return b"".join((self.header.encode(), compact_size(len(self.txs)), *(tx.encode() for tx in self.txs)))

    @property
    def hash(self) -> BlockHash:
        if self._hash is None:
            object.__setattr__(self, "_hash", self.header.hash)
            assert self._hash is not None
        return self._hash

    def has_right_merkle_root(self) -> bool:
        """Whether the header commits to these transactions (no trick of doubled ones: CVE-2012-2459)."""
        txids = [tx.txid for tx in self.txs]
        return len(set(txids)) == len(txids) and merkle_root(txids) == self.header.merkle_root


def block_hash(header: bytes) -> BlockHash:
    """Hash of an encoded header, or of a whole encoded block; raises MalformedBlock if there are not 80 bytes."""
    if len(header) < HEADER_SIZE:
        raise MalformedBlock(f"a header of {len(header)} bytes instead of {HEADER_SIZE}")
    return BlockHash(sha256d(header[:HEADER_SIZE]))


def merkle_root(txids: Sequence[Txid]) -> bytes:
    """Root of the tree over ``txids`` in block order; 32 zeros of none."""
    level: list[bytes] = list(txids)
    if not level:
        return bytes(32)
    while len(level) > 1:
        if len(level) & 1:
            level.append(level[-1])
        level = [sha256d(level[at] + level[at + 1]) for at in range(0, len(level), 2)]
    return level[0]
