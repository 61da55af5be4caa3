"""The contenders that people write themselves: independent local commits, and the loop over psycopg's `tpc_*` calls.

Lives here: both, as short as they can be. Must not live here: a log, a retry, a recovery. They have none: refused in
the middle, the first leaves what it has committed; killed between two commits, the second leaves a branch that nobody
ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

import psycopg
from psycopg.pq import TransactionStatus

from twophase.benchmarks.report.measure.business import Deed, branches_of, name_of, participants_of
from twophase.benchmarks.report.measure.contenders.places import Places
from twophase.benchmarks.report.measure.pacing import Do
from twophase.benchmarks.report.measure.task import Task, Told
from twophase.participant import Refused

_FORMAT: Final = 1


@contextmanager
def local_commits(places: Places, task: Task) -> Iterator[Do]:
    """One client. Every branch commits by itself, one after the other; nobody takes anything back."""
    with _connected(places, task) as connections:

        def do(deed: Deed) -> Told:
            done = 0
            try:
                for branch in branches_of(deed):
                    connection = connections[branch.participant]
                    with connection.transaction():
                        branch.run(connection)
                    done += 1
            except Refused:
                return Told.HALF if done else Told.REFUSED
            return Told.OK

        yield do


@contextmanager
def loop(places: Places, task: Task) -> Iterator[Do]:
    """One client. Everything is done everywhere, then prepared everywhere, then committed everywhere."""
    with _connected(places, task) as connections:

        def do(deed: Deed) -> Told:
            branches = branches_of(deed)
            used = [connections[branch.participant] for branch in branches]
            try:
                for branch, connection in zip(branches, used, strict=True):
                    connection.tpc_begin(connection.xid(_FORMAT, name_of(deed), branch.participant))
                    branch.run(connection)
            except Refused:
                for connection in used:
                    if connection.info.transaction_status is not TransactionStatus.IDLE:
                        connection.tpc_rollback()
                return Told.REFUSED
            for connection in used:
                connection.tpc_prepare()
            for connection in used:
                connection.tpc_commit()
            return Told.OK

        yield do


@contextmanager
def _connected(places: Places, task: Task) -> Iterator[Mapping[str, psycopg.Connection]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(psycopg.connect(places.databases[name])) for name in participants_of(task.mix)}
