"""A journal with a long history, made in seconds: every row of one transaction, again under other names.

Lives here: the copying. Must not live here: what the rows mean. What a coordinator wrote itself is copied, whatever
tables it has written it to, so the history is as the coordinator of today writes it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

_BATCH: Final = 20_000
_NUMBERS: Final = (
    "WITH RECURSIVE copy (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM copy WHERE n + 1 < :first + :count)"
)


def multiply(journal: Path, copies: int, *, given_up: Callable[[], bool] = lambda: False) -> None:
    """Adds `copies` to the one transaction in a journal that nobody has open. Raises `ValueError` if there is not one.

    They follow it in its epoch, each with a request id of its own. Nothing is forced to the disk until the end. Stops
    soon after it is `given_up`, and leaves a file that is of no use.
    """
    with closing(sqlite3.connect(journal, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        txid, request_id = _the_one(connection)
        epoch, sequence = txid.rsplit("-", 1)
        (span,) = connection.execute("SELECT max(position) FROM events").fetchone()
        names = {"epoch": epoch, "sequence": int(sequence, 16), "span": span, "txid": txid, "request": request_id}
        statements = list(_statements(connection, txid))
        for first in range(1, copies + 1, _BATCH):
            if given_up():
                return
            numbers = {"first": first, "count": min(_BATCH, copies + 1 - first)}
            connection.execute("BEGIN IMMEDIATE")
            for statement in statements:
                connection.execute(statement, {**names, **numbers})
            connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    # What the system still had to write would be written while somebody is measured.
    with journal.open("rb") as file:
        os.fsync(file.fileno())


def _the_one(connection: sqlite3.Connection) -> tuple[str, str]:
    found = connection.execute(
        "SELECT t.txid, r.request_id FROM transactions t JOIN requests r ON r.txid = t.txid WHERE t.ended = 1"
    ).fetchall()
    if len(found) != 1:
        raise ValueError(f"the journal holds {len(found)} ended transactions with a request; give one that holds 1")
    txid, request_id = found[0]
    return txid, request_id


def _statements(connection: sqlite3.Connection, txid: str) -> Iterator[str]:
    """One for each table with rows of transactions; in the order of the copies, so that indexes grow at their ends.

    The rows to copy are put aside first: looked up in the table itself, every copy would cost a look at all the others.
    """
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        columns = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall()]
        if "txid" in columns:
            made = ", ".join(_copied(name) for name in columns)
            connection.execute(f"CREATE TEMP TABLE one_of_{table} AS SELECT * FROM {table} WHERE txid = ?", (txid,))  # noqa: S608
            yield (
                f"{_NUMBERS} INSERT INTO {table} ({', '.join(columns)}) SELECT {made} FROM copy"  # noqa: S608
                f" CROSS JOIN one_of_{table}{' ORDER BY n, position' if 'position' in columns else ''}"
            )


def _copied(column: str) -> str:
    match column:
        case "txid":
            return "printf('%s-%012x', :epoch, :sequence + n)"
        case "position":
            return "position + n * :span"
        case "request_id":
            return "printf('%s-%d', :request, n)"
        case "body":
            return "replace(body, :request, printf('%s-%d', :request, n))"
        case _:
            return column
