"""``docs/benchmarks.md`` from the results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bench.ahead import way_ahead

_HEAD: Final = """# How fast Salama is

This page is written by `make bench` (or `make bench-quick`) from `bench/results.json`. Every node is a process of its
own on one machine, connected over loopback with Noise, with a real SQLite file (write-ahead log, `synchronous=FULL`)
and log level info. Channels have anchors. Payments have distinct hashes and invoices made beforehand; onions are made
and peeled inside the timing, which runs from the call of `pay` to its answer, after the result is on disk. Settled
counts are read again from both databases. Figures are medians of the runs, with the least and the most in brackets.
"""

_BUSY: Final = (
    " **Other work was running on the machine**, so that the times say little; what was counted, and with care the "
    "CPU time of each node, may be compared."
)

Value = Callable[[dict[str, Any]], float]

_GOALS: Final[tuple[tuple[str, str, Value, float, str, bool], ...]] = (
    ("a", "one channel, 100 in flight, 10,000 sat: payments/s", lambda r: r["payments_per_s"], 1000, "2,000", True),
    ("a1", "the same, one at a time: p50 in ms", lambda r: r["p50_ms"], 8, "5", False),
    ("b", "through one forwarding node: payments/s", lambda r: r["payments_per_s"], 400, "1,000", True),
    ("e", "ready with 1,000 channels: s", lambda r: r["ready_1000_channels"]["median_s"], 1, "", False),
    ("e", "the same: CPU seconds", lambda r: r["ready_1000_channels"]["cpu_s"], 1, "", False),
    ("e", "what past payments add: %", lambda r: r["past_adds_percent"], 10, "", False),
    ("e", "what they add to the CPU time: %", lambda r: r["past_adds_cpu_percent"], 10, "", False),
    ("f", "memory per idle channel of our own: kB", lambda r: r["kb_per_own_channel"], 30, "", False),
    ("g", "things wrong after SIGKILL at random instants", lambda r: len(r["wrong"]), 0, "0 of 1,000 kills", False),
    ("g", "p95 recovery: seconds", lambda r: r["recovery_p95_s"], 3, "", False),
    ("h", "invoices/s", lambda r: r["invoices_per_s"], 1000, "", True),
    ("h", "database bytes per payment", lambda r: r["database_bytes_per_payment"], 2000, "", False),
    ("h", "longest time the writer blocked: ms", lambda r: r["longest_write_ms"], 50, "", False),
)  # fmt: skip


def page(results: dict[str, Any]) -> str:
    """The whole page."""
    parts = [_HEAD, _machine(results["machine"], quick=bool(results.get("quick"))), _goals(results)]
    rows = [
        ("a", "One channel, 100 in flight, 10,000 sat", results.get("a")),
        ("a", "One channel, 30 in flight, 10,000 sat", results.get("a", {}).get("in_flight_30")),
        ("a", "One channel, 100 in flight, 1 sat (dust)", results.get("a", {}).get("dust")),
        ("a1", "One channel, one at a time", results.get("a1")),
        ("b", "Through one forwarding node", results.get("b")),
    ]
    parts += [_payments(letter, title, row) for letter, title, row in rows if row and "nodes" in row]
    if "kills" in results.get("g", {}):
        parts.append(_kills(results["g"]))
    parts.append(way_ahead(results))
    return "\n".join(parts)


def _machine(machine: dict[str, Any], *, quick: bool) -> str:
    return (
        f"\n## The machine\n\n{machine['cpu']}, {machine['cores']} cores, {machine['memory_mb']} MB; "
        f"{machine['system']}; Python {machine['python']}, SQLite {machine['sqlite']}. "
        f"It signs in {machine['sign_us']} us, verifies in "
        f"{machine['verify_us']} us and syncs {machine['syncs_per_s']} times a second; its load before the measurement "
        f"was {machine['load_before']}."
        + (_BUSY if machine["load_before"] > machine["cores"] / 4 else "")
        + (" These are the figures of the quick set: fewer payments, no more than an indication.\n" if quick else "\n")
    )


def _goals(results: dict[str, Any]) -> str:
    lines = ["\n## Against what we want\n", "| row | measure | measured | wanted | reached | then |"]
    lines.append("|---|---|---|---|---|---|")
    for letter, what, value, goal, then, more_is_better in _GOALS:
        try:
            measured = value(results[letter])
        except (KeyError, TypeError):
            lines.append(f"| {letter} | {what} | not measured | {goal:,} | | {then} |")
            continue
        reached = measured >= goal if more_is_better else measured <= goal
        lines.append(f"| {letter} | {what} | {measured:,} | {goal:,} | {'yes' if reached else '**no**'} | {then} |")
    return "\n".join(lines) + "\n"


def _payments(letter: str, title: str, row: dict[str, Any]) -> str:
    lines = [
        f"\n## {letter}: {title}\n",
        f"{row['payments_per_s']:,} payments/s ({row['payments_per_s_min']:,} to {row['payments_per_s_max']:,} in "
        f"{row['runs']} runs, {row['payments']:,} payments); latency p50 {row['p50_ms']} ms, p95 {row['p95_ms']} ms, "
        f"p99 {row['p99_ms']} ms. Limits raised for this: {', '.join(f'`{one}`' for one in row['limits'])}.",
        "Failures: " + (", ".join(f"{n} x {why}" for why, n in row["failures"].items()) or "none") + ".\n",
        "| node | CPU ms | syncs | statements | signatures | database bytes | longest write ms | resident MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, node in row["nodes"].items():
        lines.append(
            f"| {name} | {node['cpu_ms_per_payment']} | {node['syncs_per_payment']} | {node['statements_per_payment']} "
            f"| {node['signatures_per_payment']} | {node['database_bytes_per_payment']} | {node['longest_write_ms']} "
            f"| {node['resident_mb']} |"
        )
    return "\n".join(lines) + "\n\nPer payment, except for the last two columns.\n"


def _kills(row: dict[str, Any]) -> str:
    wrong = "; ".join(row["wrong"]) or "nothing"
    killed = ", ".join(f"{name} {times}" for name, times in sorted(row["killed"].items()))
    return (
        f"\n## g: killed at random instants\n\n{row['kills']} times SIGKILL ({killed}) under two-hop load, "
        f"{row['payments_succeeded']:,} payments succeeded meanwhile. Wrong afterwards: {wrong}. Ready again after "
        f"{row['ready_p50_s']} s (p95 {row['ready_p95_s']} s); the first new payment through after "
        f"{row['recovery_p50_s']} s (p95 {row['recovery_p95_s']} s, longest {row['recovery_max_s']} s).\n"
    )
