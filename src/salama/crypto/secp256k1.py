"""The only door to libsecp256k1, through the cffi library that coincurve ships.

Everything is plain bytes: points are compressed (33), x-only points 32, scalars 32 big-endian, signatures compact (64),
digests 32. The library aborts the process when its contract is broken (a recovery id out of range) and reads past the
end of short input, so every length is checked here first. Each call drops the GIL and the shared context is only read,
so any thread may call anything.

Whatever takes a secret runs in constant time. ``multiply_point`` and ``add_to_point`` do not: give them only scalars
that the counterparty may know, and use ``ecdh`` or ``public_key`` for secrets.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import Context

from salama.crypto.hashes import tagged_hash

ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

# Made once; coincurve blinds it with 32 bytes from the operating system against side channels.
_context = Context()
_ctx: Any = _context.ctx

_PUBKEY: Any = ffi.typeof("secp256k1_pubkey *")
_PUBKEY_ARRAY: Any = ffi.typeof("secp256k1_pubkey *[]")
_XONLY: Any = ffi.typeof("secp256k1_xonly_pubkey *")
_KEYPAIR: Any = ffi.typeof("secp256k1_keypair *")
_SIGNATURE: Any = ffi.typeof("secp256k1_ecdsa_signature *")
_RECOVERABLE: Any = ffi.typeof("secp256k1_ecdsa_recoverable_signature *")
_BYTES: Any = ffi.typeof("unsigned char[]")
_BYTES32: Any = ffi.typeof("unsigned char[32]")
_BYTES33: Any = ffi.typeof("unsigned char[33]")
_BYTES64: Any = ffi.typeof("unsigned char[64]")
_SIZE: Any = ffi.typeof("size_t *")
_INT: Any = ffi.typeof("int *")
_NULL: Any = ffi.NULL
_COMPRESSED: Any = lib.SECP256K1_EC_COMPRESSED


# Points of peers and channels come back with every commitment, and to read one takes a square root. All are public.
_POINTS_REMEMBERED: Final = 4096


class InvalidKey(ValueError):
    """A scalar that is not 32 bytes, is zero, or is not below the group order; or a sum or product that is zero."""


class InvalidPoint(ValueError):
    """Bytes that are no point of the curve in the expected encoding, or a sum that is the point at infinity."""


class InvalidSignature(ValueError):
    """Bytes that cannot be a signature, or from which no key can be recovered."""


@lru_cache(maxsize=_POINTS_REMEMBERED)
def _parse(point: bytes) -> Any:
    """To be read only: what changes a point in place takes ``_parse_copy``."""
    if len(point) != 33:
        raise InvalidPoint(f"{len(point)} bytes instead of 33")
    parsed = ffi.new(_PUBKEY)
    if not lib.secp256k1_ec_pubkey_parse(_ctx, parsed, point, 33):
        raise InvalidPoint("not a point of the curve")
    return parsed


def _parse_copy(point: bytes) -> Any:
    return ffi.new(_PUBKEY, _parse(point)[0])


def _parse_xonly(point: bytes) -> Any:
    if len(point) != 32:
        raise InvalidPoint(f"{len(point)} bytes instead of 32")
    parsed = ffi.new(_XONLY)
    if not lib.secp256k1_xonly_pubkey_parse(_ctx, parsed, point):
        raise InvalidPoint("not the x coordinate of a point")
    return parsed


def _serialize(parsed: Any) -> bytes:
    out = ffi.new(_BYTES33)
    lib.secp256k1_ec_pubkey_serialize(_ctx, out, ffi.new(_SIZE, 33), parsed, _COMPRESSED)
    return bytes(ffi.buffer(out))


def _parse_signature(signature: bytes) -> Any:
    if len(signature) != 64:
        raise InvalidSignature(f"{len(signature)} bytes instead of 64")
    parsed = ffi.new(_SIGNATURE)
    if not lib.secp256k1_ecdsa_signature_parse_compact(_ctx, parsed, signature):
        raise InvalidSignature("r or s is not below the group order")
    return parsed


def _check_scalar(scalar: bytes) -> None:
    if len(scalar) != 32:
        raise InvalidKey(f"{len(scalar)} bytes instead of 32")
    if not lib.secp256k1_ec_seckey_verify(_ctx, scalar):
        raise InvalidKey("zero, or not below the group order")


def _check_digest(digest: bytes) -> None:
    if len(digest) != 32:
        raise InvalidSignature(f"a digest of {len(digest)} bytes instead of 32")


# --- keys and points


def is_scalar(scalar: bytes) -> bool:
    """Whether ``scalar`` is 32 bytes, not zero and below the group order: a usable secret key or tweak."""
    return len(scalar) == 32 and bool(lib.secp256k1_ec_seckey_verify(_ctx, scalar))


def is_point(point: bytes) -> bool:
    """Whether ``point`` is a compressed point of the curve."""
    return len(point) == 33 and bool(lib.secp256k1_ec_pubkey_parse(_ctx, ffi.new(_PUBKEY), point, 33))


def public_key(secret: bytes) -> bytes:
    """The point ``secret`` * G. Raises InvalidKey."""
    if len(secret) != 32:
        raise InvalidKey(f"{len(secret)} bytes instead of 32")
    parsed = ffi.new(_PUBKEY)
    if not lib.secp256k1_ec_pubkey_create(_ctx, parsed, secret):
        raise InvalidKey("zero, or not below the group order")
    return _serialize(parsed)


def add_points(*points: bytes) -> bytes:
    """Sum of one or more points. Raises InvalidPoint, also when the sum is the point at infinity."""
    if not points:
        raise InvalidPoint("a sum of no points")
    parsed = [_parse(point) for point in points]
    total = ffi.new(_PUBKEY)
    if not lib.secp256k1_ec_pubkey_combine(_ctx, total, ffi.new(_PUBKEY_ARRAY, parsed), len(parsed)):
        raise InvalidPoint("the sum is the point at infinity")
    return _serialize(total)


def multiply_point(point: bytes, scalar: bytes) -> bytes:
    """``scalar`` * ``point``, in variable time: not for secret scalars. Raises InvalidPoint, InvalidKey."""
    parsed = _parse_copy(point)
    _check_scalar(scalar)
    lib.secp256k1_ec_pubkey_tweak_mul(_ctx, parsed, scalar)
    return _serialize(parsed)


def add_to_point(point: bytes, scalar: bytes) -> bytes:
    """``point`` + ``scalar`` * G, in variable time: not for secret scalars. Raises InvalidPoint, InvalidKey."""
    parsed = _parse_copy(point)
    _check_scalar(scalar)
    if not lib.secp256k1_ec_pubkey_tweak_add(_ctx, parsed, scalar):
        raise InvalidPoint("the sum is the point at infinity")
    return _serialize(parsed)


def negate_point(point: bytes) -> bytes:
    """The point with the same x and the other y. Raises InvalidPoint."""
    _parse(point)
    return bytes((point[0] ^ 1,)) + point[1:]


def add_scalars(a: bytes, b: bytes) -> bytes:
    """a + b modulo the group order. Raises InvalidKey, also when the sum is zero."""
    _check_scalar(a)
    _check_scalar(b)
    total = ffi.new(_BYTES32, bytes(a))
    if not lib.secp256k1_ec_seckey_tweak_add(_ctx, total, b):
        raise InvalidKey("the sum is zero")
    return bytes(ffi.buffer(total))


def multiply_scalars(a: bytes, b: bytes) -> bytes:
    """a * b modulo the group order. Raises InvalidKey."""
    _check_scalar(a)
    _check_scalar(b)
    product = ffi.new(_BYTES32, bytes(a))
    lib.secp256k1_ec_seckey_tweak_mul(_ctx, product, b)
    return bytes(ffi.buffer(product))


def negate_scalar(a: bytes) -> bytes:
    """-a modulo the group order. Raises InvalidKey."""
    _check_scalar(a)
    negated = ffi.new(_BYTES32, bytes(a))
    lib.secp256k1_ec_seckey_negate(_ctx, negated)
    return bytes(ffi.buffer(negated))


def ecdh(secret: bytes, point: bytes) -> bytes:
    """SHA-256 of the compressed point ``secret`` * ``point``, as BOLT 4 and BOLT 8 want it.

    Raises InvalidKey, InvalidPoint.
    """
    parsed = _parse(point)
    if len(secret) != 32:
        raise InvalidKey(f"{len(secret)} bytes instead of 32")
    out = ffi.new(_BYTES32)
    if not lib.secp256k1_ecdh(_ctx, out, parsed, secret, _NULL, _NULL):
        raise InvalidKey("zero, or not below the group order")
    return bytes(ffi.buffer(out))


# --- ECDSA


def sign(secret: bytes, digest: bytes) -> bytes:
    """ECDSA with the nonce of RFC 6979, always low-S, never ground to a low R.

    Raises InvalidKey, and InvalidSignature for a digest of the wrong length.
    """
    _check_digest(digest)
    if len(secret) != 32:
        raise InvalidKey(f"{len(secret)} bytes instead of 32")
    parsed = ffi.new(_SIGNATURE)
    if not lib.secp256k1_ecdsa_sign(_ctx, parsed, digest, secret, _NULL, _NULL):
        raise InvalidKey("zero, or not below the group order")
    out = ffi.new(_BYTES64)
    lib.secp256k1_ecdsa_signature_serialize_compact(_ctx, out, parsed)
    return bytes(ffi.buffer(out))


def verify(point: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether the low-S ``signature`` of ``digest`` is by ``point``; False for anything malformed."""
    if len(point) != 33 or len(digest) != 32 or len(signature) != 64:
        return False
    parsed_signature = ffi.new(_SIGNATURE)
    if not lib.secp256k1_ecdsa_signature_parse_compact(_ctx, parsed_signature, signature):
        return False
    try:
        parsed_point = _parse(point)
    except InvalidPoint:
        return False
    return bool(lib.secp256k1_ecdsa_verify(_ctx, parsed_signature, digest, parsed_point))


