"""Errors of the API: a stable code, a sentence for a person, a remedy; the same on every face."""

from __future__ import annotations

from typing import Any

from salama.base.machine import CommandRefused

# JSON-RPC 2.0 numbers; everything that the node itself refuses is REFUSED with a code of ours in ``data``.
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
REFUSED = 1

INTERNAL = CommandRefused(
    "internal_error",
    "The node failed at this and nothing is known to have changed.",
    "Look into the node's log and report it.",
)


def as_json(number: int, error: CommandRefused) -> dict[str, Any]:
    """The ``error`` member of a JSON-RPC answer."""
    reason, remedy = sentence(error.reason), sentence(error.remedy)
    return {"code": number, "message": reason, "data": {"code": error.code, "reason": reason, "remedy": remedy}}


def sentence(text: str) -> str:
    """What a machine says in passing, with a capital letter and a full stop."""
    if not any(character.isdigit() for character in text.partition(" ")[0]):
        # The name of a transaction is copied as it is.
        text = text[:1].upper() + text[1:]
    return text if not text or text[-1] in ".?!" else text + "."


def from_json(error: dict[str, Any]) -> CommandRefused:
    """The inverse of ``as_json``, for clients; tolerates any server."""
    data = error.get("data")
    data = data if isinstance(data, dict) else {}
    return CommandRefused(
        str(data.get("code", "error")),
        str(data.get("reason", error.get("message", "unknown error"))),
        str(data.get("remedy", "")),
    )
