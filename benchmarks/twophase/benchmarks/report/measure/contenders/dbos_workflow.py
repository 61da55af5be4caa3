"""The contender DBOS Transact: a saga by hand, as a durable workflow whose steps commit each by itself.

Lives here: the workflow, with compensations as further steps where something was refused. Must not live here: what
would make its steps as safe as a saga's: one that is done and not recorded is done again. Leaving that out is to its
advantage.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import psycopg
from dbos import DBOS

from twophase.benchmarks.report.measure.business import Branch, Deed, branches_of, participants_of
from twophase.benchmarks.report.measure.contenders.places import Places
from twophase.benchmarks.report.measure.pacing import Do
from twophase.benchmarks.report.measure.task import Task, Told
from twophase.participant import Refused


class _Mine(threading.local):
    """Of one client: steps run in the thread that calls the workflow. Slots would be shared by all threads."""

    connections: dict[str, psycopg.Connection] | None = None
    branches: list[Branch] | None = None


_mine: Final = _Mine()


@DBOS.step()
def _run(number: int) -> bool:
    connection, branch = _branch(number)
    try:
        with connection.transaction():
            branch.run(connection)
    except Refused:
        return False
    return True


@DBOS.step()
def _undo(number: int) -> None:
    connection, branch = _branch(number)
    with connection.transaction():
        branch.undo(connection)


@DBOS.workflow()
def _deed(steps: int) -> str:
    for number in range(steps):
        if not _run(number):
            for done in reversed(range(number)):
                _undo(done)
            return Told.UNDONE.value if number else Told.REFUSED.value
    return Told.OK.value


def launch(state: str) -> None:
    """Starts DBOS in this process, with its system database at this URL; everything else is left as it comes."""
    DBOS(config={"name": "bench", "system_database_url": state, "log_level": "ERROR"})
    DBOS.launch()


@contextmanager
def dbos_client(places: Places, task: Task) -> Iterator[Do]:
    """One client, with a connection to each database."""
    with ExitStack() as stack:
        _mine.connections = {
            name: stack.enter_context(psycopg.connect(places.databases[name], autocommit=True))
            for name in participants_of(task.mix)
        }
        yield _do


def _do(deed: Deed) -> Told:
    # The workflow's own input would be the deed; it is left in the thread, which spares DBOS writing it down.
    _mine.branches = branches_of(deed)
    return Told(_deed(len(_mine.branches)))


def _branch(number: int) -> tuple[psycopg.Connection, Branch]:
    assert _mine.branches is not None and _mine.connections is not None  # noqa: S101, PT018 - the client has connected
    branch = _mine.branches[number]
    return _mine.connections[branch.participant], branch
