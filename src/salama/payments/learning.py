"""What a sender learns from a failed part: who says what, what to leave alone, whether to go on (B4.07, B4.08)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from salama.base.ids import NodeId, ShortChannelId
from salama.channel.events import HtlcFailed
from salama.onion.failures import read_failure
from salama.onion.sphinx import shared_secrets_of
from salama.payments.events import RouteLearned
from salama.payments.reasons import BADONION, NODE, PERM, UPDATE, reason_of
from salama.payments.records import Part, RouteHop
from salama.payments.state import Outgoing, Turn

MPP_TIMEOUT = 23


def learn(work: Turn, outgoing: Outgoing, part: Part, failure: HtlcFailed) -> tuple[Outgoing, tuple[str, str], bool]:
    """What a failure tells: (what to avoid, code and sentence, whether trying again is useless)."""
    hops = part.hops
    if failure.malformed_code is None and not failure.reason:
        avoid = outgoing.avoid | {(hops[0].short_channel_id, work.env.our_node_id)}
        why = ("channel_closed", "Our own channel went to the chain while the payment was under way.")
        return replace(outgoing, avoid=avoid), why, False
    if failure.malformed_code is not None:
        where, code = 0, failure.malformed_code
    else:
        secrets = shared_secrets_of([bytes(h.node_id) for h in hops], part.session_key)
        read = read_failure(secrets, failure.reason)
        if read is None or len(read.message) < 2:
            # Nobody signed the report. Any node on the way may have spoilt it: take none of these channels again.
            avoid = outgoing.avoid | {(h.short_channel_id, before.node_id) for before, h in pairwise(hops)}
            if len(hops) == 1:
                avoid |= {(hops[0].short_channel_id, work.env.our_node_id)}
            why = ("unreadable_failure", "The payment failed on the way and the report about it was unreadable.")
            return replace(outgoing, avoid=avoid), why, False
        where, code = read.hop, int.from_bytes(read.message[:2], "big")
    reason = reason_of(code)
    final_hop = where == len(hops) - 1
    work.effects.append(RouteLearned(part, where, code))
    who = "The payee" if final_hop else f"Node {str(hops[where].node_id)[:16]}… ({where + 1} of {len(hops)} on the way)"
    why = (reason.code, f"{who} {reason.text}.")
    if code == MPP_TIMEOUT and final_hop:
        # The other parts did not come: that says nothing against this way.
        return outgoing, why, False
    if final_hop and not code & (BADONION | UPDATE):
        return outgoing, why, True
    avoid = _to_avoid(work.env.our_node_id, hops, where, code)
    return replace(outgoing, avoid=outgoing.avoid | avoid), why, False


def _to_avoid(
    our_id: NodeId, hops: tuple[RouteHop, ...], where: int, code: int
) -> frozenset[tuple[ShortChannelId, NodeId]]:
    """Channels, each with the node that sends over it, to leave alone for the rest of this payment."""
    to_node = (hops[where].short_channel_id, hops[where - 1].node_id if where else our_id)
    if where == len(hops) - 1:
        return frozenset({to_node})
    following = (hops[where + 1].short_channel_id, hops[where].node_id)
    if code & (BADONION | NODE) or not code & (UPDATE | PERM):
        # The node itself is the trouble: neither to it nor from it.
        return frozenset({following, to_node})
    return frozenset({following})