def is_low_s(signature: bytes) -> bool:
    """Whether s is in the lower half of the order. Raises InvalidSignature."""
    return not lib.secp256k1_ecdsa_signature_normalize(_ctx, _NULL, _parse_signature(signature))


def to_der(signature: bytes) -> bytes:
    """Compact to DER, s as it is, without a sighash byte. Raises InvalidSignature."""
    parsed = _parse_signature(signature)
    out, size = ffi.new(_BYTES, 72), ffi.new(_SIZE, 72)
    lib.secp256k1_ecdsa_signature_serialize_der(_ctx, out, size, parsed)
    return bytes(ffi.buffer(out, size[0]))


def from_der(der: bytes) -> bytes:
    """Strict DER without a sighash byte to compact, s as it is. Raises InvalidSignature."""
    parsed = ffi.new(_SIGNATURE)
    if len(der) > 72 or not lib.secp256k1_ecdsa_signature_parse_der(_ctx, parsed, der, len(der)):
        raise InvalidSignature("not a DER signature")
    out = ffi.new(_BYTES64)
    lib.secp256k1_ecdsa_signature_serialize_compact(_ctx, out, parsed)
    compact = bytes(ffi.buffer(out))
    # The library turns a number that is too large into zero instead of refusing it.
    if not any(compact[:32]) or not any(compact[32:]):
        raise InvalidSignature("r or s is zero or not below the group order")
    return compact


