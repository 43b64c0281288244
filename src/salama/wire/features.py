"""Feature bits: their table, and vectors of them (BOLT 9, B9.01).

``Feature`` names a pair of bits by its even one; an even bit requires, an odd bit offers. ``Features`` is a set of
bits that encodes minimally, so decoding forgets zero padding. What each feature changes is known by the rooms that
implement it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from salama.codec.fields import REST, VARBYTES, Mapped


class Context(Enum):
    """Where a feature vector appears, by the BOLT's letter."""

    INIT = "I"
    NODE_ANNOUNCEMENT = "N"
    CHANNEL_ANNOUNCEMENT = "C"
    INVOICE = "9"
    BLINDED_PATH = "B"
    CHANNEL_TYPE = "T"


@dataclass(frozen=True, slots=True)
class Feature:
    """A pair of bits: ``bit`` (even) requires, ``bit + 1`` offers. ``assumed``: taken for granted of everybody."""

    bit: int
    name: str
    contexts: str = ""
    needs: tuple[str, ...] = ()
    assumed: bool = False

    @property
    def odd(self) -> int:
        return self.bit + 1

    def __repr__(self) -> str:
        return f"Feature({self.name} {self.bit}/{self.odd})"


# DEVIATION: the table at this commit leaves the context of assumed features and of gossip_queries blank. Peers check
# the dependencies of older revisions and invoices in the field carry them, so they keep the contexts they had there.
OPTION_DATA_LOSS_PROTECT: Final = Feature(0, "option_data_loss_protect", "IN", assumed=True)
OPTION_UPFRONT_SHUTDOWN_SCRIPT: Final = Feature(4, "option_upfront_shutdown_script", "IN")
GOSSIP_QUERIES: Final = Feature(6, "gossip_queries", "IN")
VAR_ONION_OPTIN: Final = Feature(8, "var_onion_optin", "IN9", assumed=True)
GOSSIP_QUERIES_EX: Final = Feature(10, "gossip_queries_ex", "IN")
OPTION_STATIC_REMOTEKEY: Final = Feature(12, "option_static_remotekey", "INT", assumed=True)
PAYMENT_SECRET: Final = Feature(14, "payment_secret", "IN9", assumed=True)
BASIC_MPP: Final = Feature(16, "basic_mpp", "IN9", ("payment_secret",))
OPTION_SUPPORT_LARGE_CHANNEL: Final = Feature(18, "option_support_large_channel", "IN")
OPTION_ANCHORS: Final = Feature(22, "option_anchors", "INT")
OPTION_ROUTE_BLINDING: Final = Feature(24, "option_route_blinding", "IN9")
OPTION_SHUTDOWN_ANYSEGWIT: Final = Feature(26, "option_shutdown_anysegwit", "IN")
OPTION_DUAL_FUND: Final = Feature(28, "option_dual_fund", "IN")
OPTION_QUIESCE: Final = Feature(34, "option_quiesce", "IN")
OPTION_ATTRIBUTION_DATA: Final = Feature(36, "option_attribution_data", "IN9")
OPTION_ONION_MESSAGES: Final = Feature(38, "option_onion_messages", "IN")
OPTION_PROVIDE_STORAGE: Final = Feature(42, "option_provide_storage", "IN")
OPTION_CHANNEL_TYPE: Final = Feature(44, "option_channel_type", "IN", assumed=True)
OPTION_SCID_ALIAS: Final = Feature(46, "option_scid_alias", "INT")
OPTION_PAYMENT_METADATA: Final = Feature(48, "option_payment_metadata", "9")
OPTION_ZEROCONF: Final = Feature(50, "option_zeroconf", "INT", ("option_scid_alias",))
OPTION_SIMPLE_CLOSE: Final = Feature(60, "option_simple_close", "IN", ("option_shutdown_anysegwit",))
OPTION_SPLICE: Final = Feature(62, "option_splice", "IN")

FEATURES: Final[tuple[Feature, ...]] = tuple(value for value in list(globals().values()) if isinstance(value, Feature))
"""Every feature we know the meaning of, by ascending bit."""
BY_BIT: Final = {feature.bit: feature for feature in FEATURES}
BY_NAME: Final = {feature.name: feature for feature in FEATURES}


