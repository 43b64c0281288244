"""H8 curves in Python and nonces that repeat (eclair #3346: nonces mixed up; ECDSA in pure Python takes secret time)

What failed: arithmetic on secrets took a time that told of them, or one nonce signed two things.

Defence: crypto/secp256k1.py is the only door to the curve and goes to libsecp256k1; there is no other implementation to
fall back on. Nonces follow from the key and what is signed (RFC 6979, BIP 340).

Not covered: MuSig2, which is not built.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

import salama
from salama.crypto.secp256k1 import is_scalar, public_key, sign, sign_schnorr, verify

ROOT = Path(salama.__file__).parent
CURVES = {"coincurve", "ecdsa", "embit", "btclib", "fastecdsa", "bitcoin", "secp256k1", "nacl"}
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
secrets = st.binary(min_size=32, max_size=32).filter(is_scalar)
digests = st.binary(min_size=32, max_size=32)


def test_there_is_one_door() -> None:
    doors = set()
    worth_a_look = re.compile(rf"^\s*(?:import|from)\s+(?:{'|'.join(sorted(CURVES))})\b", re.MULTILINE)
    for path in ROOT.rglob("*.py"):
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)) if worth_a_look.search(text) else ():
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            if any(name.split(".")[0] in CURVES for name in names):
                doors.add(path.relative_to(ROOT).as_posix())
    assert doors == {"crypto/secp256k1.py"}


def test_without_the_library_nothing_starts() -> None:
    code = "import sys; sys.modules['coincurve._libsecp256k1'] = None; import salama.signer.local"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "ImportError" in done.stderr or "ModuleNotFoundError" in done.stderr


@settings(max_examples=100)
@given(secrets, digests, digests)
def test_a_nonce_signs_one_thing(secret: bytes, one: bytes, other: bytes) -> None:
    assert sign(secret, one) == sign(secret, one)
    aux = bytes(32)
    if one != other:
        assert sign(secret, one)[:32] != sign(secret, other)[:32]
        assert sign_schnorr(secret, one, aux)[:32] != sign_schnorr(secret, other, aux)[:32]


@settings(max_examples=100)
@given(secrets, secrets, digests)
def test_two_keys_share_no_nonce(secret: bytes, other: bytes, digest: bytes) -> None:
    if other in (secret, (ORDER - int.from_bytes(secret, "big")).to_bytes(32, "big")):
        return
    assert sign(secret, digest)[:32] != sign(other, digest)[:32]
    assert not verify(public_key(other), digest, sign(secret, digest))
