"""`twophase saga dead`: what it lists and shows, what it asks of the coordinator, how it ends. And sagas in others."""

from __future__ import annotations

import getpass
import io
import json
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import grpc
import pytest
from rich.console import Console
from typer.testing import CliRunner

from client.scripted import problem
from twophase.coordinator import cli
from twophase.coordinator.client.findings import dead_letter_of
from twophase.coordinator.client.values import transaction_of
from twophase.coordinator.operator import connection, saga_cli, saga_words, tx_cli, words
from twophase.sandbox.ports import free_port
from twophase.v1 import coordinator_pb2 as pb
from twophase.v1 import types_pb2
from verbs.conftest import Told
from verbs.samples import TXID, compensated, letter, step

NAME = TXID.format(3)
REASON = ["--reason", "put back by hand"]


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def run(runner: CliRunner, told: Told, verb: str, *arguments: str, answer: str | None = None) -> Any:
    return runner.invoke(cli.app, ["saga", "dead", verb, *arguments, "--coordinator", told.address], input=answer)


def on(console: Console) -> str:
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


# --- list and show


def test_list_has_a_line_each(runner: CliRunner, told: Told) -> None:
    work = letter(4, "send", participant="delivery", kind=types_pb2.BRANCH_KIND_WORK, attempts=1)
    told.scripted.dead_letters = [letter(), work]

    result = run(runner, told, "list")

    assert result.exit_code == 0, result.output
    since = ["2026-11-21", "12:03:04.512", "UTC+00:00"]
    why = ["NO_SUCH_SKU:", "A-1", "is", "gone"]
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[1] == [NAME, "reserve", "inventory", "compensation", "12", *since, *why]
    assert lines[2] == [TXID.format(4), "send", "delivery", "work", "1", *since, *why]
    assert result.stdout.splitlines()[-1].startswith("2 dead letters; ")


def test_list_fits_and_cuts_no_name() -> None:
    console = Console(file=io.StringIO(), width=100, highlight=False)

    saga_cli.draw(console, [dead_letter_of(letter(name="x" * 64, participant="p" * 63))])

    text = on(console)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert text.count("x") == 64


def test_no_dead_letter_is_said(runner: CliRunner, told: Told) -> None:
    assert run(runner, told, "list").stdout == "there is no dead letter\n"
    assert json.loads(run(runner, told, "list", "--json").stdout) == {"dead_letters": []}


def test_show_says_what_fails_and_what_helps() -> None:
    console = Console(file=io.StringIO(), width=110, highlight=False)

    saga_cli.render(console, dead_letter_of(letter()))

    assert (
        on(console)
        == f"""\
  saga          {NAME}
  request       order/1044
  step          reserve
  participant   inventory
  operation     reserve
  what fails    its compensation
  failed        12 times in a row, a dead letter since 2026-11-21 12:03:04.512 UTC+00:00
  last failure  NO_SUCH_SKU: A-1 is gone
  branch        tp-0123456789abcdef-{NAME}-0000
  type:  twophase saga dead retry {NAME} reserve  -- when its cause is gone; it is
         tried anyway, in time
  type:  twophase saga dead resolve {NAME} reserve --reason "..."  -- when it was done
         by hand"""
    )


def test_show_finds_one_by_saga_and_step_and_tells_it_as_json(runner: CliRunner, told: Told) -> None:
    told.scripted.dead_letters = [letter(name="other"), letter()]

    shown = run(runner, told, "show", NAME, "reserve")
    as_json = json.loads(run(runner, told, "show", NAME, "reserve", "--json").stdout)["dead_letter"]

    assert "its compensation" in shown.stdout
    assert (as_json["step"], as_json["kind"], as_json["attempts"]) == ("reserve", "COMPENSATION", 12)
    assert (as_json["since"], as_json["refusal"]["code"]) == ("2026-11-21T12:03:04.512+00:00", "NO_SUCH_SKU")


@pytest.mark.parametrize(
    ("name", "hint"), [(NAME, "it has them at reserve"), (TXID.format(9), "twophase saga dead list")]
)
def test_one_that_is_not_there_ends_with_what_there_is(runner: CliRunner, told: Told, name: str, hint: str) -> None:
    told.scripted.dead_letters = [letter()]

    result = run(runner, told, "show", name, "pay")

    assert (result.exit_code, result.stdout) == (1, "")
    assert hint in result.stderr


def test_what_came_from_elsewhere_moves_no_cursor() -> None:
    console = Console(file=io.StringIO(), width=100, highlight=False)
    odd = dead_letter_of(letter(refusal=types_pb2.Refusal(code="X", message="\x1b[2J[bold]x[/bold]")))

    saga_cli.render(console, odd)
    saga_cli.draw(console, [odd])

    assert "\x1b" not in on(console)
    assert "[bold]x[/bold]" in on(console)


# --- retry and resolve


