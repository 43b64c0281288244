"""What must stay in the wallet for the fees of closing by force (immunity C20)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from salama.base.units import FeeratePerKw, Sat
from salama.wallet.reserve import MOST_PERCENT, Exposure, Terms, required, worst_case

ONE = Exposure(Sat(10_000_000), 4_000, Sat(1_000), 10_000)
EXPOSURES = st.builds(
    Exposure,
    st.integers(20_000, 1 << 30).map(Sat),
    st.integers(1_000, 90_000),
    st.integers(0, 100_000).map(Sat),
    st.integers(0, 600_000),
)


def test_the_child_pays_what_the_commitment_does_not_and_every_claim_pays_for_itself() -> None:
    assert worst_case(ONE, FeeratePerKw(12_500)) == 50_000 - 1_000 + 125_000
    assert worst_case(ONE, FeeratePerKw(253)) == 12 + 2_530


def test_small_channels_need_none_and_then_all_of_them_do() -> None:
    terms = Terms(FeeratePerKw(12_500), Sat(20_000_000))
    assert required([ONE, ONE], terms) == 0
    assert required([ONE, ONE, ONE], terms) == 3 * 174_000


@given(st.lists(EXPOSURES, max_size=6), EXPOSURES, st.integers(253, 500_000), st.integers(0, 500_000))
def test_more_channels_and_dearer_markets_never_need_less(
    channels: list[Exposure], more: Exposure, feerate: int, rise: int
) -> None:
    terms, dearer = (Terms(FeeratePerKw(rate), Sat(0)) for rate in (feerate, feerate + rise))
    before = required(channels, terms)
    assert before <= required([*channels, more], terms)
    assert before <= required(channels, dearer)
    assert int(before) <= sum(int(one.capacity) for one in channels) * MOST_PERCENT // 100
