"""Answers from the journal: what is told of a transaction that is not running any more.

Lives here: reading a record as an answer, and fetching results from the participants' ledgers. Must not live here:
running transactions.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import takewhile

from twophase.coordinator.engine.api import Answer, Call, Outcome, Result, View
from twophase.coordinator.engine.links import LinkLost
from twophase.coordinator.engine.peers import Peers
from twophase.coordinator.journal.events import Happening, Reason, TransactionRecord
from twophase.coordinator.journal.fold import fold
from twophase.coordinator.protocol.decisions import SAGA, DecisionKind, Ending, contradicts
from twophase.v1 import participant_pb2, types_pb2

_INSPECT_SECONDS = 2.0


def outcome_of(record: TransactionRecord) -> Outcome:
    """The outcome a record stands for; PENDING while it has none."""
    match record.committed:
        case True:
            return Outcome.COMMITTED
        case False:
            return Outcome.COMPENSATED if record.decision == SAGA else Outcome.ABORTED
        case None:
            return Outcome.PENDING


def view_of(record: TransactionRecord) -> View:
    """The record in the words of the API."""
    return View(record, outcome_of(record), applied=record.ended)


def view_at(history: tuple[Happening, ...], at: int) -> View | None:
    """The transaction as it stood at a moment (milliseconds since 1970); None if nothing of it had happened yet.

    Positions are the order: of a clock that was set back, everything before the first later event counts.
    """
    until = tuple(takewhile(lambda happening: happening.at <= at, history))
    return replace(view_of(fold(happening.event for happening in until)), history=until) if until else None


def heuristics_of(record: TransactionRecord) -> dict[int, Ending]:
    """The branches that ended against the decision (R11), by number, and how."""
    decision = record.decision
    return {
        number: ending
        for number, ending in record.endings.items()
        if ending is Ending.LOST or (decision is not None and contradicts(decision, ending))
    }


def shown_heuristics(record: TransactionRecord) -> str:
    """The same for the log: which branches, where, how, and what was decided."""
    where = {branch.number: branch.participant for branch in record.branches}
    wrong = (
        f"branch {number} at {where.get(number, '(unknown)')} is {ending.value}"
        for number, ending in heuristics_of(record).items()
    )
    return f"{', '.join(wrong)}, decided was {record.decision or 'elsewhere'}"


def answer_of(record: TransactionRecord, *, attempt: int, results: tuple[Result, ...] = ()) -> Answer:
    """The record as the answer to a repeated request; `attempt` is the one it answers for if the record names none."""
    wrong = heuristics_of(record)
    hearers = record.hearers if record.hearers is not None else {branch.number for branch in record.branches}
    waited_for = set() if record.ended else hearers - _over(record) - record.resolved.keys()
    return Answer(
        outcome=outcome_of(record),
        txid=record.txid,
        attempt=record.request.attempt if record.request is not None else attempt,
        applied=record.ended,
        results=results,
        reasons=() if record.committed else record.reasons,
        pending=tuple(dict.fromkeys(one.participant for one in record.branches if one.number in waited_for)),
        heuristic=tuple(branch.participant for branch in record.branches if branch.number in wrong),
    )


def _over(record: TransactionRecord) -> frozenset[int]:
    """The branches that need not be waited for any more: of a saga that has turned, those that are undone, and those
    that are known never to be done."""
    if not record.turned:
        return frozenset(record.endings)
    never = (number for number, ending in record.endings.items() if ending is not Ending.APPLIED)
    return frozenset(record.compensated).union(never)


def holds_its_id(record: TransactionRecord) -> bool:
    """Whether nothing else may commit under the record's request id: it is committed, or may yet turn out to be."""
    if record.committed is True:
        return True
    match record.decision.kind if record.decision is not None else None:
        case DecisionKind.DELEGATED:
            return record.committed is None
        case DecisionKind.SAGA:
            return not record.ended
        case _:
            return False


def answer_of_earlier(attempt: int, *, latest: int) -> Answer:
    """The answer to a copy of an attempt after which `latest` came: it has ended, and its id went on."""
    reason = Reason(
        kind="ABORTED",
        code="EARLIER_ATTEMPT",
        message=f"attempt {attempt} has ended; attempt {latest} of this request came after it",
        retryable=False,
    )
    return Answer(Outcome.ABORTED, None, attempt, applied=True, reasons=(reason,))


async def results_of(
    record: TransactionRecord, calls: tuple[Call, ...], peers: Peers, *, journal_id: str
) -> tuple[Result, ...]:
    """What the operations of a committed transaction returned, from the ledgers; empty if one cannot be had now.

    A read-only branch keeps no row, so the results of a transaction that had one are not at hand afterwards.
    """
    request = participant_pb2.InspectRequest(journal_id=journal_id, txid=str(record.txid))

    async def rows_at(name: str) -> list[types_pb2.Payload]:
        peer = peers.get(name)
        if peer is None:
            raise LinkLost(f"participant {name!r} is not known")
        answer = await peer.link.inspect(request, timeout=_INSPECT_SECONDS)
        work = [row for row in answer.entries if row.kind == types_pb2.BRANCH_KIND_WORK]
        applied = [row for row in work if row.outcome == participant_pb2.LEDGER_OUTCOME_APPLIED]
        return [payload for row in applied for payload in row.results]

    names = list(dict.fromkeys(call.participant for call in calls))
    try:
        rows = dict(zip(names, await asyncio.gather(*(rows_at(name) for name in names)), strict=True))
    except LinkLost:
        return ()
    results = []
    for call in calls:
        if not rows[call.participant]:
            return ()
        results.append(Result(call.participant, call.operation, rows[call.participant].pop(0)))
    return tuple(results)
