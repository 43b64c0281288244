"""Hashes and what is built on them alone: HMAC, the two-output HKDF of BOLT 8 (B8.01), BIP 340's tagged hash."""

from __future__ import annotations

import hashlib
import hmac

from salama.crypto import _ripemd160


def sha256(data: bytes) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


def sha256d(data: bytes) -> bytes:
    """SHA-256 twice: transaction ids, block hashes, the digest that gossip signatures cover."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def _openssl_has_ripemd160() -> bool:
    # OpenSSL 3 moved RIPEMD-160 to its legacy provider, which not every distribution loads.
    try:
        hashlib.new("ripemd160", b"")
    except ValueError:
        return False
    return True


def _ripemd160_by_openssl(data: bytes) -> bytes:
    return hashlib.new("ripemd160", data).digest()


_ripemd160_best = _ripemd160_by_openssl if _openssl_has_ripemd160() else _ripemd160.digest


def ripemd160(data: bytes) -> bytes:
    """RIPEMD-160, 20 bytes."""
    return _ripemd160_best(data)


def hash160(data: bytes) -> bytes:
    """RIPEMD-160 of SHA-256, 20 bytes: key and script hashes in addresses."""
    return _ripemd160_best(hashlib.sha256(data).digest())


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256, 32 bytes."""
    return hmac.digest(key, message, "sha256")


def equal(a: bytes, b: bytes) -> bool:
    """Whether two byte strings are the same, in a time that tells nothing of where they differ."""
    return hmac.compare_digest(a, b)


def hkdf_two(salt: bytes, key_material: bytes) -> tuple[bytes, bytes]:
    """HKDF-SHA256 (RFC 5869) with empty info and 64 bytes of output, as two keys of 32 bytes."""
    prk = hmac.digest(salt, key_material, "sha256")
    first = hmac.digest(prk, b"\x01", "sha256")
    return first, hmac.digest(prk, first + b"\x02", "sha256")


_tag_prefixes: dict[bytes, bytes] = {}


def tagged_hash(tag: bytes, message: bytes) -> bytes:
    """BIP 340 tagged hash: SHA256(SHA256(tag) || SHA256(tag) || message).

    Tags are few in Bitcoin, but BOLT 12 puts bytes of the message in some, so only a bounded number is remembered.
    """
    prefix = _tag_prefixes.get(tag)
    if prefix is None:
        prefix = hashlib.sha256(tag).digest() * 2
        if len(_tag_prefixes) < 64 and len(tag) <= 64:
            _tag_prefixes[tag] = prefix
    return hashlib.sha256(prefix + message).digest()
