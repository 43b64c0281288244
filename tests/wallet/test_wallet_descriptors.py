"""Descriptors name the same addresses, and their checksums are those that others compute."""

import pytest
from embit import descriptor as embit_descriptor
from embit.descriptor.checksum import add_checksum
from hypothesis import given
from hypothesis import strategies as st
from wallet_world import ACCOUNTS, EMPTY, MASTER, ours, payment, play

from salama.bitcoin.networks import MAINNET, REGTEST
from salama.wallet.descriptors import _INPUT, checksum, export
from salama.wallet.events import TxSeen
from salama.wallet.keys import KINDS, KeyPath, account_path


@pytest.mark.parametrize("network", [REGTEST, MAINNET])
def test_they_name_our_scripts(network):
    state = EMPTY
    found = export(state, MASTER.fingerprint, network)
    names = [("wpkh", 0), ("wpkh", 1), ("tr", 0), ("tr", 1)]
    for (kind, chain), one in zip(names, found, strict=True):
        assert one.internal == (chain == 1)
        parsed = embit_descriptor.Descriptor.from_string(one.text)
        for index in (0, 1, 19, 1000):
            assert parsed.derive(index).script_pubkey().data == ACCOUNTS.script(KeyPath(kind, chain, index))


def test_private_ones_name_the_same_and_only_when_asked_for():
    secrets = {kind: MASTER.derive(account_path(kind, REGTEST)) for kind in KINDS}
    shown = export(EMPTY, MASTER.fingerprint, REGTEST)
    for public, private in zip(shown, export(EMPTY, MASTER.fingerprint, REGTEST, secrets), strict=True):
        assert "tpub" in public.text and "tprv" not in public.text
        assert "tprv" in private.text and "tprv" not in repr(private)
        read = [embit_descriptor.Descriptor.from_string(one.text) for one in (public, private)]
        assert len({one.derive(3).script_pubkey().data for one in read}) == 1


def test_the_range_covers_what_we_watch():
    state = play(EMPTY, TxSeen(payment(ours("tr", 0, 15))))
    found = {(one.text[:2], one.internal): one for one in export(state, MASTER.fingerprint, REGTEST)}
    assert (found["tr", False].next_index, found["tr", False].watched) == (16, 36)
    assert (found["wp", False].next_index, found["wp", False].watched) == (0, 20)


@given(st.text(alphabet=_INPUT.replace("#", ""), min_size=1, max_size=60))
def test_checksums_are_those_that_embit_computes(text):
    assert add_checksum(text) == f"{text}#{checksum(text)}"


def test_published_checksum_and_foreign_characters():
    assert checksum("raw(deadbeef)") == "89f8spxm"  # BIP 380's own figure
    with pytest.raises(ValueError, match="holds"):
        checksum("raw(\N{SNOWMAN})")
