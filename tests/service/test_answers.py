"""What the service passes on to the engine, and how it tells what the engine says."""

from __future__ import annotations

import logging

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from service.service_fakes import EPOCH, JOURNAL, FakeEngine, Served, op, reason, request, served, txid, view
from twophase.contract.status import Problem
from twophase.coordinator.engine.api import NEVER_SEEN, Answer, Outcome, Rejected, Result, Wait, Which
from twophase.coordinator.journal.events import Begun, BranchRef, Decided, Ended, Event, Finished, Happening, Voted
from twophase.coordinator.protocol.decisions import ABORT, Ending, Vote, delegated
from twophase.v1 import coordinator_pb2, types_pb2


async def test_an_execute_reaches_the_engine_whole(service: Served) -> None:
    seen = types_pb2.Epoch(number=EPOCH.number, nonce=EPOCH.nonce)
    await service.stub.Execute(
        request(
            attempt=3,
            seen_epoch=seen,
            deadline=Duration(seconds=1, nanos=500_000_000),
            wait=coordinator_pb2.WAIT_DECIDED,
            operations=[op("b"), op("a", "charge", "[1]")],
        )
    )

    [submission] = service.engine.submissions
    assert (submission.request_id, submission.attempt, submission.seen_epoch) == ("order-1", 3, EPOCH)
    assert (submission.deadline, submission.wait) == (1.5, Wait.DECIDED)
    assert [(call.participant, call.operation, call.payload.json) for call in submission.calls] == [
        ("b", "reserve", "{}"),
        ("a", "charge", "[1]"),
    ]


async def test_what_is_left_out_has_its_default(service: Served) -> None:
    await service.stub.Execute(request())
    await service.stub.Execute(request(seen_epoch=types_pb2.Epoch()))

    plain, never = service.engine.submissions
    assert (plain.attempt, plain.seen_epoch, plain.deadline, plain.wait) == (1, None, 10.0, Wait.APPLIED)
    assert never.seen_epoch is NEVER_SEEN


async def test_the_answer_carries_everything_and_the_epoch(service: Served) -> None:
    result = Result("inventory", "reserve", types_pb2.Payload(json="7"))
    service.engine.answer = Answer(
        Outcome.COMMITTED, txid(1), 2, results=(result,), pending=("payment",), heuristic=("delivery",)
    )

    response = await service.stub.Execute(request())

    assert (response.txid, response.outcome, response.attempt) == (str(txid(1)), coordinator_pb2.OUTCOME_COMMITTED, 2)
    assert [(one.participant, one.name, one.result.json) for one in response.results] == [("inventory", "reserve", "7")]
    assert (list(response.pending), list(response.heuristic), response.applied) == (["payment"], ["delivery"], False)
    assert (response.epoch.number, response.epoch.nonce) == (EPOCH.number, EPOCH.nonce)


async def test_not_seen_has_no_txid_and_the_epoch_to_come_back_with(service: Served) -> None:
    service.engine.answer = Answer(Outcome.NOT_SEEN, None, 1)

    response = await service.stub.Execute(request())

    assert (response.txid, response.outcome) == ("", coordinator_pb2.OUTCOME_NOT_SEEN)
    assert response.epoch.number == EPOCH.number


async def test_a_business_refusal_is_an_answer(service: Served) -> None:
    refused = reason("BUSINESS", code="OUT_OF_STOCK", participant="inventory", operation="reserve", retryable=True)
    service.engine.answer = Answer(Outcome.ABORTED, txid(1), 1, applied=True, reasons=(refused,))

    response = await service.stub.Execute(request())

    [refusal] = response.refusals
    assert response.outcome == coordinator_pb2.OUTCOME_ABORTED
    assert (refusal.kind, refusal.code, refusal.retryable) == (types_pb2.REFUSAL_KIND_BUSINESS, "OUT_OF_STOCK", True)


async def test_a_reason_of_an_unknown_kind_is_told_as_internal(service: Served) -> None:
    service.engine.answer = Answer(Outcome.ABORTED, txid(1), 1, reasons=(reason("FROM_TOMORROW"),))

    response = await service.stub.Execute(request())

    assert response.refusals[0].kind == types_pb2.REFUSAL_KIND_INTERNAL


