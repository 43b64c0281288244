"""Writes the golden rows anew: ``python tests/storage/make_golden.py``.

Only before the first release, or when a layout gets a new version beside the old one (then the old file stays).
"""

from __future__ import annotations

import json
from pathlib import Path

from storage_samples import INVOICE, PAYMENT, full_backup, full_record, full_wallet, onchain_record

from salama.channel.events import HandoffKey, HtlcFailed, Origin
from salama.storage.backup import BackupKey
from salama.storage.records import encode_channel
from salama.storage.wallet_record import encode_wallet
from salama.storage.writes import FAILED_HANDOFF, ONCHAIN
from salama.storage.writes import INVOICE as INVOICES
from salama.storage.writes import PAYMENT as PAYMENTS

GOLDEN = Path(__file__).parent / "golden" / "layout-1.json"
KEY, SALT = BackupKey.of_seed(bytes(range(32))), bytes(range(100, 132))


def golden_rows() -> dict[str, object]:
    """The samples as they lie on disk, blobs in hex."""
    rows = encode_channel(full_record())
    failed = HtlcFailed(HandoffKey(rows.channel_id, 1), Origin(b"me"), b"\x01" * 292, 0xC005, b"\x02" * 32)
    return {
        "params": rows.params.hex(),
        "record": rows.record.hex(),
        "htlcs": [
            {name: value.hex() if isinstance(value, bytes) else value for name, value in row._asdict().items()}
            for row in rows.htlcs
        ],
        "invoice": INVOICES.encode(INVOICE).hex(),
        "payment": PAYMENTS.encode(PAYMENT).hex(),
        "onchain": ONCHAIN.encode(onchain_record()).hex(),
        "failed": FAILED_HANDOFF.encode(failed).hex(),
        "wallet": encode_wallet(full_wallet()).hex(),
        "backup": KEY.seal(full_backup(), SALT).hex(),
    }


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(golden_rows(), indent=1) + "\n")
