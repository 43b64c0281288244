"""Bitcoin script: building, recognising and reading it (BOLT 3 scripts; B2.35 shutdown forms; B3.09 dust limits).

``script(OP_DUP, OP_HASH160, key_hash, OP_EQUALVERIFY, OP_CHECKSIG)``: an opcode stands for itself, bytes are pushed
with the shortest push, an ``int`` is pushed as a script number. Nothing here runs a script.
"""

from __future__ import annotations

from typing import Final

from salama.base.units import Sat
from salama.crypto.hashes import hash160, sha256


class Op(int):
    """An opcode, kept apart from numbers so that ``script`` can tell ``OP_2`` from 2 and 0x52."""

    __slots__ = ()

    def __repr__(self) -> str:
        return OP_NAMES.get(int(self), f"OP_UNKNOWN_{int(self):02x}")

    __str__ = __repr__


OP_0: Final = Op(0x00)
OP_PUSHDATA1: Final = Op(0x4C)
OP_PUSHDATA2: Final = Op(0x4D)
OP_PUSHDATA4: Final = Op(0x4E)
OP_1NEGATE: Final = Op(0x4F)
OP_RESERVED: Final = Op(0x50)
OP_1: Final = Op(0x51)
OP_2: Final = Op(0x52)
OP_3: Final = Op(0x53)
OP_4: Final = Op(0x54)
OP_5: Final = Op(0x55)
OP_6: Final = Op(0x56)
OP_7: Final = Op(0x57)
OP_8: Final = Op(0x58)
OP_9: Final = Op(0x59)
OP_10: Final = Op(0x5A)
OP_11: Final = Op(0x5B)
OP_12: Final = Op(0x5C)
OP_13: Final = Op(0x5D)
OP_14: Final = Op(0x5E)
OP_15: Final = Op(0x5F)
OP_16: Final = Op(0x60)
OP_NOP: Final = Op(0x61)
OP_VER: Final = Op(0x62)
OP_IF: Final = Op(0x63)
OP_NOTIF: Final = Op(0x64)
OP_VERIF: Final = Op(0x65)
OP_VERNOTIF: Final = Op(0x66)
OP_ELSE: Final = Op(0x67)
OP_ENDIF: Final = Op(0x68)
OP_VERIFY: Final = Op(0x69)
OP_RETURN: Final = Op(0x6A)
OP_TOALTSTACK: Final = Op(0x6B)
OP_FROMALTSTACK: Final = Op(0x6C)
OP_2DROP: Final = Op(0x6D)
OP_2DUP: Final = Op(0x6E)
OP_3DUP: Final = Op(0x6F)
OP_2OVER: Final = Op(0x70)
OP_2ROT: Final = Op(0x71)
OP_2SWAP: Final = Op(0x72)
OP_IFDUP: Final = Op(0x73)
OP_DEPTH: Final = Op(0x74)
OP_DROP: Final = Op(0x75)
OP_DUP: Final = Op(0x76)
OP_NIP: Final = Op(0x77)
OP_OVER: Final = Op(0x78)
OP_PICK: Final = Op(0x79)
OP_ROLL: Final = Op(0x7A)
OP_ROT: Final = Op(0x7B)
OP_SWAP: Final = Op(0x7C)
OP_TUCK: Final = Op(0x7D)
OP_SIZE: Final = Op(0x82)
OP_EQUAL: Final = Op(0x87)
OP_EQUALVERIFY: Final = Op(0x88)
OP_1ADD: Final = Op(0x8B)
OP_1SUB: Final = Op(0x8C)
OP_NEGATE: Final = Op(0x8F)
OP_ABS: Final = Op(0x90)
OP_NOT: Final = Op(0x91)
OP_0NOTEQUAL: Final = Op(0x92)
OP_ADD: Final = Op(0x93)
OP_SUB: Final = Op(0x94)
OP_BOOLAND: Final = Op(0x9A)
OP_BOOLOR: Final = Op(0x9B)
OP_NUMEQUAL: Final = Op(0x9C)
OP_NUMEQUALVERIFY: Final = Op(0x9D)
OP_NUMNOTEQUAL: Final = Op(0x9E)
OP_LESSTHAN: Final = Op(0x9F)
OP_GREATERTHAN: Final = Op(0xA0)
OP_LESSTHANOREQUAL: Final = Op(0xA1)
OP_GREATERTHANOREQUAL: Final = Op(0xA2)
OP_MIN: Final = Op(0xA3)
OP_MAX: Final = Op(0xA4)
OP_WITHIN: Final = Op(0xA5)
OP_RIPEMD160: Final = Op(0xA6)
OP_SHA1: Final = Op(0xA7)
OP_SHA256: Final = Op(0xA8)
OP_HASH160: Final = Op(0xA9)
OP_HASH256: Final = Op(0xAA)
OP_CODESEPARATOR: Final = Op(0xAB)
OP_CHECKSIG: Final = Op(0xAC)
OP_CHECKSIGVERIFY: Final = Op(0xAD)
OP_CHECKMULTISIG: Final = Op(0xAE)
OP_CHECKMULTISIGVERIFY: Final = Op(0xAF)
OP_CHECKLOCKTIMEVERIFY: Final = Op(0xB1)
OP_CHECKSEQUENCEVERIFY: Final = Op(0xB2)
OP_CHECKSIGADD: Final = Op(0xBA)

