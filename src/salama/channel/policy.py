# ruff: noqa: RUF009 (units are immutable)
"""What this node asks of others and allows them: every default of the channel room in one table, with its reason.

The BOLTs leave these to the node (B2.03, B2.04, B2.49, B2.50). Nothing here is known to the peer except through
messages.
"""

from __future__ import annotations

from dataclasses import dataclass

from salama.base.units import FeeratePerKw, Msat, Sat


@dataclass(frozen=True, slots=True)
class Policy:
    """A node's terms. Amounts carry their unit in the type; delays and depths are blocks."""

    # --- what we announce in open_channel and accept_channel ---
    dust_limit: Sat = Sat(354)
    """The least that every peer must accept, and enough for any segwit output."""
    reserve_divisor: int = 100
    """They keep 1 % so that cheating always costs something."""
    htlc_minimum: Msat = Msat(1)
    """Dust is bounded by ``max_dust_exposure``, not by refusing small payments."""
    max_in_flight_divisor: int = 1
    """HTLCs may lock up the whole channel: slots bound griefing better than value."""
    max_accepted_htlcs: int = 30
    """Each HTLC costs 172 weight units of a commitment that the opener pays for, and a claim that we may pay for."""
    min_to_self_delay: int = 144
    """A day to notice a cheat in a small channel..."""
    max_to_self_delay: int = 2016
    """...two weeks in one of 2^24 sat; between them it grows with the capacity."""

    # --- what we accept from a peer ---
    min_funding: Sat = Sat(20_000)
    """Less could not pay for its own closing."""
    max_funding: Sat = Sat(10 * 100_000_000)
    """Bound of our own with wumbo channels; without them the BOLT's 2^24 holds."""
    max_their_dust_limit: Sat = Sat(10_000)
    """Above it a peer could turn our HTLCs into miner fees."""
    max_their_reserve_divisor: int = 20
    """They may ask us to keep at most 5 %."""
    max_their_htlc_minimum: Msat = Msat(100_000)
    """Above 100 sat the channel is useless for small payments."""
    min_their_in_flight_divisor: int = 20
    """They must let us have at least 5 % of the channel in flight."""
    min_their_accepted_htlcs: int = 5
    max_their_to_self_delay: int = 2016
    """Two weeks without our money is what the largest implementations ask at most."""
    max_minimum_depth: int = 144
    """An accepter that asks for a day of blocks is not going to be used."""
    max_pending_per_peer: int = 4
    """Unconfirmed channels that one peer may hold with us at a time."""
    accept_private: bool = True
    accept_announced: bool = True

    # --- before the funding confirms (B2.06, immunity A12) ---
    zero_conf_peers: frozenset[str] = frozenset()
    """Node ids, in hex, of peers whose channels we use at once: they could take back what they paid us."""
    zero_conf_cap: Sat = Sat(100_000)
    """Most that one such peer could take back: what we own, and are being paid, in its channel before it confirms."""

    # --- depths and deadlines ---
    min_depth: int = 3
    max_depth: int = 6
    """Confirmations before use grow with the capacity: a double spend must cost more than it brings."""
    depth_step: Sat = Sat(5_000_000)
    """One more confirmation for each of these."""
    announce_depth: int = 6
    funding_timeout: int = 2016
    """An accepter forgets a channel whose funding does not confirm (B2.05)."""
    irrevocable_depth: int = 100
    """A spend so deep is not watched any more."""
    offered_grace: int = 2
    """Blocks after its expiry before we go on chain with an HTLC that we offered (G of B2.49)."""
    fulfil_margin: int = 18
    """Blocks before its expiry at which a fulfilled HTLC must be on its way to the chain (2R + G + S of B2.49)."""

    # --- exposure ---
    max_dust_exposure: Msat = Msat(50_000_000)
    """Sum of trimmed HTLCs in either commitment: what miners could take at a force close."""
    fee_spike_factor: int = 2
    """As opener we keep enough to pay this multiple of the fee rate and for one more HTLC (B2.45)."""
    max_queued_adds: int = 1000
    """HTLCs taken while a signature is outstanding; more than fit into both sides' slots are of no use."""

    # --- the wallet's reserve for fees ---
    reserve_feerate: FeeratePerKw = FeeratePerKw(12_500)
    """50 sat/vbyte: rates like that have lasted for weeks; above it for hours."""
    reserve_htlcs: int = 10
    """HTLCs of a channel that a reserve is kept for even while there are fewer."""
    unreserved_capacity: Sat = Sat(5_000_000)
    """Channels of so much all together need no reserve: who begins has no coins yet."""

    # --- fees ---
    cltv_expiry_delta: int = 80
    """3R + 2G + 2S is 34 at least; mempools have been full for longer than that."""
    fee_base: Msat = Msat(1000)
    fee_proportional_millionths: int = 100
    min_feerate: FeeratePerKw = FeeratePerKw(253)
    """The relay floor of 1 sat/vbyte, rounded up so that rounding never falls below it."""
    max_feerate: FeeratePerKw = FeeratePerKw(50_000)
    """200 sat/vbyte: with anchors a commitment never needs more, its child pays."""
    max_feerate_factor: int = 10
    """The feerate of a new channel may exceed our own estimate this many times before we suspect a drain."""
    max_fee_share_percent: int = 50
    """Of the capacity, for the fee of a commitment with every HTLC slot used; with none it is a twentieth at most. A
    revoked commitment takes its fee away from the penalty."""
    feerate_hysteresis_percent: int = 30
    """A smaller change of the estimate is not worth an update_fee."""
    max_closing_feerate: FeeratePerKw = FeeratePerKw(500_000)
    """2,000 sat/vbyte, above anything that a market has asked: more is a mistake, whoever pays."""
    closing_max_fee_factor: int = 3
    """As opener we pay at most this multiple of our own idea of a closing fee."""

    def minimum_depth(self, funding: Sat) -> int:
        """Confirmations before use: grows with what a double spend could take."""
        return min(self.max_depth, self.min_depth + int(funding) // int(self.depth_step))


DEFAULT_POLICY = Policy()
