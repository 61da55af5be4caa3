"""`twophase tx list` and `twophase tx show`: what they ask, what they say, how they end."""

from __future__ import annotations

import io
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from rich.console import Console
from typer.testing import CliRunner

from client.scripted import problem
from twophase.coordinator import cli
from twophase.coordinator.client import Transaction
from twophase.coordinator.client.values import transaction_of
from twophase.coordinator.operator import connection, tx_cli, words
from twophase.sandbox.ports import free_port
from twophase.v1 import coordinator_pb2 as pb
from twophase.v1 import types_pb2
from verbs.conftest import Told
from verbs.samples import TXID, aborted, branch, committed, event


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def drawn(transaction: pb.Transaction, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    tx_cli.render(console, transaction_of(transaction), None)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(len(line) for line in text.splitlines()) <= width
    return "\n".join(line.rstrip() for line in text.splitlines())


# --- show


def test_show_tells_a_transaction_and_its_timeline() -> None:
    name = TXID.format(1)
    gid = f"tp-0123456789abcdef-{name}"
    assert (
        drawn(committed())
        == f"""\
transaction      {name}
request          order/1042, attempt 1
outcome          committed: every branch is applied
where it stands  applied everywhere

branch at  state    gid
inventory  applied  {gid}-0000
payment    applied  {gid}-0001

what happened on 2026-11-21, in local time:
time              ms  what             at
12:03:04.512      +0  work was sent    inventory, payment
12:03:04.517      +5  voted yes        payment
12:03:04.519      +7  voted yes        inventory
12:03:04.521      +9  decided: commit
12:03:04.524     +12  applied          inventory
12:03:05.762  +1,250  applied          payment
12:03:05.762  +1,250  over: committed"""
    )


def test_show_says_why_it_was_aborted() -> None:
    text = drawn(aborted())

    assert "aborted: nothing of it is applied anywhere" in text
    assert "why              OUT_OF_STOCK: 3 of A-1 are left, 5 are wanted (inventory.reserve)" in text
    assert "refused: nothing is left of it" in text


def test_r11_show_cries_out_when_a_branch_ended_against_the_decision() -> None:
    branches = [branch(1, 0, "inventory", "APPLIED"), branch(1, 1, "payment", "HEURISTIC")]

    text = drawn(committed(branches=branches))

    assert "ended against the decision at payment" in text
    assert "ENDED AGAINST THE DECISION" in text


def test_show_cuts_no_name_and_obeys_no_control_character() -> None:
    long = "x" * 128
    participant = "p" * 63
    text = drawn(
        committed(
            request=long,
            branches=[branch(1, 0, participant, "PREPARED")],
            applied=False,
            refusals=[types_pb2.Refusal(code="X", message="\x1b[2J[red]boo[/red]")],
        )
    )

    joined = "".join(text.split())
    assert long in joined
    assert participant in joined
    assert "\x1b" not in text
    assert "[red]boo[/red]" in text


def test_a_timeline_over_midnight_names_the_new_day() -> None:
    late = event(13 * 3600 * 1000, "ENDED", outcome=pb.OUTCOME_COMMITTED)

    lines = drawn(committed(events=[event(0, "BEGUN"), late])).splitlines()

    assert [line.split()[0] for line in lines[-3:]] == ["12:03:04.512", "2026-11-22", "01:03:04.512"]


def test_show_finds_by_txid_and_by_request_id(runner: CliRunner, told: Told) -> None:
    told.scripted.transactions = [committed()]

    for name in (TXID.format(1), "order/1042"):
        result = runner.invoke(cli.app, ["tx", "show", name, "--coordinator", told.address])
        assert result.exit_code == 0, result.output
        assert "every branch is applied" in result.output
    assert [read.with_events for read in told.scripted.reads] == [True, True]
    assert [read.WhichOneof("key") for read in told.scripted.reads] == ["txid", "request_id"]


def test_show_at_says_what_it_took_the_time_for(runner: CliRunner, told: Told) -> None:
    told.scripted.transactions = [committed()]
    at = ["--at", "2026-11-21T12:30:00+01:00"]

    result = runner.invoke(cli.app, ["tx", "show", "order/1042", *at, "--coordinator", told.address])

    assert "as it stood      2026-11-21 11:30:00.000 UTC+00:00" in result.output
    assert told.scripted.reads[0].at.ToJsonString() == "2026-11-21T11:30:00Z"


def test_show_as_json_is_one_object(runner: CliRunner, told: Told) -> None:
    told.scripted.transactions = [committed()]
    at = ["--at", "2026-11-21T12:30:00+01:00"]

    result = runner.invoke(cli.app, ["tx", "show", "order/1042", "--json", *at, "--coordinator", told.address])

    shown = json.loads(result.stdout)
    assert shown["at"] == "2026-11-21T11:30:00.000+00:00"
    assert (shown["transaction"]["outcome"], shown["transaction"]["request_id"]) == ("committed", "order/1042")
    assert shown["transaction"]["events"][1] == {
        "position": 105,
        "at": "2026-11-21T12:03:04.517+00:00",
        "kind": "VOTED",
        "gid": f"tp-0123456789abcdef-{TXID.format(1)}-0001",
        "participant": "payment",
        "vote": "YES",
        "decision": "",
        "state": "",
        "outcome": None,
        "refusals": [],
        "step": "",
        "actor": "",
        "reason": "",
    }


def test_no_such_transaction_is_not_called_aborted(runner: CliRunner, told: Told) -> None:
    told.scripted.read_faults = [problem(grpc.StatusCode.NOT_FOUND)]

    result = runner.invoke(cli.app, ["tx", "show", TXID.format(9), "--coordinator", told.address])

    assert (result.exit_code, result.stdout) == (1, "")
    assert "does not mean that it was aborted" in result.stderr
    # It could have been a request's id all the same.
    assert [read.WhichOneof("key") for read in told.scripted.reads] == ["txid", "request_id"]


def test_a_time_that_is_none_is_told_before_anybody_is_asked(runner: CliRunner, told: Told) -> None:
    result = runner.invoke(cli.app, ["tx", "show", "order/1", "--at", "noon", "--coordinator", told.address])

    assert result.exit_code == 2
    assert "'noon' is no moment" in result.output
    assert told.scripted.reads == []


def test_a_name_the_coordinator_refuses_is_wrong_input(runner: CliRunner, told: Told) -> None:
    told.scripted.read_faults = [problem(grpc.StatusCode.INVALID_ARGUMENT)]

    result = runner.invoke(cli.app, ["tx", "show", "order 1", "--coordinator", told.address])

    assert (result.exit_code, result.stderr) == (2, "twophase: said X\n")


def test_another_refusal_ends_the_command(runner: CliRunner, told: Told) -> None:
    told.scripted.read_faults = [problem(grpc.StatusCode.FAILED_PRECONDITION)]

    result = runner.invoke(cli.app, ["tx", "show", "order-1", "--coordinator", told.address])

    assert (result.exit_code, result.stderr) == (1, "twophase: said X\n")


def test_a_coordinator_that_is_not_there_is_told_with_the_option(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SECONDS", 0.2)

    result = runner.invoke(cli.app, ["tx", "list", "--coordinator", f"127.0.0.1:{free_port()}"])

    assert result.exit_code == 3
    assert "cannot be reached" in result.stderr
    assert "--coordinator" in result.stderr


# --- list


def test_list_shows_a_line_each_from_all_pages(runner: CliRunner, told: Told) -> None:
    waiting = [branch(3, 0, "inventory", "APPLIED"), branch(3, 1, "payment", "PREPARED")]
    told.scripted.transactions = [committed(3, applied=False, branches=waiting), aborted(2), committed(1)]

    result = runner.invoke(cli.app, ["tx", "list", "--coordinator", told.address])

    assert result.exit_code == 0, result.output
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["transaction", "outcome", "request", "where", "it", "stands"],
        [TXID.format(3), "committed", "order/1042", "waits", "for", "payment"],
        [TXID.format(2), "aborted", "order/1043", "(attempt", "3)", "OUT_OF_STOCK", "at", "inventory"],
        [TXID.format(1), "committed", "order/1042", "applied", "everywhere"],
    ]


async def test_list_fits_a_hundred_columns_and_cuts_no_name() -> None:
    console = Console(file=io.StringIO(), width=100, highlight=False)
    listing = tx_cli.Listing(console)
    long = "x" * 128
    many = [transaction_of(committed(n, long)) for n in range(1, 103)]

    async def transactions() -> AsyncIterator[Transaction]:
        for one in many:
            yield one

    assert await listing.show(transactions(), limit=101) is True

    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(len(line) for line in lines) <= 100
    assert sum(line.startswith("transaction") for line in lines) == 1
    assert sum(line.startswith("00000001-") for line in lines) == 101
    assert sum(line.count("x") for line in lines) == 101 * 128


@pytest.mark.parametrize(
    ("arguments", "unfinished", "heuristic"),
    [([], False, False), (["--unfinished"], True, False), (["--heuristic"], False, True)],
)
def test_list_asks_for_what_is_wanted(
    runner: CliRunner, told: Told, *, arguments: list[str], unfinished: bool, heuristic: bool
) -> None:
    result = runner.invoke(cli.app, ["tx", "list", *arguments, "--coordinator", told.address])

    assert result.stdout == "there is none\n"
    assert [(read.unfinished_only, read.heuristic_only) for read in told.scripted.reads] == [(unfinished, heuristic)]


def test_list_says_when_there_is_more_and_json_too(runner: CliRunner, told: Told) -> None:
    told.scripted.transactions = [committed(2), committed(1)]
    arguments = ["tx", "list", "--limit", "1", "--coordinator", told.address]

    shown = runner.invoke(cli.app, arguments)
    as_json = json.loads(runner.invoke(cli.app, [*arguments, "--json"]).stdout)

    assert TXID.format(1) not in shown.stdout
    assert "older ones" in shown.stderr
    assert ([one["txid"] for one in as_json["transactions"]], as_json["more"]) == ([TXID.format(2)], True)


def test_list_takes_one_kind_at_a_time(runner: CliRunner) -> None:
    result = runner.invoke(cli.app, ["tx", "list", "--unfinished", "--heuristic"])

    assert result.exit_code == 2
    assert "--heuristic" in result.output


# --- words


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"outcome": pb.OUTCOME_PENDING, "decision": 0, "applied": False}, "not decided; waits for its decision"),
        (
            {"outcome": pb.OUTCOME_PENDING, "decision": types_pb2.DECISION_DELEGATED, "applied": False},
            "decided by one branch, which was not heard yet",
        ),
        ({"applied": False}, "waits for its end"),
        ({"outcome": pb.OUTCOME_ABORTED}, "no reason is recorded"),
    ],
)
def test_where_a_transaction_stands_is_said_without_guessing(changes: dict[str, Any], said: str) -> None:
    assert words.standing(transaction_of(committed(**changes))) == said


