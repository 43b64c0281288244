"""The announced network: channels, their two policies, their nodes (BOLT 7, B7.03-B7.06, B7.12).

``Graph`` is a mutable named exception to the house's frozen states: it holds 50,000 channels in arrays and changes in
place. It trusts its caller to have verified signatures and the funding output (``verify``, ``sync``), and it gives out
every message again byte for byte. What it refuses it refuses with False or an ``UpdateResult``, never an exception.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from salama.base.ids import NodeId, OutPoint, ShortChannelId, Txid
from salama.base.units import Msat, Sat
from salama.gossip import snapshot as snapshots
from salama.gossip.checksum import crc32c, crc32c_rows
from salama.gossip.snapshot import DISABLED, Snapshot
from salama.gossip.tables import (
    CHANNEL,
    IN_USE,
    ODD_FORM,
    UNROUTABLE,
    UPDATE,
    UPDATE_SIZE,
    Table,
)
from salama.gossip.views import ChannelInfo, Policy, UpdateResult
from salama.wire.features import FEATURES
from salama.wire.gossip import ChannelAnnouncement, ChannelUpdate, NodeAnnouncement

_ANNOUNCEMENT_TYPE: Final = (256).to_bytes(2, "big")
_UPDATE_TYPE: Final = (258).to_bytes(2, "big")
_SIGNATURES: Final = 256
_AFTER_TIMESTAMP: Final = 68
"""Where an update's record goes on behind its timestamp."""
_ANNOUNCEMENT_MESSAGE: Final = 432
"""Bytes of a channel_announcement without features and further fields."""
_UPDATE_MESSAGE: Final = 138
"""Bytes of a channel_update without further fields."""


