"""What may be added to a channel: reserves, fees, slots, value in flight, dust (BOLT 2, B2.45, B2.46, B2.50, B2.53).

Three commitments are looked at, each as it will be once everything on its way has arrived (``Exposure``):

    remote      the peer's next commitment, exactly as we would sign it now
    local       ours, exactly as the peer may sign it now: our unacknowledged updates are not in it
    local_all   ours with all our updates in it; money that comes back to us is not counted before it is there

The peer's updates are judged by ``local``, because a peer cannot know what it has not acknowledged; our own by
``remote`` and ``local_all``. Sums are plain ints in millisatoshis; each check is O(1).
"""

from __future__ import annotations

from collections.abc import Sequence

from salama.base.ids import Side
from salama.base.machine import CommandRefused, PeerViolation
from salama.base.units import FeeratePerKw, Msat
from salama.base.values import replace
from salama.channel.commitments import (
    acknowledged_of_ours,
    acknowledged_of_theirs,
    format_of,
    removal_update,
)
from salama.channel.env import ChannelEnv
from salama.channel.events import AddHtlc
from salama.channel.formats import CommitmentFormat
from salama.channel.policy import Policy
from salama.channel.spec import Add, CommitmentSpec, Fee, SpecHtlc, Update, htlc_key, reduce
from salama.channel.state import ChannelRecord, Exposure, Fulfilment, Htlc, Link, Removal
from salama.wire.features import OPTION_ZEROCONF

REMOTE, LOCAL, LOCAL_ALL = 0, 1, 2
Exposures = tuple[Exposure, Exposure, Exposure]


# --- counting --------------------------------------------------------------------------------------------------------


def exposure_of(record: ChannelRecord, spec: CommitmentSpec) -> Exposure:
    """The totals of one commitment, counted from nothing."""
    outgoing_floor, incoming_floor = _trim_floors(record, spec.owner_is_us, spec.feerate)
    outgoing = outgoing_value = incoming = incoming_value = untrimmed = dust = 0
    for htlc in spec.htlcs.values():
        amount = int(htlc.amount)
        if htlc.side is Side.OUTGOING:
            outgoing += 1
            outgoing_value += amount
            floor = outgoing_floor
        else:
            incoming += 1
            incoming_value += amount
            floor = incoming_floor
        if amount >= floor:
            untrimmed += 1
        else:
            dust += amount
    return Exposure(
        feerate=int(spec.feerate),
        ours=int(spec.our_balance),
        theirs=int(spec.their_balance),
        outgoing=outgoing,
        outgoing_value=outgoing_value,
        incoming=incoming,
        incoming_value=incoming_value,
        untrimmed=untrimmed,
        dust=dust,
    )


def count_exposures(record: ChannelRecord, link: Link) -> Exposures:
    """All three totals, counted from nothing; with what ``link`` holds of both sides."""
    funding = record.funding
    ours: list[Update] = []
    for htlc_id in link.queued_removals:
        htlc = record.htlcs[htlc_key(Side.INCOMING, htlc_id)]
        assert htlc.removal is not None
        ours.append(removal_update(htlc, htlc.removal))
    if link.queued_fee is not None:
        ours.append(Fee(link.queued_fee))
    theirs: list[Update] = [
        removal_update(record.htlcs[htlc_key(Side.OUTGOING, htlc_id)], removal)
        for htlc_id, removal in link.their_removals.items()
    ]
    if link.their_fee is not None:
        theirs.append(Fee(link.their_fee))
    theirs += [Add(htlc.terms) for htlc in link.their_adds]
    acknowledged = acknowledged_of_ours(record)
    remote = exposure_of(record, reduce(funding.latest_remote.spec, ours, acknowledged_of_theirs(record)))
    local_spec = reduce(funding.local.spec, acknowledged, theirs)
    local = exposure_of(record, local_spec)
    # Ours that were signed but not acknowledged are not in the local one yet.
    local_all = local
    for htlc in record.htlcs.values():
        if htlc.terms.side is Side.OUTGOING and htlc.first_local is None and htlc.terms.key not in local_spec.htlcs:
            local_all = _with_htlc(local_all, record, htlc.terms, owner_is_us=True)
    if record.params.is_opener:
        feerate = link.queued_fee or funding.latest_remote.spec.feerate
        if int(feerate) > local_all.feerate:
            local_all = replace(local_all, feerate=int(feerate))
    counted = (remote, local, local_all)
    for add in link.queued_adds:
        counted = with_our_add(counted, record, add)
    return counted


