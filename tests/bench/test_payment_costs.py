"""What a payment costs, counted and never timed: syncs, statements, signatures, bytes (two real processes)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.load import Run, percentile, run, summary
from bench.payments import LIMITS
from bench.report import page

from salama.testing.network import LocalNetwork, LocalNode


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LocalNode]]:
    with LocalNetwork(Path(tmp_path_factory.mktemp("costs"))) as network:
        nodes = [network.start(name, "log_level=info", *LIMITS) for name in ("alice", "bob")]
        network.fund(*nodes)
        network.open(*nodes, "15000000sat")
        run(nodes, "10000sat", 5, 1)
        yield nodes


def each(one: Run, node: str, counter: str) -> float:
    return one.counted[node][counter] / one.paid


def test_one_payment_at_a_time(pair: list[LocalNode]) -> None:
    one = run(pair, "10000sat", 20, 1)
    assert (one.paid, dict(one.failures)) == (20, {})
    # Of them for the ledger: one of alice's, who learns at once that she has paid, and two of bob's, who is first owed
    # the amount and has it in his channel later. The lines of one transaction go in together. 13 and 12 in all,
    # and half a statement or one more whenever a busy machine hands over an answer in two turns.
    for name, statements in (("alice", 15), ("bob", 14)):
        # Two commitments and one HTLC in one of them: there is no cheaper way to have it in both and out of both.
        assert each(one, name, "signatures") == pytest.approx(3, abs=0.2)
        assert each(one, name, "syncs") <= 4.5
        assert each(one, name, "statements") <= statements


def test_many_payments_at_once_share_their_syncs(pair: list[LocalNode]) -> None:
    one = run(pair, "10000sat", 300, 100)
    assert (one.paid, dict(one.failures)) == (300, {})
    for name in ("alice", "bob"):
        assert each(one, name, "syncs") <= 0.5
        assert each(one, name, "statements") <= 10
        assert each(one, name, "signatures") <= 6
    # 1,700 and 750 in long runs (row h of the benchmarks); a busy machine signs more often, for fewer payments.
    assert one.database["alice"] / one.paid <= 2_600
    assert one.database["bob"] / one.paid <= 1_400


def test_dust_needs_no_signatures_of_its_own(pair: list[LocalNode]) -> None:
    one = run(pair, "1sat", 100, 50)
    assert (one.paid, dict(one.failures)) == (100, {})
    assert each(one, "alice", "signatures") <= 0.5


def test_the_page_shows_what_was_measured_and_what_was_not(pair: list[LocalNode]) -> None:
    one = run(pair, "10000sat", 5, 5)
    one.failures["timeout: No way was found."] += 2
    row = summary([one], 5, "10000sat") | {"limits": list(LIMITS)}
    machine = dict.fromkeys(("cpu", "memory_mb", "system", "python", "sqlite"), "x")
    machine |= dict.fromkeys(("cores", "sign_us", "verify_us", "syncs_per_s", "load_before"), 1)
    shown = page({"machine": machine, "a": row})
    assert "Other work was running" in shown
    assert "Other work was running" not in page({"machine": machine | {"load_before": 0.1}, "a": row})
    assert "2 x timeout: No way was found." in shown
    assert f"{row['payments_per_s']:,} payments/s" in shown
    assert "| b | through one forwarding node: payments/s | not measured |" in shown
    assert "**a**: 2,000 payments/s leave 1000.00 ms" in page({"machine": machine | {"cores": 2_000}, "a": row})


def test_percentiles() -> None:
    assert [percentile(range(1, 101), share) for share in (0, 0.5, 0.95, 1)] == [1, 51, 96, 100]
    assert percentile([], 0.5) == 0
