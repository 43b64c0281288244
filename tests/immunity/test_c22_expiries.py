"""C22 expiries in the past, at once, and beyond any block (c-lightning 2018, lnd 0.20.2)

What failed: an HTLC whose expiry had come, or lay absurdly far away, was passed on or held.

Defence: payments/forwarding.py:_check and payments/incoming.py:_fits bound it on both sides;
base/units.py:CltvExpiry is a height and never a time, channel/normal.py:receive_add refuses other numbers, and
channel/deadlines.py:missed_deadline counts in whole numbers.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "payments"))

from payment_world import HASH, HEIGHT, World, code_of, invoice

from salama.base.units import BlockHeight, CltvExpiry, OutOfRange
from salama.testing.pair import ONION, START, Pair, hash_of
from salama.wire.updates import UpdateAddHtlc


@pytest.mark.parametrize("expiry", [500_000_000, 1 << 31, (1 << 32) - 1])
def test_a_time_is_no_expiry(expiry: int) -> None:
    with pytest.raises(OutOfRange):
        CltvExpiry(expiry)
    pair = Pair.opened()
    add = UpdateAddHtlc(
        channel_id=pair.bob.record.channel_id,
        id=0,
        amount_msat=pair.alice.add_event(0, 1_000_000).amount,
        payment_hash=hash_of(0),
        cltv_expiry=expiry,
        onion_routing_packet=ONION,
    )
    pair.bob.hears(add)
    assert not pair.bob.is_connected and not pair.bob.record.htlcs


@pytest.mark.parametrize("ahead", [-200, 0, 1, 20, 2017, 100_000])
def test_nothing_is_passed_on_that_expires_too_soon_or_too_late(ahead: int) -> None:
    """The onion asks for an expiry 200 blocks ahead of where the payer saw the chain."""
    world = World()
    htlc = world.to_relay()
    world.height = BlockHeight(int(HEIGHT) + 200 - ahead)
    world.does(htlc)
    assert not world.adds and not world.settles
    assert code_of(world.fails[0], htlc) == (21 if ahead > 2016 else 0x100E)


@pytest.mark.parametrize("ahead", [21, 200, 2016])
def test_between_the_two_it_is(ahead: int) -> None:
    world = World()
    htlc = world.to_relay()
    world.height = BlockHeight(int(HEIGHT) + 200 - ahead)
    world.does(htlc)
    assert len(world.adds) == 1


@pytest.mark.parametrize("left", [-5, 0, 1, 17])
def test_a_payee_takes_nothing_that_it_could_not_claim_in_time(left: int) -> None:
    world = World()
    world.invoices[HASH] = invoice(100_000)
    htlc = world.to_us(100_000, 100_000)
    world.height = BlockHeight(int(htlc.cltv_expiry) - left)
    world.does(htlc)
    assert not world.settles and len(world.fails) == 1
    world.forgets()
    later = replace(htlc, cltv_expiry=CltvExpiry(499_999_999))
    world.does(later)
    assert len(world.settles) + len(world.fails) == 1


def test_our_channel_goes_to_the_chain_in_time_and_not_before() -> None:
    pair = Pair.opened()
    pair.alice.adds(50_000_000, expiry=int(START) + 50)
    pair.settle()
    published = len(pair.alice.broadcasts)
    while int(pair.alice.env.height) < int(START) + 51:
        pair.mines(1)
        pair.alice.outbox.clear()
        pair.bob.outbox.clear()
        assert len(pair.alice.broadcasts) == published
    pair.mines(1)
    assert len(pair.alice.broadcasts) == published + 1
