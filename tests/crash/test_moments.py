"""What counts as said too early."""

import pytest
from moments import order_of

MADE, SENT = "made commitment_signed 1", "sent commitment_signed 1"
WRITE, SYNC = "write salama.sqlite3-wal", "sync salama.sqlite3-wal"


def test_in_order_and_again() -> None:
    order = order_of([MADE, "begin", WRITE, WRITE, SYNC, SENT, SENT])
    assert order.early == []
    assert order.sent == {"commitment_signed": 2}


@pytest.mark.parametrize(
    "moments",
    [
        [SENT],
        [MADE, SENT],
        [MADE, "begin", WRITE, SENT, SYNC],
        # The syncs of others: of a transaction that had begun before, and of another file.
        ["begin", WRITE, MADE, SYNC, SENT],
        ["begin", MADE, WRITE, SYNC, SENT],
        [MADE, "begin", WRITE, "sync salama.sqlite3", SENT],
        # A sync of nothing.
        [MADE, "begin", SYNC, SENT],
        [MADE, "begin", SYNC, WRITE, SENT],
    ],
)
def test_too_early(moments: list[str]) -> None:
    assert len(order_of(moments).early) == 1
