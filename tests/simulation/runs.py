"""What a run is made of: how bad it gets, what was sent, what happened, what is there in the end.

Lives here: settings and records. Must not live here: the run (`world`), what must hold of it (`check`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from simulation.participants import Participant
from twophase.coordinator.journal.memory_state import Entry

NAMES = ("east", "west", "north")
ACCOUNTS = 3
OPENING = 100


class Told(Enum):
    """What a client knows of its transfer."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Transfer:
    """Movements that belong together: (participant, account, amount). `looks` are participants that are only asked."""

    name: str
    movements: tuple[tuple[str, int, int], ...]
    looks: tuple[str, ...] = ()
    told: Told = Told.UNKNOWN


@dataclass(frozen=True, slots=True)
class Setting:
    """How long and how bad. Seconds are virtual.

    `pause` is that of a client, `trouble` the one between two failures. `sync` is what one of the journal
    takes at most, `standby` a commit of a participant. `copies` is how many requests come twice, None: it differs from
    seed to seed; `late` are the delays of a client's second copy, `later` those of a coordinator's. `fickle` is how
    many branches refuse for no reason. What has ended is forgotten after `retention`, None: not within a run.
    """

    seconds: float = 6.0
    clients: int = 3
    pause: float = 0.6
    trouble: float = 0.7
    sync: float = 0.01
    standby: float = 0.004
    copies: float | None = None
    late: tuple[float, ...] = (0.0, 0.1, 1.0)
    later: tuple[float, ...] = (0.001, 0.05, 1.0, 5.0)
    fickle: float = 0.0
    retention: float | None = None
    meddling: bool = False
    failing_over: bool = False
    freezing: bool = False


CALM = Setting()
"""Processes, servers and the network fail; no person interferes."""
MEDDLED = Setting(meddling=True)
"""Besides, somebody finishes prepared branches by hand."""
FAILED_OVER = Setting(failing_over=True)
"""Besides, standbys that lag behind take the place of servers."""
BUSY = Setting(seconds=4.0, clients=8, pause=0.1, copies=0.3)
"""Many clients at once, and much comes twice."""
SLOW_DISK = Setting(seconds=20.0, pause=0.2, sync=2.5)
"""A sync may take longer than a transaction has time."""
SLOW_STANDBYS = Setting(standby=1.0, pause=0.3)
"""What is committed or prepared waits for a standby, and holds its locks meanwhile."""
COPIED = Setting(seconds=12.0, clients=1, pause=0.3, trouble=0.3, copies=0.9, late=(0.1, 1.0, 2.0), fickle=0.5)
"""Requests come a second time late, also after the coordinator has died, and the business is in two minds."""
PRUNED = Setting(seconds=26.0, clients=2, pause=1.0, copies=0.2, later=(0.05, 0.5), retention=14.0)
"""What is over is soon forgotten. Nobody sends again, and no copy comes, when it may be."""
PRUNED_AND_MEDDLED = replace(PRUNED, meddling=True)
"""What is over is soon forgotten, but not what somebody did by hand."""
FROZEN = Setting(freezing=True)
"""A coordinator that stands still is replaced on its journal, which several share, and goes on."""

SETTINGS = {
    "branches finished by hand": MEDDLED,
    "what failovers lose": FAILED_OVER,
    "many clients": BUSY,
    "a slow disk": SLOW_DISK,
    "slow standbys": SLOW_STANDBYS,
    "late copies": COPIED,
    "what is forgotten": PRUNED,
    "forgetting what was done by hand": PRUNED_AND_MEDDLED,
    "frozen coordinators": FROZEN,
}
"""What is run besides `CALM`."""


@dataclass(frozen=True, slots=True)
class Meddling:
    """Somebody finished a prepared branch by hand, `at` so many seconds after the start; `transfers` are those that it
    belonged to."""

    at: float
    bank: str
    gid: str
    commit: bool
    transfers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Loss:
    """What a failover lost at a participant: a branch with its movements, prepared or committed, or a verdict on it."""

    bank: str
    gid: str
    outcome: str
    transfers: frozenset[str]


@dataclass(slots=True)
class Run:
    """Everything about one run.

    `early` are transfers that were told as applied and were not there then; `left` what is prepared in the end;
    `neighbours` what another installation has prepared in the same databases; `heuristics` the transactions that
    are kept as such; `journal` everything that reached the disk, in its order.
    """

    seed: int
    setting: Setting
    participants: dict[str, Participant]
    transfers: list[Transfer] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    early: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    neighbours: dict[str, str] = field(default_factory=dict)
    meddled: list[Meddling] = field(default_factory=list)
    heuristics: set[str] = field(default_factory=set)
    failovers: set[str] = field(default_factory=set)
    losses: list[Loss] = field(default_factory=list)
    journal: list[Entry] = field(default_factory=list)
