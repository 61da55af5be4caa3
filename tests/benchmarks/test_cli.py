"""The command: what it says when something is missing or wrong, and a run of everything, as small as it can be."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from twophase.benchmarks import baseline, cli
from twophase.benchmarks.contenders import Contender
from twophase.benchmarks.counts import Cost
from twophase.benchmarks.values import Plan, Report
from twophase.sandbox.drill.setting import Setting

COMMAND = [sys.executable, "-m", "twophase.coordinator", "bench", "transfer"]


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


@pytest.mark.long
@pytest.mark.integration
@pytest.mark.timeout(240)
def test_all_contenders_in_one_small_run() -> None:
    tiny = ["--clients", "1", "--rounds", "1", "--seconds", "0.2", "--warm-up", "0.1", "--accounts", "100", "--json"]
    ran = subprocess.run([*COMMAND, *tiny], capture_output=True, text=True, timeout=220, check=False)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert (report["void"], report["problems"]) == (False, [])
    assert [each["contender"] for each in report["results"]] == list(Contender)
    for each in report["results"]:
        (once,) = each["rounds"]
        assert once["committed"] > 0, each
        assert once["refused"] == 0
        assert set(once["cpu_seconds"]) <= {"clients", "coordinator", "participants", "postgres"}
    assert report["postgres"]["fsync"] == report["postgres"]["synchronous_commit"] == "on"
    assert report["participants"]["work_connections"] >= 1
    assert report["plan"]["seed"] == 1
    assert {"twophase", "Postgres", "psycopg", "sqlalchemy", "dbos"} <= set(report["setting"]["versions"])
    assert "round 1 of 1, 1 client" in ran.stderr


def test_a_contender_that_is_not_installed_is_told_with_what_to_type(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "missing", lambda contender: "dbos" if contender is Contender.DBOS_SQLITE else None)
    result = runner.invoke(cli.bench_app, ["transfer"])
    assert result.exit_code == cli.WRONG_INPUT
    assert "needs dbos, which is not installed" in result.output
    assert "pip install 'twophase[bench]'" in result.output
    assert "--contender" in result.output


def test_only_contenders_that_are_measured_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "missing", lambda contender: "dbos" if contender is Contender.DBOS_SQLITE else None)
    cli._check_installed((Contender.LOOP, Contender.SAGA))


def test_a_run_that_lost_money_is_void(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lossy(plan: Plan) -> Report:
        return Report(plan, Setting(), {}, (), ("account 7 of left holds 3",))

    monkeypatch.setattr(cli, "_transfer", lossy)
    result = runner.invoke(cli.bench_app, ["transfer", "--json"])
    assert result.exit_code == cli.VOID
    assert json.loads(result.output)["problems"] == ["account 7 of left holds 3"]
    assert "void" in runner.invoke(cli.bench_app, ["transfer"]).output


def cost(**changes: Any) -> Cost:
    return Cost(**{"journal_syncs": 1, "messages": {"apply": 2}, "wal_syncs": 2, "statements": 10, **changes})


def test_a_count_that_changed_is_told_with_both_values(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    async def counted(only: str, known: Any) -> dict[str, Cost]:
        return {"saga of two steps": cost(statements=11)}

    monkeypatch.setattr(cli, "_counts", counted)
    monkeypatch.setattr(baseline, "read", lambda: {"saga of two steps": cost().to_json(), "another": {}})
    result = runner.invoke(cli.bench_app, ["counts", "--only", "saga"])
    assert result.exit_code == cli.CHANGED
    assert "saga of two steps: statements was 10, is 11" in result.output
    assert "another" not in result.output
    assert "another: is in the baseline" in runner.invoke(cli.bench_app, ["counts"]).output


def test_cheaper_and_new_are_differences_too() -> None:
    known = {"a": cost().to_json()}
    assert baseline.differences({"a": cost()}, known) == []
    assert baseline.differences({"a": cost(statements=9)}, known) == ["a: statements was 10, is 9"]
    assert baseline.differences({"a": cost(messages={})}, known) == ["a: messages was {'apply': 2}, is {}"]
    assert baseline.differences({"a": cost(), "b": cost()}, known) == ["b: is not in the baseline"]


def test_a_part_of_the_baseline_is_not_written(runner: CliRunner) -> None:
    result = runner.invoke(cli.bench_app, ["counts", "--only", "saga", "--write"])
    assert result.exit_code == cli.WRONG_INPUT
    assert "leave --only out" in result.output


def test_the_baseline_is_read_before_anything_is_started(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise FileNotFoundError("baseline.json")

    monkeypatch.setattr(baseline, "read", absent)
    result = runner.invoke(cli.bench_app, ["counts"])
    assert result.exit_code == cli.WRONG_INPUT
    assert "a file of a checkout" in result.output
