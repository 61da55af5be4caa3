"""The failures of what surrounds the processes: Postgres, the network, the journal and its disk, the clients.

Lives here: what happens, who finishes it, how long that may take, which drills show it. Must not live here: processes
that die (`failures_inside`).
"""

from __future__ import annotations

from typing import Final

from twophase.sandbox.drill.failure import AT_ONCE, DATABASE, HEALED, SILENT, Failure, Group

OUTSIDE: Final = (
    # --- Postgres -----------------------------------------------------------------------------------------------------
    Failure(
        Group.POSTGRES,
        "It is shut down immediately, as after a crash, and comes back",
        "What was prepared is still prepared, what was not is rolled back by Postgres. Calls fail or are repeated; the"
        " participant connects again by itself.",
        "the coordinator, through the participant",
        DATABASE,
        ("stop Postgres at once", "Postgres is away"),
    ),
    Failure(
        Group.POSTGRES,
        "Connections to it are cut",
        "As a shutdown, seen from the participant: whether a statement took effect is not known and is asked, not"
        " guessed.",
        "the coordinator, through the participant",
        DATABASE,
        ("Postgres cut off",),
    ),
    Failure(
        Group.POSTGRES,
        "It is silent",
        "The participant's connections hang until they are given up. Its transactions reach their deadline and are"
        " aborted elsewhere at once, here when it is heard again.",
        "the coordinator, through the participant",
        DATABASE,
        ("Postgres silent",),
    ),
    Failure(
        Group.POSTGRES,
        "Its answers are lost after the statements took effect",
        "A branch may be prepared, committed or barred without the participant knowing: its ledger and the list of"
        " prepared transactions tell.",
        "the coordinator, through the participant",
        DATABASE,
        ("Postgres' answers lost",),
    ),
    Failure(
        Group.POSTGRES,
        "It stops, or its answers are lost, while sagas run",
        "A step or a compensation may be committed without the participant knowing. It is sent again, and the ledger's"
        " key lets it happen once.",
        "the coordinator, through the participant",
        DATABASE,
        ("stop Postgres at once, in sagas", "Postgres' answers lost, in sagas"),
    ),
    # --- the network --------------------------------------------------------------------------------------------------
    Failure(
        Group.NETWORK,
        "Connections to a participant are reset and refused",
        "Transactions with it are aborted at once; decisions wait for it. Others go on.",
        "the coordinator, when it reaches the participant",
        HEALED,
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
        SILENT,
        ("participant silent", "one is silent, the others go on"),
    ),
    Failure(
        Group.NETWORK,
        "Everything arrives, seconds late",
        "Work, votes and commits arrive after their transaction has ended. A late PREPARE meets its tombstone, a late"
        " commit or abort is answered from the ledger.",
        "the coordinator",
        SILENT,
        ("participant heard late",),
    ),
    Failure(
        Group.NETWORK,
        "Only one direction works",
        "Requests that are not heard do nothing. Answers that are not heard hide what was done: it is asked for again.",
        "the coordinator, when both directions work",
        SILENT,
        ("participant does not hear", "participant is not heard", "participant's answers lost"),
    ),
    Failure(
        Group.NETWORK,
        "A participant is cut off, is heard late, or its answers are lost, while sagas run",
        "Steps and compensations that are not answered are sent again, and happen once. A step that arrives after its"
        " compensation meets a tombstone.",
        "the coordinator, when it reaches the participant",
        SILENT,
        (
            "participant cut off, in sagas",
            "participant heard late, in sagas",
            "participant's answers lost, in sagas",
            "work comes after its compensation, in sagas",
        ),
    ),
    # --- the journal's disk -------------------------------------------------------------------------------------------
    Failure(
        Group.DISK,
        "It is full",
        "The coordinator ends at the write that failed. Started again it gives up its reserve, finishes what is decided"
        " and takes nothing new until there is room.",
        "the restarted coordinator; an operator makes room",
        AT_ONCE,
        ("the journal's disk is full",),
    ),
    Failure(
        Group.DISK,
        "A sync fails, or never happens because the process is killed before it",
        "The coordinator ends, without having told anybody: a decision counts once its sync has returned. What the next"
        " start finds on the disk is what was decided.",
        "the restarted coordinator",
        AT_ONCE,
        ("a sync of the journal fails", "killed between write and sync"),
    ),
    # --- the journal --------------------------------------------------------------------------------------------------
    Failure(
        Group.JOURNAL,
        "An older copy is put back",
        "The participants have seen what the copy never wrote: it says so, begins nothing and presumes nothing aborted;"
        " what they hold as evidence is used. Its doubt survives its death. With the newest journal back everything"
        " goes on.",
        "the operator: the newest journal, or --after-restore if it is lost; then the coordinator",
        AT_ONCE,
        (
            "an older journal, of before a decision",
            "an older journal, in the middle of a commit",
            "recovery.before-suspect",
            "recovery.after-suspect",
            "recovery.before-evidence",
            "recovery.after-evidence",
        ),
    ),
    Failure(
        Group.JOURNAL,
        "The newest one is lost, and an older copy is all there is",
        "Told so by --after-restore, the copy is lifted above everything the participants have seen, and used. What it"
        " does not know of are old request ids and the history since.",
        "the coordinator, by the participants' evidence",
        AT_ONCE,
        ("the newest journal is lost", "recovery.before-lift", "recovery.after-lift"),
    ),
    Failure(
        Group.JOURNAL,
        "Its last write is on the disk in part, or wrong",
        "The checksum of the last write does not hold, so it was never made: nobody had been told of it.",
        "the restarted coordinator",
        AT_ONCE,
        ("the journal's tail is cut", "the journal's tail is wrong"),
    ),
    Failure(
        Group.JOURNAL,
        "It is damaged",
        "The coordinator does not start, and says what to do: a wrong record would be worse than none.",
        "the operator, with the newest copy; then the coordinator",
        AT_ONCE,
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
        ("clients cut off", "clients in silence", "clients' answers lost", "clients' answers lost, in sagas"),
    ),
)
