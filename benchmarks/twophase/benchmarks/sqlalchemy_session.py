"""The contender SQLAlchemy: one session over two databases, with `twophase=True`.

Lives here: its tables and its session. Must not live here: a log or a recovery; it has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import BigInteger, Engine, create_engine, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from twophase.benchmarks.contenders import Places
from twophase.benchmarks.pacing import Client, Move
from twophase.benchmarks.workload import Transfer


class _LeftBase(DeclarativeBase):
    pass


class _RightBase(DeclarativeBase):
    pass


class _Left(_LeftBase):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int] = mapped_column(BigInteger)


class _Right(_RightBase):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int] = mapped_column(BigInteger)


@contextmanager
def clients(places: Places, count: int) -> Iterator[Client]:
    """Clients that share two engines with a connection for each of them."""
    left, right = _engine(places.left, count), _engine(places.right, count)
    sessions = sessionmaker(binds={_LeftBase: left, _RightBase: right}, twophase=True)

    @contextmanager
    def client() -> Iterator[Move]:
        with left.connect(), right.connect():
            pass
        yield lambda transfer: _move(sessions, transfer)

    try:
        yield client
    finally:
        left.dispose()
        right.dispose()


def _move(sessions: sessionmaker[Session], transfer: Transfer) -> str:
    with sessions() as session:
        taken, given = _Left.balance - transfer.amount, _Right.balance + transfer.amount
        unsynchronised = {"synchronize_session": False}
        session.execute(
            update(_Left).where(_Left.id == transfer.left).values(balance=taken), execution_options=unsynchronised
        )
        session.execute(
            update(_Right).where(_Right.id == transfer.right).values(balance=given), execution_options=unsynchronised
        )
        session.commit()
    return ""


def _engine(dsn: str, connections: int) -> Engine:
    return create_engine(
        dsn.replace("postgresql://", "postgresql+psycopg://", 1), pool_size=connections, max_overflow=0
    )
