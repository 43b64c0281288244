"""ChaCha20 and ChaCha20-Poly1305 (RFC 8439) as BOLT 4 and BOLT 8 use them (B4.01, B8.01, B8.03)."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

TAG_SIZE = 16
_ZERO_NONCE = bytes(16)  # in this library: block counter, then nonce


class AuthenticationFailed(Exception):
    """The ciphertext was not made with this key, nonce and associated data."""


def chacha20_stream(key: bytes, length: int) -> bytes:
    """The first ``length`` bytes of the ChaCha20 key stream with a zero nonce."""
    return Cipher(ChaCha20(key, _ZERO_NONCE), None).encryptor().update(bytes(length))


def chacha20(key: bytes, data: bytes) -> bytes:
    """``data`` XOR the ChaCha20 key stream with a zero nonce: both directions of the onion's stream cipher."""
    return Cipher(ChaCha20(key, _ZERO_NONCE), None).encryptor().update(data)


def xor(a: bytes, b: bytes) -> bytes:
    """Bytewise XOR of two strings of the same length."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} bytes XOR {len(b)} bytes")
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")


class Aead:
    """ChaCha20-Poly1305 under one key, prepared once for many messages."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)

    def seal(self, nonce: int, associated_data: bytes, plaintext: bytes) -> bytes:
        """Ciphertext with its 16-byte tag. The caller never uses a nonce twice."""
        return self._cipher.encrypt(_nonce(nonce), plaintext, associated_data)

    def open(self, nonce: int, associated_data: bytes, ciphertext: bytes | bytearray) -> bytes:
        """The plaintext. Raises AuthenticationFailed."""
        try:
            return self._cipher.decrypt(_nonce(nonce), ciphertext, associated_data)
        except InvalidTag:
            raise AuthenticationFailed("wrong key, or the data was altered") from None


def _nonce(number: int) -> bytes:
    return b"\x00\x00\x00\x00" + number.to_bytes(8, "little")


def seal(key: bytes, nonce: int, associated_data: bytes, plaintext: bytes) -> bytes:
    """ChaCha20-Poly1305 with the nonce of BOLT 8: four zero bytes and the number in little-endian."""
    return Aead(key).seal(nonce, associated_data, plaintext)


def open_sealed(key: bytes, nonce: int, associated_data: bytes, ciphertext: bytes) -> bytes:
    """Inverse of ``seal``. Raises AuthenticationFailed."""
    return Aead(key).open(nonce, associated_data, ciphertext)
