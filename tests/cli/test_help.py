"""What a newcomer meets: help with examples that work, the nearest name, a sentence where there is nothing to show."""

from __future__ import annotations

import io
import shlex

import click
import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from salama.api.schema import ALIASES, METHODS
from salama.cli.examples import EXAMPLES
from salama.cli.main import salama
from salama.cli.show import show

OWN = {"directory_", "network_", "json_"}


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_example_is_taken(name: str) -> None:
    command = salama.commands[name]
    for example in EXAMPLES[name]:
        first, *words = shlex.split(example)
        assert first == name
        given = command.make_context(name, words).params
        msgspec.convert({key: value for key, value in given.items() if key not in OWN}, METHODS[name].params)


def test_whatever_must_be_given_has_an_example() -> None:
    for method in METHODS.values():
        info = msgspec.inspect.type_info(method.params)
        assert isinstance(info, msgspec.inspect.StructType)
        needs = any(field.required for field in info.fields)
        assert not needs or method.name in EXAMPLES or method.name == "decode", method.name


def test_help_says_what_an_argument_is_and_shows_an_example() -> None:
    told = CliRunner().invoke(salama, ["withdraw", "--help"], prog_name="salama").output
    assert "ADDRESS  where the coins go" in told
    assert "salama withdraw bcrt1q" in told


@pytest.mark.parametrize("name", [one.name for one in METHODS.values() if "feerate" in one.params.__struct_fields__])
def test_help_says_in_which_unit_a_feerate_is(name: str) -> None:
    """What is 200 to ``stress`` is 50,000 to ``withdraw``."""
    told = CliRunner().invoke(salama, [name, "--help"], prog_name="salama").output
    unit = "sat per virtual byte (sat/vB)" if name == "stress" else "sat per 1000 weight (250 are 1 sat/vB)"
    assert unit in " ".join(told.split())


@pytest.mark.parametrize(
    "wrong, near", [("withdrawl", "withdraw"), ("ledgr", "ledger"), ("listpay", "listpays"), ("zzzzz", "")]
)
def test_a_command_that_does_not_exist_is_told_with_those_like_it(wrong: str, near: str) -> None:
    done = CliRunner().invoke(salama, [wrong], prog_name="salama")
    assert done.exit_code == 2 and f"There is no command {wrong!r}." in done.output
    assert (f"Did you mean {near}" in done.output) if near else ("Did you mean" not in done.output)


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_a_name_that_other_nodes_use_leads_to_ours_and_says_so_once(alias: str) -> None:
    done = CliRunner().invoke(salama, [alias, "--help"], prog_name="salama")
    assert done.exit_code == 0, done.output
    (said,) = [line for line in done.output.splitlines() if line.startswith("(here this is called")]
    assert CliRunner().invoke(salama, [*said.split("`")[1].split(), "--help"], prog_name="salama").exit_code == 0


def test_every_command_has_help_that_fits() -> None:
    def each(group: click.Group, before: tuple[str, ...]) -> None:
        for name, command in group.commands.items():
            done = CliRunner().invoke(salama, [*before, name, "--help"], prog_name="salama")
            assert done.exit_code == 0 and name in done.output
            if isinstance(command, click.Group):
                each(command, (*before, name))

    each(salama, ())


def test_an_empty_list_is_a_sentence() -> None:
    console = Console(file=io.StringIO(), width=80)
    show(METHODS["channels"], {"channels": [], "next_cursor": ""}, console)
    assert isinstance(console.file, io.StringIO) and console.file.getvalue() == "No channels.\n"
