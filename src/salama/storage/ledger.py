"""The double-entry ledger: what each durable change did to our money, in the transaction that writes the change.

Every line moves an amount from one account to another, so that all accounts together are zero always. Nobody asks for a
line: it is worked out from the very write that changes a channel, a wallet or a payment. Amounts are millisatoshis.

    assets:onchain               coins whose transactions are in blocks, spent only by what is in a block
    assets:channels:ID           our balance in our commitment, and the HTLCs that we offered there
    assets:pending:ID            on its way between the two: a funding not in a block yet (negative), a close
    transfers                    HTLCs settled on one side only so far; zero when nothing is under way
    income: expenses: equity:    what the money was for

A close that is not shared is taken as worth our balance; what it brought less is its cost, and is booked when the
channel is over.
"""

from __future__ import annotations

from typing import Final

from salama.base.ids import ChannelId, HtlcRef, PaymentHash, Side, Txid
from salama.base.units import Sat
from salama.bitcoin.script import is_p2wsh
from salama.bitcoin.tx import Tx
from salama.channel.confirming import is_mutual_close
from salama.channel.events import LatePreimage
from salama.channel.spec import CommitmentSpec
from salama.channel.state import ChannelRecord, Fulfilment, Htlc, Phase
from salama.channel.transactions import decode_commitment_number, obscuring_factor
from salama.onchain.events import OutputsLeft
from salama.onchain.state import OnchainRecord, Sweep
from salama.payments.records import ForwardStatus, Invoice, InvoiceStatus, PartStatus, Payment, PutForward
from salama.storage.tables import Statement
from salama.wallet.coins import WalletState
from salama.wallet.events import WalletTxConfirmed, WalletTxUnconfirmed

ONCHAIN: Final = "assets:onchain"
CHANNELS, PENDING = "assets:channels:", "assets:pending:"
"""Before the id of a channel."""
TRANSFERS: Final = "transfers"
DEPOSITS, WITHDRAWALS, OPENING, RECOVERED = (
    "equity:deposits", "equity:withdrawals", "equity:opening", "equity:recovered",
)  # fmt: skip
PAYMENTS_OUT, ROUTING_FEES, PUSHED = "expenses:payments", "expenses:fees:routing", "expenses:pushed"
CLOSE_FEES: Final = "expenses:fees:onchain:close"
UNECONOMIC: Final = "expenses:uneconomic"
LOST_RELAYS: Final = "expenses:losses:relays"
"""Paid downstream and not upstream, where a failure had been taken before the preimage came."""
PAYMENTS_IN, ROUTED, PUSHED_TO_US = "income:payments", "income:routing", "income:pushed"
PENALTIES, CLOSE_GAINS = "income:penalties", "income:closes"

