"""A run that goes wrong: what fails is left out, what was measured is kept, and wrong books make all of it void."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from benchmarks.report.measure.watching import Watching
from twophase.benchmarks.report.measure import measuring
from twophase.benchmarks.report.measure.bench import Bench, Void
from twophase.benchmarks.report.measure.sections.common import Work
from twophase.benchmarks.report.values import Results, Section, Suite, Who
from twophase.sandbox.drill.setting import setting_here
from twophase.sandbox.errors import PostgresFailed, ProcessFailed
from twophase.sandbox.guardian import Guardian


@pytest.fixture
def systems(monkeypatch: pytest.MonkeyPatch) -> list[Bench]:
    """No server is started; the systems that were asked for."""
    found: list[Bench] = []

    @contextlib.asynccontextmanager
    async def running(*_: object, **__: object) -> AsyncIterator[Bench]:
        nobody: Any = None
        found.append(Bench(nobody, 1))
        yield found[-1]

    monkeypatch.setattr(Bench, "running", running)
    monkeypatch.setattr(measuring, "setting_of", lambda _: setting_here())
    return found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, systems: list[Bench], guardian: Guardian) -> Callable[..., Awaitable[Results]]:
    """A run of these sections."""

    async def measured(sections: dict[Section, Any], watcher: Watching | None = None) -> Results:
        monkeypatch.setattr(measuring, "SECTIONS", sections)
        return await measuring.measure(
            Suite.QUICK, seed=5, guardian=guardian, watcher=watcher or Watching(), sections=tuple(sections)
        )

    return measured


async def cleared(work: Work) -> None:
    """A section of one measurement."""
    work.progress(Section.CLEARING, 0, 2, "first")
    work.add(Section.CLEARING, Who.TWO_PHASE, {"branches": 1, "decided": "yes"}, 0, {"clear_ms": 1.0, "ready_ms": 1.0})


async def breaks(work: Work) -> None:
    work.add(Section.CAPACITY, Who.SAGA, {}, 0, {"throughput_per_s": 1.0})

    async def fails() -> None:
        raise ProcessFailed("the coordinator ended\nits last lines")

    async with asyncio.TaskGroup() as group:
        group.create_task(fails())


async def wrong_books(_: Work) -> None:
    raise Void(["account 7 holds 3"])


async def interrupted(_: Work) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.Event().wait()


async def test_a_section_that_fails_is_left_out_and_the_others_are_measured_on_a_new_system(
    run: Callable[..., Awaitable[Results]], systems: list[Bench]
) -> None:
    watcher = Watching()
    results = await run({Section.CAPACITY: breaks, Section.CLEARING: cleared}, watcher)
    assert len(systems) == 2
    assert list(watcher.errors) == [Section.CAPACITY]
    assert results.missing == {Section.CAPACITY: "it failed: ProcessFailed: the coordinator ended"}
    assert [each.section for each in results.measurements] == [Section.CLEARING]
    assert (results.is_whole, results.is_void, results.interrupted) == (False, False, False)


async def test_without_a_second_system_what_is_left_is_missing(
    run: Callable[..., Awaitable[Results]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PostgresFailed("no disk")

    async def is_the_last(_: Work) -> None:
        monkeypatch.setattr(Bench, "running", refused)
        raise KeyError("nobody expected that")

    results = await run({Section.CAPACITY: is_the_last, Section.LATENCY: cleared})
    assert results.missing == {
        Section.CAPACITY: "it failed: KeyError: 'nobody expected that'",
        Section.LATENCY: "it failed: PostgresFailed: no disk",
    }
    with pytest.raises(PostgresFailed, match="no disk"):
        await run({Section.CAPACITY: cleared})


async def test_results_are_kept_after_every_section_and_an_interruption_returns_them(
    run: Callable[..., Awaitable[Results]],
) -> None:
    watcher = Watching()
    sections = {Section.CLEARING: cleared, Section.CAPACITY: interrupted, Section.LATENCY: cleared}
    results = await run(sections, watcher)
    (kept,) = watcher.kept
    for each in (kept, results):
        assert each.interrupted
        assert [one.section for one in each.measurements] == [Section.CLEARING]
        assert list(each.missing) == [Section.CAPACITY, Section.LATENCY]
        assert list(each.setting["seconds_by_section"]) == [Section.CLEARING]
        assert Results.from_json(each.to_json()).missing == each.missing


async def test_what_is_shown_of_a_section_that_was_interrupted_is_told_to_be_a_part(
    run: Callable[..., Awaitable[Results]],
) -> None:
    async def half(work: Work) -> None:
        await cleared(work)
        await interrupted(work)

    results = await run({Section.CLEARING: half})
    assert len(results.measurements) == 1
    assert "after some of its measurements" in results.missing[Section.CLEARING]


async def test_an_interruption_before_anything_was_measured_ends_the_run(
    run: Callable[..., Awaitable[Results]],
) -> None:
    with pytest.raises(asyncio.CancelledError):
        await run({Section.CLEARING: interrupted})


async def test_wrong_books_make_the_run_void_and_end_it(run: Callable[..., Awaitable[Results]]) -> None:
    sections = {Section.CLEARING: cleared, Section.CAPACITY: wrong_books, Section.LATENCY: interrupted}
    results = await run(sections)
    assert results.is_void
    assert not results.interrupted
    assert list(results.problems) == ["account 7 holds 3"]
    assert results.to_json()["void"] is True
