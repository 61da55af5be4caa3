"""What a run is made of: how bad it gets, what was sent, what happened, what is there in the end.

Lives here: settings and records. Must not live here: the run (`world`), what must hold of it (`check`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from simulation.deeds import Deed
from simulation.participants import Participant
from twophase.contract.names import Gid, Txid
from twophase.coordinator.journal.memory_state import Entry

NAMES = ("east", "west", "north")
ACCOUNTS = 3
OPENING = 100


class Told(Enum):
    """What a client knows of its transfer."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Saga:
    """How a transfer runs as a saga. Its steps are its movements, then its looks; for each, those that come before it.
    `deadline` is in seconds; `hasty` clients want to hear what is certain, not only what is applied."""

    after: tuple[tuple[int, ...], ...]
    pivot: int | None
    deadline: float
    hasty: bool


@dataclass(slots=True)
class Transfer:
    """Movements that belong together: (participant, account, amount). `looks` are participants that are only asked.
    `saga` is None for one that is committed in two phases."""

    name: str
    movements: tuple[tuple[str, int, int], ...]
    looks: tuple[str, ...] = ()
    told: Told = Told.UNKNOWN
    saga: Saga | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """How long and how bad. Seconds are virtual.

    `pause` is that of a client, `trouble` the one between two failures. `sync` is what one of the journal
    takes at most, `standby` a commit of a participant. `copies` is how many requests come twice, None: it differs from
    seed to seed; `late` are the delays of a client's second copy, `later` those of a coordinator's. `fickle` is how
    many branches refuse for no reason, `moody` how many steps and compensations do for the moment. What has ended is
    forgotten after `retention`, None: not within a run. `sagas` is the share of transfers that run as one; where it is
    `watched`, somebody looks at dead letters.
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
    moody: float = 0.0
    sagas: float = 0.0
    retention: float | None = None
    meddling: bool = False
    failing_over: bool = False
    freezing: bool = False
    watched: bool = False


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

SAGAS_TOO = Setting(sagas=0.4, moody=0.02)
"""Some of the transfers are sagas, the others are not."""
SAGAS = Setting(sagas=1.0, pause=0.4, moody=0.1, fickle=0.05)
"""Nothing but sagas, and what they ask for is now and then refused, for the moment or for good."""
SAGAS_FAILED_OVER = replace(SAGAS, trouble=0.25, fickle=0.2, failing_over=True)
"""Besides, standbys that lag behind take the place of servers."""
SAGAS_ON_A_SLOW_DISK = replace(SAGAS, sync=2.5, pause=0.2)
"""What must be forced may take longer than a saga has time."""
SAGAS_ON_SLOW_STANDBYS = replace(SAGAS, standby=1.0, pause=0.3)
"""Steps and compensations hold their locks and keys while they wait for a standby."""
SAGAS_COPIED = replace(COPIED, sagas=1.0, fickle=0.2, moody=0.1)
"""Requests, steps and compensations come a second time, late."""
SAGAS_PRUNED = replace(PRUNED, sagas=0.7, moody=0.1)
"""What is over is soon forgotten."""
SAGAS_FROZEN = replace(SAGAS, freezing=True)
"""A coordinator that stands still is replaced, and goes on with sagas that are another one's now."""
DEAD_LETTERS = replace(SAGAS, moody=0.75, watched=True)
"""Compensations, and steps after a pivot, fail so often that somebody looks, tries them again, or takes them for
done."""

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

SAGA_SETTINGS = {
    "sagas among others": SAGAS_TOO,
    "sagas only": SAGAS,
    "sagas, what failovers lose": SAGAS_FAILED_OVER,
    "sagas, a slow disk": SAGAS_ON_A_SLOW_DISK,
    "sagas, slow standbys": SAGAS_ON_SLOW_STANDBYS,
    "sagas, late copies": SAGAS_COPIED,
    "sagas, what is forgotten": SAGAS_PRUNED,
    "sagas, frozen coordinators": SAGAS_FROZEN,
    "dead letters": DEAD_LETTERS,
}
"""What is run with sagas."""


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

    @property
    def gid_txid(self) -> Txid:
        """The transaction that it was of."""
        return Gid.parse(self.gid).txid


@dataclass(frozen=True, slots=True)
class Said:
    """What a client was told of a saga: whether it is done or undone."""

    transfer: str
    txid: Txid
    committed: bool


@dataclass(slots=True)
class Run:
    """Everything about one run.

    `early` are transfers that were told as applied and were not there then; `left` what is prepared in the end;
    `neighbours` what another installation has prepared in the same databases; `heuristics` the transactions that
    are kept as such; `journal` everything that reached the disk, in its order; `defects` what coordinators failed with
    that nothing in the weather explains.

    Of sagas: `deeds` are the rows that participants committed, `said` what clients were told, `hasty` what of
    it (transfer, what) was not so yet, and `unfinished` those not over in the end.
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
    defects: list[str] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    hasty: list[tuple[str, str]] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
