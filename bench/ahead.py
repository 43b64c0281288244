"""What the page says of the goals after the next: how far they are, and what stands in the way."""

from __future__ import annotations

from typing import Any, Final

NOT_MEASURED: Final = (
    "Nothing here measures the rows about the graph: c, c1 and c2 (finding routes on a graph of the size of mainnet), "
    "d and d1 (taking it in, reading it again), and of f the memory that it takes."
)


def way_ahead(results: dict[str, Any]) -> str:
    """A paragraph for each row that was measured and has a goal after the next."""
    lines = ["\n## What stands in the way of the goals after the next\n"]
    for letter, tell in (("a", _many), ("a1", _one), ("b", _two_hops), ("g", _kills)):
        try:
            lines.append(f"**{letter}**: {tell(results[letter], results['machine'])}\n")
        except (KeyError, TypeError):
            continue
    return "\n".join([*lines, NOT_MEASURED]) + "\n"


def _processor_ms(row: dict[str, Any]) -> float:
    """Of all nodes for one payment."""
    return float(sum(node["cpu_ms_per_payment"] for node in row["nodes"].values()))


def _signatures_ms(row: dict[str, Any], machine: dict[str, Any]) -> float:
    """What making and checking the signatures of commitments takes of it: what one makes another checks."""
    made = sum(node["signatures_per_payment"] for node in row["nodes"].values())
    return float(made * (machine["sign_us"] + machine["verify_us"]) / 1000)


def _throughput(row: dict[str, Any], machine: dict[str, Any], then: int) -> str:
    cores, each = int(machine["cores"]), _processor_ms(row)
    never_idle = cores * 1000 / each
    return (
        f"{then:,} payments/s leave {cores * 1000 / then:.2f} ms of processor time for a payment on {cores} cores, for "
        f"all nodes together and with no core ever idle. A payment takes {each:.2f} ms, of which making and checking "
        f"signatures is {_signatures_ms(row, machine):.2f} ms; cores that never idled would do {never_idle:,.0f} "
        f"payments/s, and {row['payments_per_s']:,} were done."
    )


def _many(row: dict[str, Any], machine: dict[str, Any]) -> str:
    return (
        _throughput(row, machine, 2000)
        + " The payments in flight go to and fro as one batch, so that one node waits while the other works. Batches "
        "of half the size, out of step, keep both at work and are slower all the same: what a commitment signs, "
        "checks and builds for every HTLC on it is done once more for each batch that passes, which costs more than"
        " it gains. What the payee can do while the payer is at work it does: the onions are open before their "
        "HTLCs are committed. The rest is Python: nearly a third of the payer's time is reading the invoice with "
        "its call, as much is route and onion, and about an eighth each the channel and what is written; the row of"
        " an HTLC carries its onion and is written four times. Half of it would have to go into compiled code, or a"
        " node into several processes."
    )


def _one(row: dict[str, Any], machine: dict[str, Any]) -> str:
    syncs = sum(node["syncs_per_payment"] for node in row["nodes"].values())
    disk = syncs * 1000 / machine["syncs_per_s"]
    return (
        f"a lone payment takes three messages each way and {syncs:.0f} syncs, one after the other: {disk:.1f} ms of "
        f"the disk and {_signatures_ms(row, machine):.1f} ms of signatures that nothing can overlap. The nodes' "
        f"processor time is {_processor_ms(row):.1f} ms, many times what a payment costs in a batch of a hundred: "
        "what a turn does once it does here for one payment alone. It is a wide path of small functions, none of which "
        "stands out; 5 ms want fewer of them, not faster ones. The keys of the next commitments are worked out already "
        "while the peer is at work, and the loop waits for a quick disk itself."
    )


def _two_hops(row: dict[str, Any], machine: dict[str, Any]) -> str:
    return (
        _throughput(row, machine, 1000)
        + " Three nodes share the cores here; with a machine for each, the busiest node would be the limit, which is "
        "the payer. A quarter of its time is the search for a route, anew for each payment and made for a graph of "
        "thousands; its onion has a layer more, and each layer multiplies points."
    )


def _kills(row: dict[str, Any], machine: dict[str, Any]) -> str:
    return (
        f"1,000 kills instead of {row['kills']} want nothing but time, {row['recovery_p50_s']} s from each to the next "
        "payment: `python -m bench --rows g --kills 1000`."
    )