def sign_recoverable(secret: bytes, digest: bytes) -> tuple[bytes, int]:
    """Like ``sign``, with the recovery id (0 to 3) that lets ``recover`` find the key."""
    _check_digest(digest)
    if len(secret) != 32:
        raise InvalidKey(f"{len(secret)} bytes instead of 32")
    parsed = ffi.new(_RECOVERABLE)
    if not lib.secp256k1_ecdsa_sign_recoverable(_ctx, parsed, digest, secret, _NULL, _NULL):
        raise InvalidKey("zero, or not below the group order")
    out, recovery_id = ffi.new(_BYTES64), ffi.new(_INT)
    lib.secp256k1_ecdsa_recoverable_signature_serialize_compact(_ctx, out, recovery_id, parsed)
    return bytes(ffi.buffer(out)), int(recovery_id[0])


def recover(digest: bytes, signature: bytes, recovery_id: int) -> bytes:
    """The key that made the signature; high-S is accepted (BOLT 11 has such invoices). Raises InvalidSignature."""
    _check_digest(digest)
    if len(signature) != 64 or not 0 <= recovery_id <= 3:
        raise InvalidSignature("not 64 bytes with a recovery id of 0 to 3")
    parsed = ffi.new(_RECOVERABLE)
    if not lib.secp256k1_ecdsa_recoverable_signature_parse_compact(_ctx, parsed, signature, recovery_id):
        raise InvalidSignature("r or s is not below the group order")
    point = ffi.new(_PUBKEY)
    if not lib.secp256k1_ecdsa_recover(_ctx, point, parsed, digest):
        raise InvalidSignature("no key made this signature")
    return _serialize(point)


