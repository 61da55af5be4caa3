"""How each section is measured, and what it does not say: the sentences that are the same in every report.

Lives here: prose. Must not live here: anything computed; lengths, rates and sizes of a run come from its results.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from twophase.benchmarks.report.values import Section

TWO_PHASE: Final = (
    "Every database does its part and prepares it: from then on it can keep its changes or drop them, as it will be"
    " told, and their rows stay locked until then. The coordinator collects the answers, writes its decision to disk,"
    " and tells everyone. So the whole happens everywhere or nowhere. The price: whoever wants such a row waits for the"
    " decision, and if the coordinator dies before it has told it, until the coordinator is back."
)
SAGA: Final = (
    "Every database does its part, a step, and commits it at once; then comes the next. If a later step is refused,"
    " what was done is undone by a compensation, which the business has to have. A saga has a coordinator, too: while"
    " that is dead no saga goes on, but what is half done locks no rows. The price: between the first step and the"
    " last, and until the undoing is done, everybody can see and use what may not last."
)
WORDS: Final = (
    "coordinator: the process that leads a transaction through all its databases; both protocols have one",
    "participant: a service with a database of its own; what it does in a transaction is a branch, or a step",
    "hot row: one that many want at the same time; cold rows hardly anybody wants twice",
    "uniform: accounts are drawn at random; Zipf: a few of them far more often than the others",
    "in doubt: prepared, and the decision has not come yet",
    "refused: a participant said no, because the business does, or because a row was not free within half a second",
    (
        "figures: the median of the repetitions, and in brackets its spread, where 19 of 20 medians of another run on"
        " this machine are expected; of what is called longest, the longest of all repetitions, and in brackets what"
        " they had"
    ),
)

CONTENDERS: Final = (
    ("independent local commits", "one commit in each database, one after the other: the floor, with no atomicity"),
    ("hand-written loop", "psycopg's tpc_* calls in a loop: two-phase commit without a log or recovery"),
    ("SQLAlchemy twophase", "Session(twophase=True): two-phase commit without a log or recovery"),
    ("two-phase commit", "this project's: a durable decision, recovery by itself; all branches are asked at once"),
    ("two-phase commit in turn", "the same, its branches one after the other; measured where rows are hot"),
    ("saga", "this project's: the same operations, a commit for each step, compensations"),
    ("DBOS saga", "a durable workflow whose steps are the same operations"),
)

MEASURED: Final[Mapping[Section, str]] = {
    Section.CAPACITY: (
        "A closed loop: each client sends its next transaction as soon as the last one is answered. What is meant"
        " to be refused fails at the second participant, after the first has done its work."
    ),
    Section.LATENCY: (
        "An open loop: transactions are sent at fixed times, whether or not the ones before are answered. Latency"
        " counts from the planned time, and one that is not answered counts as at least its timeout, so a stall"
        " cannot hide behind the requests that it kept from being sent."
    ),
    Section.CONTENTION: (
        "A closed loop of transfers that write rows which all of them share. Every row is stamped by its"
        " transaction when it is written; it counts as locked from then until its commit, of which Postgres keeps"
        " the time (track_commit_timestamp), for a prepared branch that of COMMIT PREPARED."
    ),
    Section.CRASH: (
        "An open loop of transactions, each on a hot row of one database and a cold one of another. The coordinator"
        " kills itself (SIGKILL) at a named point and is started again after the outage, or not at all while it is"
        " measured. Beside it, somebody who does not use the coordinator updates single rows at random moments, without"
        " a lock timeout: hot ones, and as a control rows that nobody else uses. An update that is not done counts"
        " as at least its timeout. Lost is what would have been done at the rate before the crash, less what was"
        " done. In doubt counts from when the branch was prepared, beside what pg_prepared_xacts showed every 20 ms."
    ),
    Section.SLOW: (
        "A proxy delays every answer of one participant. Half of the transfers need it and half do not; both run at"
        " the same time, some of them on rows that they share."
    ),
    Section.PARTITION: (
        "A proxy lets nothing through between the coordinator and one participant until the end of the cut. The"
        " participant's database stays within reach of everybody else, as it would with a real partition. Half of"
        " the transfers need that participant."
    ),
    Section.ISOLATION: (
        "An observer reads one database and then the other, as an application would, without locks: what the first"
        " shows and the second does not have then was half done at that moment. A look that showed a transaction"
        " which was taken back later saw what was undone. Reserved is what others could see before they could see"
        " all of it, or nothing any more."
    ),
    Section.FAN_OUT: (
        "One transaction writes at every participant; the latency is that of the whole. The participants share one"
        " process, since the coordinator's work with each of them is what is measured."
    ),
    Section.CLEARING: (
        "So many branches are left prepared, as by a coordinator that died; then it is started. The time runs from"
        " the start of its process until pg_prepared_xacts is empty. If it was decided before the crash, they are"
        " committed, otherwise aborted."
    ),
}

LIMITS: Final[Mapping[Section, str]] = {
    Section.CAPACITY: (
        "All processes share one machine, so a contender that needs less processor time looks faster than it would"
        " with machines of its own. No network is crossed: round trips cost next to nothing here."
    ),
    Section.LATENCY: ("What latency is at rates that were not offered. Near its capacity it grows without bound."),
    Section.CONTENTION: (
        "What a business could do about it: split a hot row, or put it last. Both help two-phase commit more than a"
        " saga. Two transactions that lock rows of two databases in different orders wait for each other where no"
        " database can see it: a lock timeout ends that, and it is told as refused. Who asks one database after the"
        " other, always in the same order, does not run into that, and waits instead: all others here do, and two-phase"
        " commit does it on request (in turn)."
    ),
    Section.CRASH: (
        "How often coordinators die, and how long yours is away: multiply. A supervisor that restarts it makes the"
        " outage short, a second host that takes over does, too."
    ),
    Section.SLOW: ("Nothing about a participant that answers fast on average and slowly at times."),
    Section.PARTITION: (
        "Nothing about partitions between clients and the coordinator: those leave nobody waiting for a row."
    ),
    Section.ISOLATION: (
        "Whether it matters. A reservation that is seen is harmless; money that is spent and then taken back is"
        " not. Locking reads (FOR SHARE at every participant) see nothing half done under two-phase commit."
    ),
    Section.FAN_OUT: ("Sagas whose steps do not depend on each other can run as a graph, and then ask at once, too."),
    Section.CLEARING: ("Nothing about a participant that is away: its branches wait until it is back."),
}

COMPARED: Final = (
    "Every figure is the median of the repetitions, and beside it stands its spread: where 19 of 20 medians of"
    " another run on the same machine are expected, if it is as fast then. Processors that are shared with others"
    " take up to twice as long for the same, so a fixed piece of work is timed beside every measurement, and shown"
    " below. What is called the longest is so of all repetitions, and its spread is what was seen. The spread of the"
    " others is computed from how much the repetitions differ, those of the figure itself and, since they are few,"
    " those of the same figure at all settings of its section. One contender is said to be better only if the"
    " medians lie outside each other's spread and more than 5 % apart; otherwise no difference was found. All"
    " contenders do the same work on the same databases with the same settings, in turn within one run, so that what"
    " the machine does falls on all. Nobody tries again what was refused, no contender and no client: refusals stand"
    " beside what was done, and what a retry would cost is not in any figure. After every measurement the money and"
    " the ledgers are checked, and a run that is not exact is void."
)
