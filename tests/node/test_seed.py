"""The words on disk: made, sealed, changed, restored; every damage is a sentence, and nothing of them is ever shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salama.base.machine import CommandRefused
from salama.node import seed as seeds
from salama.node import seed_file
from salama.node.seed import change_passphrase, load_or_make_seed, load_seed, new_seed, read_file, write_seed
from salama.node.seed_file import MalformedSeed, Sealed, Seed, WrongPassphrase, parse, render, seal

WORDS = "abandon " * 11 + "about"
TREZOR = (
    "c55257c360c07c72029aebc1b53c05ed0362ada38ead3e3e9efa3708e53495531f09a6987599d18264c1e1c92f2cf141630c7a3c4ab7c81b2f"
    "001698e7463b04"
)
SALT = bytes(range(16))


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds.seal, "__defaults__", (16,))


def sealed(seed: Seed = Seed(WORDS, "", 5), passphrase: str = "hunter2") -> Sealed:  # noqa: B008
    return seal(seed, passphrase, SALT, 16)


@pytest.mark.parametrize("count", [12, 24])
def test_words_are_made_and_found_again(tmp_path: Path, count: int) -> None:
    made = new_seed(count)
    assert len(made.words.split()) == count and not made.restored and made.birthday > 1_700_000_000
    write_seed(tmp_path, made)
    assert load_seed(tmp_path) == made
    assert load_or_make_seed(tmp_path) == made.bytes()
    assert (tmp_path / "seed.words").stat().st_mode & 0o777 == 0o600
    assert seeds.rescan_from(tmp_path) is None


def test_other_numbers_of_words_are_refused() -> None:
    with pytest.raises(CommandRefused, match="12 or 24"):
        new_seed(15)


def test_a_file_of_nothing_but_words_is_read(tmp_path: Path) -> None:
    (tmp_path / "seed.words").write_text(f"  {WORDS} \n")
    assert load_seed(tmp_path) == Seed(WORDS)


def test_the_extension_makes_another_seed() -> None:
    seed = Seed(WORDS, "TREZOR")
    assert seed.bytes().hex() == TREZOR  # BIP 39's own figure
    assert seed.bytes() != Seed(WORDS).bytes()


@settings(max_examples=25, deadline=None)
@given(
    st.text(max_size=40), st.integers(0, seed_file.MAX_BIRTHDAY - 1), st.booleans(), st.text(min_size=1, max_size=30)
)
def test_files_come_back(extension: str, birthday: int, restored: bool, passphrase: str) -> None:
    seed = Seed(WORDS, extension.encode("utf-8", "ignore").decode(), birthday, restored)
    passphrase = passphrase.encode("utf-8", "ignore").decode() or "x"
    assert parse(render(seed)) == seed
    found = parse(render(sealed(seed, passphrase)))
    assert isinstance(found, Sealed) and (found.birthday, found.restored) == (birthday, restored)
    assert found.open(passphrase) == seed
    with pytest.raises(WrongPassphrase):
        found.open(passphrase + "!")


def test_a_sealed_file_holds_no_word_in_the_clear() -> None:
    assert b"abandon" not in render(sealed()) and b"about" not in render(sealed())


def test_every_bit_of_a_sealed_file_counts() -> None:
    """Also of what stands outside the seal: nobody can turn a made seed into a restored one, or move its birthday."""
    whole = render(sealed())
    for at in range(len(whole) - 1):
        bent = bytearray(whole)
        bent[at] ^= 1
        try:
            opened = parse(bytes(bent))
            found = opened.open("hunter2") if isinstance(opened, Sealed) else opened
        except (MalformedSeed, WrongPassphrase):
            continue
        # Upper case of a hexadecimal digit means the same; nothing else may pass.
        assert whole.lower() == bytes(bent).lower() and found == Seed(WORDS, "", 5)


def test_every_truncation_is_refused() -> None:
    for whole in (render(sealed()), render(Seed(WORDS, "x", 7))):
        for length in range(len(whole) - 1):
            try:
                opened = parse(whole[:length])
                if isinstance(opened, Sealed):
                    opened.open("hunter2")
            except (MalformedSeed, WrongPassphrase):
                continue
            assert opened == Seed(WORDS, "", 7)  # cut between two lines


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.text(alphabet='version1 birthdawmescryptl0\n"', max_size=120).map(str.encode))
def test_any_bytes_are_a_seed_or_a_sentence(data: bytes) -> None:
    try:
        parse(data)
    except MalformedSeed as wrong:
        assert str(wrong)


def test_a_seal_that_asks_for_too_much_work_is_refused() -> None:
    text = render(sealed()).decode()
    for cost in ("2097152", "17", "0", "1", "-16", "9" * 400):
        with pytest.raises(MalformedSeed):
            parse(text.replace("scrypt 16 ", f"scrypt {cost} ").encode())
    for other in ("scrypt 16 9 1 ", "scrypt 16 8 2 ", "scrypt 16 8 1 00"):
        with pytest.raises(MalformedSeed):
            parse(text.replace("scrypt 16 8 1 ", other).encode())


def test_a_sealed_directory_needs_its_passphrase(tmp_path: Path) -> None:
    made = new_seed()
    write_seed(tmp_path, made, "correct horse")
    assert isinstance(read_file(tmp_path), Sealed)
    with pytest.raises(CommandRefused) as locked:
        load_or_make_seed(tmp_path)
    assert locked.value.code == "seed_locked"
    with pytest.raises(WrongPassphrase):
        load_or_make_seed(tmp_path, "correct horses")
    assert load_or_make_seed(tmp_path, "correct horse") == made.bytes()


def test_passphrases_are_what_a_person_sees(tmp_path: Path) -> None:
    """An accent is one character on one keyboard and two on another."""
    write_seed(tmp_path, new_seed(), "caf\u00e9")
    assert load_seed(tmp_path, "cafe\u0301")


def test_a_passphrase_is_changed_and_taken_away(tmp_path: Path) -> None:
    made = new_seed()
    write_seed(tmp_path, made, "one")
    with pytest.raises(WrongPassphrase):
        change_passphrase(tmp_path, "other", "two")
    change_passphrase(tmp_path, "one", "two")
    with pytest.raises(WrongPassphrase):
        load_seed(tmp_path, "one")
    assert load_seed(tmp_path, "two") == made
    change_passphrase(tmp_path, "two", "")
    assert load_seed(tmp_path) == made
    assert [one.name for one in tmp_path.iterdir()] == ["seed.words"]


class Crash(BaseException):
    pass


@pytest.mark.parametrize("moment", ["open", "fsync", "rename"])
def test_a_crash_while_the_passphrase_changes_leaves_a_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    made = new_seed()
    write_seed(tmp_path, made, "one")

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as doomed:
        doomed.setattr(Path if moment == "rename" else os, moment, crash)
        with pytest.raises(Crash):
            change_passphrase(tmp_path, "one", "two")
    assert load_seed(tmp_path, "one") == made
    change_passphrase(tmp_path, "one", "two")
    assert load_seed(tmp_path, "two") == made


def test_the_file_is_synced_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("sync"), sync(fd))[1])
    monkeypatch.setattr(Path, "rename", lambda a, b: (done.append("rename"), rename(a, b))[1])
    write_seed(tmp_path, new_seed())
    assert done == ["sync", "rename", "sync"]


def test_a_seed_is_never_overwritten_by_accident(tmp_path: Path) -> None:
    made = new_seed()
    write_seed(tmp_path, made)
    with pytest.raises(CommandRefused) as refused:
        write_seed(tmp_path, new_seed())
    assert refused.value.code == "seed_exists" and load_seed(tmp_path) == made


def test_nothing_of_a_seed_is_shown() -> None:
    for one in (Seed(WORDS, "the extension"), sealed()):
        for text in (repr(one), str(one), f"{one}", f"{[one]}"):
            assert "abandon" not in text and "extension" not in text.replace("extension=", "")
            assert SALT.hex() not in text
    with pytest.raises(MalformedSeed) as wrong:
        parse(("zoo " * 12).encode())
    assert "zoo" not in str(wrong.value)


def test_where_a_passphrase_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (seeds.FILE_ENVIRONMENT, "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stdin", None)
    assert seeds.ask_passphrase(tmp_path) == ""  # no seed yet
    write_seed(tmp_path, new_seed(), "secret")
    assert seeds.ask_passphrase(tmp_path) == ""  # nobody to ask: the start is refused with a sentence
    (tmp_path / seeds.CREDENTIAL).write_text("from systemd\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert seeds.ask_passphrase(tmp_path) == "from systemd"
    (tmp_path / "file").write_text("from a file\r\n")
    monkeypatch.setenv(seeds.FILE_ENVIRONMENT, str(tmp_path / "file"))
    assert seeds.ask_passphrase(tmp_path) == "from a file"
    monkeypatch.setenv(seeds.FILE_ENVIRONMENT, str(tmp_path / "none"))
    with pytest.raises(CommandRefused, match="cannot be read"):
        seeds.ask_passphrase(tmp_path)
    write_seed(tmp_path, load_seed(tmp_path, "secret"), replace=True)
    assert seeds.ask_passphrase(tmp_path) == ""  # not sealed: nothing is asked


def test_words_are_restored_shown_and_sealed_on_the_terminal(tmp_path: Path) -> None:
    where = ("--dir", str(tmp_path / "node"))

    def run(*arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SALAMA_PASS")}
        command = [sys.executable, "-m", "salama", *arguments, *where]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, input=said, env=environment
        )

    bad = run("init", "--restore", said="abandon zoo\n")
    assert bad.returncode == 1 and "no valid words" in bad.stderr and "zoo" not in bad.stderr + bad.stdout
    done = run(
        "init", "--restore", "--birthday", "2023-01-02", "--extension", "--seal", said=f"{WORDS}\nTREZOR\npass\n"
    )
    assert done.returncode == 0 and "abandon" not in done.stdout + done.stderr
    assert run("init").returncode == 1  # never twice
    assert seeds.rescan_from(tmp_path / "node") == 1672617600
    assert load_or_make_seed(tmp_path / "node", "pass").hex() == TREZOR

    assert run("words", said="no\npass\n").stdout == ""
    wrong = run("words", said="yes\nwrong\n")
    assert wrong.returncode == 1 and "does not open" in wrong.stderr and wrong.stdout == ""
    shown = run("words", said="yes\npass\n").stdout
    assert [line.split()[1] for line in shown.splitlines()[:12]] == WORDS.split()
    assert "TREZOR" in shown and "born 2023-01-02" in shown

    assert run("passphrase", said="pass\nother\n").returncode == 0
    assert run("words", "--yes", said="pass\n").returncode == 1
    assert run("passphrase", "--remove", said="other\n").returncode == 0
    assert run("words", "--yes").returncode == 0
