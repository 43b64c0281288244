"""Cases for two mempools: transactions that a Lightning node meets, at the edges of what is taken.

A case is a function from coins to steps; it says nothing of the outcome. The steps are played on the devnet and on a
real bitcoind, which must agree (``test_mempool_agrees``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from devnet_bench import PKH, SEVEN, TR, WPKH, WSH, WSH_MULTI, Piece, build, pay, pieces

from salama.bitcoin import script
from salama.bitcoin.tx import Tx
from salama.crypto import secp256k1

ANCHOR = script.PAY_TO_ANCHOR
VALUE = 1_000_000


@dataclass(frozen=True)
class Send:
    """One transaction, asked about first and then sent."""

    tx: Tx


@dataclass(frozen=True)
class Package:
    """Several at once, parents first."""

    txs: tuple[Tx, ...]


@dataclass(frozen=True)
class Mine:
    count: int = 1


Step = Send | Package | Mine
Coins = Callable[[bytes], Piece]
"""A confirmed coin of ``VALUE`` satoshis, of the kind that the script says."""
Case = Callable[[Coins, int], Iterator[Step]]
"""Its second argument is the height of the chain."""
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def many(name: str, *arguments: object) -> Callable[[Callable[..., Iterator[Step]]], Callable[..., Iterator[Step]]]:
    """One case for each argument."""

    def note(function: Callable[..., Iterator[Step]]) -> Callable[..., Iterator[Step]]:
        for argument in arguments:

            def made(coins: Coins, height: int, argument: object = argument) -> Iterator[Step]:
                return function(coins, height, argument)

            parts = argument if isinstance(argument, tuple) else (argument,)
            label = "-".join(one.hex()[:4] + f".{len(one)}" if isinstance(one, bytes) else str(one) for one in parts)
            CASES[f"{function.__name__}-{name}-{label}"] = made
        return function

    return note


def move(piece: Piece, fee: int, outputs: Sequence[tuple[int, bytes]] = (), **more: Any) -> Tx:
    """Spends ``piece`` into ``outputs`` and the rest into one output of ours."""
    rest = int(piece.out.value) - fee - sum(value for value, _ in outputs)
    return build([piece], [*outputs, (rest, WPKH)], **more)


# --- fees and forms --------------------------------------------------------------------------------------------------


@many("fee", 0, 1, 109, 110, 111, 200)
def a_fee(coins: Coins, _: int, fee: int) -> Iterator[Step]:
    yield Send(pay(coins(WPKH), fee))


@many("kind", WPKH, WSH, WSH_MULTI, TR)
def a_spend_of_each_kind(coins: Coins, _: int, kind: bytes) -> Iterator[Step]:
    yield Send(pay(coins(kind), 500))


DUST_EDGES = (
    (293, WPKH), (294, WPKH), (329, WSH), (330, WSH), (329, TR), (330, TR), (239, ANCHOR), (240, ANCHOR),
    (545, PKH), (546, PKH), (0, WPKH), (353, b"\x52\x28" + bytes(40)), (354, b"\x52\x28" + bytes(40)),
)  # fmt: skip


@many("edge", *DUST_EDGES)
def dust(coins: Coins, _: int, edge: tuple[int, bytes]) -> Iterator[Step]:
    yield Send(move(coins(WPKH), 1_000, [edge]))


@many("bytes", 75, 80, 81)
def data(coins: Coins, _: int, size: int) -> Iterator[Step]:
    push = bytes((size,)) if size <= 75 else bytes((0x4C, size))
    yield Send(move(coins(WPKH), 1_000, [(0, b"\x6a" + push + bytes(size))]))


@case
def data_twice(coins: Coins, _: int) -> Iterator[Step]:
    yield Send(move(coins(WPKH), 1_000, [(0, b"\x6a\x01a"), (0, b"\x6a\x01b")]))


@many("version", 0, 1, 2, 3, 4)
def a_version(coins: Coins, _: int, version: int) -> Iterator[Step]:
    yield Send(pay(coins(WPKH), 500, version=version))


@case
def an_unknown_script(coins: Coins, _: int) -> Iterator[Step]:
    yield Send(move(coins(WPKH), 1_000, [(10_000, b"\x51\x51\x51")]))


@case
def a_bad_signature(coins: Coins, _: int) -> Iterator[Step]:
    yield Send(pay(coins(WPKH), 500, break_signature=True))


@case
def a_high_s(coins: Coins, _: int) -> Iterator[Step]:
    tx = pay(coins(WPKH), 500)
    signature, key = tx.inputs[0].witness
    compact = secp256k1.from_der(signature[:-1])
    high = compact[:32] + secp256k1.negate_scalar(compact[32:])
    yield Send(tx.with_witness(0, (secp256k1.to_der(high) + b"\x01", key)))


@case
def a_witness_that_is_left_over(coins: Coins, _: int) -> Iterator[Step]:
    yield Send(pay(coins(WSH), 500).with_witness(0, (b"\x01", b"\x07", SEVEN)))


@case
def a_witness_item_too_long(coins: Coins, _: int) -> Iterator[Step]:
    yield Send(pay(coins(WSH), 500).with_witness(0, (bytes(81), SEVEN)))


@case
def a_coin_that_is_not_there(coins: Coins, _: int) -> Iterator[Step]:
    piece = coins(WPKH)
    beyond = Piece(piece.outpoint._replace(vout=4_000), piece.out)
    yield Send(pay(beyond, 500))


@case
def the_same_again(coins: Coins, _: int) -> Iterator[Step]:
    tx = pay(coins(WSH), 500)
    yield Send(tx)
    yield Send(tx)
    yield Send(tx.with_witness(0, (b"\x07", b"", SEVEN)))
    yield Mine()
    yield Send(tx)


# --- locks -----------------------------------------------------------------------------------------------------------


@many("later", 0, 1, 2)
def a_locktime(coins: Coins, height: int, later: int) -> Iterator[Step]:
    yield Send(pay(coins(WPKH), 500, locktime=height + later))


@many("age", 1, 2, 3)
def a_relative_lock(coins: Coins, _: int, age: int) -> Iterator[Step]:
    (fresh, *_) = pieces(parent := pay(coins(WPKH), 500))
    yield Send(parent)
    yield Mine(1)
    yield Send(pay(fresh, 500, sequence=age))


@case
def a_relative_lock_on_what_waits(coins: Coins, _: int) -> Iterator[Step]:
    """What an anchor commitment's outputs ask for."""
    (fresh, *_) = pieces(parent := pay(coins(WPKH), 500))
    yield Send(parent)
    yield Send(pay(fresh, 500, sequence=1))