OP_NAMES: Final[dict[int, str]] = {int(op): name for name, op in list(globals().items()) if isinstance(op, Op)}

_ONE_BYTE: Final = tuple(bytes((code,)) for code in range(256))

PAY_TO_ANCHOR: Final = bytes.fromhex("51024e73")

# Longest script ``disassemble`` writes out; a witness may hold megabytes that no person reads.
MAX_DISASSEMBLED: Final = 10_000


def push(data: bytes) -> bytes:
    """The shortest push of ``data`` (BIP 62 rule 3)."""
    size = len(data)
    if size == 1:
        only = data[0]
        if 1 <= only <= 16:
            return bytes((0x50 + only,))
        if only == 0x81:
            return b"\x4f"
        return b"\x01" + data
    if size <= 75:
        return bytes((size,)) + data
    if size <= 0xFF:
        return b"\x4c" + size.to_bytes(1, "little") + data
    if size <= 0xFFFF:
        return b"\x4d" + size.to_bytes(2, "little") + data
    return b"\x4e" + size.to_bytes(4, "little") + data


def number(value: int) -> bytes:
    """The push of a script number: little-endian, sign in the top bit, as short as can be."""
    if value == 0:
        return b"\x00"
    size = abs(value).bit_length() // 8 + 1
    data = bytearray(abs(value).to_bytes(size, "little"))
    if value < 0:
        data[-1] |= 0x80
    return push(bytes(data))


def script(*items: Op | bytes | int) -> bytes:
    """A script of opcodes (``Op``), pushed data (``bytes``) and pushed numbers (``int``)."""
    return b"".join(
        [
            _ONE_BYTE[item] if item.__class__ is Op else push(item) if isinstance(item, bytes) else number(item)
            for item in items
        ]
    )


def p2pkh(pubkey_hash: bytes) -> bytes:
    """Pays to the HASH160 of a public key."""
    return b"\x76\xa9\x14" + _sized(pubkey_hash, 20) + b"\x88\xac"


def p2sh(script_hash: bytes) -> bytes:
    """Pays to the HASH160 of a redeem script."""
    return b"\xa9\x14" + _sized(script_hash, 20) + b"\x87"


def p2wpkh(pubkey: bytes) -> bytes:
    """Pays to a compressed public key of 33 bytes (BIP 141)."""
    return b"\x00\x14" + hash160(_sized(pubkey, 33))


def p2wsh(witness_script: bytes) -> bytes:
    """Pays to a witness script, given whole (BIP 141)."""
    return b"\x00\x20" + sha256(witness_script)


def p2tr(output_xonly: bytes) -> bytes:
    """Pays to a taproot output key: 32 bytes, already tweaked (BIP 341)."""
    return b"\x51\x20" + _sized(output_xonly, 32)