@pytest.mark.parametrize(
    ("kind", "code", "field"),
    [
        ("INVALID_PAYLOAD", grpc.StatusCode.INVALID_ARGUMENT, "operations[1].payload"),
        ("UNKNOWN_OPERATION", grpc.StatusCode.NOT_FOUND, "operations[1].name"),
    ],
)
async def test_an_abort_that_blames_the_request_is_an_error_of_the_request(
    service: Served, kind: str, code: grpc.StatusCode, field: str
) -> None:
    blamed = reason(kind, participant="payment", operation="charge", message="amount: not a number")
    service.engine.answer = Answer(Outcome.ABORTED, txid(1), 1, applied=True, reasons=(blamed,))

    problem, _ = await service.refused(service.stub.Execute(request(operations=[op(), op("payment", "charge")])))

    assert (problem.code, problem.field, problem.outcome_known) == (code, field, True)
    assert "amount: not a number" in problem.message


async def test_r11_an_abort_that_is_applied_somewhere_is_an_answer_whatever_was_refused(service: Served) -> None:
    blamed = reason("INVALID_PAYLOAD", participant="payment", operation="charge")
    service.engine.answer = Answer(Outcome.ABORTED, txid(1), 1, reasons=(blamed,), heuristic=("inventory",))

    response = await service.stub.Execute(request(operations=[op(), op("payment", "charge")]))

    assert (response.outcome, list(response.heuristic)) == (coordinator_pb2.OUTCOME_ABORTED, ["inventory"])


async def test_the_operation_to_blame_is_not_guessed_among_equals(service: Served) -> None:
    blamed = reason("INVALID_PAYLOAD", participant="payment", operation="charge")
    service.engine.answer = Answer(Outcome.ABORTED, txid(1), 1, reasons=(blamed,))
    twice = request(operations=[op("payment", "charge"), op("payment", "charge")])

    problem, _ = await service.refused(service.stub.Execute(twice))

    assert problem.field == "operations"


async def test_only_the_reason_that_decided_makes_an_abort_an_error(service: Served) -> None:
    reasons = (reason("BUSINESS"), reason("INVALID_PAYLOAD"))
    service.engine.answer = Answer(Outcome.ABORTED, txid(1), 1, reasons=reasons)

    response = await service.stub.Execute(request())

    assert len(response.refusals) == 2


async def test_a_rejection_of_the_engine_keeps_its_status_and_details(service: Served) -> None:
    problem = Problem(
        grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", "used", "request_id", "order-1", "take another"
    )
    service.engine.answer = Rejected(problem)

    told, _ = await service.refused(service.stub.Execute(request()))

    assert told == problem


async def test_a_long_message_is_cut_so_that_the_status_arrives(service: Served) -> None:
    endless = Problem(grpc.StatusCode.NOT_FOUND, "X", "€" * 100_000, "operations", "€" * 100_000, "€" * 100_000)
    service.engine.answer = Rejected(endless)

    told, _ = await service.refused(service.stub.Execute(request()))

    assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "X")
    assert told.message.endswith("...")


async def test_a_defect_says_that_the_outcome_is_unknown(service: Served, caplog: pytest.LogCaptureFixture) -> None:
    service.engine.answer = ZeroDivisionError("a defect with secrets in it")

    with caplog.at_level(logging.ERROR):
        problem, _ = await service.refused(service.stub.Execute(request()))

    assert (problem.code, problem.outcome_known) == (grpc.StatusCode.INTERNAL, False)
    assert "secrets" not in problem.message
    assert "secrets" in caplog.text


async def test_register_answers_with_the_journal_and_the_epoch(service: Served) -> None:
    response = await service.stub.Register(coordinator_pb2.RegisterRequest(participant="p-1", address="[::1]:7001"))

    assert service.engine.registered == [("p-1", "[::1]:7001")]
    assert (response.journal_id, response.epoch.number) == (JOURNAL, EPOCH.number)


