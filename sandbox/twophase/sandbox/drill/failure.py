"""What a failure is that is drilled, and the bounds on its recovery that are common to many.

Lives here: the values, and bounds made of the constants that are in force. Must not live here: any failure
(`failures`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from inspect import signature
from typing import Final

from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.engine.underway import FINISH_SECONDS, LONGEST_PAUSE
from twophase.coordinator.transport import CHANNEL_OPTIONS
from twophase.participant.database import CONNECT_TIMEOUT


class Group(Enum):
    """What fails."""

    COORDINATOR = "The coordinator's process"
    PARTICIPANT = "A participant's process"
    BOTH = "Several processes"
    POSTGRES = "A participant's Postgres"
    NETWORK = "The network"
    DISK = "The journal's disk"
    JOURNAL = "The journal itself"
    CLIENTS = "The clients"


@dataclass(frozen=True, slots=True)
class Failure:
    """One row. `drills` are names; `bound` says how long it may take until nothing is in doubt."""

    group: Group
    what: str
    happens: str
    finished_by: str
    bound: str
    drills: tuple[str, ...]


_CHANNEL: Final = dict(CHANNEL_OPTIONS)
_RECONNECT: Final = _CHANNEL["grpc.max_reconnect_backoff_ms"] / 1000
_SILENCE: Final = (_CHANNEL["grpc.keepalive_time_ms"] + _CHANNEL["grpc.keepalive_timeout_ms"]) / 1000
_SWEEP: Final = signature(Engine).parameters["sweep_every"].default

AT_ONCE: Final = f"a round trip; a sweep: {_SWEEP:g} s"
BACK: Final = f"back: {_RECONNECT + LONGEST_PAUSE:g} s"
HEALED: Final = f"reset: {_RECONNECT + LONGEST_PAUSE:g} s"
SILENT: Final = f"silence: {FINISH_SECONDS + LONGEST_PAUSE:g} s"
DATABASE: Final = f"database: {CONNECT_TIMEOUT + LONGEST_PAUSE:g} s"

BOUNDS: Final = {
    AT_ONCE: "A coordinator asks everybody as soon as it is ready. What a slow server prepares after that is found by a"
    f" later sweep; sweeps are fractions of a second apart at first, and {_SWEEP:g} s at most.",
    BACK: f"From the ready line of a participant: {_RECONNECT:g} s until it is dialled again, and {LONGEST_PAUSE:g} s"
    " between two attempts.",
    HEALED: "The same from the end of a fault in which connections were reset.",
    SILENT: f"From the end of a fault in which nothing was answered: one attempt waits for {FINISH_SECONDS:g} s, the"
    f" next begins {LONGEST_PAUSE:g} s later. A connection that stays dead is replaced after {_SILENCE:g} s.",
    DATABASE: f"From the end of a fault: a participant that dials its database gives up after {CONNECT_TIMEOUT} s, and"
    f" the coordinator asks it again {LONGEST_PAUSE:g} s later. A statement that a database does not answer is given up"
    " after some ten seconds.",
}
