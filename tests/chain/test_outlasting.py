"""The devnet, as what a node must outlast."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from devnet_bench import ADDRESS, Devnet
from outlasting import (
    Served,
    test_a_back_end_that_goes_backwards_and_comes_again,
    test_a_back_end_that_is_slow,
    test_a_restart_between_two_blocks,
    test_another_chain_is_refused,
    test_hours_without_a_chain,
    test_reorganisations_of_one_block_and_of_six,
)

__all__ = [
    "test_a_back_end_that_goes_backwards_and_comes_again",
    "test_a_back_end_that_is_slow",
    "test_a_restart_between_two_blocks",
    "test_another_chain_is_refused",
    "test_hours_without_a_chain",
    "test_reorganisations_of_one_block_and_of_six",
]


class ServedDevnet:
    """A devnet that can be started again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._devnet = Devnet(directory)
        self.url, self.cookie = self._devnet.url, self._devnet.cookie

    @property
    def process(self) -> Any:
        return self._devnet.process

    def call(self, method: str, *params: Any) -> Any:
        return self._devnet.call(method, *params)

    def stop(self) -> None:
        """SIGKILL, which it outlasts itself."""
        self._devnet.kill()

    def start_again(self) -> None:
        self._devnet = Devnet(self._directory, "--port", str(self._devnet.port))

    def end(self) -> None:
        self._devnet.stop()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    chain = ServedDevnet(tmp_path_factory.mktemp("outlasting") / "devnet")
    try:
        chain.call("generatetoaddress", 10, ADDRESS)
        yield chain
    finally:
        chain.end()
