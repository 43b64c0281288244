"""Noise_XK handshake and the encrypted stream after it (BOLT 8, B8.01 to B8.05), bytes in and bytes out.

Knows no sockets, clocks or dice: ephemeral secrets come from the caller, who must make fresh ones for every connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from salama.crypto import secp256k1
from salama.crypto.ciphers import TAG_SIZE, Aead, AuthenticationFailed, open_sealed, seal
from salama.crypto.hashes import hkdf_two, sha256

ACT_ONE_SIZE: Final = 50
ACT_TWO_SIZE: Final = 50
ACT_THREE_SIZE: Final = 66
MAX_MESSAGE: Final = 65535
ROTATE_AT: Final = 1000
"""Uses of a key before it is replaced; two uses a message."""

_VERSION: Final = b"\x00"
_LENGTH_SIZE: Final = 2 + TAG_SIZE
_PROTOCOL_NAME: Final = b"Noise_XK_secp256k1_ChaChaPoly_SHA256"
_PROLOGUE: Final = b"lightning"


class HandshakeFailed(Exception):
    """The peer's act is not what it should be; hang up without another byte."""


class TransportCorrupted(Exception):
    """A message failed its authentication: the stream cannot go on. ``messages`` are those that came intact before."""

    def __init__(self, messages: tuple[bytes, ...] = ()) -> None:
        self.messages = messages
        super().__init__("the encrypted stream was altered or lost its order")


@dataclass(frozen=True, slots=True)
class StaticKey:
    """Our identity as the handshake needs it: a point, and ECDH with the secret behind it, wherever that is kept."""

    point: bytes
    ecdh: Callable[[bytes], bytes] = field(repr=False)
    """From a point to the SHA-256 of the compressed product."""

    @classmethod
    def of(cls, secret: bytes) -> StaticKey:
        """From a raw secret. Raises InvalidKey."""
        return cls(secp256k1.public_key(secret), lambda point: secp256k1.ecdh(secret, point))


# --- the handshake