def exposures(record: ChannelRecord, link: Link) -> Exposures:
    """As remembered by ``link``, else counted."""
    return link.exposures or count_exposures(record, link)


def with_our_add(counted: Exposures, record: ChannelRecord, add: AddHtlc) -> Exposures:
    """After one more HTLC of ours."""
    remote, local, local_all = counted
    htlc = SpecHtlc(Side.OUTGOING, 0, add.amount, add.payment_hash, add.cltv_expiry)
    return (
        _with_htlc(remote, record, htlc, owner_is_us=False),
        local,
        _with_htlc(local_all, record, htlc, owner_is_us=True),
    )


def with_their_add(counted: Exposures, record: ChannelRecord, htlc: SpecHtlc) -> Exposures:
    """After one more HTLC of the peer."""
    remote, local, local_all = counted
    return (
        remote,
        _with_htlc(local, record, htlc, owner_is_us=True),
        _with_htlc(local_all, record, htlc, owner_is_us=True),
    )


def with_their_removal(counted: Exposures, record: ChannelRecord, htlc: Htlc, removal: Removal) -> Exposures:
    """After the peer removed an HTLC of ours."""
    remote, local, local_all = counted
    paid = isinstance(removal, Fulfilment)
    return (
        remote,
        _without_htlc(local, record, htlc.terms, paid=paid),
        _without_htlc(local_all, record, htlc.terms, paid=paid),
    )


def _with_htlc(before: Exposure, record: ChannelRecord, htlc: SpecHtlc, *, owner_is_us: bool) -> Exposure:
    amount = int(htlc.amount)
    floors = _trim_floors(record, owner_is_us, before.feerate)
    is_outgoing = htlc.side is Side.OUTGOING
    is_kept = amount >= floors[0 if is_outgoing else 1]
    return Exposure(
        before.feerate,
        before.ours - amount if is_outgoing else before.ours,
        before.theirs if is_outgoing else before.theirs - amount,
        before.outgoing + is_outgoing,
        before.outgoing_value + amount if is_outgoing else before.outgoing_value,
        before.incoming + (not is_outgoing),
        before.incoming_value if is_outgoing else before.incoming_value + amount,
        before.untrimmed + is_kept,
        before.dust if is_kept else before.dust + amount,
    )


def _without_htlc(before: Exposure, record: ChannelRecord, htlc: SpecHtlc, *, paid: bool) -> Exposure:
    """Of a local commitment; ``htlc`` is outgoing."""
    amount = int(htlc.amount)
    is_kept = amount >= _trim_floors(record, True, before.feerate)[0]
    return replace(
        before,
        ours=before.ours if paid else before.ours + amount,
        theirs=before.theirs + amount if paid else before.theirs,
        outgoing=before.outgoing - 1,
        outgoing_value=before.outgoing_value - amount,
        untrimmed=before.untrimmed - is_kept,
        dust=before.dust if is_kept else before.dust - amount,
    )


def _trim_floors(record: ChannelRecord, owner_is_us: bool, feerate: int) -> tuple[int, int]:
    """Least amounts (msat) of an outgoing and of an incoming HTLC that have an output."""
    params, form = record.params, format_of(record)
    dust_limit = params.ours.dust_limit if owner_is_us else params.theirs.dust_limit
    if not form.htlc_fee_from_feerate:
        floor = int(dust_limit) * 1000
        return floor, floor
    rate = FeeratePerKw(feerate)
    return (
        int(form.trim_below(rate, dust_limit, offered=owner_is_us)) * 1000,
        int(form.trim_below(rate, dust_limit, offered=not owner_is_us)) * 1000,
    )


# --- costs -----------------------------------------------------------------------------------------------------------


def opener_cost(form: CommitmentFormat, feerate: int, untrimmed: int) -> int:
    """What the opener pays for a commitment: base fee and anchors, in millisatoshis (B3.06)."""
    return 1000 * (
        feerate * (form.commitment_weight + form.htlc_output_weight * untrimmed) // 1000 + int(form.anchors_total)
    )


