"""A channel as rows: one slim row, its terms once, and a row for each HTLC (architecture, "Rows").

``encode_channel`` and ``decode_channel`` are the whole of it without a database; ``writes`` compares two records for
what changed. The HTLCs of a commitment are not written with it but found again from the numbers that each HTLC carries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, NamedTuple

from salama.base.ids import ChannelId, PaymentHash, Side
from salama.base.units import CltvExpiry, Msat
from salama.channel.events import Origin
from salama.channel.params import ChannelParams
from salama.channel.spec import CommitmentSpec, SpecHtlc
from salama.channel.state import ActiveFunding, ChannelRecord, Htlc, Phase, htlcs_in_local, htlcs_in_remote
from salama.storage.errors import CorruptRecord
from salama.storage.layouts import Codec, Layouts

INCOMING, OUTGOING = 0, 1
"""Column ``side``, seen by us."""


class HtlcRow(NamedTuple):
    """One row of ``htlcs`` without its channel, in the order of the columns."""

    side: int
    id: int
    amount_msat: int
    payment_hash: bytes
    cltv_expiry: int
    origin: bytes | None
    first_remote: int | None
    last_remote: int | None
    first_local: int | None
    last_local: int | None
    live: int
    payload: bytes | None
    state: bytes | None


@dataclass(frozen=True, slots=True)
class ChannelRows:
    """A channel as it lies on disk."""

    channel_id: ChannelId
    peer: bytes
    phase: str
    is_open: bool
    """Whether a start loads it: everything but a channel that is closed for good."""
    params: bytes = field(repr=False)
    record: bytes = field(repr=False)
    htlcs: tuple[HtlcRow, ...]


# --- the slim row ---------------------------------------------------------------------------------------------------

_LAYOUTS: Final = Layouts({CommitmentSpec: ("htlcs",)})
_PARAMS: Final = Codec(ChannelParams, "channel's terms")
_RECORD: Final = Codec(ChannelRecord, "channel", given=("params", "htlcs"), layouts=_LAYOUTS)


def encode_params(params: ChannelParams) -> bytes:
    return _PARAMS.encode(params)


@lru_cache(maxsize=1024)
def decode_params(data: bytes) -> ChannelParams:
    """Inverse of ``encode_params``; remembered, since they never change. Raises CorruptRecord."""
    return _PARAMS.decode(data)


def encode_slim(record: ChannelRecord) -> bytes:
    """Everything of ``record`` but its params and its HTLCs."""
    return _RECORD.encode(record)


def encode_channel(record: ChannelRecord) -> ChannelRows:
    """``record`` as rows; every HTLC of it is a row."""
    return ChannelRows(
        channel_id=record.channel_id,
        peer=bytes(record.params.their_node_id),
        phase=record.phase.value,
        is_open=is_open(record),
        params=encode_params(record.params),
        record=encode_slim(record),
        htlcs=tuple([encode_htlc(htlc) for htlc in record.htlcs.values()]),
    )


def decode_channel(rows: ChannelRows) -> ChannelRecord:
    """The record of ``rows``, equal to the one that was encoded. Raises CorruptRecord."""
    htlcs: dict[int, Htlc] = {}
    for row in rows.htlcs:
        htlc = decode_htlc(row)
        htlcs[htlc.key] = htlc
    if len(htlcs) != len(rows.htlcs):
        raise CorruptRecord("channel", "two rows are the same HTLC")
    record = _RECORD.decode(rows.record, params=decode_params(rows.params), htlcs=htlcs)
    if record.channel_id != rows.channel_id or (record.phase.value, is_open(record)) != (rows.phase, rows.is_open):
        raise CorruptRecord("channel", "its columns contradict its record")
    for funding in record.active + record.inactive:
        _refill(funding, htlcs)
    return record


def is_open(record: ChannelRecord) -> bool:
    """Whether anything is left to do, so that a start has to load it."""
    return record.phase is not Phase.CLOSED


def _refill(funding: ActiveFunding, htlcs: Mapping[int, Htlc]) -> None:
    # The specs were made a moment ago by the decoder and nobody else has seen them, so they may still be completed
    # in place: replacing them would mean to build every commitment and funding twice.
    set_htlcs = object.__setattr__
    set_htlcs(funding.local.spec, "htlcs", htlcs_in_local(htlcs, funding.local.number) if htlcs else {})
    for remote in (funding.remote, funding.next_remote):
        if remote is not None:
            set_htlcs(remote.spec, "htlcs", htlcs_in_remote(htlcs, remote.number) if htlcs else {})


# --- HTLCs ----------------------------------------------------------------------------------------------------------

_IN_COLUMNS: Final = (
    "terms", "onion", "origin", "first_remote", "last_remote", "first_local", "last_local",
)  # fmt: skip
_STATE: Final = Codec(Htlc, "HTLC", given=_IN_COLUMNS)
"""What an HTLC has besides its columns: a path key, and what was decided about it."""
_STATE_FIELDS: Final = tuple(f for f in dataclasses.fields(Htlc) if f.name not in _IN_COLUMNS)
_UNDECIDED: Final = tuple(f.default for f in _STATE_FIELDS)
state_of: Final = attrgetter(*(f.name for f in _STATE_FIELDS))


def encode_state(htlc: Htlc) -> bytes | None:
    """Column ``state``: None for an HTLC about which nothing was decided and that is not in a blinded path."""
    return None if state_of(htlc) == _UNDECIDED else _STATE.encode(htlc)


def encode_htlc(htlc: Htlc) -> HtlcRow:
    """The row of a living HTLC."""
    terms = htlc.terms
    return HtlcRow(
        INCOMING if terms.side is Side.INCOMING else OUTGOING,
        terms.id,
        int(terms.amount),
        bytes(terms.payment_hash),
        int(terms.cltv_expiry),
        htlc.origin,
        htlc.first_remote,
        htlc.last_remote,
        htlc.first_local,
        htlc.last_local,
        1,
        htlc.onion,
        encode_state(htlc),
    )


def decode_htlc(row: HtlcRow) -> Htlc:
    """The HTLC of a living row. Raises CorruptRecord."""
    if not row.live or row.payload is None:
        raise CorruptRecord("HTLC", "a living one without its onion")
    terms = decode_terms(row)
    origin = None if row.origin is None else Origin(row.origin)
    columns: dict[str, Any] = {
        "terms": terms,
        "onion": row.payload,
        "origin": origin,
        "first_remote": row.first_remote,
        "last_remote": row.last_remote,
        "first_local": row.first_local,
        "last_local": row.last_local,
    }
    return Htlc(**columns) if row.state is None else _STATE.decode(row.state, **columns)


_SIDES: Final = {INCOMING: Side.INCOMING, OUTGOING: Side.OUTGOING}


def decode_terms(row: HtlcRow) -> SpecHtlc:
    """Terms of any row, also of one whose HTLC is long gone. Raises CorruptRecord."""
    try:
        if type(row.id) is not int:
            raise TypeError("an id that is no number")
        return SpecHtlc(
            _SIDES[row.side], row.id, Msat(row.amount_msat), PaymentHash(row.payment_hash), CltvExpiry(row.cltv_expiry)
        )
    except (KeyError, ValueError, TypeError) as fault:
        raise CorruptRecord("HTLC", str(fault)) from None
