"""What a drill is.

Lives here: the value `Drill`. Must not live here: any drill.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from twophase.contract.crashpoints import CrashPoint
from twophase.sandbox.drill.business import Business
from twophase.sandbox.drill.stage import Stage

# Recovery is a matter of seconds on any machine; what takes longer waited for something it should not.
RECOVERED_WITHIN: Final = 10.0
Act = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Drill:
    """One drill. `act` runs under load and leaves everything running again. `points` are those it is to hit.

    `act` raises `Skipped` before it has changed anything, if this machine lacks what it needs. `business` is what the
    clients do meanwhile, and `within` how many seconds after the ready line, or the end of the fault, nothing of before
    may be in doubt any more.
    """

    name: str
    about: str
    act: Act
    points: tuple[CrashPoint, ...] = ()
    quick: bool = False
    business: Business = Business.TRANSFERS
    within: float = RECOVERED_WITHIN
