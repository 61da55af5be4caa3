"""The demo, whole: real processes, real clusters, and its ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from twophase.sandbox import cli, signals
from twophase.sandbox.checkout.csv_orders import HEADER
from twophase.sandbox.errors import ProcessFailed

COMMAND = [sys.executable, "-m", "twophase.coordinator", "demo"]
_BUSY_BYTES = 1 << 19

app = typer.Typer(add_completion=False)
app.command()(cli.demo)


@pytest.fixture
def place() -> Iterator[Path]:
    """Where a demo makes its directories: one that Postgres' user can enter too, as pytest's own cannot be."""
    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        place = Path(directory)
        place.chmod(0o755)
        yield place


def start(place: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env={**os.environ, "TMPDIR": str(place)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left_by(place: Path) -> list[str]:
    """Directories in `place`, and processes that have it in their command line."""
    processes = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(place) in line:
            processes.append(line)
    return processes + [path.name for path in place.iterdir()]


# The first is there twice; the others are refused: by the delivery, when all else is done (2), by the stock (3), and by
# the payment, after the stock was reserved (4).
ORDERS = f"""{HEADER}
O 1,Ünal,tea,2,2.50,Köln
O 2,Ann,tea,1,2.50,Nowhere Else
O 1,Ünal,jam,1,0.3333,Köln
O 3,Ann,tea,99,2.50,Cork
O 4,Ann,jam,10,100.01,Cork
"""
LIMITS = ("--closed-area", "Nowhere Else", "--stock", "50", "--funds", "1000")


@pytest.mark.integration
@pytest.mark.parametrize(("protocol", "compensated"), [("two-phase", {}), ("saga", {"compensated": 3})])
def test_orders_are_in_all_four_databases_or_in_none(
    place: Path, tmp_path: Path, protocol: str, compensated: dict[str, int]
) -> None:
    """As sagas, refused orders leave stock and money as they were."""
    orders = tmp_path / "orders.csv"
    orders.write_text(ORDERS, encoding="utf-8-sig")
    demo = start(place, "--orders", str(orders), "--json", "--protocol", protocol, *LIMITS)
    output, errors = demo.communicate(timeout=100)
    assert (demo.returncode, errors) == (0, "")
    result = json.loads(output)
    names = ("orders", "committed", "refused", "compensated", "in_doubt", "consistent", "problems")
    assert {key: result[key] for key in names if key in result} == {
        "orders": 4,
        "committed": 1,
        "refused": 3,
        **compensated,
        "in_doubt": 0,
        "consistent": True,
        "problems": [],
    }
    assert result["refused_by_reason"] == {"AREA_CLOSED": 1, "OUT_OF_STOCK": 1, "NO_FUNDS": 1}
    assert 0 < result["p50_ms"] <= result["p99_ms"]
    assert left_by(place) == []


@pytest.mark.integration
@pytest.mark.parametrize("protocol", [pytest.param("two-phase", marks=pytest.mark.long), "saga"])
def test_a_kept_system_says_what_to_try_and_that_works(place: Path, protocol: str) -> None:
    demo = start(place, "--count", "10", "--keep", "--protocol", protocol)
    assert demo.stdout is not None
    lines: list[str] = []
    while not (line := demo.stdout.readline()).startswith("Try"):
        assert line, "".join(lines)
        lines.append(line)
    said = "".join(lines)
    assert "prepared transactions left: 0" in said
    assert "until you press Ctrl-C" in said
    commands = [demo.stdout.readline().strip() for _ in range(5)]
    for command in commands:
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, (command, done.stderr)
        assert done.stdout.startswith("committed as ") or " row" in done.stdout
    demo.send_signal(signal.SIGINT)
    rest, errors = demo.communicate(timeout=30)
    assert (demo.returncode, rest, errors) == (0, "", "")
    assert left_by(place) == []


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
@pytest.mark.parametrize("ready", [1, 5])
def test_an_interrupted_demo_leaves_nothing(place: Path, number: signal.Signals, ready: int) -> None:
    demo = start(place, "--count", "5000")
    wait_for_directories(demo, place, ready)
    demo.send_signal(number)
    output, errors = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert (output, errors) == ("", "twophase demo: interrupted; everything that was started is stopped and removed\n")
    assert left_by(place) == []


@pytest.mark.integration
def test_a_demo_interrupted_amid_its_orders_leaves_nothing(place: Path) -> None:
    demo = start(place, "--count", "5000")
    wait_for_orders(demo, place)
    demo.send_signal(signal.SIGINT)
    demo.send_signal(signal.SIGINT)  # impatience changes nothing
    output, errors = demo.communicate(timeout=7)  # less than the guardian's grace
    assert demo.returncode == 130
    assert (output, errors) == ("", "twophase demo: interrupted; everything that was started is stopped and removed\n")
    assert left_by(place) == []


@pytest.mark.integration
def test_a_killed_demo_leaves_nothing_either(place: Path) -> None:
    demo = start(place, "--count", "5000")
    wait_for_directories(demo, place, 5)
    demo.kill()
    demo.communicate(timeout=30)
    end = time.monotonic() + 30
    while left_by(place):
        assert time.monotonic() < end, left_by(place)
        time.sleep(0.01)


def wait_for_directories(demo: subprocess.Popen[str], place: Path, number: int) -> None:
    """Until the demo has made so many of its directories: one of its own, one for each cluster."""
    end = time.monotonic() + 30
    while len(list(place.iterdir())) < number:
        assert time.monotonic() < end
        assert demo.poll() is None
        time.sleep(0.005)


def wait_for_orders(demo: subprocess.Popen[str], place: Path) -> None:
    """Until orders are under way: the coordinator's journal grows beyond what starting writes."""
    end = time.monotonic() + 60
    while sum(log.stat().st_size for log in place.glob("*/coordinator.journal-wal")) < _BUSY_BYTES:
        assert time.monotonic() < end
        assert demo.poll() is None
        time.sleep(0.005)


