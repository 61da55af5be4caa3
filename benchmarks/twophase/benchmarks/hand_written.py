"""The contender to beat: the loop that people write themselves, with psycopg's calls for two-phase commit.

Lives here: the loop, as short as it can be. Must not live here: a log, a retry, a recovery. It has none: killed between
two commits it leaves half a transfer, and a prepared transaction that nobody finishes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from twophase.benchmarks.bank import UPDATE
from twophase.benchmarks.contenders import Places
from twophase.benchmarks.pacing import Client, Move
from twophase.benchmarks.workload import Transfer

_FORMAT: Final = 1


@contextmanager
def clients(places: Places, count: int) -> Iterator[Client]:  # noqa: ARG001 - each client brings its own connections
    """Clients with a pair of connections each."""
    names = (f"loop-{number}" for number in itertools.count(1))

    @contextmanager
    def client() -> Iterator[Move]:
        mine = next(names)
        numbers = itertools.count(1)
        with psycopg.connect(places.left) as left, psycopg.connect(places.right) as right:

            def move(transfer: Transfer) -> str:
                name = f"{mine}-{next(numbers)}"
                left.tpc_begin(left.xid(_FORMAT, name, "left"))
                left.execute(UPDATE, (-transfer.amount, transfer.left))
                right.tpc_begin(right.xid(_FORMAT, name, "right"))
                right.execute(UPDATE, (transfer.amount, transfer.right))
                left.tpc_prepare()
                right.tpc_prepare()
                left.tpc_commit()
                right.tpc_commit()
                return ""

            yield move

    yield client