# --- our own HTLCs (B2.45, B2.50) ------------------------------------------------------------------------------------


class AddForbidden(CommandRefused):
    """An HTLC that must not or should not be offered."""


def check_send_add(record: ChannelRecord, counted: Exposures, add: AddHtlc, env: ChannelEnv) -> None:
    """May we offer ``add`` on top of ``counted``? Raises AddForbidden."""
    params, policy = record.params, env.policy
    amount = int(add.amount)
    if amount == 0:
        raise AddForbidden("amount_zero", "an HTLC must carry something")
    if amount < int(params.theirs.htlc_minimum):
        raise AddForbidden("amount_below_minimum", f"the peer accepts no HTLC below {params.theirs.htlc_minimum} msat")
    remote, _, local_all = counted
    if remote.outgoing >= params.theirs.max_accepted_htlcs:
        raise AddForbidden("too_many_htlcs", f"the peer accepts {params.theirs.max_accepted_htlcs} HTLCs at a time")
    if remote.outgoing_value + amount > int(params.theirs.max_htlc_value_in_flight):
        raise AddForbidden("too_much_in_flight", "the value in flight would exceed what the peer accepts")
    for exposure, owner_is_us in ((remote, False), (local_all, True)):
        floor = _trim_floors(record, owner_is_us, exposure.feerate)[0]
        is_kept = amount >= floor
        if is_kept and not _has_room_for_fee(record, exposure, policy):
            raise AddForbidden("fees_too_high", "the fee of one more HTLC would exceed its share of the channel")
        _check_our_balance(record, exposure, amount, is_kept, env)
        if not is_kept and exposure.dust + amount > int(policy.max_dust_exposure):
            raise AddForbidden("too_much_dust", "HTLCs without an output would exceed our limit of exposure")


def _has_room_for_fee(record: ChannelRecord, exposure: Exposure, policy: Policy) -> bool:
    """Whether one more output leaves the commitment's fee within its share, whatever rate a peer who opened the channel
    may set next (immunity C17); cheap ones always may."""
    feerate = exposure.feerate if record.params.is_opener else highest_feerate(record, policy)
    return _is_within_share(record, feerate, exposure.untrimmed + 1, policy)


def _is_within_share(record: ChannelRecord, feerate: int, untrimmed: int, policy: Policy) -> bool:
    form = format_of(record)
    fee = opener_cost(form, feerate, untrimmed) - 1000 * int(form.anchors_total)
    return feerate <= 10 * int(policy.min_feerate) or fee <= _fee_share(record, policy)


def _check_our_balance(record: ChannelRecord, exposure: Exposure, amount: int, is_kept: bool, env: ChannelEnv) -> None:
    params, form = record.params, format_of(record)
    our_reserve = 1000 * int(params.theirs.channel_reserve)
    untrimmed = exposure.untrimmed + is_kept
    cost = 0
    if params.is_opener:
        # Room for the fee rate to rise and for one more HTLC, or the channel might freeze (fee spike buffer).
        cost = opener_cost(form, exposure.feerate * env.policy.fee_spike_factor, untrimmed + 1)
    elif is_kept:
        their_reserve = 1000 * int(params.ours.channel_reserve)
        if exposure.theirs < their_reserve + opener_cost(form, exposure.feerate, untrimmed):
            raise AddForbidden("peer_cannot_pay_fee", "the peer, who opened the channel, could not pay for the HTLC")
    if exposure.ours - amount < our_reserve + cost:
        raise AddForbidden("insufficient_balance", "our balance after reserve and fees is too small")


