"""What a BOLT 11 payment request means: reading, checking, writing, signing (B11.01-B11.06).

Pure: the caller passes ``now`` where time matters and a callback where a key is needed. ``parse`` raises
``InvalidInvoice`` for every text that must not be paid, and nothing else whatever the text.

DEVIATION: a ``p``, ``h``, ``s`` or ``n`` field of the wrong length is skipped instead of refused. The specification has
such fields in an example that is payable; without a valid ``p`` and ``s`` there is still nothing to pay.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, NamedTuple

from salama.base.ids import NodeId, PaymentHash, ShortChannelId
from salama.base.units import Msat
from salama.bitcoin import script
from salama.bitcoin.networks import NETWORKS, Network
from salama.crypto import secp256k1
from salama.crypto.hashes import sha256
from salama.invoices.bolt11_form import (
    MAX_FIELD_GROUPS,
    InvalidInvoice,
    Parts,
    Tagged,
    join,
    minimal,
    number_of,
    pack,
    parse_amount,
    render_amount,
    split,
    unpack,
)
from salama.wire.features import Features

__all__ = ["Fallback", "HintHop", "InvalidInvoice", "Invoice", "digest", "parse", "parts_of", "render", "sign"]

DEFAULT_EXPIRY: Final = 3600
"""Seconds, when there is no ``x`` field."""
DEFAULT_FINAL_CLTV: Final = 18
"""Blocks, when there is no ``c`` field."""

_HASH_GROUPS: Final = 52
_KEY_GROUPS: Final = 53
_HOP_SIZE: Final = 51
_PUBKEY_HASH, _SCRIPT_HASH = 17, 18

# Tagged field types by their letter in the specification.
_P, _S, _D, _M, _N, _H, _X, _C, _F, _R, _FEATURES = 1, 16, 13, 27, 19, 23, 6, 24, 9, 3, 5

_NO_FEATURES: Final = Features()
_FEATURES_REMEMBERED: Final = 256
"""Every invoice of one kind of node names the same ones."""

Signer = Callable[[bytes], tuple[bytes, int]]
"""From a 32-byte digest to a compact signature and its recovery id."""


class HintHop(NamedTuple):
    """One private channel on the way to the payee: the node where it begins, and that node's terms."""

    node_id: NodeId
    short_channel_id: ShortChannelId
    fee_base_msat: int
    fee_proportional_millionths: int
    cltv_expiry_delta: int


class Fallback(NamedTuple):
    """An on-chain address to use when Lightning fails: witness version 0-16, or 17 (P2PKH), 18 (P2SH)."""

    version: int
    program: bytes

    def script(self) -> bytes:
        """The scriptpubkey."""
        if self.version == _PUBKEY_HASH:
            return script.p2pkh(self.program)
        if self.version == _SCRIPT_HASH:
            return script.p2sh(self.program)
        opcode = self.version + 0x50 if self.version else 0
        return bytes((opcode,)) + script.push(self.program)

    @classmethod
    def of(cls, scriptpubkey: bytes) -> Fallback:
        """From a scriptpubkey; ValueError if BOLT 11 has no form for it."""
        if script.is_p2pkh(scriptpubkey):
            return cls(_PUBKEY_HASH, scriptpubkey[3:23])
        if script.is_p2sh(scriptpubkey):
            return cls(_SCRIPT_HASH, scriptpubkey[2:22])
        program = script.witness_program(scriptpubkey)
        if program is None:
            raise ValueError("neither a witness program nor P2PKH nor P2SH")
        return cls(*program)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """A payment request, read or about to be signed."""

    network: Network
    timestamp: int
    """Seconds since 1970."""
    payment_hash: PaymentHash
    payment_secret: bytes = field(repr=False)
    payee: NodeId
    amount_msat: Msat | None = None
    """None: the payer chooses."""
    description: str | None = None
    """Either this or ``description_hash``. Written by a stranger: escape it before it is shown."""
    description_hash: bytes | None = None
    expiry: int = DEFAULT_EXPIRY
    """Seconds after ``timestamp``."""
    min_final_cltv_expiry: int = DEFAULT_FINAL_CLTV
    """Blocks that the last HTLC must leave the payee."""
    route_hints: tuple[tuple[HintHop, ...], ...] = ()
    fallbacks: tuple[Fallback, ...] = ()
    features: Features = _NO_FEATURES
    metadata: bytes | None = None
    """Copied into every part of the payment."""
    signature: bytes = b""
    recovery_id: int = 0

    @property
    def expires_at(self) -> int:
        """Seconds since 1970."""
        return self.timestamp + self.expiry

    def is_expired(self, now: float) -> bool:
        """Whether it must no longer be paid at ``now``, in seconds since 1970 (B11.05)."""
        return now > self.expires_at

    def describes(self, text: str) -> bool:
        """Whether ``text`` is what the payee described: word for word, or by its hash (B11.04)."""
        if self.description_hash is not None:
            return sha256(text.encode()) == self.description_hash
        return self.description == text


# --- reading --------------------------------------------------------------------------------------------------------


