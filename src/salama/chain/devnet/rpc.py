"""JSON-RPC as bitcoind speaks it: requests taken apart, parameters checked, errors with its codes.

The calls themselves are in ``chain_calls``, ``mempool_calls`` and ``mining_calls``; each registers in a table here.
Whatever bytes arrive, the answer is a result or an error object.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from inspect import isawaitable
from typing import Any, Final, TypeVar, cast

import msgspec

from salama.base.ids import BlockHash, OutPoint, Txid
from salama.base.units import MAX_SAT
from salama.bitcoin.tx import MalformedTx, Tx
from salama.chain.devnet.regtest import Regtest

MISC_ERROR: Final = -1
TYPE_ERROR: Final = -3
INVALID_ADDRESS_OR_KEY: Final = -5
INVALID_PARAMETER: Final = -8
DESERIALIZATION_ERROR: Final = -22
VERIFY_ERROR: Final = -25
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INTERNAL_ERROR: Final = -32603
PARSE_ERROR: Final = -32700

MAX_BATCH: Final = 10_000
MAX_TX_HEX: Final = 8_000_000
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})*")

log: Final = logging.getLogger(__name__)
H = TypeVar("H", Txid, BlockHash)
Handler = Callable[["Context", "Params"], Any]


class RpcRefusal(Exception):
    """An error object to answer with."""

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(message)


@dataclass(slots=True)
class Context:
    """What calls work on. ``stop`` asks the server to end; ``new_tip`` waits for the next change of the tip."""

    net: Regtest
    started: float
    now: Callable[[], float]
    stop: Callable[[], None]
    new_tip: Callable[[float], Awaitable[None]]
    # Satoshis per 1000 virtual bytes that estimatesmartfee shall answer; None: no data, as on a fresh regtest.
    fee_estimate: int | None = None


class Params:
    """Parameters by name, checked as they are read."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def get(self, name: str) -> Any:
        """The bare value, None if absent."""
        return self._values.get(name)

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def text(self, name: str) -> str:
        return cast(str, _typed(self._values.get(name), str, name))

    def items(self, name: str) -> list[Any]:
        return cast(list[Any], _typed(self._values.get(name), list, name))

    def flag(self, name: str, default: bool) -> bool:
        value = self._values.get(name)
        return default if value is None else _typed(value, bool, name)

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number inside ``low``..``high``."""
        value = self._values.get(name)
        if value is None and default is not None:
            return default
        return integer(value, name, low, high)

    def hash(self, name: str, kind: type[H]) -> H:
        return parse_hash(self._values.get(name), name, kind)

    def tx(self, name: str) -> Tx:
        return parse_tx(self._values.get(name))

    def amount(self, name: str, default: int) -> int:
        """A bitcoin amount (or a BTC/kvB rate), as satoshis."""
        value = self._values.get(name)
        return default if value is None else parse_amount(value, name)


@dataclass(frozen=True, slots=True)
class Call:
    """One method: its parameters in order, how many of them must be there, and what runs."""

    name: str
    params: tuple[str, ...]
    required: int
    run: Handler

    @property
    def usage(self) -> str:
        words = [f'"{p}"' if i < self.required else f'( "{p}" )' for i, p in enumerate(self.params)]
        return " ".join([self.name, *words])


CALLS: Final[dict[str, Call]] = {}


def call(name: str, *params: str) -> Callable[[Handler], Handler]:
    """Registers a handler; a parameter that ends in ``?`` may be left out."""

    def register(run: Handler) -> Handler:
        required = sum(not p.endswith("?") for p in params)
        CALLS[name] = Call(name, tuple(p.rstrip("?") for p in params), required, run)
        return run

    return register


def _typed(value: Any, kind: type[Any], name: str) -> Any:
    if type(value) is not kind:
        shown = {str: "string", list: "array", bool: "bool", dict: "object"}.get(kind, kind.__name__)
        raise RpcRefusal(TYPE_ERROR, f"JSON value of type {_json_type(value)} is not of expected type {shown} ({name})")
    return value


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    kinds: dict[type, str] = {str: "string", bool: "bool", list: "array", dict: "object"}
    return kinds.get(type(value), "number")


def integer(value: Any, name: str, low: int, high: int) -> int:
    """A JSON number that is whole and inside ``low``..``high``."""
    if type(value) is not int:
        raise RpcRefusal(TYPE_ERROR, f"JSON value of type {_json_type(value)} is not of expected type number ({name})")
    if not low <= value <= high:
        raise RpcRefusal(INVALID_PARAMETER, f"{name} out of range")
    return value


def parse_hash(value: Any, name: str, kind: type[H]) -> H:
    text = _typed(value, str, name)
    if len(text) != 64:
        raise RpcRefusal(INVALID_PARAMETER, f"{name} must be of length 64 (not {len(text)})")
    if not _HEX.fullmatch(text):
        raise RpcRefusal(INVALID_PARAMETER, f"{name} must be hexadecimal string")
    return kind.parse(text)


def parse_outpoint(value: Any) -> OutPoint:
    """An object with ``txid`` and ``vout``."""
    fields = _typed(value, dict, "outpoint")
    return OutPoint(parse_hash(fields.get("txid"), "txid", Txid), integer(fields.get("vout"), "vout", 0, 0xFFFFFFFF))


def parse_tx(value: Any, word: str = "TX decode failed. Make sure the tx has at least one input.") -> Tx:
    text = _typed(value, str, "hexstring")
    if len(text) > MAX_TX_HEX or not _HEX.fullmatch(text):
        raise RpcRefusal(DESERIALIZATION_ERROR, word)
    try:
        return Tx.decode(bytes.fromhex(text))
    except MalformedTx:
        raise RpcRefusal(DESERIALIZATION_ERROR, word) from None


def parse_amount(value: Any, name: str) -> int:
    """BTC, as a number or a string of one, to satoshis."""
    if type(value) not in (int, str, Decimal) or (type(value) is str and len(value) > 32):
        raise RpcRefusal(TYPE_ERROR, f"Amount is not a number or string ({name})")
    try:
        number = Decimal(value)
        if not number.is_finite() or not 0 <= number <= MAX_SAT // 100_000_000:
            raise RpcRefusal(TYPE_ERROR, f"Amount out of range ({name})")
        sat = number * 100_000_000
        if sat != sat.to_integral_value():
            raise RpcRefusal(TYPE_ERROR, f"Invalid amount ({name})")
    except InvalidOperation:
        raise RpcRefusal(TYPE_ERROR, f"Invalid amount ({name})") from None
    return int(sat)


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        # An exponent beyond what Decimal holds: no amount, and no reason to fail the whole request.
        return Decimal("NaN")


_decoder: Final = msgspec.json.Decoder(float_hook=_decimal)
_encoder: Final = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes to send and the HTTP status that goes with them."""

    status: int
    body: bytes


