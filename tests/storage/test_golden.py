"""Rows written by earlier versions must stay readable for ever."""

from __future__ import annotations

import importlib
import json
import pkgutil
from typing import Any

import pytest
from make_golden import GOLDEN, KEY
from storage_samples import INVOICE, PAYMENT, full_backup, full_record, full_wallet, onchain_record

from salama import storage
from salama.base.ids import ChannelId
from salama.channel.events import HandoffKey, HtlcFailed, Origin
from salama.storage.errors import CorruptRecord
from salama.storage.layouts import Codec
from salama.storage.records import ChannelRows, HtlcRow, decode_channel
from salama.storage.wallet_record import decode_wallet
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


def test_an_old_wallet_and_an_old_backup_are_read_as_they_were_meant(golden: dict[str, Any]) -> None:
    try:
        wallet = decode_wallet(bytes.fromhex(golden["wallet"]))
    except CorruptRecord as fault:
        pytest.fail(f"{fault}: {REMEDY}")
    assert wallet == full_wallet(), REMEDY
    assert KEY.open(bytes.fromhex(golden["backup"])) == full_backup(), REMEDY


def test_every_kind_of_record_has_its_golden_row(golden: dict[str, Any]) -> None:
    """A new kind of record needs one as soon as somebody may have it on disk."""
    rooms = [importlib.import_module(f"salama.storage.{room.name}") for room in pkgutil.iter_modules(storage.__path__)]
    kinds = {value.kind for room in rooms for value in vars(room).values() if isinstance(value, Codec)}
    rows = {
        "channel": "record",
        "channel's terms": "params",
        "HTLC": "htlcs",
        "invoice": "invoice",
        "payment": "payment",
        "closed channel": "onchain",
        "handoff": "failed",
        "wallet": "wallet",
        "backup": "backup",
    }
    assert kinds == set(rows)
    assert set(rows.values()) == set(golden)
