"""A process that comes back finds its address free."""

import socket
from pathlib import Path

from salama.demo.addresses import USUAL_FIRST_PORT, address_to_keep, first_given_port


def test_no_outgoing_connection_is_given_it() -> None:
    for _ in range(50):
        host, _, port = address_to_keep().partition(":")
        assert 1024 <= int(port) < first_given_port()
        with socket.socket() as one:
            one.bind((host, int(port)))


def test_one_that_is_taken_is_passed_over(tmp_path: Path) -> None:
    taken = [socket.socket() for _ in range(3)]
    for one in taken:
        host, _, port = address_to_keep().partition(":")
        one.bind((host, int(port)))
        one.listen()
    ports = {one.getsockname()[1] for one in taken}
    assert len(ports) == 3
    assert not {int(address_to_keep().rpartition(":")[2]) for _ in range(50)} & ports
    for one in taken:
        one.close()


def test_where_the_systems_own_ports_begin(tmp_path: Path) -> None:
    told = tmp_path / "range"
    assert first_given_port(told) == USUAL_FIRST_PORT
    told.write_text("20000\t60999\n")
    assert first_given_port(told) == 20_000
    told.write_text("\n")
    assert first_given_port(told) == USUAL_FIRST_PORT