def answer(context: Context, body: bytes) -> Answer | Awaitable[Answer]:
    """The answer to one HTTP body, which holds a request or a batch of them. At once unless a call waits."""
    try:
        message = _decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError):
        return Answer(500, _error(None, PARSE_ERROR, "Parse error", old=True))
    if isinstance(message, list):
        return _batch(context, message)
    return _single(context, message)


def _single(context: Context, message: Any) -> Answer | Awaitable[Answer]:
    ident, old = None, True
    try:
        ident, old, handler, params = _request(message)
        result = handler.run(context, params)
        if isawaitable(result):
            return _later(ident, old, result)
        return Answer(200, _result(ident, result, old))
    except Exception as problem:  # whatever a caller provokes is answered, never fatal
        return _refused(ident, old, problem)


async def _later(ident: Any, old: bool, result: Awaitable[Any]) -> Answer:
    try:
        return Answer(200, _result(ident, await result, old))
    except Exception as problem:  # as above
        return _refused(ident, old, problem)


async def _batch(context: Context, messages: list[Any]) -> Answer:
    if len(messages) > MAX_BATCH:
        return Answer(500, _error(None, INVALID_REQUEST, f"more than {MAX_BATCH} requests in a batch", old=True))
    parts: list[bytes] = []
    for message in messages:
        one = _single(context, message)
        parts.append((one if isinstance(one, Answer) else await one).body)
    return Answer(200, b"[" + b",".join(parts) + b"]")


def _request(message: Any) -> tuple[Any, bool, Call, Params]:
    if not isinstance(message, dict):
        raise RpcRefusal(INVALID_REQUEST, "Invalid Request object")
    ident = message.get("id")
    old = message.get("jsonrpc") != "2.0"
    name = message.get("method")
    try:
        if not isinstance(name, str):
            raise RpcRefusal(INVALID_REQUEST, "Method must be a string" if name is not None else "Missing method")
        found = CALLS.get(name)
        if found is None:
            raise RpcRefusal(METHOD_NOT_FOUND, "Method not found")
        return ident, old, found, _params(found, message.get("params"))
    except RpcRefusal as refusal:
        raise _Known(ident, old, refusal) from None


class _Known(Exception):
    """A refusal whose request could at least be identified."""

    def __init__(self, ident: Any, old: bool, refusal: RpcRefusal) -> None:
        self.ident, self.old, self.refusal = ident, old, refusal
        super().__init__()


def _params(found: Call, given: Any) -> Params:
    if given is None:
        given = []
    if isinstance(given, dict):
        values = dict(given)
        for name, value in zip(found.params, _typed(values.pop("args", []), list, "args"), strict=False):
            values.setdefault(name, value)
        unknown = values.keys() - set(found.params)
        if unknown:
            raise RpcRefusal(INVALID_PARAMETER, f"Unknown named parameter {min(unknown)[:100]}")
    elif isinstance(given, list):
        if len(given) > len(found.params):
            raise RpcRefusal(MISC_ERROR, found.usage)
        values = dict(zip(found.params, given, strict=False))
    else:
        raise RpcRefusal(INVALID_REQUEST, "Params must be an array or object")
    if any(values.get(name) is None for name in found.params[: found.required]):
        raise RpcRefusal(MISC_ERROR, found.usage)
    return Params(values)


def _refused(ident: Any, old: bool, problem: Exception) -> Answer:
    if isinstance(problem, _Known):
        ident, old, problem = problem.ident, problem.old, problem.refusal
    if isinstance(problem, RpcRefusal):
        code, message = problem.code, problem.message
    else:
        log.error("a call failed by our own fault", exc_info=problem)
        code, message = INTERNAL_ERROR, f"internal error: {type(problem).__name__}"
    status = {INVALID_REQUEST: 400, METHOD_NOT_FOUND: 404}.get(code, 500) if old else 200
    return Answer(status, _error(ident, code, message, old))


def _result(ident: Any, result: Any, old: bool) -> bytes:
    shown: dict[str, Any] = {"result": result, "error": None} if old else {"jsonrpc": "2.0", "result": result}
    return _encoder.encode({**shown, "id": _echo(ident)})


def _error(ident: Any, code: int, message: str, old: bool) -> bytes:
    error = {"code": code, "message": message}
    shown: dict[str, Any] = {"result": None, "error": error} if old else {"jsonrpc": "2.0", "error": error}
    return _encoder.encode({**shown, "id": _echo(ident)})


def _echo(ident: Any) -> Any:
    """The id of a request, if it is one that can be written back."""
    if type(ident) is int:
        return ident if -(1 << 63) <= ident < 1 << 64 else None
    return ident if type(ident) is str else None
