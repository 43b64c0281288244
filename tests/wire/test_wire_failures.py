"""Failure messages and their flags (BOLT 4, B4.07)."""

import pytest

from salama.base.units import Msat
from salama.wire import (
    FAILURES,
    FeeInsufficient,
    IncorrectOrUnknownPaymentDetails,
    InvalidOnionPayload,
    Malformed,
    TemporaryNodeFailure,
    UnknownFailure,
    decode_failure,
)


def test_figures() -> None:
    assert decode_failure(bytes.fromhex("2002")) == TemporaryNodeFailure()
    wanted = IncorrectOrUnknownPaymentDetails(htlc_msat=Msat(100), height=800_000)
    assert wanted.encode().hex() == "400f0000000000000064000c3500"
    assert decode_failure(wanted.encode()) == wanted
    payload = InvalidOnionPayload(type=65536, offset=3)
    assert payload.encode().hex() == "4016fe000100000003"
    attached = FeeInsufficient(htlc_msat=Msat(1), channel_update=b"abc", extension=((1, b""),))
    assert attached.encode().hex() == "100c000000000000000100036162630100"
    assert decode_failure(attached.encode()) == attached


def test_all_codes() -> None:
    assert sorted(FAILURES) == [
        *(18, 19, 21, 23),
        *(0x1007, 0x100B, 0x100C, 0x100D, 0x100E, 0x1014),
        0x2002,
        *(0x4008, 0x4009, 0x400A, 0x400F, 0x4016),
        *(0x6002, 0x6003),
        *(0xC004, 0xC005, 0xC006, 0xC018),
    ]


@pytest.mark.parametrize(
    ("code", "flags"),
    [
        (0xC005, (True, True, False, False)),
        (0x6002, (False, True, True, False)),
        (0x1007, (False, False, False, True)),
        (23, (False, False, False, False)),
        (0xF0FF, (True, True, True, True)),
    ],
)
def test_flags(code: int, flags: tuple[bool, ...]) -> None:
    data = code.to_bytes(2, "big") + (bytes(32) if code == 0xC005 else b"\0\0" if code == 0x1007 else b"")
    failure = decode_failure(data)
    assert failure.failure_code == code
    assert (failure.is_badonion, failure.is_permanent, failure.is_node, failure.is_update) == flags


def test_unknown_codes_are_kept() -> None:
    failure = decode_failure(b"\x40\xffdata")
    assert failure == UnknownFailure(0x40FF, b"data")
    assert failure.encode() == b"\x40\xffdata"


@pytest.mark.parametrize("wrong", ["", "20", "400f", "400f0000000000000064000c35", "200202", "20020200"])
def test_wrong_bytes_are_refused(wrong: str) -> None:
    with pytest.raises(Malformed):
        decode_failure(bytes.fromhex(wrong))
