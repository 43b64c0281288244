"""A channel's account in sentences that a person understands: what happened, why, what it cost, what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Fields = Mapping[str, str | int | bool]


def sentence(name: str, fields: Fields) -> str:
    """One line of the event feed about a channel, in words; "" for a line that says nothing to a person."""
    tell = _SENTENCES.get(name)
    try:
        return tell(fields) if tell is not None else ""
    except KeyError:
        # A line of another version: better its bare name than nothing.
        return name


def _sat(amount: object) -> str:
    return f"{int(str(amount)):,} sat"


_OUTPUTS = {
    "to_local": "the delayed balance (to_local)",
    "to_remote": "the undelayed balance (to_remote)",
    "HTLC": "the output",
    "second stage": "the second stage",
}
"""Outputs of a commitment in words; the delayed balance is its owner's, the other one the other side's."""


def _by(fields: Fields) -> str:
    return "we" if fields["by_us"] else "the peer"


def _closed(fields: Fields) -> str:
    said = f"Block {fields['height']} holds {fields['what']} (transaction {fields['txid']}), which paid"
    said += f" {_sat(fields['fee_sat'])} to the miner"
    said += f" and holds {fields['htlcs']} HTLC{'s' * (fields['htlcs'] != 1)}." if fields["htlcs"] else "."
    if fields["alarm"]:
        said = "ATTENTION: " + said
    if fields["unknown_sat"]:
        said += f" We do not know what {_sat(fields['unknown_sat'])} of it is for."
    return said


def _spent(fields: Fields) -> str:
    htlc = f" of HTLC {fields['htlc']}" if "htlc" in fields else ""
    what = _OUTPUTS.get(str(fields["what"]), str(fields["what"]))
    said = f"Block {fields['height']}: {_by(fields)} took {what}{htlc}, {_sat(fields['amount_sat'])}"
    return said + (f"; the transaction cost {_sat(fields['fee_sat'])}." if "fee_sat" in fields else ".")


def _claim(fields: Fields) -> str:
    until = f", to be confirmed by block {fields['deadline']}" if fields["deadline"] else ""
    return (
        f"We claim {fields['what']}, {_sat(fields['amount_sat'])}, for a fee of {_sat(fields['fee_sat'])}{until}"
        f" (transaction {fields['txid']})."
    )


_SENTENCES: dict[str, Callable[[Fields], str]] = {
    "channel.opened": lambda f: f"The channel was opened with {f['peer']}.",
    "channel.data_lost": lambda f: "The peer proved that our data is old: we publish nothing, and wait for its close.",
    "channel.force_closed": lambda f: f"We closed the channel on the chain: {f['reason']}.",
    "channel.funding_unconfirmed": lambda f: "A reorganisation of the chain took the funding back.",
    "channel.spent": lambda f: (
        f"The funding was spent by {f['txid']}, {'as both sides agreed' if f['mutual'] else 'by one side alone'}."
    ),
    "channel.unspent": lambda f: f"A reorganisation of the chain took {f['txid']} back.",
    "channel.closed": lambda f: f"The channel is closed for good: {f['reason']}.",
    "onchain.closed": _closed,
    "onchain.output_spent": _spent,
    "onchain.locked": lambda f: f"Ours from block {f['ready_at']} on: {f['what']}, {_sat(f['amount_sat'])}.",
    "onchain.claim": _claim,
    "onchain.uneconomic": lambda f: (
        f"We leave {f['what']}, {_sat(f['amount_sat'])}, where it is for now: it costs more than it brings."
    ),
    "onchain.no_coins": lambda f: f"A claim needs a fee and {f['reason']}: deposit some bitcoin.",
    "onchain.resolved": lambda f: "Everything is settled, deep enough in the chain that nothing can change it.",
}
