"""The client's calls for operators: what is in doubt, and how everything is."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from client.scripted import Scripted, problem, serving
from twophase.coordinator.client import (
    AsyncClient,
    CallRejected,
    Check,
    CheckResult,
    Diagnosis,
    HeldLock,
    InDoubt,
    InDoubtBranch,
    ParticipantDiagnosis,
    Unanswered,
    Waiter,
)
from twophase.v1 import coordinator_pb2 as pb
from twophase.v1 import types_pb2

SEEN = pb.InDoubtBranch(
    gid="g",
    txid="t",
    request_id="order/1",
    participant="payment",
    state=pb.BRANCH_STATE_PREPARED,
    decision=types_pb2.DECISION_COMMIT,
    doing="commits it",
    attempts=14,
    last_error="UNAVAILABLE",
    observed=True,
    age=Duration(seconds=3, nanos=250_400_000),
    owner="app",
    locks=[types_pb2.HeldLock(target="public.purse", mode="RowExclusiveLock")],
    waiters=[types_pb2.Waiter(pid=7, user="u", application="a", waiting=Duration(seconds=2), query="SELECT", behind=6)],
    horizon_age=12,
)


async def test_what_is_in_doubt_is_told_as_values(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.doubts = pb.ListInDoubtResponse(
        branches=[SEEN], unanswered=[pb.Unanswered(participant="stock", error="away")], quarantine="older"
    )

    found = await client.in_doubt()

    branch = InDoubtBranch(
        gid="g",
        txid="t",
        request_id="order/1",
        participant="payment",
        state="PREPARED",
        decision="COMMIT",
        doing="commits it",
        attempts=14,
        last_error="UNAVAILABLE",
        observed=True,
        age_s=3.25,
        owner="app",
        locks=(HeldLock("public.purse", "RowExclusiveLock"),),
        waiters=(Waiter(7, "u", "a", 2.0, "SELECT", 6),),
        horizon_xids=12,
    )
    assert found == InDoubt((branch,), (Unanswered("stock", "away"),), "older")


async def test_of_a_branch_that_nobody_saw_no_age_is_told(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.doubts = pb.ListInDoubtResponse(branches=[pb.InDoubtBranch(gid="g", state=99)])  # type: ignore[arg-type]

    [branch] = (await client.in_doubt()).branches

    assert (branch.age_s, branch.horizon_xids, branch.state) == (None, None, "UNSPECIFIED")


async def test_a_diagnosis_is_told_as_values(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.diagnosis = pb.CoordinatorDiagnoseResponse(
        checks=[types_pb2.Check(subject="journal file", result=types_pb2.CHECK_RESULT_OK, finding="well")],
        participants=[
            pb.ParticipantDiagnosis(
                participant="payment",
                address="h:1",
                identity=types_pb2.DatabaseIdentity(system_identifier="7", timeline=2, database="money"),
                checks=[
                    types_pb2.Check(subject="a", result=types_pb2.CHECK_RESULT_WARNING, finding="f", remedy="r"),
                    types_pb2.Check(subject="b", result=types_pb2.CHECK_RESULT_PROBLEM, finding="f", remedy="r"),
                ],
            )
        ],
        journal_id="0123456789abcdef",
        label="shop",
        epoch=types_pb2.Epoch(number=7, nonce="cafe0001"),
    )

    found = await client.diagnose()

    assert found == Diagnosis(
        journal_id="0123456789abcdef",
        label="shop",
        epoch=7,
        checks=(Check("journal file", CheckResult.OK, "well"),),
        participants=(
            ParticipantDiagnosis(
                "payment",
                "h:1",
                "7",
                2,
                "money",
                (Check("a", CheckResult.WARNING, "f", "r"), Check("b", CheckResult.PROBLEM, "f", "r")),
            ),
        ),
    )


@pytest.mark.parametrize("result", [0, 99])
async def test_a_result_of_a_later_version_is_a_problem(
    client: AsyncClient, coordinator: Scripted, result: int
) -> None:
    check = types_pb2.Check(subject="a", result=result, finding="f")  # type: ignore[arg-type]
    coordinator.diagnosis = pb.CoordinatorDiagnoseResponse(checks=[check])

    assert (await client.diagnose()).checks[0].result is CheckResult.PROBLEM


async def test_an_older_coordinator_rejects_the_call(client: AsyncClient, coordinator: Scripted) -> None:
    coordinator.read_faults = [problem(grpc.StatusCode.UNIMPLEMENTED, "NOT_OFFERED")] * 2

    with pytest.raises(CallRejected):
        await client.in_doubt()
    with pytest.raises(CallRejected):
        await client.diagnose()


async def test_a_coordinator_that_has_to_ask_around_is_given_time(coordinator: Scripted) -> None:
    coordinator.asked.clear()
    async with serving(coordinator) as port, AsyncClient(f"127.0.0.1:{port}", timeout=0.5) as client:
        call = asyncio.create_task(client.in_doubt())
        asyncio.get_running_loop().call_later(1.0, coordinator.asked.set)  # later than any other call would wait

        assert (await call).branches == ()
    assert len(coordinator.reads) == 1