class _Handshake:
    """The hash of everything said so far and the chaining key."""

    __slots__ = ("chaining_key", "hash", "temp_key")

    def __init__(self, responder_key: bytes) -> None:
        self.chaining_key = sha256(_PROTOCOL_NAME)
        self.hash = sha256(sha256(self.chaining_key + _PROLOGUE) + responder_key)
        self.temp_key = b""

    def mix_hash(self, data: bytes) -> None:
        self.hash = sha256(self.hash + data)

    def mix_key(self, shared_secret: bytes) -> None:
        self.chaining_key, self.temp_key = hkdf_two(self.chaining_key, shared_secret)

    def seal(self, nonce: int, plaintext: bytes) -> bytes:
        ciphertext = seal(self.temp_key, nonce, self.hash, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def open(self, nonce: int, ciphertext: bytes, act: str) -> bytes:
        try:
            plaintext = open_sealed(self.temp_key, nonce, self.hash, ciphertext)
        except AuthenticationFailed:
            raise HandshakeFailed(f"{act} does not authenticate") from None
        self.mix_hash(ciphertext)
        return plaintext


def _check_act(data: bytes, size: int, act: str) -> None:
    if len(data) != size:
        raise HandshakeFailed(f"{act} has {len(data)} bytes instead of {size}")
    if data[:1] != _VERSION:
        raise HandshakeFailed(f"{act} has version {data[0]}")


def _check_point(point: bytes, act: str) -> None:
    if not secp256k1.is_point(point):
        raise HandshakeFailed(f"{act} has an invalid public key")


def _as_static_key(key: bytes | StaticKey) -> StaticKey:
    return key if isinstance(key, StaticKey) else StaticKey.of(key)


class Initiator:
    """The side that connects: sends ``act_one``, then turns act two into act three and a session. For one use."""

    __slots__ = ("_ephemeral", "_handshake", "_our_key", "act_one", "their_node_id")

    def __init__(self, our_key: bytes | StaticKey, their_node_id: bytes, ephemeral_secret: bytes) -> None:
        """Raises HandshakeFailed when ``their_node_id`` is not a point, InvalidKey for our own keys."""
        _check_point(their_node_id, "the address")
        self._our_key = _as_static_key(our_key)
        self._ephemeral = ephemeral_secret
        self.their_node_id = bytes(their_node_id)
        self._handshake = handshake = _Handshake(self.their_node_id)
        point = secp256k1.public_key(ephemeral_secret)
        handshake.mix_hash(point)
        handshake.mix_key(secp256k1.ecdh(ephemeral_secret, self.their_node_id))
        self.act_one: bytes = _VERSION + point + handshake.seal(0, b"")

    def receive_act_two(self, act: bytes) -> tuple[bytes, Session]:
        """From exactly ACT_TWO_SIZE bytes to act three and the session. Raises HandshakeFailed."""
        _check_act(act, ACT_TWO_SIZE, "act two")
        handshake, their_ephemeral = self._handshake, act[1:34]
        _check_point(their_ephemeral, "act two")
        handshake.mix_hash(their_ephemeral)
        handshake.mix_key(secp256k1.ecdh(self._ephemeral, their_ephemeral))
        handshake.open(0, act[34:], "act two")

        sealed_key = handshake.seal(1, self._our_key.point)
        handshake.mix_key(self._our_key.ecdh(their_ephemeral))
        act_three = _VERSION + sealed_key + handshake.seal(0, b"")
        send_key, receive_key = hkdf_two(handshake.chaining_key, b"")
        return act_three, Session(send_key, receive_key, handshake.chaining_key, self.their_node_id)


class Responder:
    """The side that is connected to: turns act one into act two, then act three into a session. For one use."""

    __slots__ = ("_ephemeral", "_handshake", "_our_key")

    def __init__(self, our_key: bytes | StaticKey, ephemeral_secret: bytes) -> None:
        """Raises InvalidKey."""
        self._our_key = _as_static_key(our_key)
        self._ephemeral = ephemeral_secret
        self._handshake = _Handshake(self._our_key.point)

    def receive_act_one(self, act: bytes) -> bytes:
        """From exactly ACT_ONE_SIZE bytes to act two. Raises HandshakeFailed."""
        _check_act(act, ACT_ONE_SIZE, "act one")
        handshake, their_ephemeral = self._handshake, act[1:34]
        _check_point(their_ephemeral, "act one")
        handshake.mix_hash(their_ephemeral)
        handshake.mix_key(self._our_key.ecdh(their_ephemeral))
        handshake.open(0, act[34:], "act one")

        point = secp256k1.public_key(self._ephemeral)
        handshake.mix_hash(point)
        handshake.mix_key(secp256k1.ecdh(self._ephemeral, their_ephemeral))
        return _VERSION + point + handshake.seal(0, b"")

    def receive_act_three(self, act: bytes) -> Session:
        """From exactly ACT_THREE_SIZE bytes to the session, which names the peer. Raises HandshakeFailed."""
        _check_act(act, ACT_THREE_SIZE, "act three")
        handshake = self._handshake
        if not handshake.temp_key:
            raise HandshakeFailed("act three before act one")
        their_node_id = handshake.open(1, act[1:50], "act three")
        _check_point(their_node_id, "act three")
        handshake.mix_key(secp256k1.ecdh(self._ephemeral, their_node_id))
        handshake.open(0, act[50:], "act three")
        receive_key, send_key = hkdf_two(handshake.chaining_key, b"")
        return Session(send_key, receive_key, handshake.chaining_key, their_node_id)


# --- the stream


class _Direction:
    """One direction's key, used twice a message and replaced after ROTATE_AT uses."""

    __slots__ = ("_chaining_key", "_key", "aead", "nonce")

    def __init__(self, key: bytes, chaining_key: bytes) -> None:
        self._key, self._chaining_key = key, chaining_key
        self.aead, self.nonce = Aead(key), 0

    def rotate(self) -> None:
        self._chaining_key, self._key = hkdf_two(self._chaining_key, self._key)
        self.aead, self.nonce = Aead(self._key), 0


class Session:
    """The encrypted stream of one connection, both directions."""

    __slots__ = ("_corrupted", "_expected", "_receive", "_send", "_waiting", "their_node_id")

    def __init__(self, send_key: bytes, receive_key: bytes, chaining_key: bytes, their_node_id: bytes) -> None:
        self._send = _Direction(send_key, chaining_key)
        self._receive = _Direction(receive_key, chaining_key)
        self._waiting = bytearray()
        self._expected: int | None = None  # size of the sealed body whose length is already known
        self._corrupted = False
        self.their_node_id = their_node_id

    def encrypt(self, message: bytes) -> bytes:
        """The bytes to send for one message of at most MAX_MESSAGE bytes. Raises ValueError when it is longer."""
        if len(message) > MAX_MESSAGE:
            raise ValueError(f"a message of {len(message)} bytes")
        send = self._send
        nonce, aead = send.nonce, send.aead
        sealed = aead.seal(nonce, b"", len(message).to_bytes(2, "big")) + aead.seal(nonce + 1, b"", message)
        send.nonce = nonce + 2
        if send.nonce == ROTATE_AT:
            send.rotate()
        return sealed

    def feed(self, data: bytes) -> list[bytes]:
        """The messages completed by ``data``, in order; at most one incomplete message is kept.

        Raises TransportCorrupted.
        """
        if self._corrupted:
            raise TransportCorrupted
        buffer: bytes | bytearray = data
        if self._waiting:
            # Grows in place: a peer that sends byte by byte must not make us copy the message for every byte.
            self._waiting += data
            buffer = self._waiting
        receive, position, end = self._receive, 0, len(buffer)
        messages: list[bytes] = []
        try:
            while True:
                if self._expected is None:
                    if end - position < _LENGTH_SIZE:
                        break
                    length = receive.aead.open(receive.nonce, b"", buffer[position : position + _LENGTH_SIZE])
                    receive.nonce += 1
                    position += _LENGTH_SIZE
                    self._expected = int.from_bytes(length, "big") + TAG_SIZE
                if end - position < self._expected:
                    break
                messages.append(receive.aead.open(receive.nonce, b"", buffer[position : position + self._expected]))
                receive.nonce += 1
                if receive.nonce == ROTATE_AT:
                    receive.rotate()
                position += self._expected
                self._expected = None
        except AuthenticationFailed:
            self._corrupted = True
            self._waiting.clear()
            raise TransportCorrupted(tuple(messages)) from None
        if buffer is self._waiting:
            del self._waiting[:position]
        else:
            self._waiting += data[position:]
        return messages
