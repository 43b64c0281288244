"""I9 a signer that signs what it is told (policies of VLS and of lnd's remote signer)

What failed: whoever took over the node, or a mistake in it, had every key at hand: the signer asked nothing.

Defence: signer/local.py:LocalSigner keeps of each channel how far it has signed and revoked, and refuses to go back;
signer/policy.py bounds fees by rate and by share, also for closes and for claims.

Not covered: a signer in a process of its own. Its requests are plain values, so that one could be built.
"""

from __future__ import annotations

import random

import pytest

from salama.base.ids import ChannelId, OutPoint, Txid
from salama.base.units import BlockHeight, Sat
from salama.bitcoin.networks import REGTEST
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.channel.signing import ChannelOwed, OweCommitmentSigned, OweFundingCreated, OwePublication, OweRevocation
from salama.crypto.secp256k1 import public_key
from salama.signer.local import LocalSigner
from salama.signer.policy import SigningRefused
from salama.signer.wallet import WalletKeys
from salama.wallet.coins import Coin
from salama.wallet.funding import Funded
from salama.wallet.keys import KeyPath

CHANNEL, TXID, DIGEST = ChannelId(b"\x07" * 32), Txid(bytes(32)), b"\x01" * 32
POINT = public_key(bytes(31) + b"\x09")


@pytest.mark.parametrize("seed", range(8))
def test_no_order_of_requests_goes_back(seed: int) -> None:
    """Whatever is asked, in whatever order: no commitment older than one signed, no secret out of turn, no publication
    of what is revoked, no secret of what was published.
    """
    dice = random.Random(seed)
    signer = LocalSigner(b"a signer with a memory" * 2)
    signer.answer([OweFundingCreated(0, DIGEST, CHANNEL, OutPoint(TXID, 0)), OweRevocation(0, CHANNEL, 0)])
    signed, revoked, refusals = 0, 0, 0
    for _ in range(300):
        request: ChannelOwed
        if dice.random() < 0.4:
            number = dice.randrange(max(0, revoked - 2), revoked + 4)
            request, allowed = OweRevocation(0, CHANNEL, number), revoked <= number <= revoked + 1
        else:
            number = dice.randrange(max(0, signed - 2), signed + 4)
            request = OweCommitmentSigned(0, DIGEST, CHANNEL, TXID, number, POINT, ())
            allowed = signed <= number <= signed + 1
        try:
            signer.answer([request])
        except SigningRefused:
            assert not allowed, request
            refusals += 1
            continue
        assert allowed, request
        if isinstance(request, OweRevocation):
            revoked = number
        else:
            signed = number
    assert min(signed, revoked) > 5 and refusals > 50
    for number in range(revoked + 1):
        with pytest.raises(SigningRefused, match="revoked"):
            signer.answer([publication(number)])
    signer.answer([publication(revoked + 1)])
    with pytest.raises(SigningRefused, match="publication"):
        signer.answer([OweRevocation(0, CHANNEL, revoked + 1)])


def publication(number: int) -> OwePublication:
    tx = Tx(2, (TxIn(OutPoint(TXID, 0)),), (), 0)
    return OwePublication(0, DIGEST, tx, number, b"", b"", b"", "test")


@pytest.mark.parametrize(("holds", "pays"), [(1_000_000, 1), (10_000_000, 5_000_000), (50_000, 50_001)])
def test_no_absurd_fee_is_signed(holds: int, pays: int) -> None:
    keys = WalletKeys(bytes(64), REGTEST)
    key = KeyPath("wpkh", 0, 0)
    coin = Coin(OutPoint(TXID, 0), Sat(holds), keys.accounts.script(key), key, BlockHeight(1))
    tx = Tx(2, (TxIn(coin.outpoint),), (TxOut(Sat(pays), b"\x00\x14" + bytes(20)),), 0)
    with pytest.raises(SigningRefused):
        keys.sign(Funded(tx, (coin,), Sat(0), None))