async def test_get_by_an_unknown_txid_is_not_found_and_not_called_aborted(service: Served) -> None:
    problem, _ = await service.refused(service.stub.Get(coordinator_pb2.GetRequest(txid=str(txid(9)))))

    assert (problem.code, problem.field, problem.value) == (grpc.StatusCode.NOT_FOUND, "txid", str(txid(9)))
    assert "does not mean" in problem.message


async def test_get_by_an_unknown_request_id_is_not_seen(service: Served) -> None:
    response = await service.stub.Get(coordinator_pb2.GetRequest(request_id="order-9"))

    assert response.outcome == coordinator_pb2.OUTCOME_NOT_SEEN
    assert not response.HasField("transaction")
    assert response.epoch.number == EPOCH.number


async def test_get_tells_request_decision_branches_and_refusals(service: Served) -> None:
    service.engine.found["order-1"] = view(decision=delegated(1), reasons=(reason("BUSINESS"),))

    response = await service.stub.Get(coordinator_pb2.GetRequest(request_id="order-1"))

    told = response.transaction
    assert (told.request_id, told.attempt, told.decision) == ("order-1", 2, types_pb2.DECISION_DELEGATED)
    assert [branch.gid for branch in told.branches] == [f"tp-{JOURNAL}-{txid(1)}-000{n}" for n in (0, 1)]
    assert len(told.refusals) == 1


S = coordinator_pb2


@pytest.mark.parametrize(
    ("vote", "ending", "committed", "state"),
    [
        (None, None, None, S.BRANCH_STATE_WORKING),
        (Vote.LOST, None, None, S.BRANCH_STATE_WORKING),
        (Vote.YES, None, None, S.BRANCH_STATE_PREPARED),
        (Vote.READ_ONLY, None, True, S.BRANCH_STATE_READ_ONLY),
        (Vote.NO, None, False, S.BRANCH_STATE_REFUSED),
        (Vote.YES, Ending.APPLIED, True, S.BRANCH_STATE_APPLIED),
        (Vote.YES, Ending.APPLIED, False, S.BRANCH_STATE_HEURISTIC),
        (Vote.YES, Ending.ABORTED, False, S.BRANCH_STATE_ABORTED),
        (Vote.YES, Ending.ABORTED, True, S.BRANCH_STATE_HEURISTIC),
        (Vote.YES, Ending.LOST, True, S.BRANCH_STATE_HEURISTIC),
        (None, Ending.REFUSED, False, S.BRANCH_STATE_REFUSED),
        (None, Ending.REFUSED, True, S.BRANCH_STATE_HEURISTIC),
    ],
)
async def test_r11_a_branch_that_ended_against_the_decision_is_shown_as_heuristic(
    service: Served, *, vote: Vote | None, ending: Ending | None, committed: bool | None, state: int
) -> None:
    service.engine.found[txid(1)] = view(
        votes={} if vote is None else {0: vote}, endings={} if ending is None else {0: ending}, committed=committed
    )

    response = await service.stub.Get(coordinator_pb2.GetRequest(txid=str(txid(1))))

    assert response.transaction.branches[0].state == state


async def test_a_transaction_without_request_or_decision_can_be_told(service: Served) -> None:
    service.engine.found[txid(1)] = view(outcome=Outcome.PENDING, request=None, decision=None, committed=None)
    service.engine.found[txid(2)] = view(2, outcome=Outcome.ABORTED, decision=ABORT, committed=False)

    pending = await service.stub.Get(coordinator_pb2.GetRequest(txid=str(txid(1))))
    aborted = await service.stub.Get(coordinator_pb2.GetRequest(txid=str(txid(2))))

    assert (pending.transaction.request_id, pending.transaction.decision) == ("", types_pb2.DECISION_UNSPECIFIED)
    assert (aborted.outcome, aborted.transaction.decision) == (S.OUTCOME_ABORTED, types_pb2.DECISION_ABORT)


async def test_list_pages_from_the_newest_to_the_last() -> None:
    engine = FakeEngine(listed=tuple(view(number) for number in (5, 4, 3, 2, 1)))
    pages = []
    async with served(engine) as service:
        token = ""
        while True:
            answer = await service.stub.List(coordinator_pb2.ListRequest(page_size=2, page_token=token))
            pages.append([one.txid for one in answer.transactions])
            token = answer.next_page_token
            if not token:
                break

    assert pages == [[str(txid(5)), str(txid(4))], [str(txid(3)), str(txid(2))], [str(txid(1))]]


