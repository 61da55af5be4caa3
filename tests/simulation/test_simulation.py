"""The whole system under seeds: no rule broken, the same seed the same run, and every planted bug found."""

from __future__ import annotations

import asyncio

import pytest

from simulation import clock
from simulation.bugs import BUGS, Bug
from simulation.seeds import first_wrong, run_seed
from simulation.world import FAILED_OVER, MEDDLED


@pytest.mark.parametrize("first", range(1, 301, 100))
def test_no_seed_breaks_a_rule(first: int) -> None:
    wrong = first_wrong(range(first, first + 100))
    assert wrong is None, wrong


def test_what_a_person_finishes_by_hand_never_goes_unseen() -> None:
    wrong = first_wrong(range(1, 101), MEDDLED)
    assert wrong is None, wrong


def test_what_a_failover_loses_never_goes_unseen() -> None:
    wrong = first_wrong(range(1, 101), FAILED_OVER)
    assert wrong is None, wrong


def test_a_seed_replays() -> None:
    once, again = (run_seed(7, keep_trace=True) for _ in range(2))
    assert once == again
    assert len(once.trace) > 20


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    with bug.plant():
        assert first_wrong(range(1, 1001), bug.setting, **bug.parts) is not None


def test_time_is_virtual() -> None:
    async def a_day() -> float:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    assert clock.run(a_day(), seed=1) == pytest.approx(86_400)


def test_waiting_for_nobody_is_an_error_and_no_hang() -> None:
    async def for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(clock.Stuck):
        clock.run(for_ever(), seed=1)
