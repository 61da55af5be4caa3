"""`twophase doctor`: what it shows, what to type, how it ends."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from rich.console import Console
from typer.testing import CliRunner

from client.scripted import problem
from twophase.coordinator import cli
from twophase.coordinator.client import CheckResult
from twophase.coordinator.client.findings import diagnosis_of
from twophase.coordinator.operator import connection, doctor_cli
from twophase.coordinator.operator.doctor_cli import Report, show
from twophase.sandbox.ports import free_port
from twophase.v1 import coordinator_pb2 as pb
from twophase.v1 import types_pb2
from verbs.conftest import Told


def check(subject: str, result: str = "OK", finding: str = "well", remedy: str = "") -> types_pb2.Check:
    value = types_pb2.CheckResult.Value(f"CHECK_RESULT_{result}")
    return types_pb2.Check(subject=subject, result=value, finding=finding, remedy=remedy)


def diagnosis(*own: types_pb2.Check, payment: tuple[types_pb2.Check, ...] = ()) -> pb.CoordinatorDiagnoseResponse:
    identity = types_pb2.DatabaseIdentity(system_identifier="7312", timeline=3, database="money")
    return pb.CoordinatorDiagnoseResponse(
        checks=own or (check("coordinator"),),
        participants=[
            pb.ParticipantDiagnosis(
                participant="payment",
                address="127.0.0.1:7401",
                identity=identity,
                checks=payment or (check("reachable"),),
            )
        ],
        journal_id="0123456789abcdef",
        label="shop",
        epoch=types_pb2.Epoch(number=7, nonce="cafe0001"),
    )


def drawn(answer: pb.CoordinatorDiagnoseResponse, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    found = diagnosis_of(answer)
    show(console, Report("127.0.0.1:7400", found.checks, found))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(len(line) for line in text.splitlines()) <= width
    assert not any(line.endswith(" ") for line in text.splitlines())
    return text


def run(runner: CliRunner, told: Told | str, *options: str) -> Any:
    address = told if isinstance(told, str) else told.address
    return runner.invoke(cli.app, ["doctor", "--coordinator", address, *options])


def test_a_line_each_and_what_to_type_below() -> None:
    slots = check(
        "prepared slots",
        "PROBLEM",
        "max_prepared_transactions is 2: 2 taken, 0 free; max_connections is 100, and each may prepare one",
        "twophase indoubt  -- says who\nALTER SYSTEM SET max_prepared_transactions = 100;",
    )
    assert (
        drawn(
            diagnosis(check("coordinator"), check("journal file", "WARNING", "little space", "df -h"), payment=(slots,))
        )
        == """\
coordinator  127.0.0.1:7400, journal 0123456789abcdef (shop)
  ok       coordinator: well
  WARNING  journal file: little space
           type: df -h

payment  127.0.0.1:7401
  PROBLEM  prepared slots: max_prepared_transactions is 2: 2 taken, 0 free; max_connections is 100,
           and each may prepare one
           type: twophase indoubt  -- says who
           type: ALTER SYSTEM SET max_prepared_transactions = 100;

1 problem, 1 warning
"""
    )


def test_what_came_from_elsewhere_moves_no_cursor() -> None:
    assert "\x1b" not in drawn(diagnosis(check("coordinator", finding="\x1b[2J[bold]x[/bold]")))


@pytest.mark.parametrize(
    ("result", "code", "counted"),
    [("OK", 0, "0 problems, 0 warnings"), ("WARNING", 0, "0 problems, 1 warning"), ("PROBLEM", 1, "1 problem, 0 ")],
)
@pytest.mark.parametrize("at_participant", [True, False])
def test_a_problem_is_an_exit_code_and_a_warning_is_none(
    runner: CliRunner,
    told: Told,
    result: str,
    code: int,
    counted: str,
    at_participant: bool,  # noqa: FBT001
) -> None:
    found = check("something", result)
    told.scripted.diagnosis = diagnosis(payment=(found,)) if at_participant else diagnosis(found)

    ended = run(runner, told)

    assert ended.exit_code == code
    assert counted in ended.stdout.splitlines()[-1]


def test_json_has_everything_in_one_object(runner: CliRunner, told: Told) -> None:
    told.scripted.diagnosis = diagnosis(check("journal file", "WARNING", "little space", "df -h"))

    result = run(runner, told, "--json")

    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "ok": True,
        "problems": 0,
        "warnings": 1,
        "coordinator": {
            "address": told.address,
            "journal_id": "0123456789abcdef",
            "label": "shop",
            "epoch": 7,
            "checks": [{"subject": "journal file", "result": "WARNING", "finding": "little space", "remedy": "df -h"}],
        },
        "participants": [
            {
                "participant": "payment",
                "address": "127.0.0.1:7401",
                "system_identifier": "7312",
                "timeline": 3,
                "database": "money",
                "checks": [{"subject": "reachable", "result": "OK", "finding": "well", "remedy": ""}],
            }
        ],
    }


# --- no coordinator


def test_nobody_listens_there(runner: CliRunner) -> None:
    address = f"127.0.0.1:{free_port()}"

    result = run(runner, address)

    assert (result.exit_code, result.stderr) == (1, "")
    assert (
        f"PROBLEM  coordinator: the coordinator at {address} cannot be reached: nothing listens there" in result.stdout
    )
    assert f"type: twophase serve --journal FILE --listen {address}\n" in result.stdout
    assert result.stdout.endswith("1 problem, 0 warnings\n")


def test_nobody_listens_there_as_json(runner: CliRunner) -> None:
    result = run(runner, f"127.0.0.1:{free_port()}", "--json")

    found = json.loads(result.stdout)
    assert (result.exit_code, found["ok"], found["problems"], found["participants"]) == (1, False, 1, [])
    [only] = found["coordinator"]["checks"]
    assert (only["subject"], only["result"]) == ("coordinator", "PROBLEM")


def test_a_host_that_is_not_known(runner: CliRunner) -> None:
    result = run(runner, "no-such-host.invalid:7400")

    assert result.exit_code == 1
    assert "cannot be reached: " in result.stdout


def test_an_address_that_is_none(runner: CliRunner) -> None:
    result = run(runner, "nowhere")

    assert (result.exit_code, result.stdout) == (connection.WRONG_INPUT, "")
    assert "'nowhere' is not host:port" in result.stderr


@pytest.fixture
def mute() -> Iterator[str]:
    """Something that listens and speaks another protocol."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def serve() -> None:
            server.settimeout(0.1)
            kept = []
            while not ended.is_set():
                try:
                    connected, _ = server.accept()
                except TimeoutError:
                    continue
                connected.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                kept.append(connected)
            for connected in kept:
                connected.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        ended.set()
        thread.join()


def test_another_program_on_the_port(runner: CliRunner, mute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_cli, "_ANSWER_SECONDS", 0.3)

    result = run(runner, mute)

    assert result.exit_code == 1
    assert f"something listens at {mute}, and does not answer as a coordinator" in result.stdout
    assert "type: check that this is the coordinator's port" in result.stdout


def test_a_service_that_is_no_coordinator(runner: CliRunner, told: Told) -> None:
    told.scripted.read_faults = [problem(grpc.StatusCode.UNIMPLEMENTED, "", message="Method not found!")]

    result = run(runner, told)

    assert result.exit_code == 1
    assert f"what listens at {told.address} offers no diagnosis: Method not found!" in result.stdout


def test_every_result_has_a_mark() -> None:
    assert set(doctor_cli._MARKS) == set(doctor_cli._STYLES) == set(CheckResult)
