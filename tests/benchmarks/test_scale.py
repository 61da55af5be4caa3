"""`twophase bench scale`: everything in one small run, what its figures come to, and what it says.

What the figures are is never tested here; `tests/scale` holds what they rest on, in counts.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from twophase.benchmarks import cli, resident, scale, scale_screen
from twophase.benchmarks.history import multiply
from twophase.benchmarks.scale_values import FanOut, FanOuts, Memory, Sample, Scale, Sizes, Starts
from twophase.benchmarks.wanted import at_least, at_most
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.sandbox.drill.setting import Setting

COMMAND = [sys.executable, "-m", "twophase.coordinator", "bench", "scale"]
TINY = (
    *("--quick", "--participants=3", "--delay=1", "--repeats=2", "--concurrent=20", "--transactions=60"),
    *("--warm-up=20", "--ended=50", "--starts=1"),
)


def run(*options: str) -> Any:
    ran = subprocess.run([*COMMAND, *options, "--json"], capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.skipif(not resident.is_known(), reason="this machine has no /proc")
def test_everything_in_one_small_run() -> None:
    report = run(*TINY)
    fan_out, memory, start = report["fan_out"], report["memory"], report["start"]
    assert len(fan_out["rows"]) == 5
    assert all(row["fastest_ms"] >= 1 for row in fan_out["rows"]), "nobody answers before the delay is over"
    assert memory["transactions"] == 60
    assert memory["curve"][-1][0] == 60, "the last sample is taken when all are done"
    assert 10 < memory["idle_mb"] <= memory["peak_mb"]
    assert [each["ended"] for each in start] == [0, 50]
    assert all(0 < each["ready_seconds"] < each["committed_seconds"] for each in start)
    assert len(report["wanted"]) == 6
    assert {"twophase", "Python", "SQLite", "grpcio"} <= set(report["setting"]["versions"])
    assert report["sizes"]["concurrent"] == 20


def test_a_part_can_be_measured_alone() -> None:
    report = run(*TINY, "--part", "fan-out")
    assert report["fan_out"]["participants"] == 3
    assert (report["memory"], report["start"]) == (None, [])


@pytest.mark.parametrize(("part", "says"), [("memory", "warming up with"), ("start", "writing a journal of")])
def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path, part: str, says: str) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [*COMMAND, "--part", part], env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        assert says in process.stderr.readline()
        assert list(tmp_path.iterdir()), "it works where it was told to"
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "interrupted; everything that was started is stopped and removed" in said
    assert list(tmp_path.iterdir()) == []


def test_without_proc_the_memory_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "is_known", lambda: False)
    result = CliRunner().invoke(cli.bench_app, ["scale"])
    assert result.exit_code == cli.WRONG_INPUT
    assert "no /proc" in result.output


# --- what the figures come to -----------------------------------------------------------------------------------------


def fan_out(*latencies: float) -> FanOut:
    return FanOut("it", latencies)


def memory(*megabytes: float, peak: float = 150.0) -> Memory:
    samples = tuple(Sample(number, each) for number, each in enumerate(megabytes))
    return Memory(1_000, 10, len(samples), 40.0, peak, samples, 1.0)


def starts(ended: int, ready: float, committed: float) -> Starts:
    return Starts(ended, 1.0, (9.0, ready, 0.0), (9.0, committed, 0.0))


def test_a_fan_out_is_compared_with_one_of_the_same_protocol() -> None:
    found = FanOuts(32, fan_out(50), fan_out(90, 100, 500), fan_out(140), fan_out(50), fan_out(80))
    applied, decided = found.wanted()
    assert (applied.measured, applied.met) == (1.4, True)
    assert (decided.measured, decided.met) == (1.6, False)
    assert found.to_json()["all_of_lone"] == 2.8


def test_growth_is_from_the_first_tenth_of_the_samples_to_the_last() -> None:
    found = memory(*([100.0, 160.0, 101.0] + [130.0] * 24 + [90.0, 109.0, 112.0]))
    assert (found.first_mb, found.last_mb, found.growth_mb) == (101.0, 109.0, 8.0)
    assert [each.met for each in found.wanted()] == [True, True]
    assert [each.met for each in memory(10.0, 21.0, peak=200.1).wanted()] == [False, False]


def test_starts_are_medians_over_those_without_a_history() -> None:
    ready, committed = Scale(Sizes(), Setting(), starts=(starts(0, 0.5, 1.0), starts(7, 0.6, 1.3))).wanted()
    assert (ready.measured, ready.met) == (1.2, True)
    assert (committed.measured, committed.met) == (1.3, False)


def test_a_limit_is_kept_by_what_is_exactly_at_it() -> None:
    assert at_most("it", 1.5, 1.5).met
    assert not at_most("it", 1.51, 1.5).met
    assert at_least("it", 0.7, 0.7).met
    assert not at_least("it", 0.69, 0.7).met
    assert at_least("it", 1, 0.7).limit_in_words == "at least 0.7"
    assert at_most("it", 1, 200.0, unit=" MB").limit_in_words == "at most 200 MB"


def test_the_tables_say_what_is_missed() -> None:
    many = FanOuts(32, fan_out(50), fan_out(100), fan_out(200), fan_out(50), fan_out(60))
    whole = Scale(
        Sizes(),
        Setting(),
        many,
        memory(100.0),
        (starts(0, 1, 1), starts(7, 1, 1)),
        {"before": (1.0,), "after": (2.0,)},
    )
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    with console.file:
        scale_screen.show(console, whole)
        text = console.export_text()
    assert text.count("MISSED") == 1
    assert text.count("met") == 5
    assert "load average 1.0 before, 2.0 after" in text
    json.dumps(whole.to_json(), allow_nan=False)


def test_nobody_always_starts_first() -> None:
    assert list(scale._in_turn([0, 7], 2)) == [(0, 0), (0, 7), (1, 7), (1, 0)]


# --- what stands in for databases and for years -----------------------------------------------------------------------


async def test_a_history_is_made_only_from_one_ended_transaction(tmp_path: Path) -> None:
    await (await SqliteJournal.open(tmp_path / "journal")).close()
    with pytest.raises(ValueError, match="holds 0 ended transactions"):
        multiply(tmp_path / "journal", 5)
    with closing(sqlite3.connect(tmp_path / "journal")) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)


def test_what_stands_in_for_a_database_has_every_call_of_one() -> None:
    """Otherwise a call that is new would reach for a database that is not there."""
    from twophase.benchmarks.without_database import NoDatabase
    from twophase.participant.resource import ResourceManager

    own = {name for name in vars(ResourceManager) if not name.startswith("_")}
    assert own - set(vars(NoDatabase)) <= {"close", "observe", "diagnose"}