def spendable(record: ChannelRecord, counted: Exposures, env: ChannelEnv) -> Msat:
    """The largest single HTLC that ``check_send_add`` lets through, or zero."""
    params, form = record.params, format_of(record)
    remote, _, local_all = counted
    if remote.outgoing >= params.theirs.max_accepted_htlcs:
        return Msat(0)
    most = int(params.theirs.max_htlc_value_in_flight) - remote.outgoing_value
    for exposure, owner_is_us in ((remote, False), (local_all, True)):
        floor = _trim_floors(record, owner_is_us, exposure.feerate)[0]
        free = exposure.ours - 1000 * int(params.theirs.channel_reserve)
        dust_room = max(0, min(floor - 1, int(env.policy.max_dust_exposure) - exposure.dust))
        if params.is_opener:
            rate = exposure.feerate * env.policy.fee_spike_factor
            kept = free - opener_cost(form, rate, exposure.untrimmed + 2)
            small = min(dust_room, free - opener_cost(form, rate, exposure.untrimmed + 1))
        else:
            needed = 1000 * int(params.ours.channel_reserve)
            needed += opener_cost(form, exposure.feerate, exposure.untrimmed + 1)
            kept = free if exposure.theirs >= needed else 0
            small = min(dust_room, free)
        if not _has_room_for_fee(record, exposure, env.policy):
            kept = 0
        most = min(most, kept if kept >= floor else small)
    return Msat(max(0, most)) if most >= int(params.theirs.htlc_minimum) else Msat(0)


def receivable(record: ChannelRecord, counted: Exposures) -> Msat:
    """The largest single HTLC that the peer could offer by ``check_receive_add``, or zero; what it dares is its
    choice."""
    params, form = record.params, format_of(record)
    local = counted[LOCAL]
    if local.incoming >= params.ours.max_accepted_htlcs:
        return Msat(0)
    free = local.theirs - 1000 * int(params.ours.channel_reserve)
    if not params.is_opener:
        free -= opener_cost(form, local.feerate, local.untrimmed + 1)
    most = min(free, int(params.ours.max_htlc_value_in_flight) - local.incoming_value)
    return Msat(max(0, most)) if most >= int(params.ours.htlc_minimum) else Msat(0)


# --- the peer's HTLCs (B2.46) ----------------------------------------------------------------------------------------


class HtlcNotAllowed(PeerViolation):
    """The peer offered an HTLC that it may not offer."""


def check_receive_add(record: ChannelRecord, counted: Exposures, htlc: SpecHtlc) -> None:
    """May the peer offer ``htlc`` on top of ``counted``? Raises HtlcNotAllowed."""
    params, form = record.params, format_of(record)
    amount, local = int(htlc.amount), counted[LOCAL]
    if amount == 0 or amount < int(params.ours.htlc_minimum):
        raise HtlcNotAllowed(f"update_add_htlc of {amount} msat is below our minimum")
    if local.incoming >= params.ours.max_accepted_htlcs:
        raise HtlcNotAllowed(f"more than {params.ours.max_accepted_htlcs} HTLCs offered")
    if local.incoming_value + amount > int(params.ours.max_htlc_value_in_flight):
        raise HtlcNotAllowed("more value in flight than we accept")
    needed = 1000 * int(params.ours.channel_reserve)
    if not params.is_opener:
        is_kept = amount >= _trim_floors(record, True, local.feerate)[1]
        needed += opener_cost(form, local.feerate, local.untrimmed + is_kept)
    if local.theirs - amount < needed:
        raise HtlcNotAllowed("update_add_htlc exceeds the peer's balance after reserve and fees")


def beyond_dust_exposure(record: ChannelRecord, htlcs: Sequence[Htlc], env: ChannelEnv) -> frozenset[int]:
    """Ids of those incoming ``htlcs``, committed on both sides, that are dust where dust exceeds our limit (B2.50).

    Such an HTLC must be failed, and no preimage be revealed for it.
    """
    beyond: set[int] = set()
    for spec in (record.funding.local.spec, record.funding.latest_remote.spec):
        floor = _trim_floors(record, spec.owner_is_us, int(spec.feerate))[1]
        dust = [htlc for htlc in htlcs if int(htlc.amount) < floor]
        if dust and exposure_of(record, spec).dust > int(env.policy.max_dust_exposure):
            beyond.update(htlc.id for htlc in dust)
    return frozenset(beyond)


def room_of_trust(record: ChannelRecord, env: ChannelEnv) -> int | None:
    """Millisatoshis that we may still be paid while the opener could spend its funding elsewhere: the channel is used
    before that is deep enough, or a reorganisation took it back. None if it is deep enough, or our own (immunity A12).
    """
    params, where, policy = record.params, record.funding.confirmation, env.policy
    if params.is_opener:
        return None
    is_trusted = params.channel_type.has(OPTION_ZEROCONF)
    needed = policy.minimum_depth(record.funding.capacity) if is_trusted else params.minimum_depth
    depth = 0 if where is None else int(env.height) - int(where.height) + 1
    if depth >= needed:
        return None
    spec, cap = record.funding.latest_remote.spec, int(policy.zero_conf_cap.msat) if is_trusted else 0
    # What we have offered may come back: until the peer has taken it, it is ours.
    held = sum(int(htlc.amount) for htlc in spec.htlcs.values() if htlc.side is Side.OUTGOING)
    return max(0, cap - int(spec.our_balance) - held)


