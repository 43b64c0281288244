"""Hypothesis strategies for transactions, shared by the tests of this room and of the wallet."""

from hypothesis import strategies as st

from salama.base.ids import OutPoint, Txid
from salama.base.units import MAX_SAT, Sat
from salama.bitcoin.tx import Tx, TxIn, TxOut

u32 = st.integers(0, 0xFFFFFFFF)
scripts = st.one_of(
    st.binary(max_size=60),
    st.binary(min_size=20, max_size=20).map(lambda h: b"\x00\x14" + h),
    st.binary(min_size=32, max_size=32).map(lambda h: b"\x51\x20" + h),
    st.integers(250, 300).map(bytes),
)
outpoints = st.builds(OutPoint, st.binary(min_size=32, max_size=32).map(Txid), u32)
sats = st.integers(0, MAX_SAT).map(Sat)
witnesses = st.lists(st.binary(max_size=80) | st.integers(250, 260).map(bytes), max_size=4).map(tuple)
outputs = st.builds(TxOut, sats, scripts)
inputs = st.builds(TxIn, outpoints, u32, st.binary(max_size=30), witnesses)
unsigned_inputs = st.builds(TxIn, outpoints, u32)


def _lists(elements, least, most):
    return st.lists(elements, min_size=least, max_size=most).map(tuple)


txs = st.builds(Tx, u32, _lists(inputs, 1, 5), _lists(outputs, 0, 5), u32)
unsigned_txs = st.builds(Tx, u32, _lists(unsigned_inputs, 1, 5), _lists(outputs, 1, 5), u32)
