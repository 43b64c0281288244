"""When an HTLC may be passed on: not before every commitment that either side could publish holds it (B2.47, B2.51)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from salama.channel.events import HtlcCommitted
from salama.channel.spec import htlc_key
from salama.testing.pair import End, Pair


def reported(end: End) -> list[HtlcCommitted]:
    return [effect for effect in end.effects if isinstance(effect, HtlcCommitted)]


def check_reports(end: End, seen: int) -> int:
    """Every HTLC reported since ``seen`` is in all commitments that are not revoked, as far as ``end`` knows."""
    reports = reported(end)
    funding = end.record.funding
    for report in reports[seen:]:
        key = htlc_key(report.ref.side, report.ref.id)
        assert key in funding.local.spec.htlcs, "our own commitment lacks it"
        assert key in funding.remote.spec.htlcs, "the peer could still publish a commitment without it"
        assert funding.next_remote is None or key in funding.next_remote.spec.htlcs
    return len(reports)


def test_an_htlc_is_reported_only_when_no_commitment_without_it_can_be_published() -> None:
    pair = Pair.opened()
    pair.alice.adds(5_000_000)
    seen, messages = 0, []
    while pair.alice.outbox or pair.bob.outbox:
        for end in (pair.alice, pair.bob):
            if end.outbox:
                name = end.sent()[0].NAME
                pair.deliver(end)
                seen = check_reports(pair.bob, seen)
                messages.append((end.name, name, seen))
    assert messages == [
        ("alice", "update_add_htlc", 0),
        ("alice", "commitment_signed", 0),
        ("bob", "revoke_and_ack", 0),
        ("bob", "commitment_signed", 0),
        ("alice", "revoke_and_ack", 1),
    ]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["add", "deliver", "deliver", "deliver"]), st.integers(1, 4))))
@settings(max_examples=40, deadline=None)
def test_the_same_whatever_crosses_on_the_way(actions: list[tuple[bool, str, int]]) -> None:
    pair = Pair.opened()
    seen = {"alice": 0, "bob": 0}
    for is_alice, what, count in actions:
        end = pair.alice if is_alice else pair.bob
        if what == "add":
            end.adds(*[1_000_000] * count)
        else:
            pair.deliver(end, count)
        for one in (pair.alice, pair.bob):
            seen[one.name] = check_reports(one, seen[one.name])
    while pair.alice.outbox or pair.bob.outbox:
        for end in (pair.alice, pair.bob):
            pair.deliver(end)
            seen[end.name] = check_reports(end, seen[end.name])
            other = pair.other(end)
            seen[other.name] = check_reports(other, seen[other.name])
    assert seen["bob"] == pair.alice.record.next_outgoing_id
    assert seen["alice"] == pair.bob.record.next_outgoing_id
