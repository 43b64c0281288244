"""For all tests: no clock judges a property, byte code for their processes, and a share of the long ones
(``SALAMA_SHARE=3/40``: every fortieth of them, beginning with the third)."""

import os
import sys

import pytest
from bench.compiled import compile_sources
from hypothesis import HealthCheck, settings

# A busy machine is no fault of what is tested; tests of speed say so themselves.
settings.register_profile("salama", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("salama")


def pytest_configure(config: pytest.Config) -> None:
    """Once for all workers: the processes that tests start need not compile the house each by itself."""
    if sys.dont_write_bytecode and "PYTEST_XDIST_WORKER" not in os.environ:
        compile_sources()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    share = os.environ.get("SALAMA_SHARE")
    if not share:
        return
    number, _, of = share.partition("/")
    first, step = int(number) - 1, int(of)
    chosen = {id(item) for item in [i for i in items if i.get_closest_marker("slow")][first::step]}
    kept = [item for item in items if id(item) in chosen]
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in chosen])
    items[:] = kept
