"""What a drill is.

Lives here: the value `Drill`. Must not live here: any drill.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from twophase.contract.crashpoints import CrashPoint
from twophase.sandbox.drill.stage import Stage

Act = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Drill:
    """One drill. `act` runs under load and leaves everything running again. `points` are those it is to hit.

    `act` raises `Skipped` before it has changed anything, if this machine lacks what it needs.
    """

    name: str
    about: str
    act: Act
    points: tuple[CrashPoint, ...] = ()
    quick: bool = False
