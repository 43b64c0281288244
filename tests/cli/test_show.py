"""What a terminal shows: what fits, what matters first, and never a control character of a stranger."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from salama.api.schema import METHODS
from salama.cli.show import show

CHANNEL = {
    "channel_id": "ab" * 32,
    "short_channel_id": "102x1x1",
    "alias": "16571097x12744133x22183",
    "funding_txid": "cd" * 32,
    "funding_vout": 1,
    "peer": "02" + "ef" * 32,
    "state": "normal",
    "connected": False,
    "opener": True,
    "private": False,
    "capacity_msat": 1_000_000_000,
    "ours_msat": 975_000_000,
    "theirs_msat": 25_000_000,
    "can_send_msat": 963_598_000,
    "can_receive_msat": 0,
    "fee_base_msat": 1_000,
}


def shown(method: str, result: dict[str, Any], width: int = 100) -> str:
    out = io.StringIO()
    show(METHODS[method], result, Console(file=out, width=width, no_color=True))
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 110, 200, 400])
def test_a_table_keeps_to_the_terminal_and_says_what_it_leaves_out(width: int) -> None:
    text = shown("channels", {"channels": [CHANNEL] * 3, "next_cursor": ""}, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert text.startswith("3 channels") and "102x1x1" in text and "normal" in text
    assert ("not shown:" in text) == (width < 200)
    # A word is never torn: what is shown can be read.
    assert ("1,000,000 sat" in text) == (width > 60)


def test_what_matters_first_is_shown_although_it_is_false() -> None:
    header = shown("channels", {"channels": [CHANNEL], "next_cursor": ""}, 90).splitlines()
    assert header[0].strip() == "1 channel"
    assert "connected" in "".join(header[:5]) and "private" not in "".join(header[:5])


def test_keys_are_whole_where_there_is_room() -> None:
    peer = {
        "node_id": CHANNEL["peer"],
        "alias": "x",
        "connected": True,
        "inbound": False,
        "address": "1.2.3.4:5",
        "channels": 1,
    }
    assert str(CHANNEL["peer"]) in shown("peers", {"peers": [peer], "next_cursor": ""}, 120)
    assert "02efefefef…" in shown("peers", {"peers": [peer], "next_cursor": ""}, 80)


def test_an_outpoint_in_short_still_says_which_output() -> None:
    coin = {"outpoint": "ab" * 32 + ":17", "amount_msat": 1_000, "address": "x" * 44, "confirmations": 3}
    assert "ababababab…:17" in shown("utxos", {"utxos": [coin], "next_cursor": ""}, 100)


def test_times_are_told_by_the_clock() -> None:
    event = {"id": 1, "at": 1_795_278_497, "name": "channel.opened", "fields": {"peer": "02" * 33, "fee_msat": 1_500}}
    text = shown("events", {"events": [event], "last_id": 1})
    assert time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_795_278_497)) in text
    assert "fee  1.500 sat" in text and "1795278497" not in text


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80), st.integers(20, 150))
def test_no_stranger_writes_to_the_terminal(alias: str, width: int) -> None:
    peer = {"node_id": "02" * 33, "alias": alias, "connected": True, "inbound": False, "address": alias, "channels": 0}
    for result in (
        {"peers": [peer], "next_cursor": ""},
        {"peers": [], "next_cursor": "", "text": alias, "of": [alias]},
    ):
        text = shown("peers", result, width)
        assert all(c.isprintable() or c == "\n" for c in text)


def test_a_sentence_with_a_hash_in_it_is_told_on_a_narrow_terminal() -> None:
    line = {"at": 1_700_000_000, "text": f"The funding {'ab' * 32}:0 is in block 103; the channel may be used."}
    text = shown("why", {"channel_id": "cd" * 32, "lines": [line]}, 80)
    assert "not shown" not in text and "The funding" in text and "may be used." in text
    assert all(len(one) <= 80 for one in text.splitlines())


def test_an_account_keeps_its_kind_when_its_channel_is_shortened() -> None:
    accounts = [{"account": f"assets:channels:{'ab' * 32}", "amount_msat": 5_000}]
    assert "assets:channels:ababababab…" in shown("ledgeraccounts", {"accounts": accounts, "next_cursor": ""}, 60)