def beyond_trust(record: ChannelRecord, htlcs: Sequence[Htlc], env: ChannelEnv) -> frozenset[int]:
    """Ids of those incoming ``htlcs`` that would leave us with more than the peer may take back: they are failed, and
    no preimage is revealed for them."""
    room = room_of_trust(record, env)
    if room is None:
        return frozenset()
    beyond: set[int] = set()
    asked = {htlc.id for htlc in htlcs}
    for key in sorted(record.funding.latest_remote.spec.htlcs):
        htlc = record.htlcs[key]
        if htlc.side is Side.OUTGOING or not (htlc.removal is None or isinstance(htlc.removal, Fulfilment)):
            continue
        room -= int(htlc.amount)
        if room < 0 and htlc.id in asked:
            beyond.add(htlc.id)
    return frozenset(beyond)


# --- fee rates (B2.53) -----------------------------------------------------------------------------------------------


class FeerateNotAllowed(PeerViolation):
    """An ``update_fee`` that is out of bounds, unaffordable, or not the peer's to send."""


def acceptable_feerates(env: ChannelEnv) -> tuple[int, int]:
    """Bounds on the fee rate of a new channel that a peer offers."""
    policy = env.policy
    most = max(int(env.feerates.commitment) * policy.max_feerate_factor, 10 * int(policy.min_feerate))
    return int(policy.min_feerate), min(int(policy.max_feerate), most)


def highest_feerate(record: ChannelRecord, policy: Policy) -> int:
    """Highest fee rate that either side may set (immunity C17).

    It depends on nothing that changes: a peer that signed a rate sends it again on every connection, whatever has
    become of the market meanwhile, and refusing it then would end the channel.
    """
    weight = format_of(record).commitment_weight
    # The peer fills as many as we accept; we offer as many, or ask ``_has_room_for_fee``.
    weight += format_of(record).htlc_output_weight * record.params.ours.max_accepted_htlcs * 2
    share = _fee_share(record, policy) // weight
    return min(int(policy.max_feerate), max(share, 10 * int(policy.min_feerate)))


def _fee_share(record: ChannelRecord, policy: Policy) -> int:
    """What a commitment may pay in fees, in millisatoshis."""
    return int(record.funding.capacity.msat) * policy.max_fee_share_percent // 100


def check_receive_fee(record: ChannelRecord, counted: Exposures, feerate: FeeratePerKw, env: ChannelEnv) -> None:
    """May the peer set ``feerate``? Raises FeerateNotAllowed."""
    if record.params.is_opener:
        raise FeerateNotAllowed("update_fee comes from the side that does not pay the fee")
    least, most = int(env.policy.min_feerate), highest_feerate(record, env.policy)
    if not least <= int(feerate) <= most:
        raise FeerateNotAllowed(f"a commitment feerate of {feerate} is not within {least}..{most}")
    local = counted[LOCAL]
    needed = 1000 * int(record.params.ours.channel_reserve)
    needed += opener_cost(format_of(record), int(feerate), local.untrimmed)
    # A peer below its reserve from the start may still lower the rate.
    if local.theirs < needed and int(feerate) > local.feerate:
        raise FeerateNotAllowed("update_fee is more than the peer can afford")


def can_pay_feerate(record: ChannelRecord, counted: Exposures, feerate: FeeratePerKw, env: ChannelEnv) -> bool:
    """Whether we, as opener, can pay ``feerate`` in both commitments, keep our reserve and stay within the share of
    fees."""
    reserve = 1000 * int(record.params.theirs.channel_reserve)
    form = format_of(record)
    return all(
        exposure.ours >= reserve + opener_cost(form, int(feerate), exposure.untrimmed)
        and _is_within_share(record, int(feerate), exposure.untrimmed, env.policy)
        for exposure in (counted[REMOTE], counted[LOCAL_ALL])
    )
