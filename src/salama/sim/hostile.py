"""A peer that breaks one rule at a time: an honest node whose words are twisted on their way out.

What it sends is otherwise in place (the right channel, the right moment), which is where a careless check would let it
pass. Whoever hears it must end up safe: a warning, an error, a failed channel; never a crash or a frozen machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from random import Random
from typing import TYPE_CHECKING, Any

from salama.base.ids import ChannelId, Preimage
from salama.codec.fields import Malformed, Unencodable
from salama.codec.message import Message, decode_message
from salama.sim.links import told
from salama.wire import (
    ChannelReestablish,
    ClosingSigned,
    CommitmentSigned,
    Error,
    RevokeAndAck,
    Shutdown,
    UpdateFailHtlc,
    UpdateFailMalformedHtlc,
    UpdateFee,
    UpdateFulfillHtlc,
    Warning,
)

if TYPE_CHECKING:
    from salama.sim.links import SimConnection
    from salama.sim.world import World

OPENING, UPDATES = range(32, 78), range(128, 140)
"""Types of messages that are about one channel."""


class Liar:
    """Twists what one machine says, now and then."""

    def __init__(self, world: World, name: str, chance: float) -> None:
        self._world, self._name, self._chance = world, name, chance
        self._dice: Random = world.dice(f"{name} lies")
        self._earlier: list[bytes] = []
        self._lies: list[Callable[[bytes], list[bytes]]] = [
            self._drops,
            self._repeats,
            self._says_again,
            self._flips,
            self._cuts_short,
            self._adds_bytes,
            self._changes_field,
            self._changes_field,
            self._changes_field,
            self._invents,
            self._invents,
            self._invents,
        ]

    def says(self, connection: SimConnection, message: bytes) -> list[bytes]:
        """What goes out instead of ``message``."""
        kind = int.from_bytes(message[:2], "big")
        if kind not in OPENING and kind not in UPDATES:
            return [message]
        self._earlier.append(message)
        del self._earlier[:-50]
        if self._dice.random() >= self._chance:
            return [message]
        lie = self._dice.choice(self._lies)
        said = lie(message)
        how = lie.__name__.strip("_").replace("_", " ")
        self._world.count(f"hostile {how}")
        self._world.note(f"{self._name} lies to {connection.peer.name} in place of {told(message)}: {how}")
        return said

    # --- the lies -----------------------------------------------------------------------------------------------------

    def _drops(self, message: bytes) -> list[bytes]:
        return []

    def _repeats(self, message: bytes) -> list[bytes]:
        return [message, message]

    def _says_again(self, message: bytes) -> list[bytes]:
        return [message, self._dice.choice(self._earlier)]

    def _flips(self, message: bytes) -> list[bytes]:
        at = self._dice.randrange(2, len(message))
        return [message[:at] + bytes([message[at] ^ 1 << self._dice.randrange(8)]) + message[at + 1 :]]

    def _cuts_short(self, message: bytes) -> list[bytes]:
        return [message[: self._dice.randrange(2, len(message))]]

    def _adds_bytes(self, message: bytes) -> list[bytes]:
        return [message + self._dice.randbytes(self._dice.randrange(1, 40))]

    def _changes_field(self, message: bytes) -> list[bytes]:
        try:
            decoded = decode_message(message)
        except Malformed:
            return [message]
        names = [f.name for f in fields(decoded) if f.init and f.name not in ("channel_id", "extension")]
        if not names:
            return [message]
        name = self._dice.choice(names)
        try:
            return [replace(decoded, **{name: self._other(getattr(decoded, name))}).encode()]
        except (ValueError, TypeError, Unencodable):
            return [message]

    def _other(self, value: Any) -> Any:
        """Another value of the same type."""
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, int):
            number = self._dice.choice((0, 1, int(value) - 1, int(value) + 1, 2 * int(value), 1 << 31, (1 << 32) - 1))
            return type(value)(number)
        if isinstance(value, bytes):
            return type(value)(self._dice.choice((bytes(len(value)), self._dice.randbytes(len(value)))))
        if isinstance(value, tuple):
            return self._dice.choice((value[:-1], (*value, *value), ()))
        return value

    def _invents(self, message: bytes) -> list[bytes]:
        """A message out of place, about the channel that the other one is about."""
        kind = int.from_bytes(message[:2], "big")
        if kind in (32, 33, 34):  # these carry no channel id yet
            return [message]
        channel = ChannelId(message[2:34])
        number = self._dice.choice((0, 1, 2, 3, 7, 1 << 40))
        dice = self._dice
        inventions: list[Callable[[], Message]] = [
            lambda: CommitmentSigned(channel_id=channel, signature=dice.randbytes(64), htlc_signature=()),
            lambda: UpdateFulfillHtlc(channel_id=channel, id=number, payment_preimage=Preimage(dice.randbytes(32))),
            lambda: UpdateFailHtlc(channel_id=channel, id=number, reason=dice.randbytes(dice.choice((0, 1, 292)))),
            lambda: UpdateFailMalformedHtlc(
                channel_id=channel, id=number, sha256_of_onion=dice.randbytes(32), failure_code=0xC005
            ),
            lambda: Warning(channel_id=channel, data=b"\x1b[31mboo\x00"),
            lambda: Error(channel_id=channel, data=b"it is over"),
            lambda: Shutdown(channel_id=channel, scriptpubkey=dice.randbytes(dice.choice((0, 22, 34)))),
            lambda: _first_of(self._earlier, RevokeAndAck, channel),
            lambda: _first_of(self._earlier, ChannelReestablish, channel),
            lambda: _first_of(self._earlier, ClosingSigned, channel),
            lambda: _first_of(self._earlier, UpdateFee, channel),
        ]
        try:
            invented = dice.choice(inventions)().encode()
        except (ValueError, TypeError, LookupError, Unencodable):
            return [message, b"\x80\x85" + bytes(message[2:34]) + dice.randbytes(65)]
        return [invented, message] if dice.random() < 0.5 else [message, invented]


def _first_of(earlier: list[bytes], kind: type[Message], channel: ChannelId) -> Message:
    for message in earlier:
        decoded = decode_message(message)
        if isinstance(decoded, kind):
            return replace(decoded, channel_id=channel)  # type: ignore[call-arg]
    raise LookupError(kind.NAME)
