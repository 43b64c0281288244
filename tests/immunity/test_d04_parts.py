"""D4 payments in parts: claimed in part, held for ever, lost by a restart (LDK 0.1.6 #3928, #4558)

What failed: some parts were settled before all were there, or a set that was claimed lost parts in a restart.

Defence: payments/incoming.py:receive holds parts until their sum is reached, _claim writes which of them are claimed
before the first is settled, expire_sets gives up after 60 seconds or near an expiry; payments/machine.py settles what
is claimed before it looks at anything else.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "payments"))

from payment_world import HASH, HEIGHT, NOW, World, code_of, invoice

from salama.base.units import BlockHeight
from salama.payments.events import HtlcArrived, Ticked

TOTAL = 100_000


def waiting() -> World:
    world = World()
    world.invoices[HASH] = invoice(TOTAL)
    return world


@pytest.mark.parametrize("count", [2, 3, 16])
def test_all_but_one_part_get_nothing(count: int) -> None:
    world = waiting()
    parts = [world.to_us(TOTAL // count, TOTAL) for _ in range(count - 1)]
    world.does(*parts)
    assert not world.settles and not world.fails
    world.now = NOW + 61
    world.does(Ticked())
    assert sorted(f.id for f in world.fails) == sorted(p.ref.id for p in parts) and not world.settles
    assert {code_of(fail, part) for fail, part in zip(world.fails, parts, strict=True)} == {23}


def test_an_incomplete_set_does_not_wait_for_its_expiry() -> None:
    world = waiting()
    part = world.to_us(TOTAL // 2, TOTAL)
    world.does(part)
    world.height = BlockHeight(int(HEIGHT) + 31)
    world.does(Ticked())
    assert [f.id for f in world.fails] == [part.ref.id]


def test_a_part_that_comes_late_is_failed_and_takes_nobody_with_it() -> None:
    world = waiting()
    world.does(world.to_us(TOTAL // 2, TOTAL), world.to_us(TOTAL // 2, TOTAL))
    settled = len(world.settles)
    late = world.to_us(TOTAL // 2, TOTAL)
    world.does(late)
    assert settled == 2 and len(world.settles) == 2 and [f.id for f in world.fails] == [late.ref.id]


STEP = st.sampled_from(["part", "part", "same again", "other total", "wrong secret", "restart", "time"])


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=12))
def test_all_or_nothing(steps: list[str]) -> None:
    world = waiting()
    alive: dict[int, HtlcArrived] = {}
    for step in steps:
        if step == "restart":
            world.restarts()
            world.does(*alive.values())
        elif step == "time":
            world.now += 30
            world.does(Ticked())
        elif step == "same again" and alive:
            world.does(next(iter(alive.values())))
        else:
            total = TOTAL * 3 // 2 if step == "other total" else TOTAL
            secret = b"\x01" * 32 if step == "wrong secret" else invoice().payment_secret
            part = world.to_us(TOTAL // 3 + 1, total, secret=secret)
            alive[part.ref.id] = part
            world.does(part)
        settled, failed = {s.id for s in world.settles}, {f.id for f in world.fails}
        assert not settled & failed, "an answer was taken back"
        assert sum(int(alive[n].amount) for n in settled) >= TOTAL or not settled
        for done in failed:
            alive.pop(done, None)


def test_claimed_parts_survive_a_restart_together() -> None:
    world = waiting()
    parts = [world.to_us(TOTAL // 2, TOTAL) for _ in range(2)]
    world.does(*parts)
    world.forgets()
    world.restarts()
    world.now += 10_000
    world.does(Ticked())
    world.does(*(replace(part, must_fail=True) for part in parts))
    assert {s.id for s in world.settles} == {p.ref.id for p in parts} and not world.fails
