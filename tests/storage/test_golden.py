"""Rows written by earlier versions must stay readable for ever."""

from __future__ import annotations

import json
from typing import Any

import pytest
from make_golden import GOLDEN
from storage_samples import INVOICE, PAYMENT, full_record, onchain_record

from salama.base.ids import ChannelId
from salama.channel.events import HandoffKey, HtlcFailed, Origin
from salama.storage.errors import CorruptRecord
from salama.storage.records import ChannelRows, HtlcRow, decode_channel
from salama.storage.writes import FAILED_HANDOFF, ONCHAIN
from salama.storage.writes import INVOICE as INVOICES
from salama.storage.writes import PAYMENT as PAYMENTS

REMEDY = (
    "rows of earlier versions cannot be read any more: give a new field a default, or a renamed one a migration"
    " (before the first release: python tests/storage/make_golden.py)"
)
BLOBS = ("payment_hash", "origin", "payload", "state")


@pytest.fixture
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text())
    return found


def golden_channel(golden: dict[str, Any]) -> ChannelRows:
    htlcs = [
        HtlcRow(**{k: bytes.fromhex(v) if k in BLOBS and v is not None else v for k, v in row.items()})
        for row in golden["htlcs"]
    ]
    channel_id = ChannelId((1).to_bytes(32, "big"))
    blobs = bytes.fromhex(golden["params"]), bytes.fromhex(golden["record"])
    return ChannelRows(channel_id, b"", "on_chain", True, *blobs, tuple(htlcs))


def test_an_old_channel_is_read_as_it_was_meant(golden: dict[str, Any]) -> None:
    try:
        found = decode_channel(golden_channel(golden))
    except CorruptRecord as fault:
        pytest.fail(f"{fault}: {REMEDY}")
    assert found == full_record(), REMEDY


def test_old_payments_are_read_as_they_were_meant(golden: dict[str, Any]) -> None:
    try:
        invoice = INVOICES.decode(bytes.fromhex(golden["invoice"]))
        payment = PAYMENTS.decode(bytes.fromhex(golden["payment"]))
        failed = FAILED_HANDOFF.decode(
            bytes.fromhex(golden["failed"]), key=HandoffKey(ChannelId(bytes(32)), 1), origin=Origin(b"me")
        )
    except CorruptRecord as fault:
        pytest.fail(f"{fault}: {REMEDY}")
    assert invoice == INVOICE, REMEDY
    assert payment == PAYMENT, REMEDY
    assert failed == HtlcFailed(HandoffKey(ChannelId(bytes(32)), 1), Origin(b"me"), b"\x01" * 292, 0xC005, b"\x02" * 32)


def test_an_old_close_is_read_as_it_was_meant(golden: dict[str, Any]) -> None:
    try:
        found = ONCHAIN.decode(bytes.fromhex(golden["onchain"]))
    except CorruptRecord as fault:
        pytest.fail(f"{fault}: {REMEDY}")
    assert found == onchain_record(), REMEDY