def parse(text: str, *, networks: Collection[Network] | None = None) -> Invoice:
    """Read a payment request of one of ``networks`` (None: any we know). Raises only InvalidInvoice."""
    parts = split(text)
    network = _network(parts.prefix, networks)
    fields = _Fields(parts.tagged)
    payment_hash = fields.first(_P, _HASH_GROUPS)
    if payment_hash is None:
        raise InvalidInvoice("missing_payment_hash", "there is no payment hash")
    payment_secret = fields.first(_S, _HASH_GROUPS)
    if payment_secret is None:
        raise InvalidInvoice("missing_payment_secret", "there is no payment secret")
    description, description_hash = fields.first(_D), fields.first(_H, _HASH_GROUPS)
    if (description is None) == (description_hash is None):
        what = "neither a description nor its hash" if description is None else "both a description and a hash of one"
        raise InvalidInvoice("description", f"there is {what}")
    return Invoice(
        network=network,
        timestamp=parts.timestamp,
        amount_msat=Msat(parse_amount(parts.amount_text)) if parts.amount_text else None,
        payment_hash=PaymentHash(payment_hash),
        payment_secret=payment_secret,
        payee=_payee(parts, fields.first(_N, _KEY_GROUPS)),
        description=None if description is None else _utf8(description),
        description_hash=description_hash,
        expiry=fields.number(_X, "expiry", 63, DEFAULT_EXPIRY),
        min_final_cltv_expiry=fields.number(_C, "final_cltv", 31, DEFAULT_FINAL_CLTV),
        route_hints=tuple(_hint(groups) for groups in fields.all(_R)),
        fallbacks=tuple(f for f in map(_fallback, fields.all(_F)) if f is not None),
        features=_features(fields),
        metadata=fields.first(_M),
        signature=parts.signature,
        recovery_id=parts.recovery_id,
    )


class _Fields:
    """The tagged fields by type, in their order."""

    def __init__(self, tagged: tuple[Tagged, ...]) -> None:
        self._by_type: dict[int, list[bytes]] = {}
        for kind, groups in tagged:
            self._by_type.setdefault(kind, []).append(groups)

    def all(self, type: int) -> list[bytes]:
        return self._by_type.get(type, [])

    def first(self, type: int, length: int | None = None) -> bytes | None:
        """Bytes of the first field of this type that has the length in groups."""
        for groups in self.all(type):
            if length is None or len(groups) == length:
                return _bytes(groups)
        return None

    def number(self, type: int, name: str, bits: int, default: int) -> int:
        for groups in self.all(type):
            _check_minimal(groups, name)
            value = number_of(groups)
            if value.bit_length() > bits:
                raise InvalidInvoice(f"{name}_too_large", f"the field {name} has more than {bits} bits")
            return value
        return default


def _check_minimal(groups: bytes, name: str) -> None:
    if groups[:1] == b"\x00":
        raise InvalidInvoice("not_minimal", f"the field {name} begins with zeros")


def _bytes(groups: bytes) -> bytes:
    try:
        return pack(groups)
    except ValueError:
        raise InvalidInvoice("bad_padding", "a tagged field is not filled up with zero bits") from None


def _network(prefix: str, networks: Collection[Network] | None) -> Network:
    for network in NETWORKS.values() if networks is None else networks:
        if network.bolt11_hrp == prefix:
            return network
    known = [network.name for network in NETWORKS.values() if network.bolt11_hrp == prefix]
    raise InvalidInvoice("wrong_network", f"it asks for a payment on {known[0] if known else 'an unknown network'}")


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInvoice("bad_description", "the description is not UTF-8") from None


def _payee(parts: Parts, named: bytes | None) -> NodeId:
    """The named payee, held against the signature; else the key that the signature recovers (B11.04)."""
    digest = parts.digest()
    if named is not None:
        if not secp256k1.is_point(named):
            raise InvalidInvoice("bad_payee", "the payee is not a valid public key")
        if not secp256k1.is_low_s(parts.signature):
            raise InvalidInvoice("high_s_with_payee", "the signature is not in its low-S form")
        if not secp256k1.verify(named, digest, parts.signature):
            raise InvalidInvoice("bad_signature", "the signature is not the payee's")
        return NodeId(named)
    try:
        return NodeId(secp256k1.recover(digest, parts.signature, parts.recovery_id))
    except ValueError:
        raise InvalidInvoice("unrecoverable_signature", "the signature belongs to no key") from None


def _features(fields: _Fields) -> Features:
    for groups in fields.all(_FEATURES):
        return _features_of(groups)
    return _NO_FEATURES


