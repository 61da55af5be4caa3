"""The contender DBOS Transact: the same transfer as a durable workflow of two steps, each committed by itself.

Lives here: the workflow, and its start. Must not live here: what would make it as safe as a saga. A step that is done
and not recorded is done again, and a workflow that cannot go on is not undone; leaving both out is to its advantage.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from dbos import DBOS

from twophase.benchmarks.bank import UPDATE
from twophase.benchmarks.contenders import Places
from twophase.benchmarks.pacing import Client, Move
from twophase.benchmarks.workload import Transfer


class _Connections(threading.local):
    """Of one client: steps run in the thread that calls the workflow. Slots would be shared by all threads."""

    left: psycopg.Connection | None = None
    right: psycopg.Connection | None = None


_mine: Final = _Connections()


@DBOS.step()
def _take(account: int, amount: int) -> None:
    assert _mine.left is not None  # noqa: S101 - the client has connected
    _mine.left.execute(UPDATE, (-amount, account))


@DBOS.step()
def _give(account: int, amount: int) -> None:
    assert _mine.right is not None  # noqa: S101 - the client has connected
    _mine.right.execute(UPDATE, (amount, account))


@DBOS.workflow()
def _transfer(left: int, right: int, amount: int) -> None:
    _take(left, amount)
    _give(right, amount)


def launch(state: str) -> None:
    """Starts DBOS in this process, with its system database at this URL; everything else is left as it comes."""
    DBOS(config={"name": "bench", "system_database_url": state, "log_level": "ERROR"})
    DBOS.launch()


@contextmanager
def clients(places: Places, count: int) -> Iterator[Client]:  # noqa: ARG001 - each client brings its own connections
    """Clients with a pair of connections each; a step is one statement in autocommit, so one round trip."""

    @contextmanager
    def client() -> Iterator[Move]:
        with (
            psycopg.connect(places.left, autocommit=True) as left,
            psycopg.connect(places.right, autocommit=True) as right,
        ):
            _mine.left, _mine.right = left, right
            yield _move

    yield client


def _move(transfer: Transfer) -> str:
    _transfer(transfer.left, transfer.right, transfer.amount)
    return ""