_COLUMNS: Final = "INSERT INTO ledger (at, source, target, msat, cause, key)"
_ONCE: Final = "ON CONFLICT (key) WHERE key IS NOT NULL DO NOTHING"
MOVE: Final = f"{_COLUMNS} VALUES (?, ?, ?, ?, ?, ?) {_ONCE}"
EXPECT: Final = (
    "INSERT INTO ledger_txs (txid, channel, cause, msat) VALUES (?, ?, ?, ?) ON CONFLICT (txid, channel) DO NOTHING"
)
REVERSE: Final = (
    f"{_COLUMNS} SELECT ?1, target, source, msat, 'reorganisation', NULL FROM ledger WHERE key >= ?2 AND key < ?3"
)
FREE_KEYS: Final = "UPDATE ledger SET key = NULL WHERE key >= ? AND key < ?"
_PENDING: Final = f"'{PENDING}' || lower(hex(channel))"
FUNDED: Final = (
    f"{_COLUMNS} SELECT ?1, '{ONCHAIN}', {_PENDING}, msat, cause, ?3 || 'out:' || hex(channel) FROM ledger_txs"
    f" WHERE txid = ?2 AND cause = 'funding' AND msat > 0 {_ONCE}"
)
CLAIMED: Final = (
    f"{_COLUMNS} SELECT ?1, {_PENDING}, '{ONCHAIN}', msat, cause, ?3 || 'in:' || hex(channel) FROM ledger_txs"
    f" WHERE txid = ?2 AND cause <> 'funding' AND msat > 0 {_ONCE}"
)
# What channels put in, less what they took, less our own change: the fee, if not known otherwise.
_LEFT: Final = (
    "(SELECT coalesce(sum(CASE cause WHEN 'funding' THEN -msat ELSE msat END), 0) - ?4 AS rest,"
    " count(*) AS known, min(cause) AS cause FROM ledger_txs WHERE txid = ?2)"
)
_FEE: Final = "(CASE WHEN ?5 IS NOT NULL THEN ?5 WHEN known > 0 THEN max(rest, 0) ELSE 0 END)"
FEE: Final = (
    f"{_COLUMNS} SELECT ?1, '{ONCHAIN}', 'expenses:fees:onchain:' || coalesce(cause, 'send'), {_FEE}, 'fee',"
    f" ?3 || 'fee' FROM {_LEFT} WHERE {_FEE} > 0 {_ONCE}"
)
SENT: Final = (
    f"{_COLUMNS} SELECT ?1, '{ONCHAIN}', '{WITHDRAWALS}', rest - {_FEE}, 'withdrawal', ?3 || 'sent'"
    f" FROM {_LEFT} WHERE rest - {_FEE} > 0 {_ONCE}"
)
RECEIVED: Final = (
    f"{_COLUMNS} SELECT ?1, '{DEPOSITS}', '{ONCHAIN}', {_FEE} - rest, 'deposit', ?3 || 'received'"
    f" FROM {_LEFT} WHERE rest - {_FEE} < 0 {_ONCE}"
)
EMPTY_OUT: Final = (
    f"{_COLUMNS} SELECT ?1, account, ?3, msat, ?4, NULL FROM ledger_balances WHERE account = ?2 AND msat > 0"
)
EMPTY_IN: Final = (
    f"{_COLUMNS} SELECT ?1, ?3, account, -msat, ?4, NULL FROM ledger_balances WHERE account = ?2 AND msat < 0"
)
GIVE_UP: Final = (
    f"{_COLUMNS} SELECT ?1, account, ?3, min(msat, ?4), 'outputs left', ?5 FROM ledger_balances"
    f" WHERE account = ?2 AND msat > 0 {_ONCE}"
)
_LATE: Final = "FROM forwards WHERE channel_in = ?2 AND htlc_in = ?3"
EARNED_LATE: Final = (
    f"{_COLUMNS} SELECT ?1, '{ROUTED}', '{TRANSFERS}', msat_in - msat_out, 'forward', ?4 {_LATE}"
    f" AND status = 'settled' AND msat_in > msat_out {_ONCE}"
)
LOST_LATE: Final = (
    f"{_COLUMNS} SELECT ?1, '{TRANSFERS}', '{LOST_RELAYS}', msat_out, 'preimage after the failure', ?4 {_LATE}"
    f" AND status = 'lost' {_ONCE}"
)
READ_LINES: Final = frozenset(
    (REVERSE, FREE_KEYS, FUNDED, CLAIMED, FEE, SENT, RECEIVED, EMPTY_OUT, EMPTY_IN, GIVE_UP, EARNED_LATE, LOST_LATE)
)
"""Statements that read what is booked, or book under its keys: every move before them is written before them."""


def channel_account(channel_id: ChannelId) -> str:
    return f"{CHANNELS}{channel_id.hex()}"


def pending_account(channel_id: ChannelId) -> str:
    return f"{PENDING}{channel_id.hex()}"


def worth(spec: CommitmentSpec) -> int:
    """What a channel's account holds while it lives: our balance, and the HTLCs that we offered, in msat."""
    if not spec.htlcs:
        return int(spec.our_balance)
    return int(spec.our_balance) + sum(int(h.amount) for h in spec.htlcs.values() if h.side is Side.OUTGOING)


def _move(now: int, source: str, target: str, msat: int, cause: str, key: str | None = None) -> list[Statement]:
    """Nothing for nothing; a negative amount goes the other way."""
    if msat < 0:
        source, target, msat = target, source, -msat
    return [(MOVE, (now, source, target, msat, cause, key))] if msat else []


