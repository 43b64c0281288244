"""What the signer refuses to pay, and that nothing which holds a secret shows it (immunity I9)."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from typing import Any

import pytest

import salama
from salama.base.ids import ChannelId, OutPoint, Txid
from salama.base.units import BlockHeight, Sat
from salama.bitcoin.networks import REGTEST
from salama.bitcoin.tx import Tx, TxIn, TxOut
from salama.channel.closing_forms import Form
from salama.channel.signing import OweClosingComplete, OweClosingSig, OweClosingSigned
from salama.crypto.secrets import SecretKey
from salama.crypto.seeds import ExtendedKey
from salama.node.outside import Outside
from salama.signer import policy
from salama.signer.local import LocalSigner, SigningRefused
from salama.signer.policy import check_claim_fee, check_fee
from salama.signer.wallet import WalletKeys
from salama.wallet.coins import Coin
from salama.wallet.funding import Funded
from salama.wallet.keys import Accounts, KeyPath
from salama.wire.closing import ClosingComplete, ClosingSig

SEED = bytes(range(64))
KEYS = WalletKeys(SEED, REGTEST)
SCRIPT = b"\x00\x14" + bytes(20)


def funded(holds: int, pays: int) -> Funded:
    key = KeyPath("tr", 0, 0)
    coin = Coin(OutPoint(Txid(bytes(32)), 0), Sat(holds), KEYS.accounts.script(key), key, BlockHeight(1))
    tx = Tx(2, (TxIn(coin.outpoint),), (TxOut(Sat(pays), SCRIPT),), 0)
    return Funded(tx, (coin,), Sat(0), None)


@pytest.mark.parametrize(("holds", "pays"), [(1_000_000, 999_000), (1_000_000, 850_000), (12_000, 2_500), (100, 100)])
def test_a_fair_fee_is_signed(holds: int, pays: int) -> None:
    assert KEYS.sign(funded(holds, pays)).inputs[0].witness


@pytest.mark.parametrize(
    ("holds", "pays", "words"),
    [
        (1_000_000, 600_000, "absurd"),  # a rate that no market has seen
        (100_000, 40_000, "50 %"),  # a share that nobody wants to pay, as when the change is forgotten
        (100_000, 100_001, "more go out"),
    ],
)
def test_an_absurd_fee_is_not_signed(holds: int, pays: int, words: str) -> None:
    with pytest.raises(SigningRefused, match=words):
        KEYS.sign(funded(holds, pays))


def claim(pays: int) -> Tx:
    return Tx(2, (TxIn(OutPoint(Txid(bytes(32)), 0)),), (TxOut(Sat(pays), SCRIPT),), 0)


def test_a_claim_may_cost_much_but_not_everything() -> None:
    check_claim_fee(claim(200_000), 1_000_000, 0)  # the cheater's money: better to the miners
    with pytest.raises(SigningRefused):
        check_claim_fee(claim(10_000), 1_000_000, 0)
    with pytest.raises(SigningRefused):
        check_claim_fee(claim(10_000), 1_000_000_000, 0)


def test_a_claim_may_pay_for_the_commitment_above_it() -> None:
    check_claim_fee(claim(330), 330, 5_000_000)
    with pytest.raises(SigningRefused):
        check_claim_fee(claim(330), 330, 200_000_000)


@pytest.mark.parametrize("fee", [policy.MAX_CLOSING_FEE, policy.MAX_CLOSING_FEE + 1])
def test_a_close_has_a_bound(fee: int) -> None:
    signer, digest, channel = LocalSigner(SEED), b"\x01" * 32, ChannelId(b"\x02" * 32)
    draft: dict[str, Any] = {
        "channel_id": channel, "closer_scriptpubkey": SCRIPT, "closee_scriptpubkey": SCRIPT,
        "fee_satoshis": Sat(fee), "locktime": 0,
    }  # fmt: skip
    form = next(iter(Form))
    for owed in (
        OweClosingSigned(0, digest, channel, Sat(fee), (Sat(0), Sat(fee))),
        OweClosingComplete(0, ClosingComplete(**draft), ((form, digest),)),
        OweClosingSig(0, digest, ClosingSig(**draft), form),
    ):
        if fee <= policy.MAX_CLOSING_FEE:
            assert signer.answer([owed])
        else:
            with pytest.raises(SigningRefused, match="absurd"):
                signer.answer([owed])


def test_sums_are_checked_at_their_edges() -> None:
    tx = claim(50_000)
    check_fee(tx, 100_000, 400_000)
    with pytest.raises(SigningRefused):
        check_fee(tx, 100_001, 400_000)
    check_fee(claim(0), policy.SMALL_FEE, 400_000)
    with pytest.raises(SigningRefused):
        check_fee(claim(0), policy.SMALL_FEE + 1, 400_000)


# --- nothing shows a secret ---

TELLING = re.compile(r"secret|seed|passphrase|mnemonic|entropy|chain_code|private|password|token$|^words$")
HARMLESS = {
    "ChannelRecord.their_secrets": "the store hides what it holds",
    "RememberOnion.secret": "a hash of the secret",
    "PaymentsEnv.entropy": "a function",
    "Progress.words": "a sentence for a person",
    "Setting.words": "what a setting means",
}
"""Fields whose name says secret and that show none, with the reason."""


def _dataclasses() -> list[type]:
    found: dict[str, type] = {}
    for module in pkgutil.walk_packages(salama.__path__, "salama."):
        if module.name.endswith("__main__") or module.name.startswith(("salama.testing", "salama.demo", "salama.sim")):
            continue
        for _, one in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if one.__module__.startswith("salama.") and dataclasses.is_dataclass(one):
                found[f"{one.__module__}.{one.__qualname__}"] = one
    return list(found.values())


def test_no_dataclass_shows_a_secret() -> None:
    """A field that is called a secret is left out of ``repr``, or is a ``SecretKey``, which hides itself.

    A class that writes its own ``repr`` has its own test: messages, logins.
    """
    showing, looked_at = [], _dataclasses()
    assert len(looked_at) > 200
    for one in looked_at:
        if not hasattr(one.__repr__, "__wrapped__"):
            continue
        for field in dataclasses.fields(one):
            if not TELLING.search(field.name) or not field.repr:
                continue
            kind = str(field.type)
            if "SecretKey" in kind or kind in ("bool", "int", "float"):
                continue
            name = f"{one.__qualname__}.{field.name}"
            if name not in HARMLESS:
                showing.append(f"{one.__module__}.{name}: {kind}")
    assert showing == []


def test_a_secret_in_the_hands_of_its_keepers_is_not_shown() -> None:
    """Every object that holds the seed or a key, filled with known bytes, none of which appears in its text."""
    marker = SecretKey(b"\x5a" * 32)
    master = ExtendedKey.of_seed(SEED)
    signer = LocalSigner(SEED)
    unlocked = Outside.unlocking("correct horse")
    keepers = [
        marker, master, master.child(1 << 31), KEYS, signer, signer._secrets(3), signer._channels, unlocked,
        Accounts.of_master(master, REGTEST),
    ]  # fmt: skip
    hidden = [SEED, b"\x5a" * 32, bytes(master.secret or b""), master.chain_code, bytes(signer._node_key)]
    for keeper in keepers:
        for text in (repr(keeper), str(keeper), f"{keeper}", f"{[keeper]}", f"{ {'a': keeper} }"):
            assert "correct horse" not in text
            for secret in hidden:
                assert secret.hex() not in text.lower() and repr(secret)[2:-1] not in text
