"""One or two examples for each command that takes something; a test holds them against the commands."""

from __future__ import annotations

from typing import Final

_NODE: Final = "02eec7245d6b7d2ccb30380bfbe2a3648cd7a942653f5aa340edcea1f283686619"
_HASH: Final = "8fe54e1e5416ad0b5b4a5539719bcb523735d059f0a2016ca42cb5e93a6517dd"
_ADDRESS: Final = "bcrt1qcnv6fvptjxekc8935sfhcz3wag7htchf2u9e7y"
_SHORT: Final = "lnbcrt50u1..."
_PSBT: Final = "cHNidP8B..."
_OPENING: Final = "7c1e..."

EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "events": ("events --after -1 --wait 60", "events --after 120 --limit 1000"),
    "config": ("config --changed",),
    "newaddr": ("newaddr", "newaddr --kind p2tr"),
    "utxos": ("utxos --limit 20",),
    "label": (f"label {_HASH}:0 savings", f"label {_HASH}:0"),
    "freeze": (f"freeze {_HASH}:0",),
    "unfreeze": (f"unfreeze {_HASH}:0,{_HASH}:1",),
    "withdraw": (f"withdraw {_ADDRESS} 100k", f"withdraw {_ADDRESS} all --feerate 500"),
    "bumpfee": (f"bumpfee {_HASH} 2500", f"bumpfee {_HASH} 2500 --how cpfp"),
    "connect": (f"connect {_NODE}@192.0.2.7:9735",),
    "disconnect": (f"disconnect {_NODE}",),
    "open": (f"open {_NODE}@192.0.2.7:9735 1000000sat", f"open {_NODE} 0.01btc --private"),
    "close": (f"close {_HASH}", f"close {_HASH} --force"),
    "channels": ("channels", "channels --closed --limit 20"),
    "setfees": ("setfees all --base 1sat --ppm 200", f"setfees {_HASH} --ppm 0", "setfees all --usual"),
    "why": (f"why {_HASH}",),
    "invoice": ("invoice 25k 'a book'", "invoice any donation --expiry 86400"),
    "pay": (f"pay {_SHORT}", f"pay {_SHORT} --max-fee 20sat --timeout 30"),
    "payments": ("payments --limit 20",),
    "invoices": ("invoices --limit 20",),
    "forwards": ("forwards --limit 20",),
    "stress": ("stress --feerate 200",),
    "psbtfund": (f"psbtfund {_ADDRESS} 100k",),
    "psbtsign": (f"psbtsign {_PSBT}",),
    "psbtfinalise": (f"psbtfinalise {_PSBT} --publish",),
    "psbtrelease": (f"psbtrelease {_PSBT}",),
    "openbatch": (f"openbatch {_NODE}=0.01btc,{_NODE[::-1]}@192.0.2.7:9735=500k",),
    "openpsbt": (f"openpsbt {_NODE} 0.01btc",),
    "openverify": (f"openverify {_OPENING} {_PSBT}",),
    "openfinish": (f"openfinish {_HASH} {_PSBT}",),
    "openabort": (f"openabort {_OPENING}",),
}
