"""B4 an onion that claims to be huge (lnd onion bomb, CVE-2024-38359)

What failed: the length at the front of a decrypted payload was believed, and up to 4 GB were allocated for it.

Defence: onion/sphinx.py:peel_with_secret compares the length with what is there before anything is cut.

B5 text of strangers in logs and terminals (LDK 0.1.3, 0.2.3, 0.2.5)

What failed: control characters, line breaks and names cut inside a character reached logs and screens.

Defence: transport/session.py:printable for what peers say, gossip/announce.py:alias_text for names,
channel/failing.py:receive_error for the reason that is kept with a channel.

I6 names that look like other names (LDK PrintableString)

What failed: invisible and direction-changing characters made one alias look like another.

Defence: gossip/announce.py:alias_text replaces every control and formatting character.

I7 weak randomness (a hardware wallet, July 2026)

What failed: keys were made from a source that had run dry, or from a fallback.

Defence: node/seed.py:new_seed takes what node/dice.py:fresh gives: os.urandom and nothing else, after a test of its
bits and bytes and of whether it says anything twice; if that fails, so does the start.

Not covered: a source whose output looks random and can be foretold.
"""

from __future__ import annotations

import os
import random
import tracemalloc
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.crypto.ciphers import chacha20
from salama.crypto.hashes import hmac_sha256
from salama.crypto.secp256k1 import public_key
from salama.gossip.announce import alias_text
from salama.node import dice
from salama.node.seed import load_or_make_seed
from salama.onion import sphinx
from salama.onion.sphinx import OnionRefused, peel_with_secret
from salama.testing.pair import Pair
from salama.transport.session import printable
from salama.wire.setup import Error

SHARED = b"\x05" * 32


def authentic(front: bytes) -> bytes:
    """An onion, rightly authenticated, whose payloads begin with ``front`` when they are decrypted."""
    hidden = chacha20(sphinx._stream_key(SHARED), front + bytes(1300 - len(front)))
    body = b"\x00" + public_key(b"\x07" * 32) + hidden
    return body + sphinx._mac(SHARED, hidden, bytes(32))


LIES = {
    "2^32 - 1": b"\xfe\xff\xff\xff\xff",
    "2^64 - 1": b"\xff" * 9,
    "2^31": b"\xfe\x80\x00\x00\x00",
    "one more than there is": b"\xfd\x04\xf2",
    "not minimal": b"\xfe\x00\x00\x00\x20",
    "zero": b"\x00",
    "one": b"\x01",
}


@pytest.mark.parametrize("lie", LIES)
def test_b4_lengths_that_lie_are_refused_without_a_byte(lie: str) -> None:
    packet = authentic(LIES[lie])
    tracemalloc.start()
    for _ in range(100):
        with pytest.raises(OnionRefused):
            peel_with_secret(packet, SHARED, bytes(32))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_b4_the_onion_of_these_tests_can_be_peeled() -> None:
    """Else they would be refused for another reason."""
    peeled = peel_with_secret(authentic(b"\x05hello"), SHARED, bytes(32))
    assert peeled.payload == b"hello" and len(hmac_sha256(b"k", b"m")) == 32


NASTY = [
    b"\n2026-01-01 CRITICAL all is lost",
    b"\x1b[2J\x1b[31m",
    b"\x00\x07\x08",
    b"\xff\xfe",
    "\u202etxt.exe".encode(),
]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400) | st.sampled_from(NASTY) | st.text(max_size=100).map(lambda t: t.encode()))
def test_b5_what_peers_say_is_one_short_printable_line(words: bytes) -> None:
    text = printable(words)
    assert text.isascii() and (text.isprintable() or not text) and len(text) <= 203


@pytest.mark.parametrize("words", [*NASTY, bytes(60_000), b"\xf0\x9f\x98" * 20_000])
def test_b5_what_a_peer_says_last_is_kept_short_and_harmless(words: bytes) -> None:
    pair = Pair.opened()
    pair.alice.hears(Error(channel_id=pair.alice.record.channel_id, data=words))
    kept = pair.alice.record.error
    assert kept and kept.isprintable() and len(kept) < 2100


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=32) | st.text(max_size=10).map(lambda t: t.encode()[:32]))
def test_i6_an_alias_has_no_invisible_characters(alias: bytes) -> None:
    text = alias_text(alias)
    assert all(unicodedata.category(c)[0] != "C" for c in text) and len(text) <= 32


@pytest.mark.parametrize("mark", ["\u202e", "\u200b", "\u2066", "\ufeff", "\u00ad", "\x1b", "\n"])
def test_i6_marks_that_deceive_are_shown(mark: str) -> None:
    assert alias_text(f"ali{mark}ce".encode()) == "ali\N{REPLACEMENT CHARACTER}ce"


def test_i7_no_seed_without_randomness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dry(_: int) -> bytes:
        raise NotImplementedError("no randomness here")

    monkeypatch.setattr(os, "urandom", dry)
    with pytest.raises(NotImplementedError):
        load_or_make_seed(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "weak",
    [
        bytes,
        lambda size: b"\xff" * size,
        lambda size: b"\x55\xaa" * (size // 2),
        lambda size: bytes(range(256)) * (size // 256) + bytes(range(size % 256)),
        lambda size: (hmac_sha256(b"", b"") * (size // 32 + 1))[:size],
        lambda size: b"".join(hmac_sha256(b"", bytes((n % 8, n // 8))) for n in range(size // 32 + 1))[:size],
        lambda size: random.Random(7).randbytes(size)[: size - 1],
        lambda size: bytes(b | 0x10 for b in random.Random(7).randbytes(size)),
    ],
)
def test_i7_no_seed_from_a_source_that_repeats_itself(
    weak: Callable[[int], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "urandom", weak)
    with pytest.raises(dice.EntropyFailed):
        load_or_make_seed(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_i7_a_source_is_tested_for_every_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was sound a moment ago, and then it stops: the bytes of the seed itself are looked at, too."""
    asked = []

    def fails_at_last(size: int) -> bytes:
        asked.append(size)
        return bytes(size) if len(asked) == 4 else random.Random(len(asked)).randbytes(size)

    monkeypatch.setattr(os, "urandom", fails_at_last)
    with pytest.raises(dice.EntropyFailed):
        load_or_make_seed(tmp_path)
    assert list(tmp_path.iterdir()) == [] and len(asked) == 4


def test_i7_every_seed_is_another(tmp_path: Path) -> None:
    seeds = set()
    for n in range(30):
        directory = tmp_path / str(n)
        directory.mkdir()
        seeds.add(load_or_make_seed(directory))
        assert load_or_make_seed(directory) in seeds
        assert (directory / "seed.words").stat().st_mode & 0o077 == 0
    assert len(seeds) == 30


@pytest.mark.slow
def test_i7_a_million_seeds_are_a_million(monkeypatch: pytest.MonkeyPatch) -> None:
    dice.check_source()
    monkeypatch.setattr(dice, "check_source", lambda source: None)
    assert len({dice.fresh(16) for _ in range(1_000_000)}) == 1_000_000


def test_i7_nobody_uses_the_random_module_for_secrets() -> None:
    """In what a node runs, dice come from ``Outside.entropy`` alone."""
    root = Path(load_or_make_seed.__code__.co_filename).parents[1]
    users = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if any(line.startswith(("import random", "from random")) for line in path.read_text().splitlines())
    }
    assert {name for name in users if name.partition("/")[0] not in ("sim", "testing", "demo")} == set()
