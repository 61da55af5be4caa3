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
from twophase.coordinator.engine.running import FINISH_SECONDS, LONGEST_PAUSE
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
AT_ONCE: Final = (
    "one round trip from its ready line: everybody is asked at once; what a slow server prepares after that is found by"
    f" a later sweep, fractions of a second apart at first and {_SWEEP:g} s at most"
)
BACK: Final = (
    f"{_RECONNECT + LONGEST_PAUSE:g} s from its ready line: {_RECONNECT:g} s until it is dialled again,"
    f" {LONGEST_PAUSE:g} s between two attempts"
)
HEALED: Final = f"{_RECONNECT + LONGEST_PAUSE:g} s from the end of the fault, if it ends in a reset"
SILENT: Final = (
    f"{FINISH_SECONDS + LONGEST_PAUSE:g} s from the end of the fault, the time of one unanswered attempt and a pause;"
    f" a connection that stays dead is replaced after {_SILENCE:g} s"
)
DATABASE: Final = (
    f"{CONNECT_TIMEOUT + LONGEST_PAUSE:g} s from the end of the fault; statements that nobody answers are given up"
    " after some ten seconds"
)
