"""Scripts by the name that a Lightning node has for them (BOLT 3, B3.03), and the addresses they have."""

from __future__ import annotations

import re
from typing import Any, Final

from salama.bitcoin import address
from salama.bitcoin.networks import NETWORKS
from salama.bitcoin.script import (
    OP_NAMES,
    PAY_TO_ANCHOR,
    disassemble,
    dust_limit,
    is_op_return,
    is_p2pkh,
    is_p2sh,
    is_p2tr,
    is_p2wpkh,
    is_p2wsh,
    witness_program,
)

_KEY: Final = "0[23][0-9a-f]{64}"
_HASH: Final = "[0-9a-f]{40}"
_NUMBER: Final = r"(?:OP_[0-9]+|[0-9a-f]{2,8})"
_CSV: Final = "(?:OP_1 OP_CHECKSEQUENCEVERIFY OP_DROP )?"
_HTLC_HEAD: Final = " ".join(
    (
        f"OP_DUP OP_HASH160 {_HASH} OP_EQUAL OP_IF OP_CHECKSIG",
        f"OP_ELSE (?P<remote_htlcpubkey>{_KEY}) OP_SWAP OP_SIZE 20 OP_EQUAL ",
    )
)
_BOTH: Final = f"OP_2 OP_SWAP (?P<local_htlcpubkey>{_KEY}) OP_2 OP_CHECKMULTISIG"
_WITNESS_SCRIPTS: Final = {
    "funding": f"OP_2 (?P<pubkey1>{_KEY}) (?P<pubkey2>{_KEY}) OP_2 OP_CHECKMULTISIG",
    "to_local": (
        f"OP_IF (?P<revocationpubkey>{_KEY}) OP_ELSE (?P<to_self_delay>{_NUMBER}) OP_CHECKSEQUENCEVERIFY OP_DROP "
        f"(?P<local_delayedpubkey>{_KEY}) OP_ENDIF OP_CHECKSIG"
    ),
    "to_remote": f"(?P<remotepubkey>{_KEY}) OP_CHECKSIGVERIFY OP_1 OP_CHECKSEQUENCEVERIFY",
    "anchor": f"(?P<funding_pubkey>{_KEY}) OP_CHECKSIG OP_IFDUP OP_NOTIF OP_16 OP_CHECKSEQUENCEVERIFY OP_ENDIF",
    "offered_htlc": (
        f"{_HTLC_HEAD}OP_NOTIF OP_DROP {_BOTH} OP_ELSE OP_HASH160 (?P<payment_hash160>{_HASH}) OP_EQUALVERIFY "
        f"OP_CHECKSIG OP_ENDIF {_CSV}OP_ENDIF"
    ),
    "received_htlc": (
        f"{_HTLC_HEAD}OP_IF OP_HASH160 (?P<payment_hash160>{_HASH}) OP_EQUALVERIFY {_BOTH} OP_ELSE OP_DROP "
        f"(?P<cltv_expiry>{_NUMBER}) OP_CHECKLOCKTIMEVERIFY OP_DROP OP_CHECKSIG OP_ENDIF {_CSV}OP_ENDIF"
    ),
}
_PATTERNS: Final = {name: re.compile(pattern) for name, pattern in _WITNESS_SCRIPTS.items()}
_LONGEST: Final = 200
"""Bytes; no witness script of BOLT 3 is longer."""
_OUTPUTS: Final = (
    ("p2wpkh", is_p2wpkh),
    ("p2wsh", is_p2wsh),
    ("p2tr", is_p2tr),
    ("p2pkh", is_p2pkh),
    ("p2sh", is_p2sh),
    ("p2a", PAY_TO_ANCHOR.__eq__),
)


def output_name(script: bytes) -> str | None:
    """The form of an output's script: p2wpkh, p2wsh, p2tr, p2pkh, p2sh, p2a, op_return; None for any other."""
    for name, is_ in _OUTPUTS:
        if is_(script):
            return name
    if is_op_return(script):
        return "op_return"
    return None if witness_program(script) is None else "witness_program"


def describe_script(script: bytes) -> tuple[str, dict[str, Any]]:
    """Name and particulars. Never fails: whatever bytes there are can stand where a script is expected."""
    shown: dict[str, Any] = {"asm": disassemble(script)}
    name = output_name(script)
    if name is not None:
        shown["dust_limit_sat"] = int(dust_limit(script))
        if addresses := addresses_of(script):
            shown["addresses"] = addresses
        return name, shown
    if len(script) <= _LONGEST:
        for name, pattern in _PATTERNS.items():
            if found := pattern.fullmatch(shown["asm"]):
                return name, shown | {key: _number_or_hex(key, text) for key, text in found.groupdict().items()}
    return "script", shown


def _number_or_hex(key: str, text: str) -> int | str:
    if key not in ("to_self_delay", "cltv_expiry"):
        return text
    return int(text[3:]) if text.startswith("OP_") else int.from_bytes(bytes.fromhex(text), "little")


def addresses_of(script: bytes) -> dict[str, str]:
    """The address that the script has on each network; empty if it has none."""
    found = {network.name: address.render(script, network) for network in NETWORKS.values()}
    return {name: text for name, text in found.items() if text is not None}


def is_plausible(script: bytes) -> bool:
    """Whether every push is whole and every opcode has a name: unlikely for bytes that are something else."""
    at, end = 0, len(script)
    while at < end:
        code = script[at]
        at += 1
        if 1 <= code <= 0x4B:
            at += code
        elif 0x4C <= code <= 0x4E:
            width = 1 << code - 0x4C
            at += width + int.from_bytes(script[at : at + width], "little")
        elif code not in OP_NAMES:
            return False
    return at == end and end > 0
