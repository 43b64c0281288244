"""Secret keys as a type of their own, so that they are never shown by accident.

Python cannot wipe its immutable values; what can be done is to hide them from ``repr``, logs and timing.
"""

from __future__ import annotations

import hmac

from salama.base.ids import FixedBytes
from salama.crypto import secp256k1


class SecretKey(FixedBytes):
    """A scalar of 32 bytes that nobody else may know. Shown only by an explicit ``hex()``."""

    SIZE = 32
    __slots__ = ()

    def __new__(cls, value: bytes) -> SecretKey:
        if not secp256k1.is_scalar(value):
            raise secp256k1.InvalidKey("not a secret key")
        return bytes.__new__(cls, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, bytes) and hmac.compare_digest(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return bytes.__hash__(self)

    def __str__(self) -> str:
        return "SecretKey(...)"

    def __repr__(self) -> str:
        return "SecretKey(...)"

    @property
    def public_key(self) -> bytes:
        """The compressed point of this key."""
        return secp256k1.public_key(self)
