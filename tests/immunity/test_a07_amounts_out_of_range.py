"""A7 more than 21 million bitcoin (Core Lightning #9225 open_channel, #9492 tx_add_output)

What failed: an amount that no amount can be, or a sum of such, aborted the process.

Defence: base/units.py:Sat and Msat refuse such values when they are made and when they are added; codec/fields.py reads
every amount through them, so that a message with one is malformed.
"""

from __future__ import annotations

import pytest
from immunity_world import sample

from salama.base.units import MAX_SAT, Msat, OutOfRange, Sat
from salama.codec import fields
from salama.codec.fields import Malformed
from salama.codec.message import MESSAGES, decode_message

AMOUNTS = [
    (cls, declared.name, declared.type)
    for cls in MESSAGES.values()
    for declared in cls.fields()
    if declared.type in (fields.SAT, fields.MSAT) and declared.tlv is None
]


def test_there_are_amounts_in_messages() -> None:
    assert len(AMOUNTS) > 15


@pytest.mark.parametrize(("cls", "name", "type_"), AMOUNTS, ids=lambda v: v if isinstance(v, str) else "")
def test_an_impossible_amount_is_malformed(cls: type, name: str, type_: object) -> None:
    message = sample(cls)  # type: ignore[type-var]
    most = MAX_SAT if type_ is fields.SAT else MAX_SAT * 1000
    unit = Sat if type_ is fields.SAT else Msat
    marker = unit(0x0000_5A5A_5A5A_5A5A % most)
    values = {f.name: getattr(message, f.name) for f in cls.fields()}  # type: ignore[attr-defined]
    data = cls(**{**values, name: marker}).encode()
    here = int(marker).to_bytes(8, "big")
    assert data.count(here) == 1
    assert getattr(decode_message(data.replace(here, most.to_bytes(8, "big"))), name) == most
    for wrong in (most + 1, 1 << 63, (1 << 64) - 1):
        with pytest.raises(Malformed):
            decode_message(data.replace(here, wrong.to_bytes(8, "big")))


@pytest.mark.parametrize("unit", [Sat, Msat])
def test_sums_stay_in_range(unit: type[Sat] | type[Msat]) -> None:
    with pytest.raises(OutOfRange):
        unit(unit.MAX) + unit(1)  # type: ignore[operator]
    with pytest.raises(OutOfRange):
        unit(0) - unit(1)  # type: ignore[operator]
    with pytest.raises(OutOfRange):
        unit((1 << 64) - 1)