async def test_a_full_last_page_is_not_followed_by_an_empty_one() -> None:
    engine = FakeEngine(listed=(view(2), view(1)))
    async with served(engine) as service:
        answer = await service.stub.List(coordinator_pb2.ListRequest(page_size=2))

    assert answer.next_page_token == ""


async def test_get_tells_the_events_in_the_contract_s_words(service: Served) -> None:
    name = txid(1)
    branches = (BranchRef(0, "inventory"), BranchRef(1, "payment"))
    events: tuple[Event, ...] = (
        Begun(name, None, branches),
        Voted(name, 0, Vote.LOST),
        Voted(name, 1, Vote.YES),
        Decided(name, ABORT, None, branches, (reason("BUSINESS"),)),
        Finished(name, 1, Ending.APPLIED),
        Finished(name, 7, Ending.ABORTED),
        Ended(name, committed=False),
    )
    history = tuple(Happening(10 + n, 1_700_000_000_123 + n, event) for n, event in enumerate(events))
    service.engine.found[name] = view(decision=ABORT, committed=False, history=history)

    told = (await service.stub.Get(coordinator_pb2.GetRequest(txid=str(name), with_events=True))).transaction.events

    gids = [f"tp-{JOURNAL}-{name}-{n:04x}" for n in range(8)]
    assert [event.position for event in told] == list(range(10, 17))
    assert [event.at.ToMilliseconds() for event in told] == [1_700_000_000_123 + n for n in range(7)]
    assert [event.kind for event in told] == [
        *(S.EVENT_KIND_BEGUN, S.EVENT_KIND_VOTED, S.EVENT_KIND_VOTED, S.EVENT_KIND_DECIDED),
        *(S.EVENT_KIND_FINISHED, S.EVENT_KIND_FINISHED, S.EVENT_KIND_ENDED),
    ]
    assert [(event.gid, event.participant, event.vote) for event in told[1:3]] == [
        (gids[0], "inventory", types_pb2.VOTE_UNSPECIFIED),
        (gids[1], "payment", types_pb2.VOTE_YES),
    ]
    assert (told[3].decision, [one.code for one in told[3].refusals]) == (types_pb2.DECISION_ABORT, ["BUSINESS"])
    assert [(event.gid, event.participant, event.state) for event in told[4:6]] == [
        (gids[1], "payment", S.BRANCH_STATE_HEURISTIC),
        (gids[7], "", S.BRANCH_STATE_ABORTED),
    ]
    assert told[6].outcome == S.OUTCOME_ABORTED


async def test_get_asks_for_events_and_for_a_moment_to_the_millisecond(service: Served) -> None:
    service.engine.found["order-1"] = view()
    plain = coordinator_pb2.GetRequest(request_id="order-1")
    then = coordinator_pb2.GetRequest(request_id="order-1", with_events=True)
    then.at.FromNanoseconds(1_700_000_000_123_999_999)

    await service.stub.Get(plain)
    await service.stub.Get(then)

    assert service.engine.asked == [(False, None), (True, 1_700_000_000_123)]


async def test_get_says_that_there_was_no_record_yet(service: Served) -> None:
    early = coordinator_pb2.GetRequest(txid=str(txid(9)))
    early.at.FromSeconds(0)

    problem, _ = await service.refused(service.stub.Get(early))

    assert (problem.code, problem.field) == (grpc.StatusCode.NOT_FOUND, "at")
    assert "up to that moment" in problem.message


async def test_list_asks_for_all_for_the_unfinished_or_for_the_heuristic(service: Served) -> None:
    await service.stub.List(coordinator_pb2.ListRequest())
    await service.stub.List(coordinator_pb2.ListRequest(unfinished_only=True))
    await service.stub.List(coordinator_pb2.ListRequest(heuristic_only=True))

    assert service.engine.whiches == [Which.ALL, Which.UNFINISHED, Which.HEURISTIC]