def test_retry_names_the_saga_and_the_step(runner: CliRunner, told: Told) -> None:
    result = run(runner, told, "retry", NAME, "reserve")

    assert result.exit_code == 0, result.output
    assert "is being tried again" in result.stdout
    assert told.scripted.reads == [pb.RetryDeadLetterRequest(txid=NAME, step="reserve")]
    as_json = json.loads(run(runner, told, "retry", NAME, "reserve", "--json").stdout)
    assert as_json == {"txid": NAME, "step": "reserve", "tried_again": True}


def test_resolve_sends_the_reason_and_the_login_name(
    runner: CliRunner, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")

    result = run(runner, told, "resolve", NAME, "reserve", *REASON)

    assert result.exit_code == 0, result.output
    assert told.scripted.reads == [
        pb.ResolveDeadLetterRequest(txid=NAME, step="reserve", actor="ada", reason="put back by hand")
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (pb.ResolveDeadLetterResponse(barred=True), "its participant bars it now"),
        (pb.ResolveDeadLetterResponse(done=True), "had been done after all"),
        (pb.ResolveDeadLetterResponse(), "may take effect later"),
    ],
)
def test_resolve_says_what_came_of_it(
    runner: CliRunner, told: Told, answer: pb.ResolveDeadLetterResponse, said: str
) -> None:
    told.scripted.resolution = answer
    options = [*REASON, "--actor", "bob", "--even-if-away"]

    shown = run(runner, told, "resolve", NAME, "reserve", *options)
    as_json = json.loads(run(runner, told, "resolve", NAME, "reserve", *options, "--json").stdout)

    assert said in shown.stdout
    assert told.scripted.reads[0].even_if_away
    assert as_json == {
        "txid": NAME,
        "step": "reserve",
        "actor": "bob",
        "reason": "put back by hand",
        "barred": answer.barred,
        "done": answer.done,
    }


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("arguments", [("show",), ("retry",), ("resolve", *REASON)], ids=lambda given: given[0])
def test_a_name_that_is_no_transactions_is_a_wrong_argument_and_nobody_is_asked(
    runner: CliRunner, told: Told, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], *, terminal: bool
) -> None:
    monkeypatch.setattr(saga_cli, "_on_a_terminal", lambda: terminal)
    verb, *options = arguments

    result = run(runner, told, verb, "no-transaction", "reserve", *options)

    assert result.exit_code == 2
    assert "Invalid value for 'TXID'" in result.output
    assert told.scripted.reads == []


def test_resolve_needs_a_reason(runner: CliRunner, told: Told) -> None:
    result = run(runner, told, "resolve", NAME, "reserve")

    assert result.exit_code == 2
    assert "--reason" in result.output
    assert told.scripted.reads == []


def test_who_has_no_login_name_must_give_one(runner: CliRunner, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> NoReturn:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", unknown)

    result = run(runner, told, "resolve", NAME, "reserve", *REASON)

    assert result.exit_code == 1
    assert "--actor" in result.stderr
    assert told.scripted.reads == []


@pytest.mark.parametrize(("answer", "code", "resolved"), [("y\n", 0, 1), ("n\n", 1, 0), ("", 1, 0)])
def test_on_a_terminal_it_shows_the_letter_and_asks(
    runner: CliRunner, told: Told, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, resolved: int
) -> None:
    monkeypatch.setattr(saga_cli, "_on_a_terminal", lambda: True)
    told.scripted.dead_letters = [letter()]

    result = run(runner, told, "resolve", NAME, "reserve", *REASON, answer=answer)

    assert result.exit_code == code
    assert "its compensation" in result.stdout
    assert "Take it for done?" in result.stdout
    assert sum(isinstance(read, pb.ResolveDeadLetterRequest) for read in told.scripted.reads) == resolved


@pytest.mark.parametrize("option", ["--yes", "--json"])
def test_yes_and_json_ask_nothing(runner: CliRunner, told: Told, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    monkeypatch.setattr(saga_cli, "_on_a_terminal", lambda: True)

    result = run(runner, told, "resolve", NAME, "reserve", *REASON, option)

    assert result.exit_code == 0, result.output
    assert "Take it for done?" not in result.stdout


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        (grpc.StatusCode.NOT_FOUND, connection.FAILED),
        (grpc.StatusCode.FAILED_PRECONDITION, connection.FAILED),
        (grpc.StatusCode.INVALID_ARGUMENT, connection.WRONG_INPUT),
        (grpc.StatusCode.UNIMPLEMENTED, connection.FAILED),
    ],
)
@pytest.mark.parametrize("verb", ["retry", "resolve"])
def test_a_refusal_ends_the_command_with_its_code(
    runner: CliRunner, told: Told, verb: str, code: grpc.StatusCode, ended: int
) -> None:
    told.scripted.read_faults = [problem(code)]

    result = run(runner, told, verb, NAME, "reserve", *(REASON if verb == "resolve" else []))

    assert (result.exit_code, result.stdout) == (ended, "")
    assert "said X" in result.stderr


