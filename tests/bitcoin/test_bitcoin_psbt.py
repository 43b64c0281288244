"""PSBTs: the published figures of BIP 174, 370 and 371, embit as an oracle, and whatever bytes may come."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bitcoin_strategies import txs
from embit.psbt import PSBT
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.base.units import Sat
from salama.bitcoin.psbt import MAGIC, MAX_SIZE, KeyOrigin, MalformedPsbt, Psbt, PsbtInput, PsbtOutput
from salama.bitcoin.tx import Tx, TxOut
from salama.crypto.secp256k1 import public_key

FIGURES = json.loads((Path(__file__).parent / "psbt_vectors.json").read_text())
KEYS = [public_key(bytes(31) + bytes((n,))) for n in range(1, 5)]


@pytest.mark.parametrize("text", FIGURES["invalid"])
def test_published_invalid_ones_are_refused(text):
    with pytest.raises(MalformedPsbt):
        Psbt.parse(text)


@pytest.mark.parametrize("text", FIGURES["without_inputs"])
def test_a_transaction_without_inputs_is_not_read(text):
    with pytest.raises(MalformedPsbt, match="no inputs"):
        Psbt.parse(text)


@pytest.mark.parametrize("text", FIGURES["valid"] + FIGURES["valid_v2"])
def test_published_valid_ones_come_back(text):
    psbt = Psbt.parse(text)
    again = Psbt.decode(psbt.encode())
    assert again == psbt
    assert Psbt.parse(psbt.encode().hex()) == psbt
    assert psbt.version == (2 if text in FIGURES["valid_v2"] else 0)


@pytest.mark.parametrize("text", FIGURES["valid"])
def test_embit_reads_in_ours_what_it_reads_in_theirs(text):
    """The same transaction and the same records, in whatever order. (It computes no lock times of version 2.)"""
    ours, theirs = PSBT.from_string(Psbt.parse(text).render()), PSBT.from_string(text)
    assert str(ours.tx) == str(theirs.tx)
    for a, b in zip(ours.inputs + ours.outputs, theirs.inputs + theirs.outputs, strict=True):
        assert {name: str(value) for name, value in vars(a).items() if not isinstance(value, dict)} == {
            name: str(value) for name, value in vars(b).items() if not isinstance(value, dict)
        }
        assert sorted(a.serialize()) == sorted(b.serialize())


@pytest.mark.parametrize(("locktime", "text"), [(int(k), t) for k, v in FIGURES["locktimes"].items() for t in v])
def test_lock_times_of_version_2(locktime, text):
    psbt = Psbt.parse(text)
    assert psbt.tx.locktime == locktime
    assert Psbt.decode(psbt.encode()).tx == psbt.tx


def test_the_published_life_of_one():
    """Created, updated, signed by two, combined, finalised, extracted: each step as BIP 174 prints it."""
    steps = [Psbt.parse(text) for text in FIGURES["flow"][:7]]
    _, _, first, second, combined, final = steps[-6:] if len(steps) == 6 else steps[1:7]
    assert first.combined(second) == combined == second.combined(first)
    assert final.extract().encode().hex() == FIGURES["extracted"]
    with pytest.raises(MalformedPsbt, match="not signed"):
        combined.extract()


def test_what_nobody_knows_is_combined_too():
    one, other, both = (Psbt.parse(text) for text in FIGURES["flow"][-3:])
    assert one.combined(other) == both


def test_only_the_same_transaction_is_combined():
    one, other = Psbt.parse(FIGURES["flow"][0]), Psbt.parse(FIGURES["flow"][-1])
    with pytest.raises(MalformedPsbt, match="different"):
        one.combined(other)


# --- any bytes ---

origins = st.builds(
    KeyOrigin, st.binary(min_size=4, max_size=4), st.lists(st.integers(0, 2**32 - 1), max_size=6).map(tuple)
)
scripts = st.none() | st.binary(max_size=40)
keyed = st.dictionaries(st.sampled_from(KEYS), origins, max_size=3).map(lambda d: tuple(sorted(d.items())))
taps = st.dictionaries(st.binary(min_size=32, max_size=32), origins, max_size=2).map(lambda d: tuple(sorted(d.items())))
carried = st.dictionaries(st.binary(max_size=8).map(lambda key: b"\xf0" + key), st.binary(max_size=30), max_size=3).map(
    lambda d: tuple(sorted(d.items()))
)
outputs_known = st.builds(
    PsbtOutput, scripts, scripts, keyed, st.none() | st.binary(min_size=32, max_size=32), taps, carried
)
inputs_known = st.builds(
    PsbtInput,
    previous_output=st.none() | st.builds(TxOut, st.integers(0, 10**9).map(Sat), st.binary(max_size=40)),
    partial_signatures=st.dictionaries(st.sampled_from(KEYS), st.binary(min_size=9, max_size=73), max_size=2).map(
        lambda d: tuple(sorted(d.items()))
    ),
    sighash_type=st.none() | st.integers(0, 255),
    redeem_script=scripts,
    witness_script=scripts,
    origins=keyed,
    final_script_sig=scripts,
    final_witness=st.none() | st.lists(st.binary(max_size=20), max_size=4).map(tuple),
    tap_signature=st.none() | st.binary(min_size=64, max_size=65),
    tap_internal_key=st.none() | st.binary(min_size=32, max_size=32),
    tap_origins=taps,
    other=carried,
)


@st.composite
def psbts(draw):
    bare = Psbt.of(draw(txs))
    return replace(
        bare,
        inputs=tuple(draw(inputs_known) for _ in bare.inputs),
        outputs=tuple(draw(outputs_known) for _ in bare.outputs),
        version=draw(st.sampled_from([0, 2])),
        other=draw(carried),
    )


@given(psbts())
@settings(max_examples=80, deadline=None)
def test_every_psbt_comes_back(psbt):
    assert Psbt.decode(psbt.encode()) == psbt
    assert Psbt.parse(psbt.render()) == psbt


RAW = Psbt.parse(FIGURES["flow"][2]).encode()


@given(st.integers(0, len(RAW) - 1), st.integers(0, 255), st.integers(0, 3))
@settings(max_examples=250, deadline=None)
def test_damage_is_refused_or_means_something(at, byte, how):
    raw = bytearray(RAW)
    if how == 0:
        raw[at] = byte
    elif how == 1:
        del raw[at:]
    elif how == 2:
        raw.insert(at, byte)
    else:
        del raw[at]
    try:
        psbt = Psbt.decode(bytes(raw))
    except MalformedPsbt:
        return
    assert Psbt.decode(psbt.encode()) == psbt


@given(st.binary(max_size=200))
def test_any_bytes_are_a_psbt_or_a_sentence(data):
    for raw in (data, MAGIC + data, MAGIC + b"\x01\x00" + data):
        with pytest.raises(MalformedPsbt):
            Psbt.decode(raw)


@pytest.mark.parametrize(
    "text", ["", "!", "cHNidP8", "70736274ff0", "\N{SNOWMAN}", "cHNidP8" * 10, "x" * (2 * MAX_SIZE + 1)]
)
def test_no_text_but_base64_and_hex(text):
    with pytest.raises(MalformedPsbt):
        Psbt.parse(text)


def test_an_input_cannot_show_another_output_than_it_spends():
    psbt = next(p for p in map(Psbt.parse, FIGURES["valid"]) if p.inputs[0].previous_tx is not None)
    true = psbt.spent(0)
    lie = replace(psbt.inputs[0], previous_output=TxOut(Sat(int(true.value) + 1), true.script))
    with pytest.raises(MalformedPsbt, match="two different"):
        Psbt.decode(psbt.with_input(0, lie).encode())
    other = Tx(1, psbt.inputs[0].previous_tx.inputs, psbt.inputs[0].previous_tx.outputs, 7)
    with pytest.raises(MalformedPsbt, match="not the one"):
        Psbt.decode(psbt.with_input(0, replace(psbt.inputs[0], previous_tx=other)).encode())


def test_a_length_beyond_the_end_costs_nothing():
    for claim in (b"\xfe\xff\xff\xff\xff", b"\xff" + b"\xff" * 8):
        with pytest.raises(MalformedPsbt):
            Psbt.decode(MAGIC + claim + b"\x00")
