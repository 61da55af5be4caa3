"""The failures that are drilled, in prose: what happens, who finishes it, how long that may take, which drills show it.

Lives here: the text of docs/failure-matrix.md, beside the drills it speaks of. Must not live here: measured times (they
come from a run) and the table's form (`matrix`).

Every drill belongs to exactly one row; a test holds that. Bounds are made of the constants that are in force.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from inspect import signature
from typing import Final

from twophase.coordinator.engine.api import DEFAULT_LIMITS
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.engine.running import FINISH_SECONDS, LONGEST_PAUSE
from twophase.coordinator.transport import CHANNEL_OPTIONS
from twophase.participant.database import CONNECT_TIMEOUT
from twophase.sandbox.drill.crowd import CROWDS
from twophase.sandbox.drill.pairs import PAIRS, RECOVERIES
from twophase.sandbox.drill.values import Drill


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


def _names(drills: Iterable[Drill]) -> tuple[str, ...]:
    return tuple(drill.name for drill in drills)


_CHANNEL: Final = dict(CHANNEL_OPTIONS)
_RECONNECT: Final = _CHANNEL["grpc.max_reconnect_backoff_ms"] / 1000
_SILENCE: Final = (_CHANNEL["grpc.keepalive_time_ms"] + _CHANNEL["grpc.keepalive_timeout_ms"]) / 1000

_SWEEP: Final = signature(Engine).parameters["sweep_every"].default
_AT_ONCE: Final = (
    "one round trip from its ready line: everybody is asked at once; what a slow server prepares after that is found by"
    f" a later sweep, fractions of a second apart at first and {_SWEEP:g} s at most"
)
_BACK: Final = (
    f"{_RECONNECT + LONGEST_PAUSE:g} s from its ready line: {_RECONNECT:g} s until it is dialled again,"
    f" {LONGEST_PAUSE:g} s between two attempts"
)
_HEALED: Final = f"{_RECONNECT + LONGEST_PAUSE:g} s from the end of the fault, if it ends in a reset"
_SILENT: Final = (
    f"{FINISH_SECONDS + LONGEST_PAUSE:g} s from the end of the fault, the time of one unanswered attempt and a pause;"
    f" a connection that stays dead is replaced after {_SILENCE:g} s"
)
_DATABASE: Final = (
    f"{CONNECT_TIMEOUT + LONGEST_PAUSE:g} s from the end of the fault; statements that nobody answers are given up"
    " after some ten seconds"
)

FAILURES: Final = (
    # --- the coordinator ----------------------------------------------------------------------------------------------
    Failure(
        Group.COORDINATOR,
        "It dies before the commit is durable, or while it aborts",
        "Nobody was told anything. What is prepared holds its locks until the coordinator is back; then abort is"
        " presumed, through the same write-once decision, and rolled back. Clients ask again and get the outcome.",
        "the restarted coordinator",
        _AT_ONCE,
        (
            "coordinator.before-prepare",
            "coordinator.after-vote",
            "coordinator.before-decide",
            "coordinator.before-write",
            "coordinator.before-abort",
            "coordinator.after-abort",
        ),
    ),
    Failure(
        Group.COORDINATOR,
        "It dies after the commit is durable",
        "The decision stands. Branches that were not told stay prepared until the coordinator is back; then each one is"
        " told, and those that had committed answer so from their ledger.",
        "the restarted coordinator",
        _AT_ONCE,
        (
            "coordinator.after-write",
            "coordinator.after-decide",
            "coordinator.before-commit",
            "coordinator.after-commit",
            "coordinator.before-end",
            "coordinator.after-end",
            "coordinator.before-reply",
        ),
    ),
    Failure(
        Group.COORDINATOR,
        "It dies around a commit that it delegated to the only writer",
        "The decision is the delegate's ledger row. The coordinator asks for it; if there is none, a tombstone there"
        " makes sure that there never will be, and the transaction is aborted.",
        "the restarted coordinator, by the delegate's ledger",
        _AT_ONCE,
        (
            "coordinator.before-apply",
            "coordinator.after-apply",
            "coordinator.before-settle",
            "coordinator.after-settle",
        ),
    ),
    Failure(
        Group.COORDINATOR,
        "It dies while it starts, makes a participant known, or recovers",
        "Recovery repeats nothing that is done and leaves nothing half done: the next start takes a new epoch, fences"
        " the old ones, and begins again.",
        "the next start",
        _AT_ONCE,
        (
            "coordinator.before-epoch",
            "coordinator.after-epoch",
            "coordinator.before-register",
            "coordinator.after-register",
            "recovery.before-take-up",
            "recovery.after-take-up",
            "recovery.before-presume",
            "recovery.after-presume",
            "recovery.before-sweep",
            "recovery.after-sweep",
        ),
    ),
    Failure(
        Group.COORDINATOR,
        "It is killed, or stopped in order, at any moment",
        "As above, whichever it was. Told to stop, it takes nothing new and finishes what it can in its grace period.",
        "the restarted coordinator",
        _AT_ONCE,
        ("kill the coordinator", "restart the coordinator"),
    ),
    Failure(
        Group.COORDINATOR,
        "It is frozen, and wakes up",
        "Everything waits. Awake again it goes on; what its clients or participants gave up meanwhile is repeated.",
        "the coordinator",
        _AT_ONCE,
        ("freeze the coordinator",),
    ),
    Failure(
        Group.COORDINATOR,
        "It leaves a thousand branches in doubt",
        "Decided ones are finished, undecided ones presumed aborted, many at a time.",
        "the restarted coordinator",
        "seconds; it grows with their number",
        _names(CROWDS),
    ),
    # --- a participant ------------------------------------------------------------------------------------------------
    Failure(
        Group.PARTICIPANT,
        "It dies before its branch is prepared",
        "Its Postgres rolls the branch back. The transaction is aborted at once, because the call fails; a tombstone"
        " bars what may still be under way.",
        "the coordinator",
        _BACK,
        (
            "participant.before-work",
            "participant.after-work",
            "participant.before-refusal",
            "participant.after-refusal",
        ),
    ),
    Failure(
        Group.PARTICIPANT,
        "It dies with its branch prepared and its vote unheard",
        "The transaction is aborted everywhere else at once. The prepared branch is found by the sweep when the"
        " participant is back, and rolled back.",
        "the coordinator, when the participant is back",
        _BACK,
        ("participant.after-prepare", "participant.before-vote"),
    ),
    Failure(
        Group.PARTICIPANT,
        "It dies while it carries out the decision",
        "The other branches are finished without waiting for it. The call is repeated until it is answered; a branch"
        " that was finished before is recognised by its ledger row.",
        "the coordinator, when the participant is back",
        _BACK,
        (
            "participant.before-commit-prepared",
            "participant.after-commit-prepared",
            "participant.before-rollback-prepared",
            "participant.after-rollback-prepared",
            "participant.before-tombstone",
            "participant.after-tombstone",
            "one dies after its vote, the others commit",
        ),
    ),
    Failure(
        Group.PARTICIPANT,
        "It dies after a commit that was delegated to it",
        "Its ledger row is the decision, and stands; the coordinator asks for it. Until then the client waits, or is"
        " told that the outcome is not known.",
        "the coordinator, when the participant is back",
        _BACK,
        ("participant.after-local-commit",),
    ),
    Failure(
        Group.PARTICIPANT,
        "It dies while it shakes hands",
        "It counts as away until it does; what it has remembered of the coordinator's epoch is safe either way.",
        "the coordinator, when the participant is back",
        _BACK,
        ("participant.before-remember", "participant.after-remember"),
    ),
    Failure(
        Group.PARTICIPANT,
        "It is away, or frozen, for a while",
        "Transactions with it are aborted at once if it cannot be reached, at their deadline if it does not answer"
        f" ({DEFAULT_LIMITS.default_deadline:g} s, unless the client asks for less). Others go on.",
        "the coordinator, when the participant is back",
        _BACK,
        ("a participant is away", "freeze a participant"),
    ),
    # --- several ------------------------------------------------------------------------------------------------------
    Failure(
        Group.BOTH,
        "Everything is killed",
        "Prepared branches survive in their databases, decisions in the journal; nothing else is needed.",
        "the restarted coordinator, as the participants come back",
        _BACK,
        ("kill everything",),
    ),
    Failure(
        Group.BOTH,
        "The coordinator dies at work, and then a participant",
        "As each of them alone: who finishes never relies on who began.",
        "the restarted coordinator, when the participant is back",
        _BACK,
        _names(PAIRS),
    ),
    Failure(
        Group.BOTH,
        "The coordinator dies, dies again while it recovers, and a participant dies of what recovery asks",
        "Recovery is repeated by the next start; what it had done is recognised.",
        "the next start, when the participant is back",
        _BACK,
        _names(RECOVERIES),
    ),
    # --- Postgres -----------------------------------------------------------------------------------------------------
    Failure(
        Group.POSTGRES,
        "It is shut down immediately, as after a crash, and comes back",
        "What was prepared is still prepared, what was not is rolled back by Postgres. Calls fail or are repeated; the"
        " participant connects again by itself.",
        "the coordinator, through the participant",
        _DATABASE,
        ("stop Postgres at once", "Postgres is away"),
    ),
    Failure(
        Group.POSTGRES,
        "Connections to it are cut",
        "As a shutdown, seen from the participant: whether a statement took effect is not known and is asked, not"
        " guessed.",
        "the coordinator, through the participant",
        _DATABASE,
        ("Postgres cut off",),
    ),
    Failure(
        Group.POSTGRES,
        "It is silent",
        "The participant's connections hang until they are given up. Its transactions reach their deadline and are"
        " aborted elsewhere at once, here when it is heard again.",
        "the coordinator, through the participant",
        _DATABASE,
        ("Postgres silent",),
    ),
    Failure(
        Group.POSTGRES,
        "Its answers are lost after the statements took effect",
        "A branch may be prepared, committed or barred without the participant knowing: its ledger and the list of"
        " prepared transactions tell.",
        "the coordinator, through the participant",
        _DATABASE,
        ("Postgres' answers lost",),
    ),
    # --- the network --------------------------------------------------------------------------------------------------
    Failure(
        Group.NETWORK,
        "Connections to a participant are reset and refused",
        "Transactions with it are aborted at once; decisions wait for it. Others go on.",
        "the coordinator, when it reaches the participant",
        _HEALED,
        ("participant cut off",),
    ),
    Failure(
        Group.NETWORK,
        "A participant is far away",
        "Everything takes longer; nothing else changes.",
        "nobody needs to",
        "some round trips",
        ("participant far away",),
    ),
    Failure(
        Group.NETWORK,
        "Nothing arrives at a participant, or from it",
        "Transactions with it end at their deadline. Its prepared branches are in doubt until the network is whole."
        " Transactions without it take no longer than before.",
        "the coordinator, when it reaches the participant",
        _SILENT,
        ("participant silent", "one is silent, the others go on"),
    ),
    Failure(
        Group.NETWORK,
        "Everything arrives, seconds late",
        "Work, votes and commits arrive after their transaction has ended. A late PREPARE meets its tombstone, a late"
        " commit or abort is answered from the ledger.",
        "the coordinator",
        _SILENT,
        ("participant heard late",),
    ),
    Failure(
        Group.NETWORK,
        "Only one direction works",
        "Requests that are not heard do nothing. Answers that are not heard hide what was done: it is asked for again.",
        "the coordinator, when both directions work",
        _SILENT,
        ("participant does not hear", "participant is not heard", "participant's answers lost"),
    ),
    # --- the journal --------------------------------------------------------------------------------------------------
    Failure(
        Group.JOURNAL,
        "An older copy is put back",
        "The participants have seen what the copy never wrote: it says so, begins nothing and presumes nothing aborted;"
        " what they hold as evidence is used. With the newest journal back everything goes on.",
        "the operator: the newest journal, or --after-restore if it is lost; then the coordinator",
        _AT_ONCE,
        ("an older journal, of before a decision", "an older journal, in the middle of a commit"),
    ),
    Failure(
        Group.JOURNAL,
        "The newest one is lost, and an older copy is all there is",
        "Told so by --after-restore, the copy is lifted above everything the participants have seen, and used. What it"
        " does not know of are old request ids and the history since.",
        "the coordinator, by the participants' evidence",
        _AT_ONCE,
        ("the newest journal is lost",),
    ),
    Failure(
        Group.JOURNAL,
        "Its last write is on the disk in part, or wrong",
        "The checksum of the last write does not hold, so it was never made: nobody had been told of it.",
        "the restarted coordinator",
        _AT_ONCE,
        ("the journal's tail is cut", "the journal's tail is wrong"),
    ),
    Failure(
        Group.JOURNAL,
        "It is damaged",
        "The coordinator does not start, and says what to do: a wrong record would be worse than none.",
        "the operator, with the newest copy; then the coordinator",
        _AT_ONCE,
        ("the journal is damaged", "the journal has no header", "the journal is cut off"),
    ),
    # --- the clients --------------------------------------------------------------------------------------------------
    Failure(
        Group.CLIENTS,
        "They lose their connection to the coordinator",
        "Their transactions run on. They send the same request again, under the same id, and get its one outcome, or in"
        " the end *unknown*; never a wrong one.",
        "the coordinator, as if nothing had happened",
        "not concerned",
        ("clients cut off", "clients in silence", "clients' answers lost"),
    ),
)
