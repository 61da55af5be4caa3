"""What the engine tells of transactions that ended: as they are, as they stood, and which went wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fixtures.world import BOTH, World, submission
from twophase.contract.names import Txid
from twophase.coordinator import wire
from twophase.coordinator.engine.api import Outcome, Which
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.engine.recorded import view_at
from twophase.coordinator.journal.events import Begun, Decided, Ended, Finished, Happening, Voted
from twophase.coordinator.protocol.decisions import Ending
from twophase.v1.coordinator_pb2 import BranchState


async def committed(engine: Engine, request_id: str = "r-1") -> Txid:
    answer = await engine.execute(submission(*BOTH, request_id=request_id))
    assert answer.txid is not None
    return answer.txid


async def test_a_view_has_events_only_if_they_are_asked_for() -> None:
    async with World().coordinator() as engine:
        name = await committed(engine)
        plain, full, by_request = [
            await engine.view(name),
            await engine.view(name, with_events=True),
            await engine.view("r-1", with_events=True),
        ]
        nobody = await engine.view("r-9", with_events=True)
    assert plain is not None
    assert full is not None
    assert (plain.history, plain.record, by_request) == ((), full.record, full)
    kinds = [type(happening.event) for happening in full.history]
    assert (kinds[0], kinds[-1]) == (Begun, Ended)
    assert sorted(kind.__name__ for kind in kinds[1:-1]) == sorted(
        kind.__name__ for kind in (Voted, Voted, Decided, Finished, Finished)
    )
    assert nobody is None


@pytest.mark.parametrize(
    ("calls", "states"),
    [
        (("order.refuse", "payment.write"), {"order": "REFUSED", "payment": "UNSPECIFIED"}),
        (("order.read", "payment.write", "stock.read"), {"order": "READ_ONLY", "payment": "UNSPECIFIED"}),
        (("order.read", "payment.read"), {"order": "READ_ONLY", "payment": "READ_ONLY"}),
        (("order.read", "payment.write"), {"order": "READ_ONLY", "payment": "APPLIED"}),
    ],
    ids=["in turn", "the only writer", "readers", "one writer"],
)
async def test_a_branch_that_nothing_was_sent_to_is_not_said_to_have_refused(
    calls: tuple[str, ...], states: dict[str, str]
) -> None:
    world = World()
    world.stock.lose_answers = {"prepare"}
    async with world.coordinator() as engine:
        await engine.execute(replace(submission(*calls), in_turn=True))
        view = await engine.view("r-1")
    assert view is not None
    told = wire.transaction(view, world.disk.journal_id)
    found = {one.participant: BranchState.Name(one.state).removeprefix("BRANCH_STATE_") for one in told.branches}
    assert {name: state for name, state in found.items() if name != "stock"} == states


async def test_a_view_at_a_moment_leaves_out_what_came_later() -> None:
    async with World().coordinator() as engine:
        name = await committed(engine)
        now = await engine.view(name, with_events=True)
        assert now is not None
        first, last = now.history[0].at, now.history[-1].at
        assert await engine.view(name, at=first - 1) is None
        assert await engine.view("r-1", at=first - 1) is None
        then = await engine.view(name, at=last)
    assert then is not None
    assert (then.record, then.history) == (now.record, ())
    # Each event a second after the one before it: the decision is the fourth.
    spread = tuple(Happening(one.position, n * 1000, one.event) for n, one in enumerate(now.history))
    decided = next(n for n, one in enumerate(spread) if isinstance(one.event, Decided))
    before, at = view_at(spread, decided * 1000 - 1), view_at(spread, decided * 1000)
    assert before is not None
    assert at is not None
    assert (before.outcome, at.outcome, at.applied) == (Outcome.PENDING, Outcome.COMMITTED, False)
    assert len(before.history) == decided


async def test_a_clock_that_was_set_back_shows_no_effect_before_its_cause() -> None:
    async with World().coordinator() as engine:
        name = await committed(engine)
        now = await engine.view(name, with_events=True)
    assert now is not None
    back = tuple(Happening(one.position, -n, one.event) for n, one in enumerate(now.history))
    assert view_at(back, -1) is None
    assert view_at(back, 0) == now.__class__(now.record, now.outcome, now.applied, back)


async def test_r11_what_ended_against_its_decision_is_listed_newest_first() -> None:
    world = World()
    async with world.coordinator() as engine:
        names = [await committed(engine, f"r-{number}") for number in range(3)]
        for name in (names[0], names[2]):
            engine.journal.append(Finished(name, 0, Ending.ABORTED))
        listed = await engine.views(limit=10, which=Which.HEURISTIC)
        limited = await engine.views(limit=1, which=Which.HEURISTIC)
        later = await engine.views(limit=10, before=names[2], which=Which.HEURISTIC)
    assert [view.record.txid for view in listed] == [names[2], names[0]]
    assert [view.record.txid for view in limited] == [names[2]]
    assert [view.record.txid for view in later] == [names[0]]