@lru_cache(maxsize=_FEATURES_REMEMBERED)
def _features_of(groups: bytes) -> Features:
    _check_minimal(groups, "features")
    value = number_of(groups)
    features = Features.decode(value.to_bytes((value.bit_length() + 7) // 8, "big"))
    unknown = features.unknown_even()
    if unknown:
        raise InvalidInvoice("unknown_required_feature", f"it requires the unknown feature {min(unknown)}")
    missing = features.missing_dependencies()
    if missing:
        raise InvalidInvoice("missing_feature_dependency", "it offers a feature without another that this needs")
    return features


def _hint(groups: bytes) -> tuple[HintHop, ...]:
    data = _bytes(groups)
    if not data or len(data) % _HOP_SIZE:
        raise InvalidInvoice("bad_route_hint", "a route hint has not a whole number of hops")
    return tuple(_hop(data[at : at + _HOP_SIZE]) for at in range(0, len(data), _HOP_SIZE))


def _hop(data: bytes) -> HintHop:
    if not secp256k1.is_point(data[:33]):
        raise InvalidInvoice("bad_route_hint", "a route hint names a node that is not a valid public key")
    return HintHop(
        node_id=NodeId(data[:33]),
        short_channel_id=ShortChannelId(int.from_bytes(data[33:41], "big")),
        fee_base_msat=int.from_bytes(data[41:45], "big"),
        fee_proportional_millionths=int.from_bytes(data[45:49], "big"),
        cltv_expiry_delta=int.from_bytes(data[49:51], "big"),
    )


def _fallback(groups: bytes) -> Fallback | None:
    """None for a version we do not know, and for a program that no output could have (B11.04: skip)."""
    if not groups:
        return None
    version = groups[0]
    try:
        program = pack(groups[1:])
    except ValueError:
        return None
    if version in (_PUBKEY_HASH, _SCRIPT_HASH):
        return Fallback(version, program) if len(program) == 20 else None
    if version > 16 or not 2 <= len(program) <= 40 or (version == 0 and len(program) not in (20, 32)):
        return None
    return Fallback(version, program)


# --- writing --------------------------------------------------------------------------------------------------------


def parts_of(invoice: Invoice) -> Parts:
    """The fields in our order: secret, hash, description, metadata, terms, fallbacks, hints, features (B11.03).

    ValueError if the invoice cannot be written. The payee is left to key recovery, which saves 56 characters.
    """
    if (invoice.description is None) == (invoice.description_hash is None):
        raise ValueError("exactly one of description and description_hash")
    if invoice.amount_msat is not None and not invoice.amount_msat:
        raise ValueError("an amount of zero: leave it out")
    if not 0 <= invoice.timestamp < 1 << 35:
        raise ValueError("the time does not fit 35 bits")
    tagged = [_data(_S, invoice.payment_secret, 32), _data(_P, invoice.payment_hash, 32)]
    if invoice.description is not None:
        tagged.append(_data(_D, invoice.description.encode()))
    else:
        tagged.append(_data(_H, invoice.description_hash or b"", 32))
    if invoice.metadata is not None:
        tagged.append(_data(_M, invoice.metadata))
    if invoice.expiry != DEFAULT_EXPIRY:
        tagged.append(Tagged(_X, minimal(invoice.expiry)))
    if invoice.min_final_cltv_expiry != DEFAULT_FINAL_CLTV:
        tagged.append(Tagged(_C, minimal(invoice.min_final_cltv_expiry)))
    tagged.extend(Tagged(_F, bytes((f.version,)) + unpack(f.program)) for f in invoice.fallbacks)
    tagged.extend(_data(_R, b"".join(map(_encode_hop, hops))) for hops in invoice.route_hints)
    features = minimal(int.from_bytes(invoice.features.encode(), "big"))
    if features:
        tagged.append(Tagged(_FEATURES, features))
    for _, groups in tagged:
        if len(groups) > MAX_FIELD_GROUPS:
            raise ValueError(f"a field of {len(groups)} groups; {MAX_FIELD_GROUPS} is the most")
    return Parts(
        prefix=invoice.network.bolt11_hrp,
        amount_text="" if invoice.amount_msat is None else render_amount(invoice.amount_msat),
        timestamp=invoice.timestamp,
        tagged=tuple(tagged),
        signature=invoice.signature,
        recovery_id=invoice.recovery_id,
    )


def _data(type: int, data: bytes, size: int | None = None) -> Tagged:
    if size is not None and len(data) != size:
        raise ValueError(f"{len(data)} bytes instead of {size}")
    return Tagged(type, unpack(data))


def _encode_hop(hop: HintHop) -> bytes:
    return (
        hop.node_id
        + hop.short_channel_id.to_bytes(8, "big")
        + hop.fee_base_msat.to_bytes(4, "big")
        + hop.fee_proportional_millionths.to_bytes(4, "big")
        + hop.cltv_expiry_delta.to_bytes(2, "big")
    )


def digest(invoice: Invoice) -> bytes:
    """The 32 bytes that the payee signs."""
    return parts_of(invoice).digest()


def render(invoice: Invoice) -> str:
    """The text of a signed invoice, written in our order of fields; ValueError if it is not signed."""
    return join(parts_of(invoice))


def sign(invoice: Invoice, signer: Signer) -> str:
    """The text of ``invoice`` with the signature that ``signer`` makes of its digest."""
    parts = parts_of(invoice)
    signature, recovery_id = signer(parts.digest())
    return join(replace(parts, signature=signature, recovery_id=recovery_id))