def _sized(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes instead of {size}")
    return data


def witness_program(scriptpubkey: bytes) -> tuple[int, bytes] | None:
    """Version and program of a native segwit output, else None (BIP 141)."""
    if not 4 <= len(scriptpubkey) <= 42 or scriptpubkey[1] != len(scriptpubkey) - 2:
        return None
    first = scriptpubkey[0]
    if first == 0:
        return 0, scriptpubkey[2:]
    if 0x51 <= first <= 0x60:
        return first - 0x50, scriptpubkey[2:]
    return None


def is_p2wpkh(scriptpubkey: bytes) -> bool:
    return len(scriptpubkey) == 22 and scriptpubkey.startswith(b"\x00\x14")


def is_p2wsh(scriptpubkey: bytes) -> bool:
    return len(scriptpubkey) == 34 and scriptpubkey.startswith(b"\x00\x20")


def is_p2tr(scriptpubkey: bytes) -> bool:
    return len(scriptpubkey) == 34 and scriptpubkey.startswith(b"\x51\x20")


def is_p2pkh(scriptpubkey: bytes) -> bool:
    return len(scriptpubkey) == 25 and scriptpubkey.startswith(b"\x76\xa9\x14") and scriptpubkey.endswith(b"\x88\xac")


def is_p2sh(scriptpubkey: bytes) -> bool:
    return len(scriptpubkey) == 23 and scriptpubkey.startswith(b"\xa9\x14") and scriptpubkey.endswith(b"\x87")


def is_op_return(scriptpubkey: bytes) -> bool:
    return scriptpubkey.startswith(b"\x6a")


def dust_limit(scriptpubkey: bytes) -> Sat:
    """Least value with which an output of this script is relayed (B3.09); zero for OP_RETURN, which may carry nothing.

    The limit is three times the cost of the output and of spending it at 1 sat/vB: Bitcoin Core's rule, which gives the
    figures of BOLT 3's table for every kind named there.
    """
    if is_op_return(scriptpubkey):
        return Sat(0)
    program = witness_program(scriptpubkey)
    if program is None:
        size = len(scriptpubkey)
        return Sat(3 * (8 + (1 if size < 0xFD else 3 if size <= 0xFFFF else 5) + size + 148))
    if program[0] == 0 or is_p2tr(scriptpubkey) or scriptpubkey == PAY_TO_ANCHOR:
        return Sat(3 * (8 + 1 + len(scriptpubkey) + 67))
    # A version nobody can spend yet: the table takes its longest form for all of them.
    return Sat(354)


def is_shutdown_script(scriptpubkey: bytes, anysegwit: bool, op_return: bool) -> bool:
    """Whether ``shutdown`` may carry this script (B2.35).

    ``anysegwit``: option_shutdown_anysegwit was negotiated; ``op_return``: option_simple_close was.
    """
    program = witness_program(scriptpubkey)
    if program is not None:
        version, data = program
        return len(data) in (20, 32) if version == 0 else anysegwit
    if not op_return or not is_op_return(scriptpubkey):
        return False
    # Bytes, not a parsed push: only these two spellings are allowed.
    size = len(scriptpubkey)
    if size >= 2 and 6 <= scriptpubkey[1] <= 75:
        return size == 2 + scriptpubkey[1]
    return size >= 3 and scriptpubkey[1] == 0x4C and 76 <= scriptpubkey[2] <= 80 and size == 3 + scriptpubkey[2]


def disassemble(raw: bytes) -> str:
    """The script for a person to read. Never raises: what is cut off or unknown is shown as such."""
    words: list[str] = []
    at, end = 0, min(len(raw), MAX_DISASSEMBLED)
    while at < end:
        code = raw[at]
        at += 1
        if 1 <= code <= 0x4E:
            size = code
            if code >= 0x4C:
                width = 1 << code - 0x4C
                size = int.from_bytes(raw[at : at + width], "little")
                at += width
            if at + size > len(raw):
                words.append(f"[cut off: {raw[at:end].hex()}]")
                return " ".join(words)
            words.append(raw[at : min(at + size, end)].hex() or "OP_0")
            at += size
        else:
            words.append(str(Op(code)))
    if len(raw) > end:
        words.append(f"[{len(raw) - end} more bytes]")
    return " ".join(words)
