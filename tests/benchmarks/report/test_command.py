"""The command: what it writes, what it says when something is wrong, and that an interruption leaves nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.report.made_up import measurement, results
from twophase.benchmarks.cli import bench_app
from twophase.benchmarks.report import command
from twophase.benchmarks.report.paper import folder
from twophase.benchmarks.report.values import Results, Section, Suite, Who

FOUND = results(measurement(Section.CLEARING, Who.TWO_PHASE, {"branches": 10, "decided": "yes"}, clear_ms=100))
FILES = ["plots", "report.html", "report.md", "results.json"]


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Suite, int]]:
    """Measuring takes no time here; the suites and seeds that were asked for."""
    calls = []

    async def measure(suite: Suite, seed: int, directory: Path) -> Results:
        calls.append((suite, seed))
        return FOUND

    monkeypatch.setattr(command, "_measure", measure)
    return calls


def test_a_run_is_measured_and_written(runner: CliRunner, asked: list[tuple[Suite, int]], tmp_path: Path) -> None:
    out = tmp_path / "new" / "report"
    ran = runner.invoke(bench_app, ["report", "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    assert asked == [(Suite.QUICK, 1)]
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert len(ran.stdout.splitlines()) <= 5
    assert str(out / "report.html") in ran.stdout


def test_suite_and_seed_are_what_was_asked_for(
    runner: CliRunner, asked: list[tuple[Suite, int]], tmp_path: Path
) -> None:
    ran = runner.invoke(bench_app, ["report", "--out", str(tmp_path), "--suite", "full", "--seed", "7"])
    assert (ran.exit_code, asked) == (0, [(Suite.FULL, 7)])


def test_an_earlier_run_is_written_again_without_measuring(
    runner: CliRunner, asked: list[tuple[Suite, int]], tmp_path: Path
) -> None:
    (tmp_path / "earlier.json").write_text(folder.as_text(FOUND), encoding="utf-8")
    ran = runner.invoke(bench_app, ["report", "--from", str(tmp_path / "earlier.json"), "--out", str(tmp_path / "out")])
    assert ran.exit_code == 0, ran.output
    assert asked == []
    assert (tmp_path / "out" / "results.json").read_text() == (tmp_path / "earlier.json").read_text()


def test_a_void_run_is_written_as_such_and_ends_with_1(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def lossy(suite: Suite, seed: int, directory: Path) -> Results:
        return results(problems=["account 7 holds 3"])

    monkeypatch.setattr(command, "_measure", lossy)
    ran = runner.invoke(bench_app, ["report", "--out", str(tmp_path)])
    assert ran.exit_code == command.VOID
    assert "account 7 holds 3" in ran.stdout
    assert "This run is void" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_an_interruption_ends_with_130_and_leaves_nothing(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def interrupted(suite: Suite, seed: int, directory: Path) -> Results:
        raise asyncio.CancelledError

    monkeypatch.setattr(command, "_measure", interrupted)
    ran = runner.invoke(bench_app, ["report", "--out", str(tmp_path / "a" / "b")])
    assert ran.exit_code == 130
    assert "interrupted" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_is_written_as_far_as_it_came(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    part = replace(FOUND, interrupted=True, missing={Section.CRASH: "the run ended before it was measured"})

    async def interrupted(suite: Suite, seed: int, directory: Path) -> Results:
        return part

    monkeypatch.setattr(command, "_measure", interrupted)
    ran = runner.invoke(bench_app, ["report", "--out", str(tmp_path / "a")])
    assert ran.exit_code == 130
    assert "what was measured is written" in ran.stderr
    assert "A dead coordinator (the run ended before it was measured)" in ran.stdout
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == FILES
    assert "Not whole" in (tmp_path / "a" / "report.md").read_text(encoding="utf-8")
    again = ["report", "--from", str(tmp_path / "a" / "results.json"), "--out", str(tmp_path / "b")]
    assert runner.invoke(bench_app, again).exit_code == command.VOID


def test_a_run_without_one_of_its_sections_ends_with_1(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def lacking(suite: Suite, seed: int, directory: Path) -> Results:
        return replace(FOUND, missing={Section.CRASH: "it failed: ProcessFailed: no"})

    monkeypatch.setattr(command, "_measure", lacking)
    ran = runner.invoke(bench_app, ["report", "--out", str(tmp_path)])
    assert ran.exit_code == command.VOID
    assert "Not whole: A dead coordinator (it failed: ProcessFailed: no)" in ran.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--from", "absent.json"], "absent.json cannot be read"),
        (["--from", "other.json"], "is not JSON"),
        (["--from", "other.json", "--suite", "full"], "leave --suite and --seed out"),
        (["--from", "other.json", "--seed", "2"], "leave --suite and --seed out"),
        (["--out", "other.json"], "could not be written"),
        (["--out", "other.json/below"], "could not be written"),
    ],
)
def test_wrong_input_is_told_in_one_line_before_anything_is_measured(
    runner: CliRunner,
    asked: list[tuple[Suite, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text("something else", encoding="utf-8")
    ran = runner.invoke(bench_app, ["report", *options])
    assert ran.exit_code == command.WRONG_INPUT
    assert ran.stderr.startswith("twophase bench report: ")
    assert says in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


def test_an_unknown_suite_is_told_with_the_known_ones(runner: CliRunner, asked: list[tuple[Suite, int]]) -> None:
    ran = runner.invoke(bench_app, ["report", "--suite", "huge"])
    assert ran.exit_code == command.WRONG_INPUT
    assert "huge" in ran.stderr
    assert "quick" in ran.stderr
    assert asked == []


def test_what_is_not_installed_is_told_with_what_to_type(
    runner: CliRunner, asked: list[tuple[Suite, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "matplotlib" else object())
    ran = runner.invoke(bench_app, ["report", "--out", str(tmp_path / "out")])
    assert ran.exit_code == command.WRONG_INPUT
    assert "needs matplotlib, which is not installed; type: pip install 'twophase[bench]'" in ran.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.integration
@pytest.mark.timeout(240)
def test_ctrl_c_in_the_middle_of_a_run_leaves_nothing(tmp_path: Path) -> None:
    started = [sys.executable, "-m", "twophase.coordinator", "bench", "report", "--out", str(tmp_path / "report")]
    with subprocess.Popen(
        started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as running:
        assert running.stderr is not None
        assert running.stderr.readline().startswith("9 sections, about ")
        assert "Capacity (1 of 9)" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        out, told = running.communicate(timeout=200)
    assert running.returncode == 130, told
    assert (out, told.splitlines()[-1]) == (
        "",
        "twophase bench report: interrupted; everything that was started is stopped and removed",
    )
    assert list(tmp_path.iterdir()) == []
