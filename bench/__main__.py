"""``python -m bench``: measure, then write ``bench/results.json`` and ``docs/benchmarks.md``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from bench import kills, machine, payments, report, store
from bench.compiled import compile_sources

ROOT: Final = Path(__file__).parent.parent
ROWS: Final = ("a", "b", "e", "g", "h")


def _say(line: str) -> None:
    print(line, flush=True)


def measure(rows: list[str], *, quick: bool, kill_count: int) -> dict[str, Any]:
    """The results by row letter; a row that fails says so in its place and does not take the others with it."""
    how = payments.QUICK if quick else payments.FULL
    with tempfile.TemporaryDirectory(prefix="salama-bench-") as place:
        results: dict[str, Any] = {"machine": machine.measure(Path(place)), "quick": quick}
    of_machine = results["machine"]
    _say(f"sign {of_machine['sign_us']} us, verify {of_machine['verify_us']} us, {of_machine['syncs_per_s']} syncs/s")
    work = {
        "a": lambda: payments.one_channel(how, _say),
        "b": lambda: payments.two_hops(how, _say),
        "e": lambda: store.starting(100_000 if quick else 1_000_000, _say),
        "g": lambda: {"g": kills.kill_often(kill_count, _say)},
        "h": lambda: {"h": store.invoices(1_000 if quick else 5_000, _say)},
    }
    for row in rows:
        try:
            results |= work[row]()
        except Exception as failed:
            _say(f"{row}: FAILED: {type(failed).__name__}: {failed}")
            results[row] = {"error": f"{type(failed).__name__}: {failed}"}
    if "a" in results and "h" in results and "nodes" in results["a"]:
        # The same payments tell what a payment leaves on disk and how long the writer blocked.
        nodes = results["a"]["nodes"].values()
        results["h"]["database_bytes_per_payment"] = max(one["database_bytes_per_payment"] for one in nodes)
        results["h"]["longest_write_ms"] = max(one["longest_write_ms"] for one in nodes)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute, fewer of everything")
    parser.add_argument("--rows", default="", help=f"which of {','.join(ROWS)}; others keep their last figures")
    parser.add_argument("--kills", type=int, default=0, help="kills of row g: 200, or 3 with --quick")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    options = parser.parse_args()
    rows = options.rows.split(",") if options.rows else list(ROWS)
    if unknown := set(rows) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}")
    compile_sources()
    kept = json.loads(options.out.read_text()) if options.rows and options.out.exists() else {}
    results = measure(rows, quick=options.quick, kill_count=options.kills or (3 if options.quick else 200))
    results = kept | results
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    options.page.write_text(report.page(results))
    _say(f"written: {options.out} and {options.page}")
    return int(any("error" in one or one.get("wrong") for one in results.values() if isinstance(one, dict)))


if __name__ == "__main__":
    sys.exit(main())
