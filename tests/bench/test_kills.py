"""Real processes killed at random instants under load: nothing lost, nothing paid twice, nothing closed (row g)."""

import pytest
from bench.kills import kill_often


def check(count: int, seed: int) -> None:
    said: list[str] = []
    found = kill_often(count, said.append, seed)
    print(found)
    assert found["wrong"] == [], said
    assert found["kills"] == sum(found["killed"].values()) == count
    assert found["payments_succeeded"] >= count


@pytest.mark.slow
def test_two_hundred_kills() -> None:
    check(200, seed=2)
