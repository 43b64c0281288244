"""Where a setting may be said, which one counts, and what is refused, with words that help."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salama.base.machine import CommandRefused
from salama.base.units import Msat, Sat
from salama.net.tcp import PeerAddress
from salama.node.config import MAX_FILE, Config, load_config, read_file
from salama.node.settings import SETTINGS


def load(directory: Path, file: str | None = None, environment: dict[str, str] | None = None, **flags: str) -> Config:
    directory.mkdir(exist_ok=True)
    if file is not None:
        (directory / "salama.toml").write_text(file)
    return load_config("regtest", directory, environment=environment, flags=flags)


def refusal(directory: Path, file: str | None = None, environment: dict[str, str] | None = None, **flags: str) -> str:
    with pytest.raises(CommandRefused) as refused:
        load(directory, file, environment, **flags)
    return f"{refused.value.code}: {refused.value.reason} {refused.value.remedy}"


def test_a_later_source_counts(tmp_path: Path) -> None:
    file = 'alias = "file"\npoll_seconds = 3\nreconnect_seconds = 4\n'
    environment = {"SALAMA_ALIAS": "environment", "SALAMA_POLL_SECONDS": "5", "PATH": "/bin"}
    config = load(tmp_path, file, environment, alias="flag")
    assert (config.alias, config.poll_seconds, config.reconnect_seconds) == ("flag", 5.0, 4.0)
    assert config.gossip_flush_seconds == 60.0
    assert config.sources == {
        "alias": "flag",
        "poll_seconds": "environment",
        "reconnect_seconds": f"file {tmp_path / 'salama.toml'}",
    }


def test_each_network_has_its_own_defaults(tmp_path: Path) -> None:
    signet = load_config("signet", tmp_path)
    assert (signet.bitcoind, signet.listen) == ("http://127.0.0.1:38332", PeerAddress("127.0.0.1", 39735))
    assert load_config("testnet4", tmp_path).bitcoind == "http://127.0.0.1:48332"


def test_the_cookie_of_a_bitcoind_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config("signet", tmp_path).cookie is None
    cookie = tmp_path / ".bitcoin" / "signet" / ".cookie"
    cookie.parent.mkdir(parents=True)
    cookie.write_text("__cookie__:secret")
    assert load_config("signet", tmp_path).cookie == cookie
    assert load_config("signet", tmp_path, flags={"bitcoind_user": "me"}).cookie is None
    assert load_config("regtest", tmp_path).cookie is None


def test_terms_for_channels_are_settings(tmp_path: Path) -> None:
    config = load(
        tmp_path, 'fee_base = "2sat"\nfee_proportional_millionths = 500\naccept_private = false\n', min_depth="2"
    )
    assert (config.policy.fee_base, config.policy.fee_proportional_millionths) == (Msat(2000), 500)
    assert (config.policy.accept_private, config.policy.min_depth) == (False, 2)
    assert load(tmp_path, "mainnet_cap = '0.005btc'").mainnet_cap == Sat(500_000)


@pytest.mark.parametrize("where", ["file", "environment", "flag"])
def test_an_unknown_name_is_refused_with_the_nearest_one(tmp_path: Path, where: str) -> None:
    if where == "file":
        said = refusal(tmp_path, "fee_bass = 1\n")
        assert str(tmp_path / "salama.toml") in said
    elif where == "environment":
        said = refusal(tmp_path, environment={"SALAMA_FEE_BASS": "1"})
    else:
        said = refusal(tmp_path, fee_bass="1")
    assert said.startswith("unknown_setting: ")
    for word in ("fee_bass", where, "Did you mean fee_base?"):
        assert word in said
    assert "`salama settings`" in refusal(tmp_path, "", qqqqqqqqq="1")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("alias = 5", "no value for alias"),
        ("[alias]\nname = 'x'", "no value for alias"),
        ("poll_seconds = true", "no value for poll_seconds"),
        ("poll_seconds = inf", "no value for poll_seconds"),
        ("poll_seconds = nan", "no value for poll_seconds"),
        ("listen = 9735", "HOST:PORT"),
        ("listen = '1.2.3.4:\u0665'", "HOST:PORT"),
        ("mainnet_cap = '1'", ""),
        ("mainnet_cap = '1 dollar'", "unit"),
        ("mainnet_cap = '5msat'", "whole satoshis"),
        ("fee_base = 2100000000000000001", "no value"),
        ("max_queued_adds = -1", "no value"),
        (f"max_queued_adds = {'9' * 5000}", "no TOML"),
        ("alias = 'a\u202eb'", "no value for alias"),
        ("network = 'signet'", "--network"),
        ("alias", "no TOML"),
        ("alias = 'a'\nalias = 'b'", "no TOML"),
        ("x = " + "[" * 5000, "no TOML"),
    ],
)
def test_a_file_that_makes_no_sense(tmp_path: Path, file: str, words: str) -> None:
    if words:
        assert words in refusal(tmp_path, file)
    else:
        load(tmp_path, file)


def test_a_secret_is_not_for_the_command_line_and_never_shown(tmp_path: Path) -> None:
    said = refusal(tmp_path, bitcoind_password="hunter2")
    assert "command line" in said and "hunter2" not in said
    assert "hunter" not in refusal(tmp_path, 'bitcoind_password = ["hunter2"]\n')
    config = load(tmp_path, 'bitcoind_password = "hunter2"\n')
    assert config.bitcoind_password == "hunter2"
    assert "hunter2" not in repr(config)


def test_a_file_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(CommandRefused, match="Is a directory"):
        read_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CommandRefused, match="no file"):
        read_file(tmp_path / "pipe")
    with pytest.raises(CommandRefused, match="No such file"):
        load_config("regtest", tmp_path, file=tmp_path / "missing.toml")
    (tmp_path / "big").write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(CommandRefused, match="larger"):
        read_file(tmp_path / "big")


def test_a_network_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(CommandRefused) as refused:
        load_config("main", tmp_path)
    assert refused.value.code == "bad_network" and "mainnet" in refused.value.remedy


printed = st.text(max_size=40)
scalars = st.one_of(printed, st.integers(), st.floats(), st.booleans(), st.lists(printed, max_size=3))


@given(name=st.sampled_from(sorted(SETTINGS)), value=scalars)
def test_any_value_is_taken_or_refused(name: str, value: object) -> None:
    """Parsing a value has two ends, and neither is a traceback."""
    setting = SETTINGS[name]
    try:
        setting.parse(value)
    except ValueError as unsuitable:
        assert getattr(unsuitable, "wanted", "").endswith(".")


@given(environment=st.dictionaries(printed.map(lambda n: f"SALAMA_{n}"), printed, max_size=3))
def test_any_environment_is_taken_or_refused(environment: dict[str, str]) -> None:
    try:
        load_config("regtest", Path("/nonexistent"), environment=environment)
    except CommandRefused as refused:
        assert refused.code in ("unknown_setting", "bad_setting")
        assert refused.reason.isprintable()
