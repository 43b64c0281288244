"""What a commitment transaction says, apart from how it is written (BOLT 2 and 3): balances, fee rate and HTLCs.

A ``CommitmentSpec`` belongs to one of the two commitments: ``to_local`` and ``to_remote`` are seen by its owner, while
the ``side`` of an HTLC is always seen by us, so that an HTLC is the same value in both. Knows no reserve, limit or
dust: who calls ``reduce`` has checked the updates, and what cannot be is refused here as a last line of defence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from salama.base.ids import PaymentHash, Side
from salama.base.units import CltvExpiry, FeeratePerKw, Msat


class ImpossibleUpdate(ValueError):
    """An update that no commitment can carry; nothing was changed."""


class UnknownHtlc(ImpossibleUpdate):
    """No HTLC of that side and id is there to be removed."""

    def __init__(self, side: Side, htlc_id: int) -> None:
        self.side, self.htlc_id = side, htlc_id
        super().__init__(f"no {side.value} HTLC {htlc_id}")


class DuplicateHtlc(ImpossibleUpdate):
    """An HTLC of that side and id is there already."""

    def __init__(self, side: Side, htlc_id: int) -> None:
        self.side, self.htlc_id = side, htlc_id
        super().__init__(f"{side.value} HTLC {htlc_id} exists already")


class MisplacedAdd(ImpossibleUpdate):
    """An incoming HTLC among our updates, or an outgoing one among theirs."""

    def __init__(self, side: Side, htlc_id: int) -> None:
        self.side, self.htlc_id = side, htlc_id
        super().__init__(f"{side.value} HTLC {htlc_id} is offered by the wrong side")


class BalanceExceeded(ImpossibleUpdate):
    """One side would owe more than it has. ``missing`` is in millisatoshis."""

    def __init__(self, *, ours: bool, missing: int) -> None:
        self.ours, self.missing = ours, missing
        super().__init__(f"{'our' if ours else 'their'} balance falls short by {missing} msat")


def htlc_key(side: Side, htlc_id: int) -> int:
    """Key of ``CommitmentSpec.htlcs``: one plain int, because an enumeration member is slow to hash."""
    return htlc_id << 1 | (side is Side.INCOMING)


@dataclass(frozen=True, slots=True)
class SpecHtlc:
    """One HTLC as far as transactions care, its side seen by us."""

    side: Side
    id: int
    amount: Msat
    payment_hash: PaymentHash
    cltv_expiry: CltvExpiry

    @property
    def key(self) -> int:
        return htlc_key(self.side, self.id)


# --- updates ---------------------------------------------------------------------------------------------------------
# Who made an update is told by the list it stands in. A machine may subclass these to carry more (an onion, an origin).


@dataclass(frozen=True, slots=True)
class Add:
    """``update_add_htlc``: OUTGOING among our updates, INCOMING among theirs."""

    htlc: SpecHtlc


@dataclass(frozen=True, slots=True)
class Fulfil:
    """``update_fulfill_htlc``: its maker is paid the HTLC ``id`` that the other side had added."""

    id: int


@dataclass(frozen=True, slots=True)
class Fail:
    """``update_fail_htlc`` or ``update_fail_malformed_htlc``: HTLC ``id`` goes back to the side that had added it."""

    id: int


@dataclass(frozen=True, slots=True)
class Fee:
    """``update_fee``."""

    feerate: FeeratePerKw


Update = Add | Fulfil | Fail | Fee


@dataclass(frozen=True, slots=True)
class CommitmentSpec:
    """Content of one commitment transaction before fees, anchors and trimming.

    ``to_local`` + ``to_remote`` + all HTLCs is the capacity of the channel. ``htlcs`` is keyed by ``htlc_key``, in the
    order in which they were added; it is shared between specs and never changed in place.
    """

    owner_is_us: bool
    feerate: FeeratePerKw
    to_local: Msat
    """Of the owner."""
    to_remote: Msat
    """Of the other side."""
    htlcs: Mapping[int, SpecHtlc] = field(default_factory=dict)

    @property
    def our_balance(self) -> Msat:
        return self.to_local if self.owner_is_us else self.to_remote

    @property
    def their_balance(self) -> Msat:
        return self.to_remote if self.owner_is_us else self.to_local

    def is_offered(self, htlc: SpecHtlc) -> bool:
        """Whether the owner of this commitment offered ``htlc`` (else it received it)."""
        return (htlc.side is Side.OUTGOING) == self.owner_is_us

    def find(self, side: Side, htlc_id: int) -> SpecHtlc | None:
        return self.htlcs.get(htlc_key(side, htlc_id))

    @property
    def total(self) -> Msat:
        """All the money in it: the capacity of the channel."""
        held = sum([int(htlc.amount) for htlc in self.htlcs.values()])
        return Msat(int(self.to_local) + int(self.to_remote) + held)

    def seen_by_other(self) -> CommitmentSpec:
        """The same content as a commitment of the other side: balances change places, HTLCs do not."""
        return CommitmentSpec(not self.owner_is_us, self.feerate, self.to_remote, self.to_local, self.htlcs)


def reduce(spec: CommitmentSpec, our_updates: Sequence[Update], their_updates: Sequence[Update]) -> CommitmentSpec:
    """``spec`` after the updates of both sides, which the caller has ordered and checked.

    Costs one copy of the map of HTLCs and a step for each update, nothing if there is none. Raises ImpossibleUpdate.
    """
    if not our_updates and not their_updates:
        return spec
    htlcs = dict(spec.htlcs)
    balance = {True: int(spec.our_balance), False: int(spec.their_balance)}
    feerate = spec.feerate
    for ours, updates in ((True, our_updates), (False, their_updates)):
        added_side = Side.OUTGOING if ours else Side.INCOMING
        for update in updates:
            if isinstance(update, Add):
                htlc = update.htlc
                key = htlc.key
                if htlc.side is not added_side:
                    raise MisplacedAdd(htlc.side, htlc.id)
                if key in htlcs:
                    raise DuplicateHtlc(htlc.side, htlc.id)
                htlcs[key] = htlc
                balance[ours] -= int(htlc.amount)
            elif isinstance(update, Fee):
                feerate = update.feerate
            else:
                removed = htlcs.pop(htlc_key(added_side.other, update.id), None)
                if removed is None:
                    raise UnknownHtlc(added_side.other, update.id)
                balance[ours if isinstance(update, Fulfil) else not ours] += int(removed.amount)
    for ours, left in balance.items():
        if left < 0:
            raise BalanceExceeded(ours=ours, missing=-left)
    ours_left, theirs_left = Msat(balance[True]), Msat(balance[False])
    to_local, to_remote = (ours_left, theirs_left) if spec.owner_is_us else (theirs_left, ours_left)
    return CommitmentSpec(spec.owner_is_us, feerate, to_local, to_remote, htlcs)
