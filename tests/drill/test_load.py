"""The clients of a drill write down what they were told, and never more."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
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
    Protocol,
    Refusal,
    SagaCompensated,
    TransactionAborted,
    Wait,
)
from twophase.coordinator.protocol.graph import Step, graph
from twophase.sandbox.bank import ACCOUNTS, NAMES, Movement
from twophase.sandbox.drill.business import Business, Saga, Told, Transfer, entries_of
from twophase.sandbox.drill.chance import FORTUNE
from twophase.sandbox.drill.load import Load
from twophase.sandbox.drill.work import sagas_of, work_of

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
    return Load("127.0.0.1:1", clients=2, seed=1, work=work_of(Business.TRANSFERS, 1))


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
        ((Outcome.COMPENSATED, 2), Told.FAILED),
        ((Outcome.ABORTED, 1), Told.UNKNOWN),
        (None, Told.UNKNOWN),
    ],
    ids=["committed", "aborted", "compensated", "an earlier attempt was aborted", "no record"],
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
    others = list(itertools.islice(work_of(Business.SAGAS, 1), 500))

    def accounts(sent: Iterable[Transfer | Saga]) -> set[int]:
        entries = (entry for each in sent for page in entries_of(each).values() for entry in page)
        return {account for what, account, _ in entries if what == "account"}

    assert accounts(probes).isdisjoint(accounts(others))
    assert accounts(probes) | accounts(others) <= set(range(1, ACCOUNTS + 1))


def test_some_transfers_touch_every_bank_and_each_one_sums_to_nothing() -> None:
    transfers = [sent for sent in itertools.islice(work_of(Business.TRANSFERS, 1), 500) if isinstance(sent, Transfer)]
    assert len(transfers) == 500
    assert max(len({bank for bank, _ in transfer.movements}) for transfer in transfers) == len(NAMES)
    for transfer in transfers:
        total = sum(movement.amount for _, movement in transfer.movements)
        assert total == 0 or len(transfer.movements) == 1, "a single movement is one that is refused"


def refused_at(saga: Saga) -> list[int]:
    """The places, in the saga's order, of the steps that ask for more than anybody has."""
    deeds = [step.deed for step in saga.steps]
    return [place for place, deed in enumerate(deeds) if isinstance(deed, Movement) and deed.amount == -FORTUNE]


def test_sagas_are_refused_at_the_first_a_middle_and_the_last_step_or_are_too_slow_or_done() -> None:
    sagas = list(sagas_of(2_000, 1, doomed=0.2))
    assert len(sagas) == 2_000
    assert 300 < sum(saga.doomed for saga in sagas) < 500
    places = {(at[0], len(saga.steps)) for saga in sagas if (at := refused_at(saga))}
    assert {(0, 2), (1, 3), (3, 4)} <= places
    short = {saga.deadline for saga in sagas if saga.doomed and not refused_at(saga)}
    assert len(short) == 1
    assert max(short) < min(saga.deadline for saga in sagas if not saga.doomed)
    assert not any(refused_at(saga) for saga in sagas if not saga.doomed)
    assert {any(step.pivot for step in saga.steps) for saga in sagas} == {True, False}
    assert any(step.after == () for saga in sagas for step in saga.steps), "some steps run beside others"
    assert any(len({bank for bank, _ in saga.deeds()}) < len(saga.steps) for saga in sagas), "two steps at one bank"


def test_what_a_saga_leaves_if_it_is_done_sums_to_nothing() -> None:
    for saga in sagas_of(2_000, 1, doomed=0.0):
        entries = [entry for page in entries_of(saga).values() for entry in page.elements()]
        assert sum(amount for what, _, amount in entries if what == "account") == 0


def test_every_saga_has_a_graph_that_a_coordinator_takes() -> None:
    for saga in sagas_of(500, 1, doomed=0.5):
        numbers = {step.name: number for number, step in enumerate(saga.steps)}
        before: list[tuple[str, ...]] = [(), *((step.name,) for step in saga.steps[:-1])]
        graph(
            Step(
                numbers[step.name],
                frozenset(numbers[name] for name in (usual if step.after is None else step.after)),
                pivot=step.pivot,
            )
            for step, usual in zip(saga.steps, before, strict=True)
        )


def test_the_same_seed_makes_the_same_business() -> None:
    for business in Business:
        first, second, other = (list(itertools.islice(work_of(business, seed), 50)) for seed in (1, 1, 2))
        assert first == second != other


def test_among_sagas_there_are_transfers() -> None:
    kinds = Counter(type(sent) for sent in itertools.islice(work_of(Business.SAGAS, 1), 500))
    assert kinds[Saga] > kinds[Transfer] > 0


async def test_a_saga_is_sent_once_as_it_is() -> None:
    saga = next(each for each in sagas_of(50, 1, doomed=0.0) if len(each.steps) == 4)
    load = Load("127.0.0.1:1", clients=2, seed=1, work=iter([saga]))
    told = answer_with(load, SagaCompensated("r", "t", 1, ()))
    await load.run()
    (sent,) = told.asked
    assert (sent["protocol"], sent["deadline"], sent.get("retries", 0)) == (Protocol.SAGA, saga.deadline, 0)
    assert [(step.name, step.after, step.pivot) for step in sent["operations"]] == [
        ("reserve", (), False),
        ("look", (), False),
        ("pay", ("reserve", "look"), True),
        ("cash", None, False),
    ]
    assert [(step.operation.participant, step.operation.name) for step in sent["operations"]] == [
        (step.bank, verb) for step, verb in zip(saga.steps, ("sell", "look", "move", "move"), strict=True)
    ]
    assert load.record.told == {saga.name: (saga, Told.FAILED)}


async def test_a_saga_that_has_not_begun_is_sent_again_under_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twophase.sandbox.drill.load._PAUSE", 0.0)
    (saga,) = sagas_of(1, 1, doomed=0.0)
    load = Load("127.0.0.1:1", clients=1, seed=1, work=iter([saga]))
    away = Refusal("UNREACHABLE", "UNREACHABLE", "east is away", retryable=True, participant="east", operation="")
    answers: list[Exception | None] = [CoordinatorUnavailable("away"), TransactionAborted("r", "t", 1, (away,)), None]
    asked: list[dict[str, Any]] = []

    async def execute(*operations: Any, **options: Any) -> None:
        asked.append(options)
        error = answers.pop(0)
        if error is not None:
            raise error

    monkeypatch.setattr(load._client, "execute", execute)
    await load.run()
    assert [(each["request_id"], each["attempt"]) for each in asked] == [(saga.name, 1), (saga.name, 1), (saga.name, 2)]
    assert load.record.told == {saga.name: (saga, Told.OK)}


async def test_in_a_pause_nobody_sends_and_everybody_goes_on_afterwards(load: Load) -> None:
    told = answer_with(load, None)
    running = asyncio.create_task(load.run())
    while len(told.asked) < 4:
        await asyncio.sleep(0)
    await load.pause()
    sent = len(told.asked)
    assert len(load.record.answers) == sent, "nothing is under way"
    await load.probe("east", "west")
    (saga,) = sagas_of(1, 1, doomed=0.0)
    await load.send(saga)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(told.asked) == sent + 2
    load.resume()
    while len(told.asked) < sent + 5:
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