def _undo(now: int, prefix: str) -> list[Statement]:
    """Move back everything under keys that begin with ``prefix:``; the keys are free again."""
    bounds = (f"{prefix}:", f"{prefix};")
    return [(REVERSE, (now, *bounds)), (FREE_KEYS, bounds)]


# --- channels --------------------------------------------------------------------------------------------------------


def of_channel(old: ChannelRecord | None, new: ChannelRecord, now: int) -> list[Statement]:
    """The lines of a channel's change from ``old`` to ``new``."""
    if new.restored and old is None:
        return []  # what it is worth shows when it is closed
    lines: list[Statement] = []
    if old is None:
        lines += _opened(new, now)
    else:
        if old.active[0].local is not new.active[0].local:
            lines += _settled(old, new, now)
        if old.spend is not new.spend and old.spend != new.spend:
            lines += _spent(old, new, now)
        elif new.spend is not None and old.htlcs is not new.htlcs:
            lines += _decided_late(old, new, now)
        if new.phase is Phase.CLOSED and old.phase is not Phase.CLOSED:
            lines += _over(new, now)
    known = () if old is None else old.closes
    if new.closes is not known and new.closes != known:
        for close in new.closes:
            if close not in known:
                lines.append(_expected_close(new, close.tx))
    return lines


def _opened(new: ChannelRecord, now: int) -> list[Statement]:
    channel, key = channel_account(new.channel_id), f"open:{new.channel_id.hex()}"
    ours, theirs = int(new.funding.local.spec.our_balance), int(new.funding.local.spec.their_balance)
    if not new.params.is_opener:
        return _move(now, PUSHED_TO_US, channel, ours, "opening", f"{key}:ours")
    pending = pending_account(new.channel_id)
    lines = _move(now, pending, channel, ours, "opening", f"{key}:ours")
    lines += _move(now, pending, PUSHED, theirs, "opening", f"{key}:theirs")
    funding = new.funding
    if funding.tx is not None:
        row = (bytes(funding.outpoint.txid), bytes(new.channel_id), "funding", int(funding.capacity.msat))
        lines.append((EXPECT, row))
    return lines


def _settled(old: ChannelRecord, new: ChannelRecord, now: int) -> list[Statement]:
    """HTLCs that left our commitment paid; those that failed change nothing."""
    before, after = old.funding.local.spec, new.funding.local.spec
    if before.htlcs is after.htlcs:
        return []
    left: dict[Side, list[Htlc]] = {Side.INCOMING: [], Side.OUTGOING: []}
    for key in before.htlcs.keys() - after.htlcs.keys():
        htlc = new.htlcs.get(key) or old.htlcs.get(key)
        if htlc is not None and isinstance(htlc.removal, Fulfilment):
            left[htlc.side].append(htlc)
    channel, change = channel_account(new.channel_id), worth(after) - worth(before)
    lines: list[Statement] = []
    for side, htlcs in left.items():
        amount = sum(int(htlc.amount) for htlc in htlcs) * (1 if side is Side.INCOMING else -1)
        cause = f"HTLC {side.value} {htlcs[0].id}" if len(htlcs) == 1 else f"{len(htlcs)} HTLCs {side.value}"
        lines += _move(now, TRANSFERS, channel, amount, cause)
        change -= amount
    # HTLCs that came and went between two writes.
    return lines + _move(now, TRANSFERS, channel, change, "HTLCs")


def _our_share(record: ChannelRecord, tx: Tx) -> int:
    """Msat that a closing transaction pays to the script that we asked for."""
    scripts = {record.our_shutdown, record.params.closing_script}
    return sum(int(out.value) for out in tx.outputs if out.script in scripts) * 1000


def _expected_close(record: ChannelRecord, tx: Tx) -> Statement:
    return EXPECT, (bytes(tx.txid), bytes(record.channel_id), "close", _our_share(record, tx))