# --- Schnorr and taproot (BIP 340, BIP 341)


def xonly(point: bytes) -> bytes:
    """The x coordinate of a compressed point. Raises InvalidPoint."""
    _parse(point)
    return point[1:]


def _keypair(secret: bytes) -> Any:
    if len(secret) != 32:
        raise InvalidKey(f"{len(secret)} bytes instead of 32")
    pair = ffi.new(_KEYPAIR)
    if not lib.secp256k1_keypair_create(_ctx, pair, secret):
        raise InvalidKey("zero, or not below the group order")
    return pair


def sign_schnorr(secret: bytes, digest: bytes, aux: bytes) -> bytes:
    """BIP 340 signature; ``aux`` is 32 bytes of fresh randomness, or zeros. Raises InvalidKey, InvalidSignature."""
    _check_digest(digest)
    if len(aux) != 32:
        raise InvalidSignature(f"{len(aux)} auxiliary bytes instead of 32")
    out = ffi.new(_BYTES64)
    if not lib.secp256k1_schnorrsig_sign32(_ctx, out, digest, _keypair(secret), aux):
        raise InvalidKey("the key cannot sign")
    return bytes(ffi.buffer(out))


def verify_schnorr(point: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether the BIP 340 signature of ``digest`` is by the x-only ``point``; False for anything malformed."""
    if len(point) != 32 or len(digest) != 32 or len(signature) != 64:
        return False
    parsed = ffi.new(_XONLY)
    if not lib.secp256k1_xonly_pubkey_parse(_ctx, parsed, point):
        return False
    return bool(lib.secp256k1_schnorrsig_verify(_ctx, signature, digest, 32, parsed))


def taproot_output_key(internal: bytes, merkle_root: bytes = b"") -> tuple[bytes, int]:
    """The x-only output key and its parity for an x-only internal key (BIP 341); no root means no scripts.

    Raises InvalidPoint.
    """
    if len(merkle_root) not in (0, 32):
        raise InvalidPoint(f"a merkle root of {len(merkle_root)} bytes")
    parsed = _parse_xonly(internal)
    tweaked = ffi.new(_PUBKEY)
    if not lib.secp256k1_xonly_pubkey_tweak_add(
        _ctx, tweaked, parsed, tagged_hash(b"TapTweak", internal + merkle_root)
    ):
        raise InvalidPoint("the tweaked key is not a point")
    point = _serialize(tweaked)
    return point[1:], point[0] & 1


def taproot_secret(secret: bytes, merkle_root: bytes = b"") -> bytes:
    """The secret that signs for ``taproot_output_key(xonly(public_key(secret)), merkle_root)``. Raises InvalidKey."""
    if len(merkle_root) not in (0, 32):
        raise InvalidKey(f"a merkle root of {len(merkle_root)} bytes")
    pair = _keypair(secret)
    tweak = tagged_hash(b"TapTweak", public_key(secret)[1:] + merkle_root)
    if not lib.secp256k1_keypair_xonly_tweak_add(_ctx, pair, tweak):
        raise InvalidKey("the tweaked key is zero")
    out = ffi.new(_BYTES32)
    lib.secp256k1_keypair_sec(_ctx, out, pair)
    return bytes(ffi.buffer(out))
