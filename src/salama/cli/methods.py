"""Makes a terminal command from each method of the schema, and shows what comes back."""

from __future__ import annotations

import json
from typing import Any

import click
import msgspec

from salama.api.method import Method
from salama.cli.examples import EXAMPLES
from salama.cli.options import answer_of, default_network, wants_json

_CLICK_TYPES: dict[type, click.ParamType[Any]] = {
    msgspec.inspect.IntType: click.INT,
    msgspec.inspect.FloatType: click.FLOAT,
    msgspec.inspect.BoolType: click.BOOL,
    msgspec.inspect.StrType: click.STRING,
}


def method_command(method: Method) -> click.Command:
    """The command of ``method``: its positional parameters as arguments, the others as options."""
    info = msgspec.inspect.type_info(method.params)
    assert isinstance(info, msgspec.inspect.StructType)
    parameters: list[click.Parameter] = []
    words_of: dict[str, str] = {}
    for field in info.fields:
        kind, words = field.type, ""
        if isinstance(kind, msgspec.inspect.Metadata):
            words = (kind.extra_json_schema or {}).get("description", "")
            kind = kind.type
        click_type = _CLICK_TYPES[type(kind)]
        if field.name in method.positional:
            words_of[field.name] = words
            given: dict[str, Any] = {} if field.required else {"default": field.default}
            parameters.append(click.Argument([field.name], type=click_type, required=field.required, **given))
        elif isinstance(kind, msgspec.inspect.BoolType):
            parameters.append(
                click.Option(["--" + field.name.replace("_", "-")], is_flag=True, default=False, help=words)
            )
        else:
            parameters.append(
                click.Option(
                    ["--" + field.name.replace("_", "-")],
                    type=click_type,
                    required=field.required,
                    show_default=not field.required and bool(field.default),
                    help=words,
                    **({} if field.required else {"default": field.default}),
                )
            )
    parameters += [
        click.Option(["--dir", "directory_"], type=click.Path(file_okay=False), help="Data directory of the node."),
        click.Option(["--network", "network_"], default=default_network, help="Network of the default data directory."),
        click.Option(["--json", "json_"], is_flag=True, help="Print JSON also on a terminal."),
    ]

    def invoke(directory_: str | None, network_: str, json_: bool, **params: Any) -> None:
        as_json = wants_json(json_)
        result = answer_of(directory_, network_, as_json, method.name, params)
        if as_json:
            click.echo(json.dumps(result, indent=2))
        else:
            from salama.cli.show import show

            show(method, result)

    return click.Command(method.name, params=parameters, callback=invoke, help=_help(method, words_of))


def _help(method: Method, words_of: dict[str, str]) -> str:
    """The summary, what each argument is, and examples."""
    parts = [method.summary]
    told = [(name.upper(), words_of[name]) for name in method.positional if words_of[name]]
    if told:
        width = max(len(name) for name, _ in told)
        parts.append("\b\n" + "\n".join(f"{name:<{width}}  {words}" for name, words in told))
    if method.name in EXAMPLES:
        parts.append("\b\nFor example:\n" + "\n".join(f"  salama {line}" for line in EXAMPLES[method.name]))
    return "\n\n".join(parts)
