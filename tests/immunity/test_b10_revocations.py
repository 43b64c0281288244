"""B10 revocation secrets not checked, or not kept (Electrum 4.8.1 among others)

What failed: a secret that does not belong to the commitment it should revoke was stored, so that the peer could publish
that commitment unpunished.

Defence: channel/normal.py:receive_revocation compares with the point that the commitment was signed for;
crypto/shachain.py:ShachainStore.insert checks each secret against all before it.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from salama.channel.state import Phase
from salama.crypto.secp256k1 import public_key
from salama.crypto.shachain import FIRST_INDEX, InconsistentSecret, ShachainStore, secret_at
from salama.testing.pair import Pair
from salama.wire.updates import RevokeAndAck


def revoking() -> tuple[Pair, RevokeAndAck]:
    """Bob is about to revoke; Alice has had some of his secrets before."""
    pair = Pair.opened()
    for _ in range(3):
        pair.alice.adds(10_000_000)
        pair.settle()
    pair.alice.adds(10_000_000)
    pair.deliver(pair.alice, 2)
    message = pair.bob.sent()[0]
    assert isinstance(message, RevokeAndAck)
    return pair, message


@pytest.mark.parametrize("fault", ["random", "the last one", "zero", "the order of the group", "the next one"])
def test_a_wrong_secret_closes_the_channel(fault: str) -> None:
    """Else the peer could publish the commitment that it pretends to have revoked."""
    pair, message = revoking()
    alice = pair.alice
    number = alice.record.funding.remote.number
    wrong = {
        "random": b"\x42" * 32,
        "the last one": alice.record.their_secrets.secret_at(FIRST_INDEX - (number - 1)),
        "zero": bytes(32),
        "the order of the group": bytes.fromhex("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"),
        "the next one": b"\x43" * 32,
    }[fault]
    assert wrong is not None
    kept = alice.record.their_secrets
    alice.hears(replace(message, per_commitment_secret=wrong))
    assert alice.record.their_secrets == kept
    assert alice.record.phase is Phase.ON_CHAIN, "both of the peer's commitments can still be published: so is ours"


def test_a_revocation_for_nothing() -> None:
    pair, message = revoking()
    pair.settle()
    before = pair.alice.record
    pair.alice.hears(message)
    assert pair.alice.record == before and not pair.alice.is_connected


def test_every_past_state_can_be_punished() -> None:
    """The secret of each revoked commitment is at hand and belongs to the point it was signed for."""
    pair = Pair.opened()
    points = {0: pair.alice.record.funding.remote.point}
    for _ in range(40):
        pair.alice.adds(1_000_000)
        pair.settle()
        points[pair.alice.record.funding.remote.number] = pair.alice.record.funding.remote.point
        pair.bob.fails_all()
        pair.settle()
        points[pair.alice.record.funding.remote.number] = pair.alice.record.funding.remote.point
    latest = pair.alice.record.funding.remote.number
    assert latest >= 80
    for number, point in points.items():
        secret = pair.alice.record.their_secrets.secret_at(FIRST_INDEX - number)
        assert (secret is None) == (number == latest)
        assert secret is None or public_key(secret) == point


def test_ten_thousand_secrets_come_back_from_49_places() -> None:
    seed = b"\x07" * 32
    store = ShachainStore()
    for number in range(10_000):
        store = store.insert(FIRST_INDEX - number, secret_at(seed, FIRST_INDEX - number))
    assert len(store.buckets) <= 49
    for number in random.Random(1).sample(range(10_000), 500):
        assert store.secret_at(FIRST_INDEX - number) == secret_at(seed, FIRST_INDEX - number)
    with pytest.raises(InconsistentSecret):
        store.insert(FIRST_INDEX - 9_999, secret_at(seed, FIRST_INDEX - 9_999))
    with pytest.raises(InconsistentSecret):
        store.insert(FIRST_INDEX - 10_000, b"\x01" * 32).insert(
            FIRST_INDEX - 10_001, secret_at(seed, FIRST_INDEX - 10_001)
        )


@pytest.mark.parametrize("number", [1, 3, 7, 255])
def test_a_secret_of_another_chain_is_noticed(number: int) -> None:
    """From the second on, those with a later index of more zero bits give earlier ones away."""
    store = ShachainStore()
    for earlier in range(number):
        store = store.insert(FIRST_INDEX - earlier, secret_at(b"\x07" * 32, FIRST_INDEX - earlier))
    with pytest.raises(InconsistentSecret):
        store.insert(FIRST_INDEX - number, secret_at(b"\x08" * 32, FIRST_INDEX - number))
