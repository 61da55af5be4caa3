"""The whole system under seeds: no rule broken, the same seed the same run, and every planted bug found."""

from __future__ import annotations

import asyncio
import gc

import pytest

from fixtures.virtual_time import Stuck, run_virtually
from simulation.bugs import BUGS, Bug
from simulation.runs import CALM, DEAD_LETTERS, SAGA_SETTINGS, SAGAS_FROZEN, SETTINGS, Setting
from simulation.seeds import first_wrong, run_seed


def test_no_seed_breaks_a_rule() -> None:
    wrong = first_wrong(range(1, 101))
    assert wrong is None, wrong


@pytest.mark.parametrize("name", SETTINGS)
def test_no_seed_breaks_a_rule_in_another_setting(name: str) -> None:
    """Branches finished by hand, failovers, frozen coordinators and so on: none of it goes unseen."""
    wrong = first_wrong(range(1, 21), SETTINGS[name])
    assert wrong is None, wrong


@pytest.mark.parametrize("name", SAGA_SETTINGS)
def test_no_seed_leaves_a_saga_half_done(name: str) -> None:
    wrong = first_wrong(range(1, 21), SAGA_SETTINGS[name])
    assert wrong is None, wrong


def test_sagas_go_every_way() -> None:
    """The weather reaches what is checked: a check of what never happens would prove nothing."""
    dead, frozen = (
        "\n".join(line for seed in range(1, 9) for line in run_seed(seed, setting, keep_trace=True).trace)
        for setting in (DEAD_LETTERS, SAGAS_FROZEN)
    )
    for happening in ("applies", "undoes", "writes refused", "writes tombstone", "of apply reaches", "ok", "failed"):
        assert happening in dead
    for happening in ("tries s", "for done", "barred True", "(compensation)"):
        assert happening in dead
    assert "is fenced" in frozen


@pytest.mark.parametrize(
    "setting", [CALM, *SETTINGS.values(), *SAGA_SETTINGS.values()], ids=["calm", *SETTINGS, *SAGA_SETTINGS]
)
def test_a_seed_replays(setting: Setting) -> None:
    once, again = (run_seed(7, setting, keep_trace=True) for _ in range(2))
    assert once == again
    assert len(once.trace) > 20


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found_and_nothing_is_without_it(bug: Bug) -> None:
    found = bug.find(range(1, 1001))
    assert found is not None
    assert run_seed(found.seed, bug.setting).violations == ()


def test_time_is_virtual() -> None:
    async def a_day() -> float:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    assert run_virtually(a_day()) == pytest.approx(86_400)


def test_waiting_for_nobody_is_an_error_and_no_hang() -> None:
    async def for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Stuck):
        run_virtually(for_ever())


def test_what_is_left_is_cancelled_until_it_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    ended = []

    async def cleans_up(rounds: int) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0.1)
            ended.append(rounds)
            if rounds:
                left.append(asyncio.create_task(cleans_up(rounds - 1)))

    left: list[asyncio.Task[None]] = []

    async def leaves() -> None:
        left.append(asyncio.create_task(cleans_up(2)))
        await asyncio.sleep(1)

    run_virtually(leaves())
    assert ended[0] == 2
    assert all(task.done() for task in left)
    left.clear()
    gc.collect()
    assert "was destroyed but it is pending" not in caplog.text
