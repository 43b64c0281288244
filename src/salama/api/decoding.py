"""What is this? One function for the terminal and for the node's method `decode`.

A word before a colon decides (``message:``, ``tx:``, ``script:``, ``features:``, ``failure:``, ``invoice:``,
``address:``). Without one, text is hex if it is hex of whole bytes, an invoice if it begins with ``ln``, else an
address. Hex is taken for the first of these that fits:

1. a message of a type we know that decodes to its last byte;
2. a whole transaction;
3. the script of an output in a standard form, unless its program would be the hash of a known chain;
4. if its first two bytes are a type of message we know: nothing, the message is malformed and we say how;
5. a failure message of a known code that decodes to its last byte, with no record behind it;
6. a feature vector of at most 32 bytes, each of whose bits we know;
7. a script whose opcodes all have a name and whose pushes are all whole;
8. a message of an unknown odd type, which every node ignores.

Pure: no clock (so nobody is told that an invoice expired), no network, no key.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from salama.api.plain import plain, plain_extension, plain_features, plain_fields
from salama.api.scripts_named import addresses_of, describe_script, is_plausible, output_name
from salama.base.machine import CommandRefused
from salama.bitcoin import address
from salama.bitcoin.networks import NETWORKS
from salama.bitcoin.script import witness_program
from salama.bitcoin.tx import MalformedTx, Tx
from salama.codec.fields import Malformed
from salama.codec.message import MAX_MESSAGE, MESSAGES, Message, UnknownMessage, decode_message
from salama.codec.tlv import decode_records
from salama.invoices import bolt11, bolt11_form
from salama.wire import FAILURES, FailureMessage, Features, decode_failure
from salama.wire.failures import BADONION, NODE, PERM, UPDATE

MAX_ITEM: Final = 1_000_000
"""Characters; the hex of the largest transaction that nodes relay has 800,000."""
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})+")
_PREFIX: Final = re.compile(
    r"(message|tx|transaction|script|features|failure|invoice|lightning|address|bitcoin):", re.IGNORECASE
)
_GUESSED_FEATURES: Final = 32
_CHAIN_HASHES: Final = frozenset(network.chain_hash for network in NETWORKS.values())

Decoded = dict[str, Any]


def decode_item(text: str) -> Decoded:
    """``kind``, ``name``, ``fields``, ``encoded`` and what else belongs to the kind; raises only CommandRefused."""
    if len(text) > MAX_ITEM:
        raise CommandRefused(
            "too_long", f"The item has more than {MAX_ITEM:,} characters.", "Decode its parts one by one."
        )
    text = text.strip()
    if not text:
        raise CommandRefused("empty", "There is nothing to decode.", "")
    prefix = _PREFIX.match(text)
    if prefix is not None:
        word, rest = prefix[1].lower(), text[prefix.end() :].strip()
        if word in ("invoice", "lightning"):
            return _invoice(rest)
        if word in ("address", "bitcoin"):
            return _address(rest)
        return _FORCED[word](_bytes(rest))
    # Some hex begins with "1" or "3" as old addresses do, but no address is hex: its checksum would have to agree.
    if _HEX.fullmatch(text):
        return _guess(bytes.fromhex(text))
    if text[:2].lower() == "ln" and "1" in text:
        return _invoice(text)
    return _address(text)


def _bytes(text: str) -> bytes:
    if text and not _HEX.fullmatch(text):
        raise CommandRefused("bad_hex", "What follows the prefix is not the hex of whole bytes.", "")
    return bytes.fromhex(text)


def _guess(data: bytes) -> Decoded:
    kind = int.from_bytes(data[:2], "big") if len(data) >= 2 else -1
    problem: CommandRefused | None = None
    if kind in MESSAGES:
        try:
            return _message(data)
        except CommandRefused as refused:
            problem = refused
    try:
        return _transaction(data)
    except CommandRefused:
        pass
    if _is_output(data):
        return _script(data)
    if problem is not None:
        raise problem
    if kind in FAILURES:
        try:
            failure = decode_failure(data)
        except Malformed:
            pass
        else:
            if not failure.extension:
                return _describe_failure(failure)
    if len(data) <= _GUESSED_FEATURES:
        features = Features.decode(data)
        if features and not plain_features(features)["unknown"]:
            return _features(data)
    if is_plausible(data):
        return _script(data)
    if kind & 1 and kind > 0:
        return _message(data)
    raise CommandRefused(
        "not_recognised",
        "These bytes are no message of a type that may be unknown, and nothing else that I know.",
        "Name the kind: message:, tx:, script:, features: or failure: before the hex.",
    )


def _is_output(data: bytes) -> bool:
    if output_name(data) is None:
        return False
    program = witness_program(data)
    # A message that was cut off behind its chain_hash looks like an output; no hash of a script is one of these.
    return program is None or program[1] not in _CHAIN_HASHES


# --- one function a kind --------------------------------------------------------------------------------------------


def _message(data: bytes) -> Decoded:
    name = "message"
    try:
        if len(data) >= 2 and (known := MESSAGES.get(data[0] << 8 | data[1])) is not None:
            name = known.NAME
        if len(data) > MAX_MESSAGE:
            raise Malformed("more than 65535 bytes")
        message = decode_message(data)
    except Malformed as error:
        raise CommandRefused("malformed_message", f"Malformed {name}: {_where(error)}.", "") from None
    if isinstance(message, UnknownMessage):
        if not message.is_odd:
            raise CommandRefused(
                "unknown_even_message",
                f"No message has the type {message.type}, and an even type must not be ignored.",
                "",
            )
        fields: dict[str, Any] = {"payload": message.payload.hex()}
        return _decoded("message", message.NAME, fields, message.encode(), type=message.type, extension={})
    fields = plain_fields(message)
    extension = plain_extension(message.extension)
    if "tail" in fields:
        extension = _tail(message, fields)
    return _decoded("message", message.NAME, fields, message.encode(), type=message.TYPE, extension=extension)


def _tail(message: Message, fields: dict[str, Any]) -> dict[str, str]:
    """What follows a signed message: shown as records if it is a stream of them, else as ``tail``."""
    tail: bytes = message.tail  # type: ignore[attr-defined]
    try:
        records = decode_records(tail)
    except Malformed:
        return {}
    del fields["tail"]
    return plain_extension(records)


def _where(error: Malformed) -> str:
    where = "" if error.tlv_type is None else f" (record {error.tlv_type} at byte {error.offset})"
    return error.reason + where


def _failure(data: bytes) -> Decoded:
    try:
        return _describe_failure(decode_failure(data))
    except Malformed as error:
        raise CommandRefused("malformed_failure", f"Malformed failure message: {_where(error)}.", "") from None


def _describe_failure(failure: FailureMessage) -> Decoded:
    code = failure.failure_code
    flags = [
        name for name, bit in (("BADONION", BADONION), ("PERM", PERM), ("NODE", NODE), ("UPDATE", UPDATE)) if code & bit
    ]
    fields = plain_fields(failure) if code in FAILURES else {"data": failure.encode()[2:].hex()}
    extension = plain_extension(failure.extension)
    return _decoded("failure", failure.NAME, fields, failure.encode(), type=code, flags=flags, extension=extension)


def _transaction(data: bytes) -> Decoded:
    try:
        tx = Tx.decode(data)
    except MalformedTx as error:
        raise CommandRefused("malformed_transaction", f"Malformed transaction: {error.reason}.", "") from None
    fields = {
        "txid": str(tx.txid),
        "wtxid": str(tx.wtxid),
        "version": tx.version,
        "locktime": tx.locktime,
        "weight": tx.weight,
        "vsize": tx.vsize,
        "inputs": [
            {
                "txid": str(one.outpoint.txid),
                "vout": one.outpoint.vout,
                "script_sig": one.script_sig.hex(),
                "sequence": one.sequence,
                "witness": [item.hex() for item in one.witness],
            }
            for one in tx.inputs
        ],
        "outputs": [
            {
                "amount_sat": int(out.value),
                "scriptpubkey": out.script.hex(),
                "form": output_name(out.script) or "script",
            }
            for out in tx.outputs
        ],
    }
    return _decoded("transaction", "transaction", fields, tx.encode())


def _script(data: bytes) -> Decoded:
    name, fields = describe_script(data)
    return _decoded("script", name, fields, data)


def _features(data: bytes) -> Decoded:
    if len(data) > MAX_MESSAGE:
        raise CommandRefused("malformed_features", "No field holds a feature vector of this length.", "")
    features = Features.decode(data)
    return _decoded("features", "features", plain_features(features), features.encode())


def _invoice(text: str) -> Decoded:
    if text[:4].lower() in ("lno1", "lni1", "lnr1"):
        raise CommandRefused("unsupported", "This is a BOLT 12 string, which cannot be decoded yet.", "")
    try:
        invoice = bolt11.parse(text)
        again = bolt11_form.join(bolt11_form.split(text))
    except bolt11.InvalidInvoice as error:
        raise CommandRefused(error.code, f"Not a valid invoice: {error.reason}.", "") from None
    fields: dict[str, Any] = {"network": invoice.network.name}
    for name in (
        "amount_msat",
        "timestamp",
        "payment_hash",
        "payment_secret",
        "payee",
        "description",
        "description_hash",
    ):
        value = getattr(invoice, name)
        if value is not None:
            fields[name] = plain(value)
    fields |= {
        "expiry": invoice.expiry,
        "expires_at": invoice.expires_at,
        "min_final_cltv_expiry": invoice.min_final_cltv_expiry,
        "features": plain(invoice.features),
        "feature_names": plain_features(invoice.features),
        "route_hints": plain(invoice.route_hints),
        "fallbacks": [
            {
                "version": fallback.version,
                "program": fallback.program.hex(),
                "address": addresses_of(fallback.script()).get(invoice.network.name),
            }
            for fallback in invoice.fallbacks
        ],
    }
    if invoice.metadata is not None:
        fields["metadata"] = invoice.metadata.hex()
    fields |= {"signature": invoice.signature.hex(), "recovery_id": invoice.recovery_id}
    return {"kind": "invoice", "name": "bolt11", "fields": fields, "encoded": again}


def _address(text: str) -> Decoded:
    scripts: dict[str, bytes] = {}
    reason = "it has the form of none"
    for network in NETWORKS.values():
        try:
            scripts[network.name] = address.parse(text, network)
        except address.MalformedAddress as error:
            # Only what is wrong on its own network is worth telling.
            if not error.reason.startswith("it belongs to"):
                reason = error.reason
    if not scripts:
        raise CommandRefused("not_recognised", f"Neither hex, nor an invoice, nor an address: {reason}.", "")
    script = next(iter(scripts.values()))
    name, fields = describe_script(script)
    shown: dict[str, Any] = {"networks": list(scripts), "scriptpubkey": script.hex(), "asm": fields["asm"]}
    if (program := witness_program(script)) is not None:
        shown |= {"witness_version": program[0], "witness_program": program[1].hex()}
    first = next(iter(scripts))
    return {"kind": "address", "name": name, "fields": shown, "encoded": addresses_of(script)[first]}


def _decoded(kind: str, name: str, fields: dict[str, Any], encoded: bytes, **more: Any) -> Decoded:
    return {"kind": kind, "name": name, **more, "fields": fields, "encoded": encoded.hex()}


_FORCED: Final[dict[str, Callable[[bytes], Decoded]]] = {
    "message": _message,
    "tx": _transaction,
    "transaction": _transaction,
    "script": _script,
    "features": _features,
    "failure": _failure,
}
