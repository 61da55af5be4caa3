"""The contender SQLAlchemy: one session over all databases, with `twophase=True`.

Lives here: its session. Must not live here: a log or a recovery; it has none. The business code goes to the session's
own connections, past the mapper: what is compared is how the session commits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from twophase.benchmarks.report.measure.business import Deed, branches_of, participants_of
from twophase.benchmarks.report.measure.contenders.places import Places
from twophase.benchmarks.report.measure.pacing import Client, Do
from twophase.benchmarks.report.measure.task import Task, Told
from twophase.participant import Refused


@contextmanager
def sqlalchemy_clients(places: Places, task: Task) -> Iterator[Client]:
    """Clients that share an engine for each database, with a connection for each client."""
    engines = {name: _engine(places.databases[name], task.clients) for name in participants_of(task.mix)}

    @contextmanager
    def client() -> Iterator[Do]:
        for engine in engines.values():
            with engine.connect():
                pass
        yield lambda deed: _do(engines, deed)

    try:
        yield client
    finally:
        for engine in engines.values():
            engine.dispose()


def _do(engines: dict[str, Engine], deed: Deed) -> Told:
    with Session(twophase=True) as session:
        try:
            for branch in branches_of(deed):
                bound = session.connection(bind_arguments={"bind": engines[branch.participant]})
                psycopg_connection: Any = bound.connection.driver_connection
                branch.run(psycopg_connection)
        except Refused:
            session.rollback()
            return Told.REFUSED
        session.commit()
    return Told.OK


def _engine(dsn: str, connections: int) -> Engine:
    return create_engine(
        dsn.replace("postgresql://", "postgresql+psycopg://", 1), pool_size=connections, max_overflow=0
    )
