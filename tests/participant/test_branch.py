"""The steps of a branch without a database: what each answer means, answered by hand."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from fixtures.second_phase import FINGERPRINT, RESULTS, WORK, gid_of
from twophase.participant.branch import apply, prepare
from twophase.participant.errors import Refused
from twophase.participant.exchanges import DoWork, Exchange, Reply, Worked
from twophase.participant.outcomes import Applied, No, OutcomeUnknown, Prepared, Retry
from twophase.participant.refusals import ConnectionGone
from twophase.participant.terms import Branch
from twophase.participant.work import Deadline
from twophase.v1 import types_pb2

BRANCH = Branch(
    gid=gid_of(),
    kind=WORK,
    read_only=False,
    deadline=Deadline.after(3600),
    position=42,
    fingerprint=FINGERPRINT,
    lock_timeout=0.5,
)
ROLE = "' postgres'"
BEGUN = (Reply("SELECT 1"),)
WORKED = Worked(RESULTS, TransactionStatus.INTRANS)
BEGIN_AGAIN = (Reply("ROLLBACK"), Reply("BEGIN"), Reply("SET"))
NO_ROW = (*BEGIN_AGAIN, Reply("SELECT 0"), Reply("ROLLBACK"))
NOTHING_THERE = (*BEGIN_AGAIN, Reply("SELECT 1", ((False,),)), Reply("SELECT 0"), Reply("ROLLBACK"))


def played(steps: Generator[Exchange | DoWork, Any, Any], *answers: object) -> Any:
    """What the steps come to with these answers."""
    next(steps)
    try:
        for answer in answers:
            if isinstance(answer, Exception):
                steps.throw(answer)
            else:
                steps.send(answer)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("the steps go on")


def test_prepared_is_what_the_command_tag_says() -> None:
    yes = played(prepare(BRANCH, ROLE), BEGUN, WORKED, (Reply("INSERT 0 1"), Reply("PREPARE TRANSACTION")))
    assert yes == Prepared(RESULTS)


@pytest.mark.parametrize("tag", ["ROLLBACK", "", "COMMIT", "PREPARE"])
def test_any_other_command_tag_at_prepare_is_a_no(tag: str) -> None:
    """In a failed transaction Postgres answers ROLLBACK, without an error."""
    no = played(prepare(BRANCH, ROLE), BEGUN, WORKED, (Reply("INSERT 0 1"), Reply(tag)), NOTHING_THERE)
    assert isinstance(no, No)
    assert f"answered {tag!r}" in no.refusal.message


def test_any_other_command_tag_at_a_local_commit_is_no_success() -> None:
    steps = apply(BRANCH, ROLE)
    answers = (BEGUN, WORKED, (Reply("INSERT 0 1"), Reply("ROLLBACK")), NO_ROW)
    command = next(steps)
    for answer in answers:
        command = steps.send(answer)
    assert isinstance(command, Exchange)  # it records the refusal
    assert b"twophase.ledger" in command.statements[2].query


@pytest.mark.parametrize("make", [prepare, apply])
def test_what_its_synchronous_standby_was_not_waited_for_is_not_known(make: Any) -> None:
    tag = "PREPARE TRANSACTION" if make is prepare else "COMMIT"
    steps = make(BRANCH, ROLE)
    next(steps)
    steps.send(BEGUN)
    steps.send(WORKED)
    with pytest.raises(OutcomeUnknown, match="standby was cut short"):
        steps.send((Reply("INSERT 0 1"), Reply(tag, unreplicated=True)))


def refusing_for_good() -> Generator[Exchange | DoWork, Any, Any]:
    """Up to where the refusal is recorded."""
    steps = apply(BRANCH, ROLE)
    next(steps)
    steps.send(BEGUN)
    steps.throw(Refused("NO_FUNDS", "there is nothing left"))
    steps.send(NO_ROW)
    return steps


def test_r7_a_refusal_that_no_standby_has_is_no_proof() -> None:
    steps = refusing_for_good()
    begin, timeout, row = Reply("BEGIN"), Reply("SET"), Reply("INSERT 0 1")
    with pytest.raises(OutcomeUnknown, match="standby was cut short"):
        steps.send((begin, timeout, row, Reply("COMMIT", unreplicated=True)))


def test_r7_a_refusal_whose_recording_was_cut_off_is_not_known() -> None:
    with pytest.raises(OutcomeUnknown, match="was being recorded"):
        refusing_for_good().throw(ConnectionGone("gone"))


def test_an_answer_that_could_not_be_looked_up_is_the_reason_itself() -> None:
    """The rollback got no answer: the server rolls back what it has lost."""
    no = played(prepare(BRANCH, ROLE), BEGUN, Refused("NO_FUNDS", "there is nothing left"), ConnectionGone("gone"))
    assert isinstance(no, No)
    assert no.refusal.code == "NO_FUNDS"
    retry = played(apply(BRANCH, ROLE), BEGUN, Refused("NO_FUNDS", "there is nothing left"), ConnectionGone("gone"))
    assert isinstance(retry, Retry)
    assert retry.refusal.retryable
    assert retry.refusal.kind == types_pb2.REFUSAL_KIND_BUSINESS


@pytest.mark.parametrize("interruption", [psycopg.errors.QueryCanceled(), ConnectionGone("gone")])
def test_r7_a_row_that_was_read_answers_however_its_transaction_ends(interruption: Exception) -> None:
    """A copy may be told to stop, or lose its session, when it has found that the work is done."""
    row = (str(BRANCH.gid), "work", "applied", None, [RESULTS[0].SerializeToString()], None, b"", 1)
    assert played(apply(BRANCH, ROLE), (Reply("SELECT 1", (row,)),), interruption) == Applied(RESULTS)


@pytest.mark.parametrize("interruption", [psycopg.errors.QueryCanceled(), ConnectionGone("gone")])
def test_r7_but_where_a_standby_has_to_have_it_an_end_that_nobody_knows_is_no_proof(interruption: Exception) -> None:
    row = (str(BRANCH.gid), "work", "applied", None, [RESULTS[0].SerializeToString()], None, b"", 1, "onwarning0/1")
    with pytest.raises(OutcomeUnknown, match="standby was cut short"):
        played(apply(BRANCH, ROLE), (Reply("SELECT 1", (row,)),), interruption)