class Graph:
    """Announced channels and nodes. ``version`` grows with every change."""

    def __init__(self, chain_hash: bytes) -> None:
        self.chain_hash = bytes(chain_hash)
        self.version = 0
        self._channels = Table(CHANNEL)
        self._updates = Table(UPDATE, per_place=2)
        self._place: dict[int, int] = {}
        self._tails: dict[int, bytes] = {}
        """Fields behind the known ones of an update, by edge."""
        self._odd_forms: dict[int, bytes] = {}
        """Whole announcements that do not fit the table, by place."""
        self._spent: dict[int, int] = {}
        self._ids: list[NodeId | None] = []
        self._node: dict[bytes, int] = {}
        self._degree: list[int] = []
        self._free_nodes: list[int] = []
        self._node_messages: dict[int, tuple[int, bytes]] = {}
        """Timestamp and raw node_announcement by node index."""
        self._barred: set[int] = set()
        """Nodes that require what we do not know."""
        self._snapshot: Snapshot | None = None

    # --- asking -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, scid: int) -> bool:
        return scid in self._place

    def scids(self) -> list[ShortChannelId]:
        """Every channel, ascending."""
        return [ShortChannelId(scid) for scid in sorted(self._place)]

    def node_count(self) -> int:
        """Nodes with at least one channel."""
        return len(self._node)

    def has_node(self, node_id: bytes) -> bool:
        return node_id in self._node

    def nodes(self) -> Iterator[NodeId]:
        return (node_id for node_id in self._ids if node_id is not None)

    def nodes_of(self, scid: int) -> tuple[NodeId, NodeId] | None:
        """``node_id_1`` and ``node_id_2``."""
        place = self._place.get(scid)
        if place is None:
            return None
        record = self._channels.records[place]
        return self._id(record["node_1"]), self._id(record["node_2"])

    def channel(self, scid: int) -> ChannelInfo | None:
        place = self._place.get(scid)
        if place is None:
            return None
        record = self._channels.records[place]
        txid = bytes(record["txid"])
        return ChannelInfo(
            short_channel_id=ShortChannelId(scid),
            node_1=self._id(record["node_1"]),
            node_2=self._id(record["node_2"]),
            capacity=Sat(int(record["capacity"]) // 1000),
            txid=Txid(txid) if any(txid) else None,
            policies=(self.policy(scid, 0), self.policy(scid, 1)),
            spent_height=self._spent.get(scid),
        )

    def policy(self, scid: int, direction: int) -> Policy | None:
        """What ``node_id_1`` (direction 0) or ``node_id_2`` (1) announced last, or None."""
        place = self._place.get(scid)
        if place is None:
            return None
        update = self._updates.records[2 * place + direction]
        if not update["timestamp"]:
            return None
        return Policy(
            timestamp=int(update["timestamp"]),
            disabled=bool(update["channel_flags"] & DISABLED),
            cltv_expiry_delta=int(update["cltv_expiry_delta"]),
            htlc_minimum_msat=_msat(update["htlc_minimum_msat"]),
            htlc_maximum_msat=_msat(update["htlc_maximum_msat"]),
            fee_base_msat=int(update["fee_base_msat"]),
            fee_proportional_millionths=int(update["fee_proportional_millionths"]),
        )

    def timestamps(self, scid: int) -> tuple[int, int]:
        """Of both directions' updates, 0 where there is none."""
        place = self._place.get(scid)
        if place is None:
            return 0, 0
        pair = self._updates.records["timestamp"][2 * place : 2 * place + 2]
        return int(pair[0]), int(pair[1])

    def channels_of(self, node_id: bytes) -> list[ShortChannelId]:
        """The channels of a node, ascending; O(channels of the graph), but in one sweep of an array."""
        index = self._node.get(node_id)
        if index is None:
            return []
        records = self._channels.records[: self._channels.used]
        here = ((records["node_1"] == index) | (records["node_2"] == index)) & ((records["flags"] & IN_USE) != 0)
        return [ShortChannelId(int(scid)) for scid in np.sort(records["scid"][here])]

    def node_timestamp(self, node_id: bytes) -> int:
        """Of the last node_announcement, 0 if there is none."""
        message = self._node_messages.get(self._node.get(node_id, -1))
        return message[0] if message else 0

    def _id(self, index: int) -> NodeId:
        node_id = self._ids[index]
        assert node_id is not None, "a channel of a node that was dropped"
        return node_id

    # --- the messages, byte for byte --------------------------------------------------------------------------------

    def channel_announcement(self, scid: int) -> bytes | None:
        """The announcement as it came, type included."""
        place = self._place.get(scid)
        if place is None:
            return None
        record = self._channels.records[place]
        if record["flags"] & ODD_FORM:
            return self._odd_forms[place]
        return b"".join(
            (
                _ANNOUNCEMENT_TYPE,
                bytes(record["signatures"]),
                b"\x00\x00",
                self.chain_hash,
                scid.to_bytes(8, "big"),
                self._id(record["node_1"]),
                self._id(record["node_2"]),
                bytes(record["bitcoin_keys"]),
            )
        )

    def channel_update(self, scid: int, direction: int) -> bytes | None:
        """The last update of one direction as it came, type included."""
        place = self._place.get(scid)
        if place is None:
            return None
        edge = 2 * place + direction
        update = self._updates.records[edge]
        if not update["timestamp"]:
            return None
        raw = update.tobytes()
        return b"".join(
            (_UPDATE_TYPE, raw[:64], self.chain_hash, scid.to_bytes(8, "big"), raw[64:], self._tails.get(edge, b""))
        )

    def node_announcement(self, node_id: bytes) -> bytes | None:
        """The last announcement of a node as it came, type included."""
        message = self._node_messages.get(self._node.get(node_id, -1))
        return message[1] if message else None

    # --- changing ---------------------------------------------------------------------------------------------------

    def add_channel(self, announcement: ChannelAnnouncement, capacity: Sat, txid: Txid | None = None) -> bool:
        """Take in a verified announcement; False if the channel is there already. ``txid`` lets us see it spent."""
        scid = int(announcement.short_channel_id)
        if scid in self._place:
            return False
        raw = announcement.encode()
        place = self._channels.take()
        if self._updates.take() != place:
            raise AssertionError("both tables give out the same places")
        node_1, node_2 = self._join(announcement.node_id_1), self._join(announcement.node_id_2)
        flags, signatures, keys = IN_USE, raw[2 : 2 + _SIGNATURES], raw[-66:]
        if requires_unknown(announcement.features):
            flags |= UNROUTABLE
        if len(raw) != _ANNOUNCEMENT_MESSAGE:
            flags |= ODD_FORM
            self._odd_forms[place] = raw
        self._channels.records[place] = (
            scid,
            node_1,
            node_2,
            int(capacity) * 1000,
            0,
            flags,
            bytes(txid or bytes(32)),
            signatures,
            keys,
        )
        self._place[scid] = place
        self._snapshot = None
        self.version += 1
        return True

    def _join(self, node_id: bytes) -> int:
        index = self._node.get(node_id)
        if index is None:
            if self._free_nodes:
                index = self._free_nodes.pop()
                self._ids[index], self._degree[index] = NodeId(node_id), 0
            else:
                index = len(self._ids)
                self._ids.append(NodeId(node_id))
                self._degree.append(0)
            self._node[self._id(index)] = index
        self._degree[index] += 1
        return index

    def _leave(self, index: int) -> None:
        self._degree[index] -= 1
        if not self._degree[index]:
            del self._node[self._id(index)]
            self._ids[index] = None
            self._node_messages.pop(index, None)
            self._barred.discard(index)
            self._free_nodes.append(index)

    def remove_channel(self, scid: int) -> bool:
        """Forget a channel, and its nodes if it was their last one."""
        place = self._place.pop(scid, None)
        if place is None:
            return False
        record = self._channels.records[place]
        node_1, node_2 = int(record["node_1"]), int(record["node_2"])
        for edge in (2 * place, 2 * place + 1):
            self._tails.pop(edge, None)
        self._odd_forms.pop(place, None)
        self._spent.pop(scid, None)
        self._channels.release(place)
        self._updates.release(place)
        self._leave(node_1)
        self._leave(node_2)
        self._snapshot = None
        self.version += 1
        return True

    def check_update(self, update: ChannelUpdate) -> UpdateResult:
        """What ``apply_update`` would answer; ask before paying for the signature."""
        scid = int(update.short_channel_id)
        place = self._place.get(scid)
        if place is None:
            return UpdateResult.UNKNOWN_CHANNEL
        if not update.timestamp:
            return UpdateResult.INVALID
        if scid in self._spent and not update.channel_flags & DISABLED:
            return UpdateResult.SPENT
        known = int(self._updates.records["timestamp"][2 * place + (update.channel_flags & 1)])
        if update.timestamp > known:
            return UpdateResult.APPLIED
        if update.timestamp == known:
            ours = self.channel_update(scid, update.channel_flags & 1)
            # A signature may be bent without its owner (B7.05), so it is left out of the comparison.
            if ours is not None and ours[66:] != update.encode()[66:]:
                return UpdateResult.CONFLICT
        return UpdateResult.STALE

    def apply_update(self, update: ChannelUpdate) -> UpdateResult:
        """Take in a verified update if it is newer; also one that cannot be used for routing (B7.05)."""
        result = self.check_update(update)
        if result is not UpdateResult.APPLIED:
            return result
        raw = update.encode()
        place = self._place[int(update.short_channel_id)]
        edge = 2 * place + (update.channel_flags & 1)
        self._updates.records[edge] = np.frombuffer(raw[2:66] + raw[106:_UPDATE_MESSAGE], UPDATE, count=1)[0]
        self._tails.pop(edge, None)
        if len(raw) > _UPDATE_MESSAGE:
            self._tails[edge] = raw[_UPDATE_MESSAGE:]
        if self._snapshot is not None:
            snapshots.patch(self._snapshot, edge, self._channels.records[place], self._updates.records[edge])
        self.version += 1
        return UpdateResult.APPLIED

    def apply_node(self, announcement: NodeAnnouncement) -> bool:
        """Take in a verified announcement of a node that has a channel, if it is newer than the last (B7.04)."""
        index = self._node.get(announcement.node_id)
        if index is None:
            return False
        known = self._node_messages.get(index)
        if known is not None and announcement.timestamp <= known[0]:
            return False
        self._node_messages[index] = (announcement.timestamp, announcement.encode())
        barred = requires_unknown(announcement.features)
        if barred:
            self._barred.add(index)
        else:
            self._barred.discard(index)
        if self._snapshot is not None:
            self._snapshot.barred[index] = barred
        self.version += 1
        return True

    # --- the chain and the years ------------------------------------------------------------------------------------

    def channel_spent(self, scid: int, height: int) -> bool:
        """The funding output was spent in the block at ``height``; kept a while in case it is a splice (B7.03)."""
        place = self._place.get(scid)
        if place is None:
            return False
        self._spent[scid] = height
        self._channels.records[place]["spent"] = height
        self.version += 1
        return True

    def channel_unspent(self, scid: int) -> bool:
        """A reorganisation took the spending transaction out of the chain."""
        place = self._place.get(scid)
        if place is None or scid not in self._spent:
            return False
        del self._spent[scid]
        self._channels.records[place]["spent"] = 0
        self.version += 1
        return True

    def is_spent(self, scid: int) -> bool:
        return scid in self._spent

    def spent_since(self, height: int) -> list[ShortChannelId]:
        """Channels whose funding output was spent at ``height`` or later."""
        return [ShortChannelId(scid) for scid, spent in self._spent.items() if spent >= height]

    def mined_since(self, height: int) -> list[ShortChannelId]:
        """Channels whose funding transaction was mined at ``height`` or later."""
        return [ShortChannelId(scid) for scid in self._place if scid >> 40 >= height]

    def spent_by(self, outpoints: Collection[OutPoint]) -> list[ShortChannelId]:
        """Which channels' funding outputs are among ``outpoints`` (those that a block spends)."""
        if not outpoints or not self._place:
            return []
        prefixes = np.fromiter((int.from_bytes(o.txid[:8], "little") for o in outpoints), np.uint64, len(outpoints))
        records = self._channels.records[: self._channels.used]
        heads = np.ascontiguousarray(records["txid"]).view("<u8")[::4]
        hits = np.flatnonzero(np.isin(heads, prefixes) & ((records["flags"] & IN_USE) != 0))
        wanted = set(outpoints)
        found = []
        for place in hits:
            scid = ShortChannelId(int(records["scid"][place]))
            if OutPoint(Txid(bytes(records["txid"][place])), scid.vout) in wanted:
                found.append(scid)
        return found

    def forgettable(self, height: int, delay: int) -> list[ShortChannelId]:
        """Channels that were spent ``delay`` blocks before ``height`` or earlier."""
        return [ShortChannelId(scid) for scid, spent in self._spent.items() if spent + delay <= height]

    def stale(
        self, now: float, stale_after: int, *, silent_below: int = 0, keep: Iterable[bytes] = ()
    ) -> list[ShortChannelId]:
        """Channels whose older direction was last heard of ``stale_after`` seconds before ``now`` (B7.06).

        A channel without any update is stale if it was mined below the height ``silent_below``. Channels of the nodes
        in ``keep`` never are.
        """
        used = self._channels.used
        records = self._channels.records[:used]
        stamps = self._updates.records["timestamp"][: 2 * used].astype(np.int64).reshape(used, 2)
        # One direction alone counts as both: the other side may never have had to say anything.
        older = np.where(stamps.min(axis=1) > 0, stamps.min(axis=1), stamps.max(axis=1))
        stale = (older > 0) & (older < now - stale_after)
        stale |= (older == 0) & (records["scid"] >> np.uint64(40) < silent_below)
        stale &= (records["flags"] & IN_USE) != 0
        for node_id in keep:
            index = self._node.get(node_id)
            if index is not None:
                stale &= (records["node_1"] != index) & (records["node_2"] != index)
        return [ShortChannelId(int(scid)) for scid in records["scid"][stale]]

    def prune(
        self, now: float, stale_after: int, *, silent_below: int = 0, keep: Iterable[bytes] = ()
    ) -> list[ShortChannelId]:
        """Remove what is ``stale``; what was removed."""
        gone = self.stale(now, stale_after, silent_below=silent_below, keep=keep)
        for scid in gone:
            self.remove_channel(scid)
        return gone

    def latest_timestamp(self) -> int:
        """The newest timestamp of any update, 0 of an empty graph."""
        return int(self._updates.records["timestamp"].max(initial=0))

    # --- searching and serving --------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The arrays that path search reads, built anew only after channels came or went."""
        if self._snapshot is None:
            used = self._channels.used
            self._snapshot = snapshots.build(
                self._channels.records[:used], self._updates.records[: 2 * used], len(self._ids), self._barred
            )
        return self._snapshot

    def node_index(self, node_id: bytes) -> int | None:
        """The node's number in the snapshot."""
        return self._node.get(node_id)

    def node_id(self, index: int) -> NodeId:
        return self._id(index)

    def edge_scid(self, edge: int) -> ShortChannelId:
        """The channel of an edge of the snapshot; its direction is ``edge & 1``."""
        return ShortChannelId(int(self._channels.records["scid"][edge >> 1]))

    def edge_of(self, scid: int, direction: int) -> int | None:
        place = self._place.get(scid)
        return None if place is None else 2 * place + direction

    def with_updates(self, first_height: int, end_height: int) -> list[ShortChannelId]:
        """Unspent channels mined from ``first_height`` up to before ``end_height`` that have an update, ascending."""
        used = self._channels.used
        records = self._channels.records[:used]
        heights = records["scid"] >> np.uint64(40)
        stamps = self._updates.records["timestamp"][: 2 * used].reshape(used, 2)
        fits = ((records["flags"] & IN_USE) != 0) & (heights >= first_height) & (heights < end_height)
        fits &= (records["spent"] == 0) & ((stamps[:, 0] != 0) | (stamps[:, 1] != 0))
        return [ShortChannelId(int(scid)) for scid in np.sort(records["scid"][fits])]

    def heard_between(self, first: int, end: int) -> tuple[list[ShortChannelId], list[NodeId]]:
        """Unspent channels with an update stamped from ``first`` up to before ``end``, and nodes announced then."""
        used = self._channels.used
        records = self._channels.records[:used]
        stamps = self._updates.records["timestamp"][: 2 * used].astype(np.int64).reshape(used, 2)
        fits = (((stamps >= max(first, 1)) & (stamps < end)).any(axis=1)) & (records["spent"] == 0)
        fits &= (records["flags"] & IN_USE) != 0
        nodes = [self._id(index) for index, (stamp, _) in self._node_messages.items() if first <= stamp < end]
        return [ShortChannelId(int(scid)) for scid in np.sort(records["scid"][fits])], nodes

    def checksums(self, scids: Sequence[int]) -> list[tuple[int, int]]:
        """CRC32C of both directions' updates without signature and timestamp, 0 where there is none (B7.08)."""
        places = np.array([self._place.get(scid, -1) for scid in scids], np.int64)
        edges = (2 * places[:, None] + np.array([0, 1])).ravel()
        updates = self._updates.records[edges]
        rows = np.empty((len(edges), 8 + UPDATE_SIZE - _AFTER_TIMESTAMP), np.uint8)
        rows[:, :8] = np.repeat(np.array(scids, ">u8").view(np.uint8).reshape(-1, 8), 2, axis=0)
        rows[:, 8:] = updates.view(np.uint8).reshape(-1, UPDATE_SIZE)[:, _AFTER_TIMESTAMP:]
        sums = np.where(updates["timestamp"] != 0, crc32c_rows(self.chain_hash, rows), 0).reshape(-1, 2)
        sums[places < 0] = 0
        pairs = [(int(one), int(two)) for one, two in sums]
        for at, place in enumerate(places.tolist()):
            if 2 * place in self._tails or 2 * place + 1 in self._tails:
                pairs[at] = self._checksum(scids[at], 0), self._checksum(scids[at], 1)
        return pairs

    def _checksum(self, scid: int, direction: int) -> int:
        raw = self.channel_update(scid, direction)
        return 0 if raw is None else update_checksum(raw)


def _msat(amount: int) -> Msat:
    return Msat(min(int(amount), Msat.MAX))


_KNOWN_BITS: Final = sum(3 << feature.bit for feature in FEATURES)


def requires_unknown(features: bytes) -> bool:
    """Whether an even bit is set that we do not know; linear, whatever the length (B9.01)."""
    even = int.from_bytes(b"\x55" * len(features), "big")
    return bool(int.from_bytes(features, "big") & even & ~_KNOWN_BITS)


def update_checksum(raw: bytes) -> int:
    """CRC32C of a whole ``channel_update`` message (type included) without its signature and timestamp."""
    return crc32c(raw[66:106] + raw[110:])
