"""Growing arrays of fixed records: the memory of the graph (B7.12).

An update's record has the layout of the message itself, so that the exact bytes that were signed can be given out again
without keeping them twice. Numbers of the wire are big-endian here; ``snapshot`` turns them round once for searching.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Records = npt.NDArray[np.void]

CHANNEL: Final = np.dtype(
    [
        ("scid", np.uint64),
        ("node_1", np.int32),
        ("node_2", np.int32),
        ("capacity", np.int64),
        ("spent", np.uint32),
        ("flags", np.uint8),
        ("txid", "V32"),
        ("signatures", "V256"),
        ("bitcoin_keys", "V66"),
    ]
)
"""``capacity`` in msat; ``spent`` is the height of the spending block or 0; ``flags`` are those below."""

IN_USE: Final = 1
UNROUTABLE: Final = 2
"""Carries a feature that we must understand and do not."""
ODD_FORM: Final = 4
"""Features or further fields, kept beside the table."""

UPDATE: Final = np.dtype(
    [
        ("signature", "V64"),
        ("timestamp", ">u4"),
        ("message_flags", "u1"),
        ("channel_flags", "u1"),
        ("cltv_expiry_delta", ">u2"),
        ("htlc_minimum_msat", ">u8"),
        ("fee_base_msat", ">u4"),
        ("fee_proportional_millionths", ">u4"),
        ("htlc_maximum_msat", ">u8"),
    ]
)
"""``channel_update`` without chain and channel; a timestamp of 0 means that there is none. Packed: 96 bytes."""

UPDATE_SIZE: Final = 96
assert UPDATE.itemsize == UPDATE_SIZE


class Table:
    """Records in one array that grows by a quarter; freed places are used again."""

    __slots__ = ("_free", "_per_place", "records", "used")

    def __init__(self, dtype: Any, per_place: int = 1) -> None:
        self._per_place = per_place
        self.records: Records = np.zeros(64 * per_place, dtype)
        self.used = 0
        """Places ever used; every place in use lies below."""
        self._free: list[int] = []

    def take(self) -> int:
        """A zeroed place."""
        if self._free:
            return self._free.pop()
        place = self.used
        if (place + 1) * self._per_place > len(self.records):
            places = max(128, place + place // 4)
            grown = np.zeros(places * self._per_place, self.records.dtype)
            grown[: len(self.records)] = self.records
            self.records = grown
        self.used = place + 1
        return place

    def release(self, place: int) -> None:
        at = place * self._per_place
        self.records[at : at + self._per_place] = np.zeros((), self.records.dtype)
        self._free.append(place)