@pytest.mark.parametrize("outcome", ["COMMITTED", "ABORTED"])
def test_r11_an_outcome_that_is_not_the_same_everywhere_is_not_explained_as_if_it_were(outcome: str) -> None:
    branches = [branch(1, 0, "inventory", "ABORTED"), branch(1, 1, "payment", "HEURISTIC")]
    mixed = committed(outcome=pb.Outcome.Value(f"OUTCOME_{outcome}"), branches=branches)
    said = words.explained(transaction_of(mixed))
    assert said == f"{outcome.lower()}, but it ended against that at payment: somebody must look"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"applied": False}, "committed: certain"),
        ({"outcome": pb.OUTCOME_ABORTED, "applied": False}, "aborted: certain"),
        ({"outcome": pb.OUTCOME_PENDING, "decision": types_pb2.DECISION_DELEGATED}, "pending: one branch decides"),
        ({"outcome": pb.OUTCOME_PENDING}, "pending: not decided yet"),
        ({"outcome": pb.OUTCOME_COMPENSATED}, "compensated"),
    ],
)
def test_an_outcome_is_explained(changes: dict[str, Any], said: str) -> None:
    assert words.explained(transaction_of(committed(**changes))).startswith(said)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (event(0, "VOTED", participant="p"), ("no vote came", "p")),
        (event(0, "DECIDED", decision=types_pb2.DECISION_DELEGATED, participant="p"), ("decided: delegated", "p")),
        (event(0, "FINISHED", participant="p", state=pb.BRANCH_STATE_ABORTED), ("rolled back", "p")),
        (pb.TransactionEvent(), ("unspecified", "")),
    ],
)
def test_what_happened_is_told_with_where(told: pb.TransactionEvent, said: tuple[str, str]) -> None:
    transaction = transaction_of(committed(events=[told]))

    assert words.happened(transaction.events[0], transaction) == said