WRONG = {
    "a malformed file": (["--orders", "/dev/null"], "/dev/null, line 1: the file is empty; expected the header"),
    "no file": (["--orders", "/no/where.csv"], "/no/where.csv cannot be read: No such file or directory"),
    "file and count": (["--orders", "/dev/null", "--count", "1"], "--orders brings its own orders"),
    "file and seed": (["--orders", "/dev/null", "--seed", "1"], "--orders brings its own orders"),
    "funds": (["--funds", "1e9"], "--funds '1e9' is no amount of money; expected digits"),
    "negative funds": (["--funds", "-1"], "--funds '-1' is no amount of money"),
    "count": (["--count", "0"], "--count"),
    "clients": (["--clients", "0"], "--clients"),
    "stock": (["--stock", "-1"], "--stock"),
    "protocol": (["--protocol", "3pc"], "--protocol"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_told_in_a_line_and_nothing_is_started(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, said = WRONG[case]
    monkeypatch.setattr(cli, "_run", None)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == cli.WRONG_INPUT
    assert said in done.output
    assert done.stdout == ""


@pytest.mark.parametrize(
    "failure",
    [ProcessFailed("it did not start"), ExceptionGroup("", [ExceptionGroup("", [ProcessFailed("it did not start")])])],
)
def test_a_process_that_does_not_start_is_told_in_a_line(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*arguments: object, **more: object) -> int:
        raise failure

    monkeypatch.setattr(cli, "_run", fail)
    done = CliRunner().invoke(app, [])
    assert (done.exit_code, done.output) == (signals.FAILED, "twophase demo: it did not start\n")


def test_an_unexpected_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*arguments: object, **more: object) -> int:
        raise ExceptionGroup("", [ProcessFailed("it did not start"), ZeroDivisionError()])

    monkeypatch.setattr(cli, "_run", fail)
    done = CliRunner().invoke(app, [])
    assert isinstance(done.exception, ExceptionGroup)


def test_no_postgres_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOPHASE_PG_BIN", "/nowhere")
    done = CliRunner().invoke(app, ["--count", "1"])
    assert done.exit_code == signals.FAILED
    assert done.output.startswith("twophase demo: TWOPHASE_PG_BIN=/nowhere names no Postgres")
