"""From words to keys: BIP 39 sentences and BIP 32 derivation on our own secp256k1 door."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field
from functools import cache

from mnemonic import Mnemonic

from salama.crypto import base58, secp256k1
from salama.crypto.hashes import hash160
from salama.crypto.secrets import SecretKey

HARDENED = 1 << 31
MAINNET_VERSIONS = (bytes.fromhex("0488ade4"), bytes.fromhex("0488b21e"))  # xprv, xpub
TESTNET_VERSIONS = (bytes.fromhex("04358394"), bytes.fromhex("043587cf"))  # tprv, tpub


class InvalidMnemonic(ValueError):
    """Words that are no BIP 39 sentence, or entropy of a size that has none."""


class InvalidExtendedKey(ValueError):
    """Text that is no extended key, or a derivation that cannot be made."""


@cache
def _english() -> Mnemonic:
    return Mnemonic("english")


def make_words(entropy: bytes) -> str:
    """The English sentence for 16, 20, 24, 28 or 32 bytes of entropy. Raises InvalidMnemonic."""
    if len(entropy) not in (16, 20, 24, 28, 32):
        raise InvalidMnemonic(f"no sentence has {len(entropy)} bytes of entropy")
    return str(_english().to_mnemonic(entropy))


def check_words(words: str) -> None:
    """Raises InvalidMnemonic unless ``words`` is an English BIP 39 sentence with the right checksum."""
    if len(words) > 1000 or not _english().check(words):
        raise InvalidMnemonic("unknown words, wrong number of words or wrong checksum")


def seed_of_words(words: str, passphrase: str = "") -> bytes:
    """The 64-byte seed of a checked sentence. Raises InvalidMnemonic."""
    words = " ".join(words.split())
    check_words(words)
    return bytes(Mnemonic.to_seed(words, passphrase))


def _parse_step(step: str) -> int:
    match = re.fullmatch(r"([0-9]{1,10})(['hH]?)", step)
    if match is None or int(match[1]) >= HARDENED:
        raise InvalidExtendedKey(f"no derivation step: {step[:20]!r}")
    return int(match[1]) + (HARDENED if match[2] else 0)


@dataclass(frozen=True, slots=True)
class ExtendedKey:
    """A BIP 32 key with its chain code; ``secret`` is None when only the public half is known."""

    point: bytes
    """Compressed public key."""
    chain_code: bytes = field(repr=False)
    """32 bytes; with the public key and one child's secret they give the parent's secret away."""
    secret: SecretKey | None = None
    depth: int = 0
    parent_fingerprint: bytes = bytes(4)
    number: int = 0
    """Child number; hardened ones have bit 31 set."""

    @classmethod
    def of_seed(cls, seed: bytes) -> ExtendedKey:
        """The master key of 16 to 64 bytes of seed. Raises InvalidExtendedKey."""
        if not 16 <= len(seed) <= 64:
            raise InvalidExtendedKey(f"a seed of {len(seed)} bytes")
        digest = hmac.digest(b"Bitcoin seed", seed, "sha512")
        try:
            secret = SecretKey(digest[:32])
        except secp256k1.InvalidKey:
            raise InvalidExtendedKey("this seed has no master key") from None
        return cls(secret.public_key, digest[32:], secret)

    @property
    def fingerprint(self) -> bytes:
        """First four bytes of the key's hash."""
        return hash160(self.point)[:4]

    @property
    def public(self) -> ExtendedKey:
        """The same key without its secret."""
        return ExtendedKey(self.point, self.chain_code, None, self.depth, self.parent_fingerprint, self.number)

    def child(self, number: int) -> ExtendedKey:
        """Child ``number`` (add HARDENED for a hardened one). Raises InvalidExtendedKey."""
        if not 0 <= number < 1 << 32 or self.depth >= 255:
            raise InvalidExtendedKey("child number or depth out of range")
        if number < HARDENED:
            data = self.point
        elif self.secret is not None:
            data = b"\x00" + self.secret
        else:
            raise InvalidExtendedKey("a hardened child needs the secret key")
        digest = hmac.digest(self.chain_code, data + number.to_bytes(4, "big"), "sha512")
        tweak, chain_code = digest[:32], digest[32:]
        try:
            if self.secret is None:
                secret, point = None, secp256k1.add_to_point(self.point, tweak)
            else:
                secret = SecretKey(secp256k1.add_scalars(self.secret, tweak))
                point = secret.public_key
        except (secp256k1.InvalidKey, secp256k1.InvalidPoint):
            # One in 2^127: BIP 32 says to take the next number, which only the caller can decide.
            raise InvalidExtendedKey(f"child {number} does not exist") from None
        return ExtendedKey(point, chain_code, secret, self.depth + 1, self.fingerprint, number)

    def derive(self, path: str) -> ExtendedKey:
        """The key at ``path`` seen from this one: ``m/84'/1'/0'/0/5``, ``84h/1h``. Raises InvalidExtendedKey."""
        steps = path.split("/", 256)
        if steps[0] == "m":
            steps = steps[1:]
        key = self
        for step in steps:
            key = key.child(_parse_step(step))
        return key

    def render(self, *, testnet: bool = False) -> str:
        """``xprv``/``tprv`` if the secret is known, else ``xpub``/``tpub``."""
        private, public = TESTNET_VERSIONS if testnet else MAINNET_VERSIONS
        body = bytes((self.depth,)) + self.parent_fingerprint + self.number.to_bytes(4, "big") + self.chain_code
        if self.secret is None:
            return base58.render(public + body + self.point)
        return base58.render(private + body + b"\x00" + self.secret)

    @classmethod
    def parse(cls, text: str) -> ExtendedKey:
        """From ``xprv``, ``xpub``, ``tprv`` or ``tpub``. Raises InvalidExtendedKey."""
        try:
            data = base58.parse(text)
        except base58.InvalidBase58 as error:
            raise InvalidExtendedKey(str(error)) from None
        if len(data) != 78:
            raise InvalidExtendedKey(f"{len(data)} bytes instead of 78")
        version, depth, fingerprint = data[:4], data[4], data[5:9]
        number, chain_code, key = int.from_bytes(data[9:13], "big"), data[13:45], data[45:]
        if depth == 0 and (any(fingerprint) or number):
            raise InvalidExtendedKey("a master key with a parent")
        secret = None
        try:
            if version in (MAINNET_VERSIONS[0], TESTNET_VERSIONS[0]):
                if key[0]:
                    raise InvalidExtendedKey("a secret key that does not begin with zero")
                secret = SecretKey(key[1:])
                key = secret.public_key
            elif version not in (MAINNET_VERSIONS[1], TESTNET_VERSIONS[1]):
                raise InvalidExtendedKey("unknown version bytes")
            elif not secp256k1.is_point(key):
                raise InvalidExtendedKey("not a point of the curve")
        except secp256k1.InvalidKey as error:
            raise InvalidExtendedKey(str(error)) from None
        return cls(key, chain_code, secret, depth, fingerprint, number)
