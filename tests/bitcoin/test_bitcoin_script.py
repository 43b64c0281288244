"""Scripts: the shortest pushes, the dust table (B3.09), the shutdown forms (B2.35), and text for people."""

import pytest
from embit import script as theirs
from embit.ec import PublicKey
from hypothesis import given
from hypothesis import strategies as st

from salama.bitcoin import script as s
from salama.crypto.hashes import hash160
from salama.crypto.secp256k1 import public_key

KEY = public_key(bytes(31) + b"\x07")


def test_standard_outputs_agree_with_embit():
    key = PublicKey.parse(KEY)
    assert s.p2wpkh(KEY) == theirs.p2wpkh(key).data
    assert s.p2pkh(hash160(KEY)) == theirs.p2pkh(key).data
    redeem = theirs.Script(b"\x51")
    assert s.p2wsh(b"\x51") == theirs.p2wsh(redeem).data
    assert s.p2sh(hash160(b"\x51")) == theirs.p2sh(redeem).data


@pytest.mark.parametrize("bad", [b"", KEY[1:], KEY + b"\x00"])
def test_a_key_of_another_length_is_refused(bad):
    with pytest.raises(ValueError, match="instead of 33"):
        s.p2wpkh(bad)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "00"),
        (b"\x00", "0100"),
        (b"\x01", "51"),
        (b"\x10", "60"),
        (b"\x11", "0111"),
        (b"\x81", "4f"),
        (bytes(75), "4b" + "00" * 75),
        (bytes(76), "4c4c" + "00" * 76),
        (bytes(255), "4cff" + "00" * 255),
        (bytes(256), "4d0001" + "00" * 256),
        (bytes(65536), "4e00000100" + "00" * 65536),
    ],
)
def test_pushes_are_the_shortest(data, expected):
    assert s.push(data).hex() == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "00"),
        (1, "51"),
        (16, "60"),
        (17, "0111"),
        (-1, "4f"),
        (127, "017f"),
        (128, "028000"),
        (144, "029000"),
        (-128, "028080"),
        (255, "02ff00"),
        (256, "020001"),
        (500_000, "0320a107"),
        (0x7FFFFFFF, "04ffffff7f"),
        (0x80000000, "050000008000"),
    ],
)
def test_script_numbers(value, expected):
    assert s.number(value).hex() == expected


def test_a_script_of_opcodes_data_and_numbers():
    built = s.script(s.OP_2, KEY, KEY, 2, s.OP_CHECKMULTISIG, 144, s.OP_CHECKSEQUENCEVERIFY, s.OP_DROP)
    assert built == b"\x52" + b"\x21" + KEY + b"\x21" + KEY + b"\x52\xae\x02\x90\x00\xb2\x75"
    assert s.disassemble(built) == (
        f"OP_2 {KEY.hex()} {KEY.hex()} OP_2 OP_CHECKMULTISIG 9000 OP_CHECKSEQUENCEVERIFY OP_DROP"
    )


@given(st.binary(max_size=400))
def test_disassembling_never_fails(raw):
    assert isinstance(s.disassemble(raw), str)


def test_disassembling_a_huge_script_stays_small():
    assert len(s.disassemble(bytes(5_000_000))) < 100_000
    assert len(s.disassemble(b"\x4e" + (4_000_000).to_bytes(4, "little") + bytes(4_000_000))) < 100_000
    assert s.disassemble(b"\x05ab") == "[cut off: 6162]"
    assert s.disassemble(b"\xfe\x6a") == "OP_UNKNOWN_fe OP_RETURN"


@pytest.mark.parametrize(
    ("script", "least"),
    [
        (s.p2pkh(bytes(20)), 546),
        (s.p2sh(bytes(20)), 540),
        (s.p2wpkh(KEY), 294),
        (s.p2wsh(b""), 330),
        (s.PAY_TO_ANCHOR, 240),
        (s.p2tr(bytes(32)), 330),
        (b"\x52\x28" + bytes(40), 354),
        (b"\x60\x02ab", 354),
        (b"\x6a\x06salama", 0),
    ],
)
def test_dust_limits(script, least):
    assert s.dust_limit(script) == least


SHUTDOWN = [
    # script, plain, with anysegwit, with simple close
    (s.p2wpkh(KEY), True, True, True),
    (s.p2wsh(b""), True, True, True),
    (b"\x00\x15" + bytes(21), False, False, False),
    (s.p2tr(bytes(32)), False, True, False),
    (b"\x60\x02ab", False, True, False),
    (b"\x60\x28" + bytes(40), False, True, False),
    (b"\x51\x01a", False, False, False),
    (b"\x51\x29" + bytes(41), False, False, False),
    (b"\x50\x02ab", False, False, False),
    (s.p2pkh(bytes(20)), False, False, False),
    (s.p2sh(bytes(20)), False, False, False),
    (b"", False, False, False),
    (b"\x6a", False, False, False),
    (b"\x6a\x05" + bytes(5), False, False, False),
    (b"\x6a\x06" + bytes(6), False, False, True),
    (b"\x6a\x4b" + bytes(75), False, False, True),
    (b"\x6a\x4b" + bytes(74), False, False, False),
    (b"\x6a\x4b" + bytes(76), False, False, False),
    (b"\x6a\x4c", False, False, False),
    (b"\x6a\x4c\x4b" + bytes(75), False, False, False),
    (b"\x6a\x4c\x4c" + bytes(76), False, False, True),
    (b"\x6a\x4c\x50" + bytes(80), False, False, True),
    (b"\x6a\x4c\x51" + bytes(81), False, False, False),
]


@pytest.mark.parametrize(("script", "plain", "anysegwit", "simple"), SHUTDOWN)
def test_shutdown_forms(script, plain, anysegwit, simple):
    assert s.is_shutdown_script(script, False, False) is plain
    assert s.is_shutdown_script(script, True, False) is anysegwit
    assert s.is_shutdown_script(script, False, True) is simple
    assert s.is_shutdown_script(script, True, True) is (anysegwit or simple)


@given(st.binary(max_size=45))
def test_witness_programs_are_what_embit_thinks(raw):
    program = s.witness_program(raw)
    if program is None:
        assert not (4 <= len(raw) <= 42 and (raw[0] == 0 or 0x51 <= raw[0] <= 0x60) and raw[1] == len(raw) - 2)
    else:
        version, data = program
        assert raw == bytes((0x50 + version if version else 0, len(data))) + data