def _spent(old: ChannelRecord, new: ChannelRecord, now: int) -> list[Statement]:
    key = f"spend:{new.channel_id.hex()}"
    lines = _undo(now, key) if old.spend is not None else []
    if new.spend is None or new.restored:
        return lines
    channel, pending = channel_account(new.channel_id), pending_account(new.channel_id)
    value = worth(new.funding.local.spec)
    if is_mutual_close(new):
        share = min(_our_share(new, new.spend.tx), value)
        lines.append(_expected_close(new, new.spend.tx))
        lines += _move(now, channel, pending, share, "close", f"{key}:share")
        return lines + _move(now, channel, CLOSE_FEES, value - share, "close", f"{key}:fee")
    lines += _move(now, channel, pending, value, "unilateral close", f"{key}:share")
    for htlc in new.funding.local.spec.htlcs.values():
        held = new.htlcs.get(htlc.key)
        if htlc.side is Side.INCOMING and held is not None and isinstance(held.removal, Fulfilment):
            lines += _move(now, TRANSFERS, pending, int(htlc.amount), "HTLC to claim", f"{key}:{htlc.id}")
    return lines


def _decided_late(old: ChannelRecord, new: ChannelRecord, now: int) -> list[Statement]:
    """An incoming HTLC of a closed channel that is ours now, since we learned its preimage."""
    lines: list[Statement] = []
    for key, htlc in new.htlcs.items():
        was = old.htlcs.get(key)
        if was is htlc or htlc.side is not Side.INCOMING or not isinstance(htlc.removal, Fulfilment):
            continue
        was_paid = was is not None and isinstance(was.removal, Fulfilment)
        if not was_paid and key in new.funding.local.spec.htlcs:
            name = f"spend:{new.channel_id.hex()}:{htlc.id}"
            lines += _move(now, TRANSFERS, pending_account(new.channel_id), int(htlc.amount), "HTLC to claim", name)
    return lines


def _over(new: ChannelRecord, now: int) -> list[Statement]:
    """Whatever is left of a channel that is over was its cost, or its gain."""
    pending = pending_account(new.channel_id)
    if new.spend is None:
        return [] if new.restored else _undo(now, f"open:{new.channel_id.hex()}")
    if new.restored:
        cost, gain = RECOVERED, RECOVERED
    elif is_mutual_close(new):
        cost, gain = WITHDRAWALS, CLOSE_GAINS  # a script of another wallet was paid
    else:
        cost, gain = CLOSE_FEES, PENALTIES if _was_revoked(new) else CLOSE_GAINS
    return [(EMPTY_OUT, (now, pending, cost, "channel over")), (EMPTY_IN, (now, pending, gain, "channel over"))]


def _was_revoked(record: ChannelRecord) -> bool:
    assert record.spend is not None
    params = record.params
    factor = obscuring_factor(params.opener.basepoints.payment, params.accepter.basepoints.payment)
    number = decode_commitment_number(record.spend.tx, factor)
    return number is not None and number < record.funding.remote.number


def of_onchain(old: OnchainRecord | None, new: OnchainRecord, channel: ChannelRecord, now: int) -> list[Statement]:
    """The lines of what the chain did to a closed ``channel``: claims to expect, HTLCs that we paid there."""
    lines: list[Statement] = []
    known = {sweep.tx.txid for sweep in old.sweeps} if old is not None else set()
    for sweep in new.sweeps:
        if sweep.tx.txid not in known:
            row = (bytes(sweep.tx.txid), bytes(new.channel_id), "bump" if sweep.parent else "claim", _claimed(sweep))
            lines.append((EXPECT, row))
    settled = set(new.settled) - (set(old.settled) if old is not None else set())
    pending = pending_account(new.channel_id)
    for htlc in channel.funding.local.spec.htlcs.values():
        if htlc.side is Side.OUTGOING and htlc.id in settled:
            name = f"paid:{new.channel_id.hex()}:{htlc.id}"
            lines += _move(now, pending, TRANSFERS, int(htlc.amount), f"HTLC outgoing {htlc.id} on chain", name)
    return lines


def of_left(row: OutputsLeft, now: int) -> list[Statement]:
    """Outputs that nobody will take: no fee, but no asset either."""
    key = f"left:{row.channel_id.hex()}"
    return [(GIVE_UP, (now, pending_account(row.channel_id), UNECONOMIC, int(row.amount.msat), key))]


def _claimed(sweep: Sweep) -> int:
    """Msat of the channel's outputs that a claim brings to the wallet or pays as a fee; not what it only moves on."""
    out = sum(int(one.value) for one in sweep.tx.outputs if not is_p2wsh(one.script))
    return max(0, out + int(sweep.fee) - sum(int(coin.value) for coin in sweep.coins)) * 1000


