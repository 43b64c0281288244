"""Verification by several threads says what the plain one says, whichever signature is bad."""

import hashlib

import pytest

from salama.channel.env import Check, verify_all
from salama.crypto import secp256k1
from salama.signer.verifying import WORTH_SHARING, SharedVerifier


def checks(count: int) -> list[Check]:
    made = []
    for number in range(count):
        secret, digest = hashlib.sha256(b"%d" % number).digest(), hashlib.sha256(b"d%d" % number).digest()
        made.append((secp256k1.public_key(secret), digest, secp256k1.sign(secret, digest)))
    return made


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [0, 1, WORTH_SHARING - 1, WORTH_SHARING, WORTH_SHARING + 1, 101])
def test_good_signatures_are_good_and_one_bad_one_is_found_wherever_it_is(count: int, threads: int) -> None:
    verify = SharedVerifier(threads)
    good = checks(count)
    try:
        assert verify(good)
        for at in {0, count // 3, count // 2, count - 1} if count else ():
            point, _, signature = good[at]
            bad = [*good[:at], (point, bytes(32), signature), *good[at + 1 :]]
            assert not verify_all(bad)
            assert not verify(bad)
    finally:
        verify.close()
