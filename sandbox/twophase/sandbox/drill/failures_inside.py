"""The failures of processes: a coordinator, a participant, several of them.

Lives here: what happens, who finishes it, how long that may take, which drills show it. Must not live here: what fails
around them (`failures_outside`).
"""

from __future__ import annotations

from typing import Final

from twophase.contract.crashpoints import CrashPoint
from twophase.coordinator.engine.api import DEFAULT_LIMITS
from twophase.sandbox.drill.crowd import CROWDS
from twophase.sandbox.drill.failure import AT_ONCE, BACK, Failure, Group
from twophase.sandbox.drill.pairs import PAIRS, RECOVERIES
from twophase.sandbox.drill.undoing import SAGA_PAIRS, WITHIN
from twophase.sandbox.drill.without_postgres import WITHOUT_POSTGRES

_SAGAS: Final = f"{WITHIN:g} s from its ready line, if all participants are there"

INSIDE: Final = (
    # --- the coordinator ----------------------------------------------------------------------------------------------
    Failure(
        Group.COORDINATOR,
        "It dies before the commit is durable, or while it aborts",
        "Nobody was told anything. What is prepared holds its locks until the coordinator is back; then abort is"
        " presumed, through the same write-once decision, and rolled back. Clients ask again and get the outcome.",
        "the restarted coordinator",
        AT_ONCE,
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
        AT_ONCE,
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
        AT_ONCE,
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
        AT_ONCE,
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
        AT_ONCE,
        ("kill the coordinator", "restart the coordinator"),
    ),
    Failure(
        Group.COORDINATOR,
        "It is frozen, and wakes up",
        "Everything waits. Awake again it goes on; what its clients or participants gave up meanwhile is repeated.",
        "the coordinator",
        AT_ONCE,
        ("freeze the coordinator",),
    ),
    Failure(
        Group.COORDINATOR,
        "It is killed or frozen, and another one stands by",
        "The standby takes over as soon as the journal's lock is free. A holder that only is frozen is killed first, by"
        " its process number and start, so that waking up it can change nothing.",
        "the standby",
        "for a killed one no waiting, for a frozen one the time that --takeover-after says (here 1 s); then as after a"
        " start",
        ("killed, with a standby", "frozen, with a standby", "two standbys"),
    ),
    Failure(
        Group.COORDINATOR,
        "It leaves a thousand branches in doubt",
        "Decided ones are finished, undecided ones presumed aborted, many at a time.",
        "the restarted coordinator",
        "seconds; it grows with their number",
        tuple(drill.name for drill in CROWDS),
    ),
    Failure(
        Group.COORDINATOR,
        "It dies in the middle of a saga",
        "Its start is durable before anything is sent, so that the next coordinator takes the saga up: forward, unless"
        " its turn is durable, too. What was done before is answered by the participants' ledgers and not done again."
        " Nothing is locked meanwhile; what is done so far can be seen.",
        "the restarted coordinator",
        _SAGAS,
        tuple(point.value for point in CrashPoint if point.value.startswith("saga.") and "resolve" not in point.value),
    ),
    Failure(
        Group.COORDINATOR,
        "It dies while a person takes a dead letter for done",
        "The word is recorded before anything follows from it. If it is not yet, the compensation is tried again, and"
        " is a dead letter again if it keeps failing. If it is, the saga ends without it.",
        "the restarted coordinator; the person, who asks again",
        _SAGAS,
        ("saga.before-resolve", "saga.after-resolve"),
    ),
    Failure(
        Group.COORDINATOR,
        "It is killed, frozen or stopped in order while sagas run",
        "They stand where they are, and hold no locks. Whoever has the journal next goes on with each of them, forward"
        " or back, as the journal and the ledgers say; one that wakes up too late is killed before.",
        "the restarted coordinator, or the standby",
        _SAGAS,
        (
            "kill the coordinator, in sagas",
            "restart the coordinator, in sagas",
            "freeze the coordinator, in sagas",
            "killed, with a standby, in sagas",
            "frozen, with a standby, in sagas",
        ),
    ),
    # --- a participant ------------------------------------------------------------------------------------------------
    Failure(
        Group.PARTICIPANT,
        "It dies before its branch is prepared",
        "Its Postgres rolls the branch back. The transaction is aborted at once, because the call fails; a tombstone"
        " bars what may still be under way.",
        "the coordinator",
        BACK,
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
        BACK,
        ("participant.after-prepare", "participant.before-vote"),
    ),
    Failure(
        Group.PARTICIPANT,
        "It dies while it carries out the decision",
        "The other branches are finished without waiting for it. The call is repeated until it is answered; a branch"
        " that was finished before is recognised by its ledger row.",
        "the coordinator, when the participant is back",
        BACK,
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
        BACK,
        ("participant.after-local-commit",),
    ),
    Failure(
        Group.PARTICIPANT,
        "It dies while it undoes a step of a saga",
        "Nothing is undone without the ledger row that says so. The call is repeated until it is answered: a tombstone"
        " that was placed for work that never came is found again, and so is a compensation that had committed.",
        "the coordinator, when the participant is back",
        BACK,
        (
            "participant.before-claim",
            "participant.after-claim",
            "participant.before-compensation",
            "participant.after-compensation",
        ),
    ),
    Failure(
        Group.PARTICIPANT,
        "It dies while it shakes hands",
        "It counts as away until it does; what it has remembered of the coordinator's epoch is safe either way.",
        "the coordinator, when the participant is back",
        BACK,
        ("participant.before-remember", "participant.after-remember"),
    ),
    Failure(
        Group.PARTICIPANT,
        "It is away, or frozen, for a while",
        "Transactions with it are aborted at once if it cannot be reached, at their deadline if it does not answer"
        f" ({DEFAULT_LIMITS.default_deadline:g} s, unless the client asks for less). Others go on.",
        "the coordinator, when the participant is back",
        BACK,
        ("a participant is away", "freeze a participant"),
    ),
    Failure(
        Group.PARTICIPANT,
        "One without Postgres dies, or is not heard, anywhere in try, confirm and cancel",
        "A try that is not durable never was. One that is holds its seats, for all to see, until the decision comes:"
        " its coordinator lists it like a prepared branch. What was confirmed, cancelled or given back before is"
        " recognised by its row.",
        "the coordinator, when the participant is back",
        BACK,
        tuple(drill.name for drill in WITHOUT_POSTGRES),
    ),
    Failure(
        Group.PARTICIPANT,
        "It is away, or frozen, while sagas run",
        "Its steps are sent again until the deadline; then it is asked how they ended, as soon as it answers. What it"
        " has to undo, or to do after a pivot, waits for it. Other steps and other sagas go on.",
        "the coordinator, when the participant is back",
        BACK,
        ("a participant is away, in sagas", "freeze a participant, in sagas"),
    ),
    # --- several ------------------------------------------------------------------------------------------------------
    Failure(
        Group.BOTH,
        "Either one dies while it forgets what ended long ago",
        "Forgetting is safe to repeat, and is only of what ended everywhere: below the horizon both refuse instead of"
        " guessing.",
        "the next pruning",
        BACK,
        (
            "coordinator.before-prune",
            "coordinator.after-prune",
            "participant.before-prune",
            "participant.after-prune",
        ),
    ),
    Failure(
        Group.BOTH,
        "Everything is killed",
        "Prepared branches survive in their databases, decisions in the journal; nothing else is needed.",
        "the restarted coordinator, as the participants come back",
        BACK,
        ("kill everything",),
    ),
    Failure(
        Group.BOTH,
        "Everything is killed while sagas run",
        "What was started is in the journal, what was done is in the ledgers; nothing else is needed.",
        "the restarted coordinator, as the participants come back",
        _SAGAS,
        ("kill everything, in sagas",),
    ),
    Failure(
        Group.BOTH,
        "The coordinator dies in a saga, and then a participant",
        "As each of them alone. A step that is repeated answers from the ledger, and so does a compensation.",
        "the restarted coordinator, when the participant is back",
        BACK,
        tuple(drill.name for drill in SAGA_PAIRS),
    ),
    Failure(
        Group.BOTH,
        "The coordinator dies at work, and then a participant",
        "As each of them alone: who finishes never relies on who began.",
        "the restarted coordinator, when the participant is back",
        BACK,
        tuple(drill.name for drill in PAIRS),
    ),
    Failure(
        Group.BOTH,
        "The coordinator dies, dies again while it recovers, and a participant dies of what recovery asks",
        "Recovery is repeated by the next start; what it had done is recognised.",
        "the next start, when the participant is back",
        BACK,
        tuple(drill.name for drill in RECOVERIES),
    ),
)
