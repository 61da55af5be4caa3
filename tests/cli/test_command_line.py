"""The command `twophase`: its help, its bad options, and what it says when something is not installed."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from twophase.coordinator import cli
from twophase.coordinator.__main__ import main

VERBS = ("serve", "tx", "indoubt", "doctor", "journal", "participant", "ledger", "demo", "drill", "bench")


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    return CliRunner()


def plain(text: str) -> str:
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def test_help_names_every_verb(runner: CliRunner) -> None:
    result = runner.invoke(cli.app, ["--help"])

    assert result.exit_code == 0
    for verb in VERBS:
        assert re.search(rf"^│ {verb} ", result.output, flags=re.MULTILINE)


@pytest.mark.parametrize(("given", "found"), [(None, "-event_engine_client,-event_engine_listener"), ("mine", "mine")])
def test_grpc_runs_without_the_threads_of_its_event_engine_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: str | None, found: str
) -> None:
    for name in ("GRPC_EXPERIMENTS", "GRPC_VERBOSITY", "GRPC_ENABLE_FORK_SUPPORT"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    if given is not None:
        monkeypatch.setenv("GRPC_EXPERIMENTS", given)
    seen: list[str] = []
    monkeypatch.setattr(cli, "app", lambda: seen.append(os.environ["GRPC_EXPERIMENTS"]))
    main()
    assert seen == [found]


def test_an_interruption_while_modules_load_is_told_by_the_exit_code_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt(name)

    loading = ModuleType(cli.__name__)
    loading.__getattr__ = interrupted  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, cli.__name__, loading)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [("--help",), ("drill", "--list"), ("ledger", "sql", "--participant", "payment")])
def test_an_output_that_takes_no_more_is_told_in_a_line(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "twophase.coordinator", *arguments]
    with Path("/dev/full").open("wb") as full:
        told = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert told.returncode == 1
    assert told.stderr == (
        "twophase: the answer cannot be printed: No space left on device. What was to be done may be done; print to"
        " another place and look\n"
    )


def test_an_error_of_the_system_that_has_nothing_to_do_with_the_output_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere else")

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(OSError, match="somewhere else"):
        main()


def test_help_imports_neither_grpc_nor_a_database_nor_a_verb() -> None:
    code = (
        "import sys\n"
        "from twophase.coordinator.cli import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "heavy = {'grpc', 'google', 'sqlite3', 'aiosqlite', 'psycopg', 'pydantic', 'tenacity'}\n"
        "heavy |= {'twophase.sandbox.cli', 'twophase.participant.cli', 'twophase.coordinator.server'}\n"
        "heavy |= {'twophase.benchmarks.cli', 'sqlalchemy', 'dbos'}\n"
        "found = heavy.intersection(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=30)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_of_its_own(runner: CliRunner, verb: str) -> None:
    result = runner.invoke(cli.app, [verb, "--help"])

    assert result.exit_code == 0, result.output
    assert f"twophase {verb}" in plain(result.output)


def test_the_version_is_the_distributions(runner: CliRunner) -> None:
    result = runner.invoke(cli.app, ["--version"])

    assert re.fullmatch(r"twophase \d+\.\d+\.\d+\S*\n", result.output)


def test_an_unknown_verb_is_told_with_the_nearest_one(runner: CliRunner) -> None:
    result = runner.invoke(cli.app, ["serv"])

    assert result.exit_code == 2
    assert "serve" in plain(result.output)


def test_a_missing_extra_is_told_in_one_line_with_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "needs_a_driver.py").write_text("import a_driver_that_is_not_installed.sub\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(typer.Exit) as ended:
        cli._load(cli._Verb("help", "needs_a_driver:verb", "participant"))

    assert ended.value.exit_code == 1
    line = "twophase: this needs a_driver_that_is_not_installed, which is not installed;"
    assert capsys.readouterr().err == f"{line} type: pip install 'twophase[participant]'\n"


def test_a_missing_module_of_our_own_is_a_defect_and_no_advice() -> None:
    with pytest.raises(ModuleNotFoundError):
        cli._load(cli._Verb("help", "twophase.nowhere:verb", "participant"))


BAD_OPTIONS = {
    "no journal": ([], "--journal"),
    "no port": (["--listen", "127.0.0.1"], "host:port"),
    "port too high": (["--listen", "127.0.0.1:65536"], "65535"),
    "participant without address": (["--participant", "inventory"], "NAME=HOST:PORT"),
    "participant with an odd name": (["--participant", "In=127.0.0.1:1"], "start with a letter"),
    "cap zero": (["--deadline-cap", "0"], "above 0"),
    "cap no number": (["--deadline-cap", "nan"], "above 0"),
    "default over the cap": (["--default-deadline", "61"], "the cap, 60"),
    "default zero": (["--default-deadline", "0"], "above 0"),
    "payload limit zero": (["--payload-limit", "0"], "between 1 and"),
    "payload limit over the message": (["--payload-limit", str(1 << 30)], "largest message"),
    "retention without a unit": (["--retention", "7"], "s, m, h or d"),
    "retention of an odd unit": (["--retention", "7w"], "s, m, h or d"),
    "negative retention": (["--retention", "-7d"], "s, m, h or d"),
    "retention zero": (["--retention", "0d"], "above 0"),
    "retention for ever": (["--retention", "99999d"], "at most 36500d"),
    "retention as long as the cap": (["--retention", "60s"], "not longer than the longest deadline, 60 s"),
    "retention under a longer cap": (["--retention", "2m", "--deadline-cap", "300"], "be applied a second time"),
    "odd level": (["--log-level", "loud"], "debug, info, warning, error"),
    "negative grace": (["--grace", "-1"], "--grace"),
}


@pytest.mark.parametrize(("arguments", "told"), BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_a_bad_option_of_serve_is_told_before_anything_is_touched(
    runner: CliRunner, tmp_path: Path, arguments: list[str], told: str
) -> None:
    journal = ["--journal", str(tmp_path / "journal.db")] if arguments else []

    result = runner.invoke(cli.app, ["serve", *journal, *arguments])

    assert result.exit_code == 2
    assert told in plain(result.output)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "seconds"), [("61s", 61), ("90.5s", 90.5), ("30m", 1_800), ("12h", 43_200), ("7d", 604_800)]
)
def test_a_retention_is_a_number_with_its_unit(text: str, seconds: float) -> None:
    assert cli._retention(text, 60.0) == seconds


def test_an_argument_that_is_no_text_is_told_without_a_traceback_and_without_itself() -> None:
    command = [
        sys.executable,
        "-m",
        "twophase.coordinator",
        "ledger",
        "migrate",
        "--participant",
        "payment",
        "--dsn",
    ]
    told = subprocess.run([*command, b"host=127.0.0.1 password=caf\xe9"], capture_output=True, check=False)

    assert told.returncode == 1
    assert told.stderr.decode().startswith("twophase: what was given, or is to be printed, cannot be written as utf-8")
    assert b"caf" not in told.stderr
    assert b"Traceback" not in told.stderr
