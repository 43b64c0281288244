"""Attribution data: how long each hop held an HTLC, and proof of who altered what (BOLT 4, B4.09).

A block is 20 hold times (4 bytes each, in units of 100 ms, nearest hop first) and 210 HMACs of 4 bytes in 20 groups:
group x belongs to the hop x steps away and has 20 - x HMACs, the first of them for the longest route it may be on.
The same block serves failures (covering the return packet) and fulfilments (covering nothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from salama.crypto.ciphers import chacha20
from salama.crypto.hashes import equal, hmac_sha256
from salama.onion.failures import plain_failure, wrap_failure

MAX_HOPS: Final = 20
HOLD_TIMES_SIZE: Final = 4 * MAX_HOPS
MACS_SIZE: Final = 4 * (MAX_HOPS * (MAX_HOPS + 1) // 2)
ATTRIBUTION_SIZE: Final = HOLD_TIMES_SIZE + MACS_SIZE
MAX_HOLD_TIME: Final = 0xFFFFFFFF

# Where each group begins in the whole block.
_GROUPS: Final = tuple(HOLD_TIMES_SIZE + 4 * sum(MAX_HOPS - i for i in range(x)) for x in range(MAX_HOPS))


def _slot(hop: int, distance: int) -> int:
    """Where the block keeps the HMAC of the hop ``hop`` steps away, for the case that ``distance`` hops follow it."""
    return _GROUPS[hop] + 4 * (MAX_HOPS - 1 - hop - distance)


# For each distance: the downstream HMACs that one's own covers.
_COVERED: Final = tuple(
    tuple(_slot(hop, distance - hop) for hop in range(1, distance + 1)) for distance in range(MAX_HOPS)
)


def _mac(key: bytes, packet: bytes, block: bytes, distance: int) -> bytes:
    hold_times = block[: 4 * (distance + 1)]
    downstream = b"".join(block[slot : slot + 4] for slot in _COVERED[distance])
    return hmac_sha256(key, packet + hold_times + downstream)[:4]


def _push(block: bytes) -> bytes:
    """Room for one more hop in front: every hop moves one group on and loses its HMAC for the longest route."""
    groups = [block[_GROUPS[x] + 4 : _GROUPS[x] + 4 * (MAX_HOPS - x)] for x in range(MAX_HOPS - 1)]
    return bytes(4) + block[: HOLD_TIMES_SIZE - 4] + bytes(4 * MAX_HOPS) + b"".join(groups)


def _pop(block: bytes) -> bytes:
    """Inverse of ``_push``, with zeros for what was lost, which no shorter route needs."""
    groups = [bytes(4) + block[_GROUPS[x] : _GROUPS[x] + 4 * (MAX_HOPS - x)] for x in range(1, MAX_HOPS)]
    return block[4:HOLD_TIMES_SIZE] + bytes(4) + b"".join(groups) + bytes(4)


def _cover(shared_secret: bytes, block: bytes) -> bytes:
    return chacha20(hmac_sha256(b"ammagext", shared_secret), block)


def add_attribution(shared_secret: bytes, attribution_data: bytes | None, packet: bytes, hold_time: int) -> bytes:
    """The block for upstream: the one from downstream (None if there is none, or we are the end) with ourselves added.

    ``packet`` is the return packet before our own stream, empty for a fulfilment; ``hold_time`` in units of 100 ms, cut
    to 32 bits. A block of another size than ATTRIBUTION_SIZE counts as none.
    """
    if attribution_data is None or len(attribution_data) != ATTRIBUTION_SIZE:
        attribution_data = bytes(ATTRIBUTION_SIZE)
    block = min(max(0, hold_time), MAX_HOLD_TIME).to_bytes(4, "big") + _push(attribution_data)[4:]
    key = hmac_sha256(b"um", shared_secret)
    own = b"".join(_mac(key, packet, block, distance) for distance in range(MAX_HOPS - 1, -1, -1))
    return _cover(shared_secret, block[:HOLD_TIMES_SIZE] + own + block[HOLD_TIMES_SIZE + 4 * MAX_HOPS :])


def make_attributed_failure(shared_secret: bytes, failure_message: bytes, hold_time: int) -> tuple[bytes, bytes]:
    """Return packet and attribution data of the hop that fails. Raises ValueError like ``make_failure``."""
    plain = plain_failure(shared_secret, failure_message)
    return wrap_failure(shared_secret, plain), add_attribution(shared_secret, None, plain, hold_time)


def wrap_attributed_failure(
    shared_secret: bytes, packet: bytes, attribution_data: bytes | None, hold_time: int
) -> tuple[bytes, bytes]:
    """Return packet and attribution data for upstream, from those of downstream."""
    return wrap_failure(shared_secret, packet), add_attribution(shared_secret, attribution_data, packet, hold_time)


def attribute_fulfilment(shared_secret: bytes, attribution_data: bytes | None, hold_time: int) -> bytes:
    """Attribution data of a fulfilment for upstream; None from downstream also at the final hop."""
    return add_attribution(shared_secret, attribution_data, b"", hold_time)


def read_attribution(
    shared_secrets: Sequence[bytes], attribution_data: bytes, packet: bytes | None = None
) -> tuple[int, ...]:
    """Hold times (100 ms) of the hops, nearest first, up to the first whose HMAC does not match.

    ``packet`` is the failure as received, None for a fulfilment. When a failure cannot be read, the pair to blame is
    the last hop in the answer and the one after it (or ourselves and the first hop). After a failure that can be read,
    nothing beyond the failing hop is expected to match.
    """
    if len(attribution_data) != ATTRIBUTION_SIZE:
        return ()
    hold_times: list[int] = []
    for hop, secret in enumerate(shared_secrets[:MAX_HOPS]):
        if packet is not None:
            packet = wrap_failure(secret, packet)
        block = attribution_data = _cover(secret, attribution_data)
        distance = min(len(shared_secrets), MAX_HOPS) - 1 - hop
        slot = _slot(0, distance)
        key = hmac_sha256(b"um", secret)
        if not equal(_mac(key, packet or b"", block, distance), block[slot : slot + 4]):
            break
        hold_times.append(int.from_bytes(block[:4], "big"))
        attribution_data = _pop(block)
    return tuple(hold_times)