# --- wallet and payments ---------------------------------------------------------------------------------------------


def of_wallet_tx(row: WalletTxConfirmed, now: int) -> list[Statement]:
    """A block took a transaction that pays us or spends from us: for what, the expected transactions tell."""
    txid, key = bytes(row.txid), f"tx:{row.txid}:"
    change = (int(row.received) - int(row.spent)) * 1000
    fee = None if row.fee is None else int(row.fee) * 1000
    rest = (now, txid, key, change, fee)
    return [(FUNDED, (now, txid, key)), (CLAIMED, (now, txid, key)), (FEE, rest), (SENT, rest), (RECEIVED, rest)]


def of_wallet_undo(row: WalletTxUnconfirmed, now: int) -> list[Statement]:
    return _undo(now, f"tx:{row.txid}")


def of_payment(payment: Payment, now: int) -> list[Statement]:
    """Each settled part once, however often the payment is written."""
    lines: list[Statement] = []
    for part in payment.parts:
        if part.status is PartStatus.SETTLED:
            key = f"part:{payment.payment_hash}:{part.number}"
            lines += _move(now, TRANSFERS, PAYMENTS_OUT, int(part.delivered), "payment", key)
            lines += _move(now, TRANSFERS, ROUTING_FEES, int(part.fee), "payment", f"{key}:fee")
    return lines


def of_invoice(invoice: Invoice, now: int) -> list[Statement]:
    if invoice.status is not InvoiceStatus.PAID:
        return []
    return _move(now, PAYMENTS_IN, TRANSFERS, int(invoice.received), "invoice", _invoice_key(invoice.payment_hash))


def _invoice_key(payment_hash: PaymentHash) -> str:
    return f"invoice:{payment_hash}"


def of_forward(row: PutForward, now: int) -> list[Statement]:
    if row.status is not ForwardStatus.SETTLED:
        return []
    key = _forward_key(row.incoming)
    return _move(now, ROUTED, TRANSFERS, int(row.amount_in) - int(row.amount_out), "forward", key)


def of_late(row: LatePreimage, now: int) -> list[Statement]:
    """What the forward says by now, which is written before."""
    incoming, key = row.incoming, _forward_key(row.incoming)
    where = (now, bytes(incoming.channel_id), incoming.id)
    return [(EARNED_LATE, (*where, key)) if row.is_used else (LOST_LATE, (*where, f"lost:{key}"))]


def _forward_key(incoming: HtlcRef) -> str:
    return f"forward:{incoming.channel_id.hex()}:{incoming.id}"


# --- the first line --------------------------------------------------------------------------------------------------


def confirmed_coins(wallet: WalletState) -> Sat:
    """What ``assets:onchain`` stands for: coins in blocks that nothing in a block spends."""
    total = 0
    for coin in wallet.coins.values():
        spender: Txid | None = wallet.spenders.get(coin.outpoint)
        is_gone = spender is not None and wallet.recent[spender].height is not None
        if coin.height is not None and not is_gone:
            total += int(coin.value)
    return Sat(total)


def opening(records: list[ChannelRecord], wallet: WalletState | None, now: int) -> list[Statement]:
    """The lines with which a ledger begins beside money that was there before."""
    coins = 0 if wallet is None else int(confirmed_coins(wallet).msat)
    lines = _move(now, OPENING, ONCHAIN, coins, "opening balance", "begin:onchain")
    for record in records:
        if record.restored:
            continue
        value, name = worth(record.funding.local.spec), record.channel_id.hex()
        account = channel_account(record.channel_id) if record.spend is None else pending_account(record.channel_id)
        lines += _move(now, OPENING, account, value, "opening balance", f"begin:{name}")
        if record.params.is_opener and record.funding.tx is not None and record.funding.confirmation is None:
            # Its coins still count as coins.
            pending, capacity = pending_account(record.channel_id), int(record.funding.capacity.msat)
            lines += _move(now, pending, OPENING, capacity, "opening balance", f"begin:{name}:funding")
            row = (bytes(record.funding.outpoint.txid), bytes(record.channel_id), "funding", capacity)
            lines.append((EXPECT, row))
    return lines
