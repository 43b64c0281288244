"""What a stranger may cost us before and after the handshake (immunity H1, E2); every bound of the room stands here."""

HANDSHAKE_TIMEOUT = 15.0
"""Seconds for all three acts: a slow loris is dropped."""
CONNECT_TIMEOUT = 15.0
MAX_HANDSHAKES = 64
"""Inbound handshakes under way at a time; further callers are hung up on at once."""
READ_SIZE = 256 * 1024
STRANGER_READ_SIZE = 4 * 1024
"""Bytes of a stranger that are handled before others have their turn: about a hundred of the smallest messages."""
WRITE_HIGH_WATER = 8 * 1024 * 1024
"""Bytes waiting for a slow reader before it is disconnected: above the largest honest burst, under any real trouble."""
