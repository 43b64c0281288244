"""Everything in the gossip room that a stranger could make grow, and how far it may (B7.10)."""

from __future__ import annotations

from dataclasses import dataclass

DAY = 86_400


@dataclass(frozen=True, slots=True)
class Limits:
    """One table of bounds; a node may replace single figures, tests make them small."""

    # --- the graph
    channels: int = 500_000
    """Channels held; more announcements are ignored."""
    message_bytes: int = 8_192
    """Longest announcement or update that is stored and relayed; usual ones have 138 to 700 bytes."""
    stale_after: int = 14 * DAY
    """Seconds after its older direction's last update that a channel is forgotten (B7.06)."""
    future: int = DAY
    """Seconds that a timestamp may lie ahead of our clock."""
    forget_blocks: int = 72
    """Blocks after its funding output was spent that a channel is forgotten (B7.03)."""
    announce_depth: int = 6
    """Confirmations of an announced channel."""
    early_blocks: int = 3
    """How many confirmations fewer are tolerated, because our own chain may lag."""

    # --- waiting for the chain or for each other
    lookups: int = 20_000
    """Announcements whose funding output is being looked up, of all peers."""
    lookups_per_peer: int = 5_000
    orphan_updates: int = 2_000
    """Updates kept for channels not announced yet; the least recent goes."""
    orphan_nodes: int = 500
    """Node announcements kept for nodes without a channel yet."""
    rejected: int = 10_000
    """Channels remembered because the chain does not know them; they are not looked up again."""

    # --- one author
    update_burst: int = 12
    """Updates one direction of a channel may send at once."""
    update_interval: int = 600
    """Seconds after which it may send one more."""
    update_authors: int = 20_000
    """Directions and nodes whose rate is remembered."""

    # --- one peer
    peers: int = 2_000
    sync_peers: int = 4
    """Peers we ask for relayed gossip; the others we ask for nothing but their own."""
    send_rate: int = 5_000_000
    """Bytes a second of stored gossip that one peer is served."""
    send_burst: int = 5_000_000
    streams: int = 8
    """Peers served with a backlog at the same time."""
    query_burst: int = 20
    """Queries of a peer that are answered at once."""
    query_interval: float = 0.5
    """Seconds after which one more is answered."""
    reply_ids: int = 8_000
    """Channels in one ``reply_channel_range`` without further columns; a third of it with both."""
    wanted: int = 200_000
    """Channels noted from a peer's range replies and not asked for yet."""
    range_replies: int = 2_000
    """Messages that one ``query_channel_range`` may be answered with."""
    ask_ids: int = 2_000
    """Channels asked for in one ``query_short_channel_ids``."""
    query_timeout: int = 120
    """Seconds without progress after which a peer is no longer asked."""
    resync_interval: int = 3_600
    """Seconds between two range checks, each with another peer."""

    # --- relaying
    relay_log: int = 50_000
    """Fresh items kept for the next flush; a peer that lags further behind misses the oldest."""