MAX_BIT: Final = 8 * 65535 - 1
"""The last bit of the longest vector that a field could hold."""


@dataclass(frozen=True, slots=True, repr=False)
class Features:
    """An immutable set of feature bits; ``mask`` has bit n set if the vector has."""

    mask: int = 0

    @classmethod
    def of(cls, *, optional: Iterable[Feature] = (), mandatory: Iterable[Feature] = ()) -> Features:
        """The vector that offers ``optional`` and requires ``mandatory``; one named in both is required."""
        required = {feature.bit for feature in mandatory}
        bits = required | {feature.odd for feature in optional if feature.bit not in required}
        return cls.of_bits(bits)

    @classmethod
    def of_bits(cls, bits: Iterable[int]) -> Features:
        """Raises ValueError for a bit that no field could hold."""
        mask = 0
        for bit in bits:
            if not 0 <= bit <= MAX_BIT:
                raise ValueError("not a feature bit")
            mask |= 1 << bit
        return cls(mask)

    @classmethod
    def decode(cls, data: bytes) -> Features:
        """From big-endian bytes, bit 0 last; leading zeros are forgotten."""
        return cls(int.from_bytes(data, "big"))

    def encode(self) -> bytes:
        """The least number of bytes; none for the empty vector."""
        return self.mask.to_bytes((self.mask.bit_length() + 7) // 8, "big")

    def has(self, feature: Feature) -> bool:
        """Whether either bit is set."""
        return bool(self.mask >> feature.bit & 3)

    def requires(self, feature: Feature) -> bool:
        """Whether the even bit is set (also when both are)."""
        return bool(self.mask >> feature.bit & 1)

    def bits(self) -> Iterator[int]:
        """The set bits, ascending."""
        # By text, which is linear: peers send vectors of half a million bits.
        for position, digit in enumerate(reversed(f"{self.mask:b}")):
            if digit == "1":
                yield position

    def unknown_even(self) -> tuple[int, ...]:
        """Even bits whose meaning we do not know: whoever set them asks for what we cannot give."""
        return tuple(bit for bit in Features(self.mask & ~_KNOWN).bits() if not bit & 1)

    def missing_dependencies(self) -> tuple[tuple[Feature, Feature], ...]:
        """Pairs of a feature that is set and one that it needs and that is not; assumed ones are never missing."""
        return tuple(
            (feature, needed)
            for feature in FEATURES
            if feature.needs and self.has(feature)
            for needed in (BY_NAME[name] for name in feature.needs)
            if not needed.assumed and not self.has(needed)
        )

    def only(self, context: Context) -> Features:
        """The features that the table lists for ``context``; all else, unknown bits too, is dropped."""
        allowed = 0
        for feature in FEATURES:
            if context.value in feature.contexts:
                allowed |= 3 << feature.bit
        return Features(self.mask & allowed)

    def __or__(self, other: Features) -> Features:
        return Features(self.mask | other.mask)

    def __bool__(self) -> bool:
        return self.mask != 0

    def __repr__(self) -> str:
        names = []
        for count, bit in enumerate(self.bits()):
            if count == 64:
                names.append("...")
                break
            known = BY_BIT.get(bit & ~1)
            names.append(f"{known.name if known else 'unknown'}/{bit}")
        return f"Features({', '.join(names)})"


_KNOWN: Final = sum(3 << feature.bit for feature in FEATURES)


def negotiated(ours: Features, theirs: Features, feature: Feature) -> bool:
    """Whether ``feature`` is in force on a connection: both offer it, or we require it (BOLT 1, B9.01)."""
    return feature.assumed or ours.requires(feature) or (ours.has(feature) and theirs.has(feature))


FEATURES_U16: Final = Mapped(VARBYTES, Features.decode, Features.encode)
"""A feature vector with its u16 length in front."""
FEATURES_REST: Final = Mapped(REST, Features.decode, Features.encode)
"""A feature vector that fills its record."""
