"""A network of real processes for each module that wants one."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from salama.testing.network import LocalNetwork


@pytest.fixture(scope="module")
def network() -> Iterator[LocalNetwork]:
    # Not in pytest's own directory: a Unix socket's name has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="sn"))
    try:
        with LocalNetwork(directory) as started:
            yield started
    finally:
        shutil.rmtree(directory)
