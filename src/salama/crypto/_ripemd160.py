"""RIPEMD-160 in Python, for systems whose OpenSSL leaves it out.

Slow (about 0.2 ms a block) but only public keys and scripts pass through it, never a secret.
"""

from __future__ import annotations

_MASK = 0xFFFFFFFF
_START = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)
_ADD_LEFT = (0x00000000, 0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xA953FD4E)
_ADD_RIGHT = (0x50A28BE6, 0x5C4DD124, 0x6D703EF3, 0x7A6D76E9, 0x00000000)

# The order in which a round reads the words is the previous round's order passed through RHO.
_RHO = (7, 4, 13, 1, 10, 6, 15, 3, 12, 0, 9, 5, 2, 14, 11, 8)
_ORDER_LEFT: list[list[int]] = [list(range(16))]
_ORDER_RIGHT: list[list[int]] = [[(9 * i + 5) % 16 for i in range(16)]]
for _ in range(4):
    _ORDER_LEFT.append([_RHO[i] for i in _ORDER_LEFT[-1]])
    _ORDER_RIGHT.append([_RHO[i] for i in _ORDER_RIGHT[-1]])

# How far a word is rotated, by round and by the number of the word.
_SHIFTS = (
    (11, 14, 15, 12, 5, 8, 7, 9, 11, 13, 14, 15, 6, 7, 9, 8),
    (12, 13, 11, 15, 6, 9, 9, 7, 12, 15, 11, 13, 7, 8, 7, 7),
    (13, 15, 14, 11, 7, 7, 6, 8, 13, 14, 13, 12, 5, 5, 6, 9),
    (14, 11, 12, 14, 8, 6, 5, 5, 15, 12, 15, 14, 9, 9, 8, 6),
    (15, 12, 13, 13, 9, 5, 8, 6, 14, 11, 12, 11, 8, 6, 5, 5),
)


def _mix(kind: int, x: int, y: int, z: int) -> int:
    if kind == 0:
        return x ^ y ^ z
    if kind == 1:
        return (x & y) | (~x & z)
    if kind == 2:
        return (x | ~y) ^ z
    if kind == 3:
        return (x & z) | (y & ~z)
    return x ^ (y | ~z)


def _rotate(x: int, by: int) -> int:
    x &= _MASK
    return (x << by | x >> (32 - by)) & _MASK


def _line(
    state: tuple[int, ...], words: list[int], orders: list[list[int]], adds: tuple[int, ...], backwards: bool
) -> tuple[int, int, int, int, int]:
    a, b, c, d, e = state
    for turn in range(5):
        kind = 4 - turn if backwards else turn
        for word in orders[turn]:
            fresh = _rotate(a + _mix(kind, b, c, d) + words[word] + adds[turn], _SHIFTS[turn][word]) + e
            a, b, c, d, e = e, fresh & _MASK, b, _rotate(c, 10), d
    return a, b, c, d, e


def digest(data: bytes) -> bytes:
    """RIPEMD-160 of ``data``, 20 bytes."""
    padded = data + b"\x80" + bytes((55 - len(data)) % 64) + (8 * len(data)).to_bytes(8, "little")
    state = _START
    for start in range(0, len(padded), 64):
        words = [int.from_bytes(padded[i : i + 4], "little") for i in range(start, start + 64, 4)]
        al, bl, cl, dl, el = _line(state, words, _ORDER_LEFT, _ADD_LEFT, backwards=False)
        ar, br, cr, dr, er = _line(state, words, _ORDER_RIGHT, _ADD_RIGHT, backwards=True)
        h0, h1, h2, h3, h4 = state
        state = (
            (h1 + cl + dr) & _MASK,
            (h2 + dl + er) & _MASK,
            (h3 + el + ar) & _MASK,
            (h4 + al + br) & _MASK,
            (h0 + bl + cr) & _MASK,
        )
    return b"".join(h.to_bytes(4, "little") for h in state)
