"""The only door to Bitcoin Core's consensus library (``pbk``, py-bitcoinkernel).

The library aborts the process when given an index, a flag or a number of spent outputs it does not expect, so this
module checks those before it calls. A block that is stored but invalid counts there as processed; what decides here is
the verdict its validation reports. The chain it holds is rebuilt from the block log at every start, in a scratch
directory: replaying a thousand blocks takes a quarter of a second.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pbk
from pbk.script import PrecomputedTransactionData

from salama.base.ids import BlockHash
from salama.base.units import MAX_SAT
from salama.bitcoin.tx import Tx, TxOut

_FLAGS: Final = pbk.ScriptVerificationFlags.ALL


class KernelFailure(Exception):
    """The consensus library could not be opened, or contradicts itself."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What consensus says of a block: accepted, or why not (the library's own coarse word)."""

    accepted: bool
    reason: str = ""


class Kernel:
    """A regtest chain: blocks go in, the best chain comes out."""

    def __init__(self, directory: Path) -> None:
        """Opens an empty chain (the genesis block) in ``directory``, whose old content is deleted."""
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700, parents=True)
        self._directory = directory
        self._reason = ""
        self._callbacks = pbk.ValidationInterfaceCallbacks(block_checked=self._checked)
        try:
            self._context = pbk.make_context(pbk.ChainType.REGTEST, self._callbacks)
            options = pbk.ChainstateManagerOptions(self._context, str(directory), str(directory / "blocks"))
            options.set_worker_threads_num(0)
            options.update_block_tree_db_in_memory(True)
            options.update_chainstate_db_in_memory(True)
            self._manager: Any = pbk.ChainstateManager(options)
        except RuntimeError as error:
            raise KernelFailure(f"cannot open the consensus library in {directory}: {error}") from None
        self._chain = self._manager.get_active_chain()

    def _checked(self, _user_data: object, _block: object, state: Any) -> None:
        # Called from inside the library: nothing may be raised into it.
        if state.validation_mode != pbk.ValidationMode.VALID:
            self._reason = state.block_validation_result.name.lower().replace("_", "-")

    def genesis(self) -> bytes:
        """The serialised genesis block."""
        return bytes(self._manager.blocks[self._chain.block_tree_entries[0]])

    def submit(self, raw_block: bytes) -> Verdict:
        """Validates a block and stores it if it may be part of a chain.

        The block has been decoded before. An accepted block need not be on the best chain: ask ``tip``. A block seen
        before is accepted again if it was, with no effect.
        """
        self._reason = ""
        try:
            block = pbk.Block(raw_block)
        except RuntimeError:
            return Verdict(False, "bad-block-serialization")
        try:
            self._manager.process_block(block)
        except pbk.ProcessBlockException:
            return Verdict(False, self._reason or "rejected")
        return Verdict(not self._reason, self._reason)

    def tip(self) -> tuple[int, BlockHash]:
        """Height and hash of the best block."""
        height = self._chain.height
        return height, self.hash_at(height)

    def hash_at(self, height: int) -> BlockHash:
        """The best chain's block at ``height``; raises KernelFailure outside 0..tip."""
        if not 0 <= height <= self._chain.height:
            raise KernelFailure(f"no block at height {height}")
        return BlockHash(bytes(self._chain.block_tree_entries[height].block_hash))

    def close(self) -> None:
        """Forgets the chain and deletes its scratch files."""
        del self._chain, self._manager
        shutil.rmtree(self._directory, ignore_errors=True)


def failing_input(tx: Tx, spent: Sequence[TxOut]) -> int | None:
    """Index of the first input whose script does not accept, None if all do.

    ``spent`` are the outputs spent, in input order. All consensus flags of the present chain apply.
    """
    if not spent or len(spent) != len(tx.inputs):
        raise ValueError("one spent output for each input")
    if any(not 0 <= out.value <= MAX_SAT for out in spent):
        raise ValueError("an amount outside the money range")
    transaction = pbk.Transaction(tx.encode())
    scripts = [pbk.ScriptPubkey(out.script) for out in spent]
    outputs = [pbk.TransactionOutput(script, int(out.value)) for script, out in zip(scripts, spent, strict=True)]
    # The library counts the inputs again: a disagreement with our decoder must stop here, not abort there.
    if len(transaction.inputs) != len(spent):
        raise KernelFailure("two decoders disagree on a transaction's inputs")
    precomputed = PrecomputedTransactionData(transaction, outputs)
    for index, (script, out) in enumerate(zip(scripts, spent, strict=True)):
        if not script.verify(int(out.value), transaction, precomputed, index, _FLAGS):
            return index
    return None
