"""One line of three nodes for each module: to set it up takes longer than most of what is done to it."""

from collections.abc import Iterator

import pytest
from power_cuts import Line, line_of_three


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    with line_of_three() as made:
        yield made
