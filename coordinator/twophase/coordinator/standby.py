"""Standing by: a second coordinator on the same journal, which takes over when the first one is gone, or frozen.

Lives here: waiting for the journal's lock, judging whether its holder lives, and having a frozen one ended. Must not
live here: what the new coordinator does then (`server`).

A frozen holder could wake up at any moment, so it is never replaced while it exists: it is killed first, and only the
kernel giving the lock free proves that it is gone. A holder that cannot be killed from here is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

from twophase.coordinator.journal.holder import CannotEnd, Holder
from twophase.coordinator.journal.lock import FileLock, Record, read_record
from twophase.coordinator.journal.port import JournalLocked
from twophase.coordinator.journal.sqlite_open import take_lock

_log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.1


class Watch:
    """Counts in how many looks in a row a holder's heart did not beat.

    Looks are at least a pause apart, so many of them are at least that long. What is counted is looks and not time: if
    this process was stopped itself, or the machine slept, that is one look, however long it was.
    """

    def __init__(self, patience: int) -> None:
        """A holder counts as frozen after `patience` looks without a beat; 0: never."""
        self._patience = patience
        self._last: Record | None = None
        self._still = 0

    def look(self, record: Record | None) -> Holder | None:
        """Takes one look; returns the holder if it counts as frozen."""
        if record is None or record.beats == 0 or record != self._last:
            self._last, self._still = record, 0
            return None
        self._still += 1
        return record.holder if 0 < self._patience <= self._still else None


async def stand_by(
    journal: Path, *, takeover_after: float, announce: Callable[[str], None], stop: asyncio.Event
) -> FileLock | None:
    """The journal's lock, as soon as it can be had; None if `stop` is set first.

    `takeover_after` is how many seconds the holder's heart may stand still before the holder is killed; 0: for ever.
    `announce` gets one line if there is somebody to wait for. Raises `JournalUnusable`.
    """
    watch = Watch(math.ceil(takeover_after / POLL_SECONDS))
    given_up: Holder | None = None
    announced = False
    while not stop.is_set():
        try:
            return take_lock(journal)
        except JournalLocked:
            record = read_record(journal)
        if not announced:
            who = "another process" if record is None else f"process {record.holder.pid}"
            announce(f"twophase coordinator stands by: {who} has the journal {journal}")
            announced = True
        frozen = watch.look(record)
        if frozen is not None and frozen != given_up:
            _end(frozen, takeover_after)
            given_up = frozen
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await stop.wait()
        except TimeoutError:
            continue
    return None


def _end(holder: Holder, takeover_after: float) -> None:
    silent = f"process {holder.pid} has the journal and showed no sign of life for {takeover_after:g} s"
    try:
        if holder.end():
            _log.critical("%s: killed it, and take over", silent)
        else:
            _log.warning("process %d is gone, and somebody still has the journal: waiting", holder.pid)
    except CannotEnd as error:
        _log.critical("%s; it is not killed: %s. Kill it by hand, and this one takes over", silent, error)