# --- replacement -----------------------------------------------------------------------------------------------------


# 110 vbytes at 1 sat on top of 500; with a signature that happens to be short, 109.
@many("fee", 499, 500, 501, 608, 610, 611, 700)
def a_replacement(coins: Coins, _: int, fee: int) -> Iterator[Step]:
    piece = coins(WPKH)
    yield Send(pay(piece, 500))
    yield Send(pay(piece, fee))


@many("sequence", 0xFFFFFFFE, 0xFFFFFFFF)
def a_replacement_of_what_does_not_signal(coins: Coins, _: int, sequence: int) -> Iterator[Step]:
    piece = coins(WPKH)
    yield Send(pay(piece, 500, sequence=sequence))
    yield Send(pay(piece, 5_000))


@many("fee", 2_000, 3_100, 3_200, 9_000)
def a_replacement_of_a_family(coins: Coins, _: int, fee: int) -> Iterator[Step]:
    """C12: the descendants' fees are to be paid for, too."""
    piece = coins(WPKH)
    parent = pay(piece, 1_000)
    yield Send(parent)
    yield Send(pay(pieces(parent)[0], 2_000))
    yield Send(pay(piece, fee))


@case
def a_replacement_with_an_unconfirmed_coin(coins: Coins, _: int) -> Iterator[Step]:
    piece, other = coins(WPKH), coins(WPKH)
    parent = pay(other, 500)
    yield Send(parent)
    yield Send(pay(piece, 500))
    yield Send(build([piece, pieces(parent)[0]], [(VALUE, WPKH)]))


