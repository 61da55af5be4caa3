"""What the figures of a run come to, in which order its rounds are taken, and how the tables look."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from twophase.benchmarks import cpu, screen
from twophase.benchmarks.contenders import Contender
from twophase.benchmarks.transfer import schedule
from twophase.benchmarks.values import Measured, Plan, Report
from twophase.sandbox.drill.setting import Setting

PLAN = Plan(contenders=(Contender.LOOP, Contender.TWO_PHASE, Contender.SAGA), clients=(1, 16), rounds=3)
CIRCUMSTANCES: dict[str, Any] = {"load_average": {"before": (1.0, 1.0, 1.0), "after": (2.0, 1.0, 1.0)}}


def measured(contender: Contender, count: int, *, number: int = 0, latency: float = 10.0) -> Measured:
    spent = {"clients": 0.1, "postgres": 0.3}
    return Measured(contender, 16, number, 2.0, (latency,) * count, count + 1, 0, spent)


def report(*rounds: Measured, problems: tuple[str, ...] = ()) -> Report:
    return Report(PLAN, Setting(), CIRCUMSTANCES, rounds, problems)


def test_every_contender_has_its_turn_before_any_has_another() -> None:
    rounds = list(schedule(PLAN))
    for start in range(0, len(rounds), 3):
        assert {contender for _, _, contender in rounds[start : start + 3]} == set(PLAN.contenders)
    assert Counter(rounds).total() == len(set(rounds)) == 18
    assert {rounds[start][2] for start in range(0, 18, 3)} == set(PLAN.contenders), "nobody is always first"


def test_figures_are_medians_of_rounds_with_their_extremes() -> None:
    rounds = [measured(Contender.LOOP, count, number=number) for number, count in enumerate((100, 500, 220))]
    (figures,) = report(*rounds).figures()
    assert (figures.slowest, figures.throughput, figures.fastest) == (50.0, 110.0, 250.0)
    assert figures.cpu_ms() == pytest.approx({"clients": 300 / 820, "postgres": 900 / 820})


def test_a_percentile_is_a_latency_that_was_seen() -> None:
    one = Measured(Contender.LOOP, 1, 0, 1.0, tuple(float(n) for n in range(1, 101)), 100, 0)
    assert (one.latency_ms(50), one.latency_ms(99), one.latency_ms(100)) == (50.0, 99.0, 100.0)
    nothing = Measured(Contender.LOOP, 1, 0, 1.0, (), 0, 0)
    assert math.isinf(nothing.latency_ms(50))


def test_ratios_are_of_the_loop_with_as_many_clients() -> None:
    found = report(measured(Contender.LOOP, 200, latency=5), measured(Contender.TWO_PHASE, 150)).to_json()
    loop, ours = found["results"]
    assert (loop["throughput_of_loop"], loop["p50_of_loop"]) == (1.0, 1.0)
    assert (ours["throughput_of_loop"], ours["p50_of_loop"]) == (0.75, 2.0)
    assert json.loads(json.dumps(found, allow_nan=False))["void"] is False


def test_the_saga_is_compared_with_the_faster_dbos() -> None:
    both = Plan(contenders=(Contender.SAGA, Contender.DBOS_SQLITE, Contender.DBOS_POSTGRES), clients=(1, 16))
    rounds = (
        measured(Contender.SAGA, 300),
        measured(Contender.DBOS_SQLITE, 50),
        measured(Contender.DBOS_POSTGRES, 100),
    )
    assert Report(both, Setting(), CIRCUMSTANCES, rounds, ()).saga_of_dbos() == {16: 3.0}
    assert Report(both, Setting(), CIRCUMSTANCES, rounds[:1], ()).saga_of_dbos() == {}
    (wanted,) = Report(both, Setting(), CIRCUMSTANCES, rounds, ()).wanted()
    assert (wanted.measured, wanted.limit, wanted.met) == (3.0, 5.0, False)


def test_what_is_wanted_stands_beside_what_was_measured() -> None:
    alone = [
        replace(measured(Contender.LOOP, 100), clients=1),
        replace(measured(Contender.TWO_PHASE, 50, latency=26.0), clients=1),
    ]
    many = [measured(Contender.LOOP, 200), measured(Contender.TWO_PHASE, 150)]
    latency, throughput = report(*alone, *many).wanted()
    assert (latency.measured, latency.limit, latency.met) == (2.6, 2.5, False)
    assert (throughput.measured, throughput.limit, throughput.met) == (0.75, 0.7, True)
    text = shown(report(*alone, *many))
    assert "latency of two-phase commit over the loop's, 1 client" in text
    assert (text.count("MISSED"), text.count("met")) == (1, 1)
    assert report(*alone, *many, problems=("lost",)).wanted() == []
    assert report(measured(Contender.TWO_PHASE, 150)).wanted() == [], "ratios need the loop"
    assert report(measured(Contender.LOOP, 0), measured(Contender.TWO_PHASE, 0)).wanted() == []


def test_a_round_in_which_nothing_was_done_in_time_is_still_json() -> None:
    found = report(measured(Contender.LOOP, 0)).to_json()
    assert json.loads(json.dumps(found, allow_nan=False))["results"][0]["p50_ms"] is None


def shown(run: Report) -> str:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    with console.file:
        screen.show(console, run)
        return console.export_text()


def test_the_tables_show_who_was_measured_against_what() -> None:
    text = shown(report(measured(Contender.LOOP, 200), measured(Contender.TWO_PHASE, 150)))
    assert "hand-written psycopg tpc_* loop" in text
    assert "0.75" in text
    assert "processor time" in text
    assert "load average 1.0 before, 2.0 after" in text


def test_a_void_run_shows_no_figure() -> None:
    text = shown(report(measured(Contender.LOOP, 200), problems=("account 7 of left holds 3",)))
    assert "void" in text
    assert "account 7 of left holds 3" in text
    assert "per second" not in text


BURN = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\n"
needs_proc = pytest.mark.skipif(not cpu.is_known(), reason="this machine has no /proc")


@needs_proc
def test_processor_time_counts_this_process_and_its_dead_children() -> None:
    before, family = cpu.of_process(os.getpid()), cpu.of_family(os.getpid())
    subprocess.run([sys.executable, "-c", BURN], check=True)
    assert cpu.of_family(os.getpid()) - family > 0.15
    exec(BURN, {})  # noqa: S102
    assert cpu.of_process(os.getpid()) - before > 0.15


@needs_proc
def test_processor_time_counts_living_children() -> None:
    burn = BURN + "print('done', flush=True)\ninput()"
    family = cpu.of_family(os.getpid())
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert cpu.of_family(os.getpid()) - family > 0.15
        child.communicate(b"\n", timeout=60)


@needs_proc
def test_a_process_that_is_gone_has_used_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert cpu.of_process(child.pid) == cpu.of_family(child.pid) == 0.0
    assert cpu.of_threads(child.pid) == {}


@needs_proc
@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel tells of no thread")
def test_processor_time_of_a_thread_is_not_that_of_the_loop() -> None:
    burn = f"import threading\ndef work():\n    {BURN.replace(chr(10), chr(10) + '    ')}\n"
    wait = "    print('done', flush=True); input()\nthreading.Thread(target=work).start()"
    with subprocess.Popen(
        [sys.executable, "-c", burn + wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        spent = cpu.of_threads(child.pid)
        assert set(spent) == {"loop", "others"}
        assert spent["others"] > 0.15
        child.communicate("\n", timeout=60)


def test_processor_time_by_thread_is_of_each_transfer() -> None:
    rounds = [replace(measured(Contender.TWO_PHASE, 100), threads={"coordinator: loop": 0.25}) for _ in range(2)]
    (found,) = report(*rounds).to_json()["results"]
    assert found["thread_ms"] == {"coordinator: loop": 2.5}
    text = shown(report(measured(Contender.LOOP, 200), *rounds))
    assert "twophase, two-phase commit, 16 clients" in text
    assert "2.50" in text


@needs_proc
@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel counts in ticks only")
def test_many_processes_that_work_for_less_than_a_tick_are_counted() -> None:
    brief = "import time\nend = time.process_time() + 0.004\nwhile time.process_time() < end: pass\ninput()"
    family = cpu.of_family(os.getpid())
    with subprocess.Popen([sys.executable, "-S", "-c", brief], stdin=subprocess.PIPE) as child:
        while cpu.of_family(os.getpid()) - family < 0.004:
            assert child.poll() is None
        assert cpu.of_family(os.getpid()) != round(cpu.of_family(os.getpid()), 2)
        child.communicate(b"\n", timeout=60)