def test_a_coordinator_that_is_not_there(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SECONDS", 0.2)

    result = runner.invoke(cli.app, ["saga", "dead", "list", "--coordinator", f"127.0.0.1:{free_port()}"])

    assert result.exit_code == connection.UNREACHABLE
    assert "--coordinator" in result.stderr


# --- sagas in other verbs


def drawn(transaction: pb.Transaction) -> str:
    console = Console(file=io.StringIO(), width=120, highlight=False)
    tx_cli.render(console, transaction_of(transaction), None)
    return on(console)


def test_tx_show_tells_a_saga_by_its_steps_and_its_timeline() -> None:
    gid = f"tp-0123456789abcdef-{NAME}"
    assert (
        drawn(compensated())
        == f"""\
transaction      {NAME}
request          order/1044, attempt 1
protocol         saga
outcome          compensated: what was done of it is undone
where it stands  NO_FUNDS at payment
why              NO_FUNDS: 12.00 of 19.90 (payment.charge)

step     operation          state                           gid
reserve  inventory.reserve  compensated                     {gid}-0000
pay      payment.charge     refused: nothing is left of it  {gid}-0001
send     delivery.book      barred: it never happens        {gid}-0002

what happened on 2026-11-21, in local time:
time           ms  what                                     at
12:03:04.512   +0  started as a saga
12:03:04.517   +5  done                                     reserve at inventory
12:03:04.521   +9  refused: nothing is left of it           pay at payment
12:03:04.523  +11  turned: from here it goes back
12:03:04.526  +14  barred: it never happens                 send at delivery
12:03:04.532  +20  became a dead letter: X: y               reserve at inventory
12:03:04.542  +30  taken for done by ada: put back by hand  reserve at inventory
12:03:04.543  +31  over: compensated"""
    )


def test_tx_list_and_json_tell_sagas(runner: CliRunner, told: Told) -> None:
    told.scripted.transactions = [compensated()]
    arguments = ["tx", "list", "--coordinator", told.address]

    listed = runner.invoke(cli.app, arguments).stdout
    [as_json] = json.loads(runner.invoke(cli.app, [*arguments, "--json"]).stdout)["transactions"]

    assert listed.splitlines()[1].split() == [NAME, "compensated", "order/1044", "NO_FUNDS", "at", "payment"]
    assert (as_json["protocol"], as_json["outcome"], as_json["decision"]) == ("saga", "compensated", "SAGA")
    assert (as_json["branches"][1]["step"], as_json["branches"][1]["operation"]) == ("pay", "charge")


UNDER_WAY = {"outcome": pb.OUTCOME_PENDING, "applied": False, "refusals": []}
DONE = {"outcome": pb.OUTCOME_COMMITTED, "refusals": []}


def steps(*states: str) -> list[pb.Branch]:
    return [step(3, at, f"s{at}", "p.o", state) for at, state in enumerate(states)]


@pytest.mark.parametrize(
    ("changes", "said", "in_a_sentence"),
    [
        ({**UNDER_WAY, "branches": steps("APPLIED", "WORKING", "WAITING")}, "under way: s1, s2", "pending: its steps"),
        ({**UNDER_WAY, "branches": steps("APPLIED", "APPLIED")}, "under way: its end", "pending: its steps"),
        ({**UNDER_WAY, "branches": steps("APPLIED", "REFUSED")}, "goes back: s1 never happens", "pending: its steps"),
        ({**DONE, "branches": steps("APPLIED", "RESOLVED")}, "every step done", "committed: every step"),
        (
            {**DONE, "applied": False, "branches": steps("APPLIED", "WORKING")},
            "certain; still to be done: s1",
            "committed: certain",
        ),
        (
            {**DONE, "applied": False, "branches": steps("APPLIED", "DEAD_LETTER")},
            "dead letter at s1",
            "committed: certain",
        ),
        (
            {"applied": False, "branches": steps("APPLIED", "REFUSED", "WAITING")},
            "NO_FUNDS at payment; still to be undone: s0, s2",
            "compensated: it goes back",
        ),
        ({"refusals": []}, "no reason is recorded", "compensated: what was done of it"),
    ],
)
def test_where_a_saga_stands_is_said_in_a_few_words(changes: dict[str, Any], said: str, in_a_sentence: str) -> None:
    transaction = transaction_of(compensated(**changes))

    assert words.standing(transaction) == said
    assert words.explained(transaction).startswith(in_a_sentence)


def test_every_state_that_a_step_can_have_has_words() -> None:
    two_phase_only = {"UNSPECIFIED", "PREPARED", "READ_ONLY", "HEURISTIC"}
    states = {name.removeprefix("BRANCH_STATE_") for name in pb.BranchState.DESCRIPTOR.values_by_name} - two_phase_only
    assert set(saga_words._STATES) == states