@case
def a_replacement_that_spends_what_it_replaces(coins: Coins, _: int) -> Iterator[Step]:
    piece = coins(WPKH)
    first = pay(piece, 500)
    yield Send(first)
    yield Send(build([piece, pieces(first)[0]], [(VALUE, WPKH)]))


@case
def a_replacement_with_a_lower_rate(coins: Coins, _: int) -> Iterator[Step]:
    """More fee, and less for each byte."""
    piece, *more = (coins(WPKH) for _ in range(6))
    yield Send(pay(piece, 2_000))
    yield Send(build([piece, *more], [(6 * VALUE - 3_000, WPKH)]))


# --- families --------------------------------------------------------------------------------------------------------


@case
def a_chain_of_twenty_six(coins: Coins, _: int) -> Iterator[Step]:
    piece = coins(WPKH)
    for _ in range(26):
        tx = pay(piece, 300)
        yield Send(tx)
        (piece,) = pieces(tx)


@case
def a_child_below_a_parent_below_the_floor(coins: Coins, _: int) -> Iterator[Step]:
    parent = pay(coins(WPKH), 10)
    yield Send(parent)
    yield Package((parent, pay(pieces(parent)[0], 5_000)))


@case
def a_package_whose_parent_pays_for_itself(coins: Coins, _: int) -> Iterator[Step]:
    parent = pay(coins(WPKH), 300)
    yield Package((parent, pay(pieces(parent)[0], 300)))


@case
def a_package_of_strangers(coins: Coins, _: int) -> Iterator[Step]:
    yield Package((pay(coins(WPKH), 300), pay(coins(WPKH), 300)))


@case
def a_package_in_the_wrong_order(coins: Coins, _: int) -> Iterator[Step]:
    parent = pay(coins(WPKH), 300)
    yield Package((pay(pieces(parent)[0], 300), parent))


@case
def a_package_of_three_generations(coins: Coins, _: int) -> Iterator[Step]:
    eldest = pay(coins(WPKH), 300)
    parent = move(pieces(eldest)[0], 300, [(10_000, WPKH)])
    yield Package((eldest, parent, pay(pieces(parent)[0], 300)))
    yield Package((eldest, parent, build(pieces(parent), [(VALUE - 2_000, WPKH)])))
    second = move(coins(WPKH), 300, [(10_000, WPKH)])
    heir = pay(pieces(second)[0], 300)
    yield Package((second, heir, build([pieces(second)[1], pieces(heir)[0]], [(VALUE - 2_000, WPKH)])))


@case
def a_package_with_the_same_twice(coins: Coins, _: int) -> Iterator[Step]:
    parent = pay(coins(WPKH), 300)
    yield Package((parent, parent, pay(pieces(parent)[0], 300)))


@case
def a_package_of_two_parents_that_exclude_each_other(coins: Coins, _: int) -> Iterator[Step]:
    piece = coins(WPKH)
    one, two = pay(piece, 300), pay(piece, 400)
    yield Package((one, two, build([pieces(one)[0], pieces(two)[0]], [(VALUE, WPKH)])))


@case
def a_package_of_many_parents(coins: Coins, _: int) -> Iterator[Step]:
    parents = [pay(coins(WPKH), 300) for _ in range(5)]
    yield Package((*parents, build([pieces(one)[0] for one in parents], [(5 * VALUE - 5_000, WPKH)])))


@case
def a_package_whose_child_is_bad(coins: Coins, _: int) -> Iterator[Step]:
    parent = pay(coins(WPKH), 300)
    yield Package((parent, pay(pieces(parent)[0], 300, break_signature=True)))


# --- version 3 and ephemeral dust (zero-fee commitments) --------------------------------------------------------------


@many("fee", 0, 10, 300)
def a_version_3_parent_and_its_child(coins: Coins, _: int, fee: int) -> Iterator[Step]:
    parent = pay(coins(WPKH), fee, version=3)
    yield Send(parent)
    yield Package((parent, pay(pieces(parent)[0], 2_000, version=3)))


