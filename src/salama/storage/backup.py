"""The static backup: every channel's terms, sealed with a key of the seed, in a file that is replaced whole (J1, J2).

    magic 6 | version 1 | fingerprint of the key 4 | salt 32 | sealed: length 4, zlib of the record, zeros

Sealed with ChaCha20-Poly1305, which vouches for what stands before, too; each sealing has a salt, and so a key of its
own. The ``generation`` counts changes of the set of channels: whoever finds a greater one than his database's own holds
an old database.
"""

from __future__ import annotations

import hmac
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from salama.base.ids import BlockHash, NodeId
from salama.base.units import BlockHeight
from salama.channel.backup import ChannelBackup
from salama.crypto import ciphers
from salama.crypto.seeds import ExtendedKey
from salama.storage.directory import replacing
from salama.storage.errors import CorruptRecord, StorageFault
from salama.storage.layouts import Codec
from salama.wallet.keys import Kind

BACKUP_NAME: Final = "channels.backup"
BACKUP_PATH: Final = "m/1017'/2'"
"""Below the root of the seed; the key spends nothing."""
MAX_SEALED: Final = 64 << 20
"""Bytes of a file that is read at all."""
MAX_PLAIN: Final = 128 << 20
FILE_STEP: Final = 4096
"""Files are padded to a multiple: their size tells little of the number of channels."""

_MAGIC: Final = b"SALBAK"
_VERSION: Final = 1
_FINGERPRINT_AT: Final = len(_MAGIC) + 1
_SALT_AT: Final = _FINGERPRINT_AT + 4
_BODY_AT: Final = _SALT_AT + 32
OVERHEAD: Final = _BODY_AT + 4 + ciphers.TAG_SIZE
"""Bytes of a sealed backup beside its record and its padding."""


class BackupUnusable(StorageFault):
    """Bytes that are no backup of this seed; the sentence says what is wrong with them."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"this backup cannot be used: {reason}")


class OtherWords(BackupUnusable):
    """A backup, but not of this seed, as far as its first bytes tell."""

    def __init__(self) -> None:
        super().__init__("it was made with other words, or its first bytes are damaged")


class BackupNotWritten(StorageFault):
    """A channel may not go on while nothing but one disk knows of it."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"the backup {path} cannot be written: {reason}; the node has to stop")


@dataclass(frozen=True, slots=True)
class StaticBackup:
    """What words alone do not bring back."""

    generation: int
    made_at: int
    """Unix seconds."""
    node_id: NodeId
    chain_hash: BlockHash
    birthday: BlockHeight
    """No transaction of this wallet is in a block below."""
    branches: Mapping[tuple[Kind, int], int]
    """How many keys of each chain of the wallet were issued: more than any gap that a search would look beyond."""
    channels: tuple[ChannelBackup, ...]


_RECORD: Final = Codec(StaticBackup, "backup")


@dataclass(frozen=True, slots=True)
class BackupKey:
    """Seals and opens backups of one seed."""

    secret: bytes = field(repr=False)
    fingerprint: bytes

    @classmethod
    def of_seed(cls, seed: bytes) -> BackupKey:
        """``seed``: 16 to 64 bytes."""
        secret = ExtendedKey.of_seed(seed).derive(BACKUP_PATH).secret
        assert secret is not None
        return cls(bytes(secret), hmac.digest(secret, b"fingerprint", "sha256")[:4])

    def seal(self, backup: StaticBackup, salt: bytes, size: int | None = None) -> bytes:
        """``backup`` encrypted; ``salt``: 32 fresh random bytes. ``size``: bytes of the result, else what files have.

        Raises ValueError if it does not fit into ``size``.
        """
        packed = zlib.compress(_RECORD.encode(backup), 9)
        size = -(-(OVERHEAD + len(packed)) // FILE_STEP) * FILE_STEP if size is None else size
        padding = size - OVERHEAD - len(packed)
        if padding < 0:
            raise ValueError(f"a backup of {OVERHEAD + len(packed)} bytes does not fit into {size}")
        header = _MAGIC + bytes((_VERSION,)) + self.fingerprint + salt
        plain = len(packed).to_bytes(4, "big") + packed + bytes(padding)
        return header + ciphers.seal(self._key(salt), 0, header, plain)

    def seal_most(self, backup: StaticBackup, salt: bytes, size: int) -> tuple[bytes, int]:
        """Exactly ``size`` bytes with as many channels as fit, the largest first, and how many did not.

        Raises ValueError if not even the rest fits.
        """
        largest = sorted(backup.channels, key=lambda one: (-int(one.capacity), one.channel_id))
        best, fits, too_many = b"", -1, len(largest) + 1
        count = len(largest)
        while fits + 1 < too_many:
            kept = tuple(sorted(largest[:count], key=lambda one: one.channel_id))
            try:
                best, fits = self.seal(replace(backup, channels=kept), salt, size), count
            except ValueError:
                if count == 0:
                    raise
                too_many = count
            count = (fits + too_many) // 2
        return best, len(largest) - fits

    def open(self, data: bytes) -> StaticBackup:
        """Inverse of ``seal``. Raises BackupUnusable, whatever ``data`` is."""
        if not data.startswith(_MAGIC):
            raise BackupUnusable("it does not begin like one")
        if len(data) < _BODY_AT + ciphers.TAG_SIZE + 4 or len(data) > MAX_SEALED:
            raise BackupUnusable("it is cut off" if len(data) < MAX_SEALED else "it is too long")
        if data[len(_MAGIC)] != _VERSION:
            raise BackupUnusable(f"it is of version {data[len(_MAGIC)]}, this Salama knows version {_VERSION}")
        header, salt = data[:_BODY_AT], data[_SALT_AT:_BODY_AT]
        if header[_FINGERPRINT_AT:_SALT_AT] != self.fingerprint:
            raise OtherWords
        try:
            plain = ciphers.open_sealed(self._key(salt), 0, header, data[_BODY_AT:])
        except ciphers.AuthenticationFailed:
            raise BackupUnusable("it is damaged or cut off") from None
        return _unpack(plain)

    def _key(self, salt: bytes) -> bytes:
        return hmac.digest(self.secret, b"seal" + salt, "sha256")


def _unpack(plain: bytes) -> StaticBackup:
    # Authentic from here on, but perhaps made by another version.
    length = int.from_bytes(plain[:4], "big")
    unpacking = zlib.decompressobj()
    try:
        record = unpacking.decompress(plain[4 : 4 + length], MAX_PLAIN)
        if not unpacking.eof:
            raise BackupUnusable("it holds more than a backup can")
        return _RECORD.decode(record)
    except (zlib.error, CorruptRecord) as fault:
        raise BackupUnusable(str(fault)) from None


# --- files -----------------------------------------------------------------------------------------------------------


def write_backup(path: Path, data: bytes) -> None:
    """Replace the file at ``path``: after a crash it is whole, the old one or the new one. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with replacing(path) as fresh:
        fresh.write_bytes(data)


def read_backup(path: Path, key: BackupKey) -> StaticBackup:
    """The backup in a file. Raises BackupUnusable; OSError if there is none."""
    return key.open(read_sealed(path))


def read_sealed(path: Path) -> bytes:
    """What a file holds, if a backup may be so long. Raises BackupUnusable; OSError if there is none."""
    if path.stat().st_size > MAX_SEALED:
        raise BackupUnusable("it is too long")
    return path.read_bytes()
