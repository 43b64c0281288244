"""Mainnet, for whoever names it: what a node says of itself there, and the settings that only a test network forgives.

On a chain whose coins are worth nothing everything may be tried. Here what protects money may be set more strictly than
usual, and never to where a stranger could take it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from salama.base.machine import CommandRefused
from salama.base.units import FeeratePerKw, Sat
from salama.bitcoin.networks import MAINNET, Network

if TYPE_CHECKING:
    from salama.node.config import Config

BOUNDS: Final[dict[str, tuple[float | None, float | None]]] = {
    # Depths, in blocks: with less, a block that is replaced takes a payment back.
    "min_depth": (3, None),
    "max_depth": (3, None),
    "announce_depth": (6, None),  # BOLT 7
    "irrevocable_depth": (100, None),  # BOLT 5
    "funding_timeout": (2016, None),  # BOLT 2: sooner forgotten, it may confirm all the same
    # Time to act in, in blocks: 3R + 2G + 2S, G and 2R + G + S of BOLT 2, and a day to notice a cheat (B2.49).
    "cltv_expiry_delta": (34, None),
    "offered_grace": (None, 2),
    "fulfil_margin": (18, None),
    "min_to_self_delay": (144, None),
    "max_to_self_delay": (144, None),
    # What a peer loses by cheating, what relays take, and what may be lost to miners or to a peer that is trusted.
    "reserve_divisor": (1, 100),
    "dust_limit": (354, None),
    "min_feerate": (253, None),
    "fee_spike_factor": (2, None),
    "max_dust_exposure": (None, 50_000_000),
    "zero_conf_cap": (None, 100_000),
    # In seconds: slower, a deadline may pass unseen; faster, it burdens bitcoind and strangers.
    "poll_seconds": (0.5, 60),
    "gossip_flush_seconds": (10, None),
    "reconnect_seconds": (0.5, 300),
}
"""Least and most that a setting may be here, in its own unit; None: no bound but its own."""


USUAL: Final[dict[str, Any]] = {"unreserved_capacity": Sat(0)}
"""Terms that are others here: who has no coins on the chain cannot claim an HTLC there (immunity C20)."""


def caution(config: Config) -> str:
    """What whoever runs this node must know; empty on every other network."""
    if config.network != MAINNET:
        return ""
    return (
        "Salama is young and nobody has audited it: on mainnet its channels may hold "
        f"{int(config.mainnet_cap):,} sat together; put no more on it than you can lose."
    )


def lacks_estimate(network: Network, feerate: FeeratePerKw | None) -> str:
    """Why no channel is begun as long as the back-end estimates no fees, for a person; empty if it does.

    Elsewhere there may never be an estimate. Here a funding at the least rate could wait for weeks.
    """
    return "bitcoind has no estimate of fees yet" if network == MAINNET and feerate is None else ""


def check_settings(config: Config) -> None:
    """Raises CommandRefused for a setting that may be tried on a test network and would cost money on mainnet."""
    if config.network != MAINNET:
        return
    for name, (least, most) in BOUNDS.items():
        value = config.value(name)
        number = value if isinstance(value, float) else int(value)
        wanted = ""
        if least is not None and number < least:
            wanted = f"at least {least}"
        if most is not None and number > most:
            wanted = f"at most {most}"
        if wanted:
            where = config.sources.get(name, "default")
            raise CommandRefused(
                "bad_setting", f"On mainnet {name} cannot be {number} ({where}).", f"Let it be {wanted}."
            )