@many("versions", (2, 3), (3, 2), (3, 3))
def a_child_of_another_version(coins: Coins, _: int, versions: tuple[int, int]) -> Iterator[Step]:
    parent = pay(coins(WPKH), 500, version=versions[0])
    yield Send(parent)
    yield Send(pay(pieces(parent)[0], 500, version=versions[1]))


@case
def a_version_3_grandchild(coins: Coins, _: int) -> Iterator[Step]:
    piece = coins(WPKH)
    for _ in range(3):
        tx = pay(piece, 500, version=3)
        yield Send(tx)
        (piece,) = pieces(tx)


@many("fee", 400, 2_000)
def a_version_3_sibling(coins: Coins, _: int, fee: int) -> Iterator[Step]:
    """A second child takes the place of the first if it pays for that."""
    parent = move(coins(WPKH), 500, [(300_000, WPKH)], version=3)
    yield Send(parent)
    first, second = pieces(parent)
    yield Send(pay(first, 500, version=3))
    yield Send(pay(second, fee, version=3))


@many("outputs", 20, 40, 400)
def a_version_3_child_of_a_size(coins: Coins, _: int, outputs: int) -> Iterator[Step]:
    parent = pay(coins(WPKH), 500, version=3)
    yield Send(parent)
    yield Send(move(pieces(parent)[0], 50_000, [(1_000, WPKH)] * outputs, version=3))


@many("outputs", 300, 400)
def a_version_3_parent_of_a_size(coins: Coins, _: int, outputs: int) -> Iterator[Step]:
    yield Send(move(coins(WPKH), 50_000, [(1_000, WPKH)] * outputs, version=3))


def _zero_fee(coins: Coins, value: int, fee: int = 0) -> Tx:
    return move(coins(WPKH), fee, [(value, ANCHOR)], version=3)


@many("value", 0, 239, 240)
def an_ephemeral_anchor(coins: Coins, _: int, value: int) -> Iterator[Step]:
    parent = _zero_fee(coins, value)
    yield Send(parent)
    anchor = pieces(parent)[0]
    wallet = coins(WPKH)
    child = build([anchor, wallet], [(int(wallet.out.value) + value - 2_000, WPKH)], version=3)
    yield Package((parent, child))


@case
def an_ephemeral_anchor_with_a_fee(coins: Coins, _: int) -> Iterator[Step]:
    parent = _zero_fee(coins, 0, 500)
    anchor, wallet = pieces(parent)[0], coins(WPKH)
    yield Package((parent, build([anchor, wallet], [(VALUE - 2_000, WPKH)], version=3)))


@case
def an_ephemeral_anchor_that_nobody_spends(coins: Coins, _: int) -> Iterator[Step]:
    parent = _zero_fee(coins, 0)
    yield Package((parent, pay(pieces(parent)[1], 3_000, version=3)))


@case
def two_pieces_of_ephemeral_dust(coins: Coins, _: int) -> Iterator[Step]:
    parent = move(coins(WPKH), 0, [(0, ANCHOR), (0, ANCHOR)], version=3)
    one, two, rest = pieces(parent)
    yield Package((parent, build([one, two, rest], [(VALUE - 3_000, WPKH)], version=3)))


@many("fee", 2_000, 2_100, 6_000)
def a_package_against_a_package(coins: Coins, _: int, fee: int) -> Iterator[Step]:
    """Two zero-fee commitments of one channel, each with its child."""
    funding, mine, yours = coins(WPKH), coins(WPKH), coins(WPKH)
    rivals = [move(funding, 0, [(0, ANCHOR)], version=3), move(funding, 0, [(0, ANCHOR)], version=3, locktime=1)]
    for parent, wallet, paid in ((rivals[0], mine, 2_000), (rivals[1], yours, fee)):
        anchor = pieces(parent)[0]
        yield Package((parent, build([anchor, wallet], [(VALUE - paid, WPKH)], version=3)))
