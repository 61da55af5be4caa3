"""Whether the journal's disk has room for new transactions (R10).

Lives here: when the ballast is made and given up, when new work is refused, and the words for it. Must not live here:
the file itself (`journal.ballast`), and refusing (`engine`).

With less free space than the ballast takes up, nothing new is begun: a write that failed would end the process. If that
comes too late and the process has ended, its next start gives the ballast up. That is room enough to open the journal
and to finish what is decided. Nothing new is taken until the disk has room for the ballast again, and some to spare.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from twophase.coordinator.engine.api import Rejected
from twophase.coordinator.engine.rejections import no_room
from twophase.coordinator.journal.ballast import Ballast

_log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""How often the free space is looked at."""

_AGAIN_SECONDS: Final = 60.0  # a ballast that could not be made although there seemed to be room: a quota, perhaps
_MIB: Final = 1 << 20


class Room:
    """Watches the room on one journal's disk. A ballast of no size switches it off: there is always room then."""

    def __init__(self, ballast: Ballast, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ballast = ballast
        self._clock = clock
        self._short = False
        self._made_at_earliest = 0.0
        self._told = ""
        self._new = False  # whether the ballast was made since the start

    @property
    def refusal(self) -> Rejected | None:
        """Why nothing new may be begun; None if it may."""
        return no_room(self._shown(), self._needed()) if self._short else None

    def start(self) -> None:
        """Before the journal is opened: gives the ballast up if the disk is full, and makes it if there is room."""
        try:
            if self._ballast.size == 0 or self._ballast.free() < self._ballast.size:
                self._ballast.give_up()
        except OSError as error:
            self._tell_once(error)
        self.look()

    def make_some(self) -> bool:
        """The journal could not be opened for want of room: gives the ballast up. False if there is none."""
        try:
            if not self._ballast.is_there():
                return False
            self._ballast.give_up()
        except OSError as error:
            self._tell_once(error)
            return False
        # It was in the way although there seemed to be room enough for both: a quota, perhaps.
        self._made_at_earliest = self._clock() + _AGAIN_SECONDS
        self.look()
        return True

    def take_back(self) -> None:
        """The file cannot be used as a journal: what was made beside it is removed again."""
        if not self._new:
            return
        try:
            self._ballast.give_up()
        except OSError as error:
            self._tell_once(error)

    def look(self) -> None:
        """Looks at the disk, and says what has changed, once. Cheap, unless it makes a ballast."""
        size = self._ballast.size
        if size == 0:
            return
        try:
            there = self._ballast.is_there() or self._make()
            enough = there and self._ballast.free() >= (size + size // 4 if self._short else size)
        except OSError as error:
            self._tell_once(error)
            return
        if enough is self._short:
            self._short = not enough
            self._tell()

    def _make(self) -> bool:
        """True if it is made. Not if that would leave too little for the journal itself."""
        size = self._ballast.size
        if self._clock() < self._made_at_earliest or self._ballast.free() < 2 * size + size // 4:
            return False
        try:
            self._ballast.make()
            self._new = True
        except OSError as error:
            self._tell_once(error)
            self._made_at_earliest = self._clock() + _AGAIN_SECONDS
            return False
        return True

    def _tell(self) -> None:
        where = self._ballast.directory
        if self._short:
            _log.critical(
                "%s on the disk of %s: nothing new is begun, what is decided is finished; make room there, until %s are"
                " free, and this coordinator goes on by itself",
                *(self._shown(), where, self._needed()),
            )
        else:
            _log.warning("%s on the disk of %s: new transactions are taken again", self._shown(), where)

    def _tell_once(self, error: OSError) -> None:
        if str(error) != self._told:
            self._told = str(error)
            _log.critical("cannot see to the ballast in %s: %s", self._ballast.directory, error)

    def _shown(self) -> str:
        try:
            return f"{self._ballast.free() / _MIB:.0f} MiB are free"
        except OSError:
            return "an unknown number of MiB are free"

    def _needed(self) -> str:
        """How much must be free until new work is taken: less if the ballast is there."""
        size = self._ballast.size
        try:
            spare = size + size // 4 if self._ballast.is_there() else 2 * size + size // 4
        except OSError:
            spare = 2 * size + size // 4
        return f"{spare / _MIB:.0f} MiB"
