"""Every method of a node as a Python method with types. Written by scripts/client_code.py from the schema."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import TypeVar

from salama.api.backup_schema import BackupParams, BackupState, RecoveryState
from salama.api.channels_schema import (
    Channels,
    ChannelsParams,
    Closed,
    CloseParams,
    FeesSet,
    Opened,
    OpenParams,
    SetFeesParams,
    Why,
    WhyParams,
)
from salama.api.funding_schema import (
    Descriptors,
    DescriptorsParams,
    OpenAbortParams,
    OpenBatchParams,
    OpenedBatch,
    OpenFinished,
    OpenFinishParams,
    OpenPsbtBegun,
    OpenPsbtParams,
    OpenVerified,
    OpenVerifyParams,
    PsbtFinalised,
    PsbtFinaliseParams,
    PsbtFunded,
    PsbtFundParams,
    PsbtParams,
    PsbtReleased,
    PsbtSigned,
    PsbtSignParams,
)
from salama.api.ledger_schema import Accounts, Ledger, LedgerCheck, LedgerCheckParams, LedgerParams
from salama.api.method import Done, Nothing, PageParams, Params, Result
from salama.api.node_schema import (
    ConfigParams,
    Counters,
    Decoded,
    DecodeParams,
    Event,
    Events,
    EventsParams,
    Info,
    Settings,
)
from salama.api.onchain_schema import Stress, StressParams
from salama.api.payments_schema import Forwards, InvoiceCreated, InvoiceParams, Invoices, Paid, Payments, PayParams
from salama.api.peers_schema import Connected, ConnectParams, DisconnectParams, Peers
from salama.api.wallet_schema import (
    Balance,
    Bumped,
    BumpFeeParams,
    FreezeParams,
    LabelParams,
    NewAddr,
    NewAddrParams,
    Utxos,
    UtxosParams,
    Withdrawn,
    WithdrawParams,
)

R = TypeVar("R", bound=Result)
STREAM_SECONDS = 60
"""How long one question of a stream waits for its answer."""


class Calls(ABC):
    """The methods of a node, wherever it is. All of them raise CommandRefused.

    Amounts go in with their unit (``"1000sat"``) and come out as millisatoshis in fields ending ``_msat``.
    """

    @abstractmethod
    async def ask(self, method: str, params: Params, result: type[R]) -> R:
        """Ask the node. Raises CommandRefused."""

    async def stream(self, after: int | None = None) -> AsyncIterator[Event]:
        """Every event after the one with the id ``after``, oldest first, and then each as it happens; without end.

        None begins with what happens from now on. Whoever remembers the id of the last one misses nothing and sees
        nothing twice, also over restarts of either side.
        """
        last = -1 if after is None else after
        while True:
            page = await self.events(after=last, limit=1000, wait=STREAM_SECONDS)
            for event in page.events:
                yield event
            last = page.last_id

    async def getinfo(self) -> Info:
        """Who this node is and how it is doing."""
        return await self.ask("getinfo", Nothing(), Info)

    async def counters(self) -> Counters:
        """How often it wrote, synced and signed since its start."""
        return await self.ask("counters", Nothing(), Counters)

    async def events(self, *, after: int = 0, limit: int = 100, wait: int = 0) -> Events:
        """What happened, oldest first, each event once and for ever."""
        return await self.ask("events", EventsParams(after=after, limit=limit, wait=wait), Events)

    async def decode(self, item: str) -> Decoded:
        """Say what a thing is: message, invoice, transaction, script, address, features."""
        return await self.ask("decode", DecodeParams(item=item), Decoded)

    async def config(self, *, changed: bool = False) -> Settings:
        """What is set, and where it was said."""
        return await self.ask("config", ConfigParams(changed=changed), Settings)

    async def stop(self) -> Done:
        """Stop the node in good order."""
        return await self.ask("stop", Nothing(), Done)

    async def newaddr(self, *, kind: str = "p2wpkh") -> NewAddr:
        """A new address to receive bitcoin on chain."""
        return await self.ask("newaddr", NewAddrParams(kind=kind), NewAddr)

    async def balance(self) -> Balance:
        """What we own on chain and in channels."""
        return await self.ask("balance", Nothing(), Balance)

    async def utxos(self, *, limit: int = 100, cursor: str = "") -> Utxos:
        """Our coins on chain, one by one."""
        return await self.ask("utxos", UtxosParams(limit=limit, cursor=cursor), Utxos)

    async def label(self, coin: str, label: str = "") -> Done:
        """Give a coin a name."""
        return await self.ask("label", LabelParams(coin=coin, label=label), Done)

    async def freeze(self, coins: str) -> Done:
        """Leave coins alone until they are unfrozen."""
        return await self.ask("freeze", FreezeParams(coins=coins), Done)

    async def unfreeze(self, coins: str) -> Done:
        """Let frozen coins be spent again."""
        return await self.ask("unfreeze", FreezeParams(coins=coins), Done)

    async def withdraw(self, address: str, amount: str, *, feerate: int = 0, coins: str = "") -> Withdrawn:
        """Send coins on chain."""
        return await self.ask(
            "withdraw", WithdrawParams(address=address, amount=amount, feerate=feerate, coins=coins), Withdrawn
        )

    async def bumpfee(self, txid: str, feerate: int, *, how: str = "auto", subtract: bool = False) -> Bumped:
        """Make a transaction of ours confirm sooner."""
        return await self.ask("bumpfee", BumpFeeParams(txid=txid, feerate=feerate, how=how, subtract=subtract), Bumped)

    async def connect(self, peer: str) -> Connected:
        """Connect to a peer and remember it."""
        return await self.ask("connect", ConnectParams(peer=peer), Connected)

    async def disconnect(self, peer: str) -> Done:
        """Disconnect from a peer and do not call it again."""
        return await self.ask("disconnect", DisconnectParams(peer=peer), Done)

    async def peers(self, *, limit: int = 100, cursor: str = "") -> Peers:
        """Peers that are connected or have a channel with us."""
        return await self.ask("peers", PageParams(limit=limit, cursor=cursor), Peers)

    async def open(
        self,
        peer: str,
        amount: str,
        *,
        push: str = "0sat",
        private: bool = False,
        zero_conf: bool = False,
        feerate: int = 0,
    ) -> Opened:
        """Open a channel with a peer."""
        return await self.ask(
            "open",
            OpenParams(peer=peer, amount=amount, push=push, private=private, zero_conf=zero_conf, feerate=feerate),
            Opened,
        )

    async def close(self, channel: str, *, feerate: int = 0, force: bool = False, wait: int = 30) -> Closed:
        """Close a channel, together with the peer unless forced."""
        return await self.ask("close", CloseParams(channel=channel, feerate=feerate, force=force, wait=wait), Closed)

    async def channels(self, *, limit: int = 100, cursor: str = "", closed: bool = False) -> Channels:
        """Our channels."""
        return await self.ask("channels", ChannelsParams(limit=limit, cursor=cursor, closed=closed), Channels)

    async def setfees(
        self, channel: str, *, base: str = "", ppm: int = -1, cltv_delta: int = -1, usual: bool = False
    ) -> FeesSet:
        """Set what a channel asks for relaying; the previous terms are honoured for ten minutes."""
        return await self.ask(
            "setfees", SetFeesParams(channel=channel, base=base, ppm=ppm, cltv_delta=cltv_delta, usual=usual), FeesSet
        )

    async def why(self, channel: str) -> Why:
        """What became of a channel and why, in words."""
        return await self.ask("why", WhyParams(channel=channel), Why)

    async def invoice(self, amount: str, description: str = "", *, expiry: int = 3600) -> InvoiceCreated:
        """Ask for a payment (BOLT 11)."""
        return await self.ask(
            "invoice", InvoiceParams(amount=amount, description=description, expiry=expiry), InvoiceCreated
        )

    async def pay(self, request: str, *, amount: str = "", max_fee: str = "", timeout: int = 60) -> Paid:
        """Pay an invoice and wait for the result."""
        return await self.ask("pay", PayParams(request=request, amount=amount, max_fee=max_fee, timeout=timeout), Paid)

    async def payments(self, *, limit: int = 100, cursor: str = "") -> Payments:
        """Our payments, newest first."""
        return await self.ask("payments", PageParams(limit=limit, cursor=cursor), Payments)

    async def invoices(self, *, limit: int = 100, cursor: str = "") -> Invoices:
        """Our invoices, newest first."""
        return await self.ask("invoices", PageParams(limit=limit, cursor=cursor), Invoices)

    async def forwards(self, *, limit: int = 100, cursor: str = "") -> Forwards:
        """What we relayed for others, newest first."""
        return await self.ask("forwards", PageParams(limit=limit, cursor=cursor), Forwards)

    async def stress(self, *, feerate: int) -> Stress:
        """Whether every channel could be closed by force at a fee rate (in sat/vB), and at what cost."""
        return await self.ask("stress", StressParams(feerate=feerate), Stress)

    async def psbtfund(
        self, address: str, amount: str, *, feerate: int = 0, coins: str = "", blocks: int = 144
    ) -> PsbtFunded:
        """An unsigned PSBT that pays an address from our coins."""
        return await self.ask(
            "psbtfund",
            PsbtFundParams(address=address, amount=amount, feerate=feerate, coins=coins, blocks=blocks),
            PsbtFunded,
        )

    async def psbtsign(self, psbt: str, *, blocks: int = 144) -> PsbtSigned:
        """Sign our inputs of a PSBT."""
        return await self.ask("psbtsign", PsbtSignParams(psbt=psbt, blocks=blocks), PsbtSigned)

    async def psbtfinalise(self, psbt: str, *, publish: bool = False) -> PsbtFinalised:
        """Put the signatures of a PSBT in place, and publish it if asked to."""
        return await self.ask("psbtfinalise", PsbtFinaliseParams(psbt=psbt, publish=publish), PsbtFinalised)

    async def psbtrelease(self, psbt: str) -> PsbtReleased:
        """Free the coins that were set aside for a PSBT."""
        return await self.ask("psbtrelease", PsbtParams(psbt=psbt), PsbtReleased)

    async def descriptors(self, *, private: bool = False) -> Descriptors:
        """The wallet as descriptors, for other programs to watch it."""
        return await self.ask("descriptors", DescriptorsParams(private=private), Descriptors)

    async def openbatch(self, channels: str, *, private: bool = False, feerate: int = 0) -> OpenedBatch:
        """Open several channels by one transaction: all of them or none."""
        return await self.ask(
            "openbatch", OpenBatchParams(channels=channels, private=private, feerate=feerate), OpenedBatch
        )

    async def openpsbt(self, peer: str, amount: str, *, push: str = "0sat", private: bool = False) -> OpenPsbtBegun:
        """Begin a channel that another wallet pays for."""
        return await self.ask(
            "openpsbt", OpenPsbtParams(peer=peer, amount=amount, push=push, private=private), OpenPsbtBegun
        )

    async def openverify(self, opening: str, psbt: str) -> OpenVerified:
        """Have the peer sign for the funding in a PSBT; after it, and not before, the PSBT may be signed."""
        return await self.ask("openverify", OpenVerifyParams(opening=opening, psbt=psbt), OpenVerified)

    async def openfinish(self, channel: str, psbt: str) -> OpenFinished:
        """Publish the signed funding of a channel."""
        return await self.ask("openfinish", OpenFinishParams(channel=channel, psbt=psbt), OpenFinished)

    async def openabort(self, opening: str) -> Done:
        """Give up a channel whose funding nobody has signed."""
        return await self.ask("openabort", OpenAbortParams(opening=opening), Done)

    async def ledger(
        self, *, limit: int = 100, cursor: str = "", since: str = "", until: str = "", oldest_first: bool = False
    ) -> Ledger:
        """Where the money went: double entry, newest first."""
        return await self.ask(
            "ledger",
            LedgerParams(limit=limit, cursor=cursor, since=since, until=until, oldest_first=oldest_first),
            Ledger,
        )

    async def ledgeraccounts(self, *, limit: int = 100, cursor: str = "") -> Accounts:
        """What stands in each account of the ledger."""
        return await self.ask("ledgeraccounts", PageParams(limit=limit, cursor=cursor), Accounts)

    async def ledgercheck(self, *, full: bool = False) -> LedgerCheck:
        """Hold the ledger against the coins, channels and claims that are there."""
        return await self.ask("ledgercheck", LedgerCheckParams(full=full), LedgerCheck)

    async def backup(self, *, write: bool = False) -> BackupState:
        """Where the backup of the channels is, and how old; or write it now."""
        return await self.ask("backup", BackupParams(write=write), BackupState)

    async def recovery(self) -> RecoveryState:
        """How far a recovery is: each channel, what is missing, and for how long."""
        return await self.ask("recovery", Nothing(), RecoveryState)
