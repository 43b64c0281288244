"""``python -m salama.sim 1..20``: a world for each seed, a line for each world, the sums at the end."""

from __future__ import annotations

from salama.sim.run import main

if __name__ == "__main__":
    main()
