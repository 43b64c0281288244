"""A13 closing scripts that nobody checked (lnd 0.20.3: the closer by replacement took empty and odd ones)

What failed: a peer's closing script was put into a transaction without looking at its form, so that the transaction was
not relayed, or the money went where nobody can spend it.

Defence: bitcoin/script.py:is_shutdown_script knows the allowed forms byte by byte; channel/closing.py:receive_shutdown,
channel/simple_close.py:receive_closing_complete and channel/opening_rules.py:their_upfront_script ask it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from salama.bitcoin.script import is_shutdown_script
from salama.channel.events import CloseChannel
from salama.channel.opening import accept_inbound
from salama.channel.state import Opening, OpeningStage, Phase
from salama.testing.pair import FEATURES, Pair
from salama.wire.closing import ClosingComplete, ClosingSig, Shutdown
from salama.wire.features import OPTION_SIMPLE_CLOSE, Features
from salama.wire.opening import OpenChannel

SIMPLE = Features.of_bits({*FEATURES.bits(), OPTION_SIMPLE_CLOSE.odd})
H20, H32 = b"\x11" * 20, b"\x22" * 32
ALWAYS = {"p2wpkh": b"\x00\x14" + H20, "p2wsh": b"\x00\x20" + H32}
ANYSEGWIT = {
    "p2tr": b"\x51\x20" + H32,
    "version 16, 2 bytes": b"\x60\x02ab",
    "version 1, 40 bytes": b"\x51\x28" + H20 * 2,
}
NEVER = {
    "empty": b"",
    "p2pkh": b"\x76\xa9\x14" + H20 + b"\x88\xac",
    "p2sh": b"\xa9\x14" + H20 + b"\x87",
    "version 0 of 31 bytes": b"\x00\x1f" + H32[:31],
    "version 0 of 21 bytes": b"\x00\x15" + H20 + b"\x00",
    "41 bytes": b"\x51\x29" + b"\x33" * 41,
    "1 byte": b"\x51\x01a",
    "length that lies": b"\x51\x20" + H20,
    "more behind": b"\x00\x14" + H20 + b"\x00",
    "not minimal": b"\x51\x4c\x20" + H32,
    "op_true": b"\x51",
    "op_return alone": b"\x6a",
    "op_return of 5": b"\x6a\x05hello",
    "op_return of 81": b"\x6a\x4c\x51" + bytes(81),
    "op_return, two pushes": b"\x6a\x06hello!\x06hello!",
    "very long": b"\x00" * 10_000,
}
SIMPLE_CLOSE = {"op_return of 6": b"\x6a\x06hello!", "op_return of 80": b"\x6a\x4c\x50" + bytes(80)}


@pytest.mark.parametrize("anysegwit", [False, True])
@pytest.mark.parametrize("op_return", [False, True])
def test_the_forms_that_are_allowed(anysegwit: bool, op_return: bool) -> None:
    def allowed(script: bytes) -> bool:
        return is_shutdown_script(script, anysegwit=anysegwit, op_return=op_return)

    assert all(map(allowed, ALWAYS.values()))
    assert all(allowed(script) == anysegwit for script in ANYSEGWIT.values())
    assert all(allowed(script) == op_return for script in SIMPLE_CLOSE.values())
    assert not [name for name, script in NEVER.items() if allowed(script)]


@pytest.mark.parametrize("simple", [False, True], ids=["without simple close", "with simple close"])
@pytest.mark.parametrize("name", [*NEVER, *SIMPLE_CLOSE])
def test_a_peer_cannot_close_to_anything_else(name: str, simple: bool) -> None:
    """Where simple close is not spoken, its forms are as wrong as the others."""
    pair = Pair.opened(features=SIMPLE if simple else FEATURES)
    script = NEVER.get(name) or SIMPLE_CLOSE.get(name, b"")
    pair.bob.hears(Shutdown(channel_id=pair.bob.record.channel_id, scriptpubkey=script))
    if simple and name in SIMPLE_CLOSE:
        assert pair.bob.record.their_shutdown == script and pair.bob.is_connected
        return
    assert pair.bob.record.their_shutdown is None and pair.bob.record.phase is Phase.NORMAL
    assert not pair.bob.is_connected and not pair.bob.broadcasts


@pytest.mark.parametrize("name", [*ALWAYS, *ANYSEGWIT, *NEVER, *SIMPLE_CLOSE])
def test_nor_name_anything_else_for_later_when_it_opens(name: str) -> None:
    """But for nothing, which binds it to nothing."""
    pair = Pair.of()
    pair.opens(1_000_000, 0)
    (offer,) = pair.alice.sent()
    assert isinstance(offer, OpenChannel)
    script = (ALWAYS | ANYSEGWIT | NEVER | SIMPLE_CLOSE)[name]
    done = accept_inbound(pair.inbound(replace(offer, upfront_shutdown_script=script)), pair.bob.env)
    assert isinstance(done.state, Opening)
    is_allowed = name in ALWAYS or name in ANYSEGWIT or name == "empty"
    assert (done.state.stage is OpeningStage.SENT_ACCEPT) == is_allowed, done.state.reason


@pytest.mark.parametrize("name", NEVER)
def test_nor_does_an_offer_of_a_closing_transaction_change_that(name: str) -> None:
    """The closer may name another script with each offer (immunity of the closer by replacement)."""
    pair = Pair.opened(features=SIMPLE)
    pair.alice.does(CloseChannel(ALWAYS["p2wpkh"]))
    while not any(isinstance(m, ClosingComplete) for m in pair.alice.sent()):
        pair.deliver(pair.alice)
        pair.deliver(pair.bob)
    (offer,) = (m for m in pair.alice.sent() if isinstance(m, ClosingComplete))
    pair.bob.hears(replace(offer, closer_scriptpubkey=NEVER[name]))
    assert not pair.bob.is_connected and not pair.bob.record.closes
    assert not any(isinstance(m, ClosingSig) for m in pair.bob.sent())
