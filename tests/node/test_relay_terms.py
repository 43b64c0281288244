"""Terms for relaying: set by hand, kept over restarts, and the previous ones honoured for ten minutes (B7.06)."""

from __future__ import annotations

import asyncio

import pytest

import salama
from salama.base.ids import ChannelId
from salama.base.machine import CommandRefused
from salama.base.units import Msat
from salama.channel.policy import Policy
from salama.node.fees import HONOURED_SECONDS, LEAST_DELTA, MOST_BASE, Change, RelayTerms, Terms
from salama.storage.errors import CorruptRecord

ONE, TWO = ChannelId(b"\x01" * 32), ChannelId(b"\x02" * 32)
USUAL = Terms(1000, 100, 80)
DEAR = Terms(5000, 1000, 100)


def done(terms: RelayTerms, change: Change) -> RelayTerms:
    """Install a change and go through a restart."""
    terms.install(change)
    return RelayTerms(Policy(), change.row)


def test_a_channel_has_its_own_terms_over_restarts() -> None:
    terms = RelayTerms(Policy())
    assert terms.of(ONE) == USUAL
    change = terms.set_for([ONE], DEAR, [ONE, TWO], 1000.0)
    assert change.channels == (ONE,)
    assert terms.of(ONE) == USUAL  # not before it is on disk
    terms = done(terms, change)
    assert (terms.of(ONE), terms.of(TWO)) == (DEAR, USUAL)


def test_previous_terms_are_honoured_for_ten_minutes_and_over_a_restart() -> None:
    terms = RelayTerms(Policy())
    terms = done(terms, terms.set_for([ONE], DEAR, [ONE, TWO], 1000.0))
    assert terms.before(ONE, 1000.0 + HONOURED_SECONDS - 1) == (USUAL,)
    assert terms.before(ONE, 1000.0 + HONOURED_SECONDS) == ()
    assert terms.before(TWO, 1001.0) == ()
    # a second change within these minutes: both count, each for its own time
    dearer = Terms(9000, 0, 80)
    terms = done(terms, terms.set_for([ONE], dearer, [ONE, TWO], 1300.0))
    assert terms.before(ONE, 1301.0) == (DEAR, USUAL)
    assert terms.before(ONE, 1601.0) == (DEAR,)
    # saying the same again changes nothing
    again = terms.set_for([ONE], dearer, [ONE, TWO], 1302.0)
    assert again.channels == ()
    assert done(terms, again).before(ONE, 1303.0) == (DEAR, USUAL)


def test_all_channels_and_those_to_come() -> None:
    terms = RelayTerms(Policy())
    terms = done(terms, terms.set_for([ONE], DEAR, [ONE], 0.0))
    free = Terms(0, 0, 40)
    change = terms.set_for_all(free, [ONE], 10.0)
    assert change.channels == (ONE,)
    terms = done(terms, change)
    assert (terms.of(ONE), terms.of(TWO)) == (free, free)
    # one that was opened since has asked for the same
    terms = done(terms, terms.set_for([TWO], DEAR, [ONE, TWO], 20.0))
    assert terms.before(TWO, 21.0) == (free,)
    terms = done(terms, terms.set_for_all(None, [ONE, TWO], 30.0))
    assert (terms.of(ONE), terms.of(TWO)) == (USUAL, USUAL)


def test_other_settings_after_a_restart() -> None:
    terms = RelayTerms(Policy())
    change = terms.settled([ONE], 0.0)
    assert change.channels == ()
    later = RelayTerms(Policy(fee_base=Msat(7000)), change.row)
    change = later.settled([ONE], 100.0)
    assert change.channels == (ONE,)
    later.install(change)
    assert later.of(ONE).base_msat == 7000
    assert later.before(ONE, 101.0) == (USUAL,)


def test_what_is_kept_does_not_grow() -> None:
    terms = RelayTerms(Policy())
    for n in range(100):
        terms = done(terms, terms.set_for([ONE], Terms(n, n, 80), [ONE, TWO], 1000.0 + n))
    assert len(terms.before(ONE, 1100.0)) == 20
    change = terms.settled([TWO], 5000.0)
    assert ONE.hex().encode() not in change.row


@pytest.mark.parametrize(
    "terms",
    [
        Terms(-1, 0, 80),
        Terms(MOST_BASE + 1, 0, 80),
        Terms(0, 1_000_001, 80),
        Terms(0, 0, LEAST_DELTA - 1),
        Terms(0, 0, 2017),
    ],
)
def test_terms_that_are_refused(terms: Terms) -> None:
    for attempt in (RelayTerms(Policy()).set_for, RelayTerms(Policy()).set_for_all):
        with pytest.raises(CommandRefused):
            attempt(*(([ONE],) if attempt.__name__ == "set_for" else ()), terms, [ONE], 0.0)  # type: ignore[operator]


@pytest.mark.parametrize("row", [b"", b"{", b"[]", b'{"usual": [1, 2]}', b'{"channels": {"aa": "x"}}', b'{"more": 1}'])
def test_a_damaged_row(row: bytes) -> None:
    with pytest.raises(CorruptRecord):
        RelayTerms(Policy(), row)


def test_a_payment_under_the_old_terms_and_one_under_the_new() -> None:
    async def play() -> None:
        # Alice hears nothing new for a minute: her first payment is built on what Bob asked before.
        slow = {"gossip_flush_seconds": "60"}
        async with (
            salama.Node.regtest() as alice,
            salama.Node.regtest(settings=slow, beside=alice) as bob,
            salama.Node.regtest(beside=alice) as carol,
        ):
            await alice.fund()
            await bob.fund()
            await alice.open(bob.uri, "1000000sat", private=True)
            opened = await bob.open(carol.uri, "1000000sat", private=True)
            await alice.mine(6)
            await usable(alice, bob, carol)
            assert (await carol.invoice("1000sat")).invoice
            before = await paid(alice, carol)
            assert before == 1000 + 100  # base, and a hundred millionths of a thousand sat
            invoice = (await carol.invoice("1000sat")).invoice  # its hint names the old terms
            told = await bob.setfees(opened.channel_id, base="3sat", ppm=0)
            assert (told.channels[0].fee_base_msat, told.channels[0].cltv_delta) == (3000, 80)
            (line,) = [c for c in (await bob.channels()).channels if c.channel_id == opened.channel_id]
            assert (line.fee_base_msat, line.fee_ppm) == (3000, 0)
            old = await alice.pay(invoice)
            assert (old.status, old.fee_msat) == ("succeeded", 1100)
            async with asyncio.timeout(20):
                while (fee := await paid(alice, carol)) == 1100:
                    await asyncio.sleep(0.05)
            assert fee == 3000
            # without the old ones it would have been refused
            bob._node.channels.terms._kept.before.clear()
            bob._node.channels._renew_views()
            late = await alice.pay(invoice := (await carol.invoice("1000sat")).invoice)
            assert late.fee_msat == 3000, invoice
            with pytest.raises(CommandRefused, match="too few"):
                await bob.setfees("all", cltv_delta=10)

    async def usable(*nodes: salama.Node) -> None:
        async with asyncio.timeout(20):
            for node in nodes:
                while not all(c.can_send_msat or c.can_receive_msat for c in (await node.channels()).channels):
                    await asyncio.sleep(0.02)

    async def paid(payer: salama.Node, payee: salama.Node) -> int:
        async with asyncio.timeout(20):
            while True:
                done = await payer.pay((await payee.invoice("1000sat")).invoice)
                if done.status == "succeeded":
                    return done.fee_msat
                await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(play(), 60))
