"""Two runs beside each other: what came again, what is weaker, what turned round."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.report.made_up import repeated, results, whole
from twophase.benchmarks.cli import bench_app
from twophase.benchmarks.report import command
from twophase.benchmarks.report.paper import folder
from twophase.benchmarks.report.paper.repeat import lines_of, repeat_of
from twophase.benchmarks.report.values import Results, Section, Who

FACTORS = {"hot_rows": 1, "clients": 16}


def contended(two_phase: list[float], saga: list[float]) -> Results:
    return results(
        *repeated(Section.CONTENTION, Who.TWO_PHASE, FACTORS, throughput_per_s=two_phase),
        *repeated(Section.CONTENTION, Who.SAGA, FACTORS, throughput_per_s=saga),
    )


FIRST = contended([99, 100, 101], [199, 200, 201])


def test_a_run_comes_out_as_itself() -> None:
    found = repeat_of(whole(), whole())
    assert all(pair.came_again for pair in found.pairs)
    assert len({pair.section for pair in found.pairs}) == len(Section)
    assert (found.turned, found.weaker, found.differences) == ((), (), ())
    assert list(lines_of(found))[-1] == f"{found.same} of {found.same} conclusions came out the same."


@pytest.mark.parametrize(
    ("second", "again", "same", "weaker", "turned"),
    [
        ([97, 98, 103], [1, 1], 1, 0, 0),
        ([149, 150, 151], [0, 1], 1, 0, 0),
        ([190, 198, 205], [0, 1], 0, 1, 0),
        ([299, 300, 301], [0, 1], 0, 0, 1),
        ([math.inf, math.inf, math.inf], [0, 1], 0, 0, 1),
    ],
)
def test_what_lies_outside_both_spreads_did_not_come_again(
    second: list[float], again: list[int], same: int, weaker: int, turned: int
) -> None:
    found = repeat_of(FIRST, contended(second, [199, 200, 201]))
    assert [pair.came_again for pair in found.pairs] == [bool(each) for each in again]
    assert (found.same, len(found.weaker), len(found.turned)) == (same, weaker, turned)
    assert found.is_repeated is not bool(turned)


def test_the_farthest_are_told_with_both_spreads() -> None:
    lines = list(lines_of(repeat_of(FIRST, contended([299, 300, 301], [199, 200, 201]))))
    assert lines[0] == "Contention: 1 of 2 medians came again"
    assert lines[1] == (
        "  done (per second), two-phase commit, one row for all, 16 clients: 100 (97.8 to 102), then 300 (297 to 303)"
    )
    assert "a saga is ahead, then two-phase commit is ahead" in lines[-1]


def at_pace(found: Results, pace_us: float) -> Results:
    return replace(found, measurements=[replace(each, pace_us=pace_us) for each in found.measurements])


@pytest.mark.parametrize(
    ("second", "pace", "explained"),
    [
        (50, 200.0, True),  # all of it is processor time
        (80, 200.0, True),  # some of it
        (40, 200.0, False),  # more than the pace
        (120, 200.0, False),  # the other way
        (50, 100.0, False),
        (200, 50.0, True),
    ],
)
def test_what_differs_by_no_more_than_the_machine_is_of_the_pace(second: float, pace: float, explained: bool) -> None:  # noqa: FBT001
    one = at_pace(contended([99, 100, 101], [199, 200, 201]), 100.0)
    other = at_pace(contended([second * 0.99, second, second * 1.01], [199, 200, 201]), pace)
    found = repeat_of(one, other)
    assert [pair.came_again for pair in found.pairs] == [False, True]
    assert [pair.is_of_the_pace for pair in found.pairs] == [explained, False]
    assert ("1 more differ by no more than the machine itself did" in "".join(lines_of(found))) is explained


def test_latency_at_another_pace_goes_the_other_way() -> None:
    def run(latency: float, pace: float) -> Results:
        values = [latency * 0.99, latency, latency * 1.01]
        return at_pace(results(*repeated(Section.CONTENTION, Who.SAGA, FACTORS, p99_ms=values)), pace)

    assert [pair.is_of_the_pace for pair in repeat_of(run(10, 100.0), run(19, 200.0)).pairs] == [True]
    assert [pair.is_of_the_pace for pair in repeat_of(run(10, 100.0), run(6, 200.0)).pairs] == [False]


def test_without_a_pace_nothing_is_explained_by_it() -> None:
    found = repeat_of(FIRST, at_pace(contended([50, 50, 50], [199, 200, 201]), 200.0))
    assert not any(pair.is_of_the_pace for pair in found.pairs)


def test_another_pace_is_told_where_it_was() -> None:
    lines = list(lines_of(repeat_of(at_pace(FIRST, 100.0), at_pace(FIRST, 150.0))))
    assert lines[0] == (
        "Contention: 2 of 2 medians came again (the machine itself was 1.50 times slower the second time)"
    )


def test_what_was_not_measured_alike_is_told() -> None:
    other = replace(FIRST, seed=2, setting={**FIRST.setting, "machine": "another"})
    lines = list(lines_of(repeat_of(FIRST, other)))
    assert lines[:2] == [
        "Not the same seed: 1, then 2.",
        f"Not the same machine: {FIRST.setting['machine']}, then another.",
    ]


@pytest.mark.parametrize(("second", "code"), [([99, 100, 101], 0), ([299, 300, 301], command.TURNED)])
def test_the_command_says_whether_the_conclusions_stand(tmp_path: Path, second: list[float], code: int) -> None:
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, found in zip(paths, (FIRST, contended(second, [199, 200, 201])), strict=True):
        path.write_text(folder.as_text(found), encoding="utf-8")
    ran = CliRunner().invoke(bench_app, ["report", "--compare", *map(str, paths)])
    assert ran.exit_code == code, ran.output
    assert "medians came again" in ran.stdout
    refused = CliRunner().invoke(bench_app, ["report", "--seed", "2", "--compare", *map(str, paths)])
    assert refused.exit_code == command.WRONG_INPUT
    assert "leave the other options out" in refused.stderr
