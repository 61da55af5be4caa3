"""The clients of a drill write down what they were told, and never more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from twophase.contract.status import Problem
from twophase.coordinator.client import (
    AsyncClient,
    CallRejected,
    CoordinatorUnavailable,
    Outcome,
    OutcomeUnknown,
    TransactionAborted,
    Wait,
)
from twophase.sandbox.bank import ACCOUNTS, NAMES
from twophase.sandbox.drill.load import Load, Told, Transfer

PROBLEM = Problem(grpc.StatusCode.INVALID_ARGUMENT, "WRONG", "it is wrong")
Execute = Callable[..., Any]


class _Told:
    """Stands in for the client's `execute`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[dict[str, Any]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, *operations: Any, **options: Any) -> None:
        self.asked.append({"operations": operations, **options})
        await self.go_on.wait()
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error


@pytest.fixture
async def load() -> Load:
    return Load("127.0.0.1:1", clients=2, seed=1)


def answer_with(load: Load, error: Exception | None) -> _Told:
    told = _Told(error)
    load._client.execute = told  # type: ignore[method-assign, assignment]
    return told


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, Told.OK),
        (TransactionAborted("r", "t", 1, ()), Told.FAILED),
        (CoordinatorUnavailable("away"), Told.FAILED),
        (CallRejected(PROBLEM), Told.FAILED),
        (OutcomeUnknown("r", 1, "silence"), Told.UNKNOWN),
    ],
)
async def test_what_a_client_is_told_is_recorded(load: Load, error: Exception | None, told: Told) -> None:
    answer_with(load, error)
    transfer, answered = await load.probe("east", "west")
    assert answered.told is told
    assert load.record.told == {transfer.name: (transfer, told)}
    assert load.record.answers == [answered]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ((Outcome.COMMITTED, 1), Told.OK),
        ((Outcome.ABORTED, 2), Told.FAILED),
        ((Outcome.ABORTED, 1), Told.UNKNOWN),
        (None, Told.UNKNOWN),
    ],
    ids=["committed", "aborted", "an earlier attempt was aborted", "no record"],
)
async def test_nothing_is_concluded_of_an_attempt_that_nobody_has_seen(
    load: Load, found: tuple[Outcome, int] | None, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(load, OutcomeUnknown("r", 2, "silence"))
    transfer, _ = await load.probe("east", "west")

    async def outcome(self: AsyncClient, request_id: str) -> SimpleNamespace | None:
        assert request_id == transfer.name
        return None if found is None else SimpleNamespace(outcome=found[0], attempt=found[1])

    monkeypatch.setattr(AsyncClient, "outcome", outcome)
    await load.settle("127.0.0.1:1")
    assert load.record.told[transfer.name][1] is told


async def test_what_is_under_way_is_unknown(load: Load) -> None:
    told = answer_with(load, None)
    told.go_on.clear()
    asking = asyncio.create_task(load.probe("east", "west"))
    while not told.asked:
        await asyncio.sleep(0)
    assert [outcome for _, outcome in load.record.told.values()] == [Told.UNKNOWN]
    told.go_on.set()
    await asking
    assert [outcome for _, outcome in load.record.told.values()] == [Told.OK]


async def test_a_probe_has_accounts_of_its_own(load: Load) -> None:
    answer_with(load, None)
    probes = [(await load.probe("east", "west", wait=Wait.DECIDED))[0] for _ in range(20)]
    others = [load._transfer() for _ in range(500)]

    def accounts(transfers: list[Transfer]) -> set[int]:
        return {movement.account for transfer in transfers for _, movement in transfer.movements}

    assert accounts(probes).isdisjoint(accounts(others))
    assert accounts(probes) | accounts(others) <= set(range(1, ACCOUNTS + 1))


async def test_some_transfers_touch_every_bank_and_each_one_sums_to_nothing(load: Load) -> None:
    transfers = [load._transfer() for _ in range(500)]
    assert max(len({bank for bank, _ in transfer.movements}) for transfer in transfers) == len(NAMES)
    for transfer in transfers:
        total = sum(movement.amount for _, movement in transfer.movements)
        assert total == 0 or len(transfer.movements) == 1, "a single movement is one that is refused"


async def test_in_a_pause_nobody_sends_and_everybody_goes_on_afterwards(load: Load) -> None:
    told = answer_with(load, None)
    running = asyncio.create_task(load.run())
    while len(told.asked) < 4:
        await asyncio.sleep(0)
    await load.pause()
    sent = len(told.asked)
    assert len(load.record.answers) == sent, "nothing is under way"
    await load.probe("east", "west")
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(told.asked) == sent + 1
    load.resume()
    while len(told.asked) < sent + 4:
        await asyncio.sleep(0)
    load.stop()
    await running
    assert {option["deadline"] for option in told.asked} == {5.0}


async def test_a_paused_load_can_be_stopped(load: Load) -> None:
    answer_with(load, None)
    running = asyncio.create_task(load.run())
    await load.pause()
    load.stop()
    await running


async def test_a_coordinator_that_is_away_settles_nothing(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(load, OutcomeUnknown("r", 1, "silence"))
    transfer, _ = await load.probe("east", "west")

    async def outcome(self: AsyncClient, request_id: str) -> None:
        raise CoordinatorUnavailable("away")

    monkeypatch.setattr(AsyncClient, "outcome", outcome)
    await load.settle("127.0.0.1:1")
    assert load.record.told[transfer.name][1] is Told.UNKNOWN
