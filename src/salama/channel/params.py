"""What both sides agreed on when the channel was opened, fixed for its whole life (BOLT 2, B2.02 to B2.04).

``PartyParams`` holds what *one* party announced in its ``open_channel`` or ``accept_channel``. Most of its limits
therefore bind the *other* party: our reserve is what they must keep, our delay is what they must wait.
"""

from __future__ import annotations

from dataclasses import dataclass

from salama.base.ids import BlockHash, NodeId
from salama.base.units import Msat, Sat
from salama.channel.keys import Basepoints
from salama.wire.features import Features


@dataclass(frozen=True, slots=True)
class PartyParams:
    """Terms that one party announced."""

    basepoints: Basepoints
    dust_limit: Sat
    """Outputs below it do not appear in this party's own commitment transaction."""
    channel_reserve: Sat
    """The other party must keep this much."""
    max_htlc_value_in_flight: Msat
    """Bound on the sum of HTLCs that the other party offers."""
    max_accepted_htlcs: int
    """Bound on the number of HTLCs that the other party offers."""
    htlc_minimum: Msat
    """Smallest HTLC that the other party may offer."""
    to_self_delay: int
    """Blocks for which the other party's own money is delayed in its own commitment transaction."""
    upfront_shutdown_script: bytes | None = None
    """Where this party promised to close to; None if it promised nothing."""


@dataclass(frozen=True, slots=True)
class ChannelParams:
    """Everything that never changes; storage writes it once."""

    our_node_id: NodeId
    their_node_id: NodeId
    chain_hash: BlockHash
    is_opener: bool
    """We opened the channel, hence we pay the commitment fee and the anchors."""
    announce: bool
    channel_type: Features
    key_index: int
    """Names our keys of this channel to the signer."""
    minimum_depth: int
    """Confirmations before we send ``channel_ready``."""
    closing_script: bytes
    """Where our money goes if the peer closes and the user has not said otherwise."""
    ours: PartyParams
    theirs: PartyParams

    @property
    def opener(self) -> PartyParams:
        return self.ours if self.is_opener else self.theirs

    @property
    def accepter(self) -> PartyParams:
        return self.theirs if self.is_opener else self.ours
