"""`twophase indoubt`: what it shows, what it leaves out, how it ends."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from psycopg import sql
from rich.console import Console
from typer.testing import CliRunner

from client.scripted import problem
from fixtures.clusters import Database
from twophase.coordinator import cli
from twophase.coordinator.client.findings import in_doubt_of
from twophase.coordinator.client.values import transaction_of
from twophase.coordinator.operator import connection
from twophase.coordinator.operator.durations import counted, lasting
from twophase.coordinator.operator.indoubt_view import Sight, show
from twophase.sandbox.ports import free_port
from twophase.v1 import coordinator_pb2 as pb
from twophase.v1 import types_pb2
from verbs.conftest import Told
from verbs.samples import TXID, branch, committed, gid

LOCKS = [
    ("public.purse", "RowExclusiveLock"),
    ("public.movement", "RowExclusiveLock"),
    ("advisory lock 3/4/2", "ExclusiveLock"),
    ("index public.purse_pkey", "RowExclusiveLock"),
    ("twophase.ledger", "RowExclusiveLock"),
    ("public.area", "AccessShareLock"),
]


def doubt(number: int = 1, *, age: float = 192.4, **changes: Any) -> pb.InDoubtBranch:
    length = Duration()
    length.FromNanoseconds(int(age * 1e9))
    values: dict[str, Any] = {
        "gid": gid(number, 1),
        "txid": TXID.format(number),
        "request_id": f"order/{number}",
        "participant": "payment",
        "state": pb.BRANCH_STATE_PREPARED,
        "decision": types_pb2.DECISION_COMMIT,
        "doing": "commits it",
        "observed": True,
        "age": length,
        "owner": "app",
        "horizon_age": 1204,
    }
    return pb.InDoubtBranch(**(values | changes))


def unseen(number: int = 1, **changes: Any) -> pb.InDoubtBranch:
    return doubt(number, observed=False, age=0, owner="", horizon_age=0, **changes)


def drawn(*branches: pb.InDoubtBranch, everything: bool = False, width: int = 100, **answer: Any) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    doubts = in_doubt_of(pb.ListInDoubtResponse(branches=branches, **answer))
    show(console, Sight(doubts), everything=everything)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(len(line) for line in text.splitlines()) <= width
    assert not any(line.endswith(" ") for line in text.splitlines())
    return text.removesuffix("\n")


# --- what is shown


def test_nothing_is_in_doubt() -> None:
    assert drawn() == "nothing is in doubt"


def test_a_branch_is_told_with_all_that_matters_and_its_waiters_below_it() -> None:
    waiters = [
        types_pb2.Waiter(
            pid=4711,
            user="app",
            application="till",
            waiting=Duration(seconds=65),
            query="UPDATE purse\n  SET funds = 0",
        ),
        types_pb2.Waiter(pid=4712, user="app", waiting=Duration(seconds=4), query="DELETE FROM purse", behind=4711),
    ]
    locks = [types_pb2.HeldLock(target=target, mode=mode) for target, mode in LOCKS]
    assert (
        drawn(
            doubt(
                attempts=14,
                doing="commits it: 14 attempts in vain",
                last_error="UNAVAILABLE",
                locks=locks,
                waiters=waiters,
            )
        )
        == f"""\
1 branch is in doubt, the oldest for 3 min 12 s

{gid(1, 1)}
  participant  payment
  state        prepared 3 min 12 s ago by app
  for          request order/1, transaction {TXID.format(1)}
  decision     commit
  coordinator  commits it: 14 attempts in vain
  last error   UNAVAILABLE
  holds        advisory lock 3/4/2 (ExclusiveLock); public.purse, public.movement
               (RowExclusiveLock); 3 locks on indexes, the ledger and what it read
  vacuum       held back by 1,204 transaction ids
  waiting      pid 4711, app (till), for 1 min 5 s
                 UPDATE purse SET funds = 0
               pid 4712, app, for 4.0 s, behind pid 4711
                 DELETE FROM purse"""
    )


def test_a_branch_that_nobody_saw_is_told_by_the_journal_and_why() -> None:
    text = drawn(
        unseen(state=pb.BRANCH_STATE_WORKING, decision=types_pb2.DECISION_UNSPECIFIED),
        unanswered=[pb.Unanswered(participant="payment", error="Observe at h:1: UNAVAILABLE: refused")],
    )

    assert "1 branch is in doubt\n" in text
    assert "  state        perhaps prepared: its vote is not known\n" in text
    assert "  decision     none yet\n" in text
    assert "vacuum" not in text
    assert "waiting" not in text
    assert "payment does not answer\n  error        Observe at h:1: UNAVAILABLE: refused\n" in text


def test_what_is_young_and_on_its_way_is_only_counted() -> None:
    young = [doubt(number, age=0.5) for number in range(1, 13)]

    assert drawn(*young) == (
        "nothing is in doubt but 12 branches of running transactions, younger than 1 s, --all lists them"
    )
    text = drawn(doubt(99, age=7), *young)
    assert text.startswith("1 branch is in doubt, the oldest for 7.0 s\n")
    assert text.endswith("\n\n12 branches of running transactions, younger than 1 s, not listed; --all lists them")
    assert drawn(*young, everything=True).count("tp-0123456789abcdef-") == 12


def test_of_very_many_the_oldest_are_listed() -> None:
    many = [doubt(number, age=1000 - number) for number in range(60)]

    text = drawn(*many)
    assert text.startswith("60 branches are in doubt, the oldest for 16 min 40 s\n")
    assert text.count("\ntp-") == 50
    assert gid(0, 1) in text
    assert text.endswith("\n\nand 10 branches more, not listed; --all lists them")
    assert drawn(*many, everything=True).count("\ntp-") == 60


def test_what_is_young_and_was_tried_in_vain_is_listed() -> None:
    assert gid(1, 1) in drawn(doubt(age=0.5, attempts=1))


def test_a_quarantine_comes_first() -> None:
    text = drawn(quarantine="participant 'payment' has seen epoch 9")

    assert text.splitlines()[0] == "quarantine  participant 'payment' has seen epoch 9"
    assert text.endswith("nothing is in doubt")


def test_a_statement_is_one_line_and_cut_and_moves_no_cursor() -> None:
    waiter = types_pb2.Waiter(pid=1, query="SELECT '\x1b[2J" + "x " * 300 + "'")
    text = drawn(doubt(waiters=[waiter]), width=400)

    assert "\x1b" not in text
    assert text.endswith(" ...")
    assert "pid 1, the server itself, for 0.0 s" in text


def test_a_gid_is_never_cut_in_a_narrow_terminal() -> None:
    assert gid(1, 1) in drawn(doubt(), width=60).splitlines()


def test_branches_that_ended_against_the_decision_have_a_section_of_their_own() -> None:
    wrong = committed(branches=[branch(1, 0, "inventory", "APPLIED"), branch(1, 1, "payment", "HEURISTIC")])
    console = Console(file=io.StringIO(), width=100, highlight=False)

    show(console, Sight(in_doubt_of(pb.ListInDoubtResponse()), (transaction_of(wrong),)), everything=False)

    assert (
        console.file.getvalue()  # type: ignore[attr-defined]
        == f"""\
nothing is in doubt

1 transaction has a branch that ended against the decision

{TXID.format(1)}
  request      order/1042
  decision     commit
  against it   {gid(1, 1)} at payment
"""
    )


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-1, "0.0 s"),
        (0.44, "0.4 s"),
        (12.7, "12 s"),
        (60, "1 min"),
        (192, "3 min 12 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86_400 * 4 + 3600 * 3 + 59, "4 d 3 h"),
    ],
)
def test_lengths_of_time_are_told_by_their_two_largest_units(seconds: float, told: str) -> None:
    assert lasting(seconds) == told


def test_one_is_not_many() -> None:
    assert (counted(1, "branch", "branches"), counted(0, "branch", "branches")) == ("1 branch", "0 branches")
    assert counted(1204, "lock") == "1,204 locks"


# --- the verb


def run(runner: CliRunner, told: Told | str, *options: str) -> Any:
    address = told if isinstance(told, str) else told.address
    return runner.invoke(cli.app, ["indoubt", "--coordinator", address, *options])


@pytest.mark.parametrize(
    ("branches", "options", "code"),
    [
        ([], [], 0),
        ([doubt(age=9)], [], 0),
        ([doubt(age=11)], [], 4),
        ([doubt(age=11)], ["--older-than", "60"], 0),
        ([doubt(age=11)], ["--older-than", "60", "--json"], 0),
        ([doubt(age=0.1)], ["--older-than", "0"], 4),
        ([unseen()], ["--older-than", "60"], 4),
        ([unseen()], ["--json"], 4),
    ],
)
def test_scripts_learn_by_the_exit_code_whether_something_stays_in_doubt(
    runner: CliRunner, told: Told, branches: list[pb.InDoubtBranch], options: list[str], code: int
) -> None:
    told.scripted.doubts = pb.ListInDoubtResponse(branches=branches)

    assert run(runner, told, *options).exit_code == code


def test_json_has_everything_in_one_object(runner: CliRunner, told: Told) -> None:
    told.scripted.doubts = pb.ListInDoubtResponse(
        branches=[
            doubt(
                locks=[types_pb2.HeldLock(target="public.purse", mode="ShareLock")],
                waiters=[types_pb2.Waiter(pid=4711, waiting=Duration(seconds=2), query="x" * 1000)],
            ),
            doubt(2, age=0.2),
        ],
        unanswered=[pb.Unanswered(participant="stock", error="away")],
    )
    told.scripted.transactions = [committed(branches=[branch(1, 1, "payment", "HEURISTIC")])]

    result = run(runner, told, "--json")

    found = json.loads(result.stdout)
    assert list(found) == ["in_doubt", "oldest_s", "branches", "unanswered", "quarantine", "heuristic", "database"]
    assert (found["in_doubt"], found["oldest_s"], found["database"]) == (2, 192.4, None)
    first = found["branches"][0]
    assert (first["gid"], first["state"], first["decision"]) == (gid(1, 1), "PREPARED", "COMMIT")
    assert (first["age_s"], first["horizon_xids"]) == (192.4, 1204)
    assert first["locks"] == [{"target": "public.purse", "mode": "ShareLock"}]
    assert (first["waiters"][0]["waiting_s"], len(first["waiters"][0]["query"])) == (2.0, 1000)
    assert found["unanswered"] == [{"participant": "stock", "error": "away"}]
    assert found["heuristic"] == [
        {
            "txid": TXID.format(1),
            "request_id": "order/1042",
            "decision": "COMMIT",
            "branches": [{"gid": gid(1, 1), "participant": "payment"}],
        }
    ]
    assert told.scripted.reads[-1].heuristic_only


def test_the_coordinator_is_taken_from_the_environment(
    runner: CliRunner, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWOPHASE_COORDINATOR", told.address)

    result = runner.invoke(cli.app, ["indoubt"])

    assert (result.exit_code, result.stdout) == (0, "nothing is in doubt\n")


def test_a_coordinator_that_is_away_is_one_line(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SECONDS", 0.2)
    address = f"127.0.0.1:{free_port()}"

    result = run(runner, address)

    assert (result.exit_code, result.stdout) == (connection.UNREACHABLE, "")
    assert result.stderr.startswith(f"twophase: the coordinator at {address} cannot be reached; ")
    assert result.stderr.count("\n") == 1


def test_an_address_that_is_none_is_one_line(runner: CliRunner) -> None:
    result = run(runner, "nowhere")

    assert result.exit_code == connection.WRONG_INPUT
    assert "'nowhere' is not host:port" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_service_that_is_no_coordinator_is_one_line(runner: CliRunner, told: Told) -> None:
    told.scripted.read_faults = [problem(grpc.StatusCode.UNIMPLEMENTED, "", message="Method not found!")]

    result = run(runner, told)

    assert (result.exit_code, result.stdout) == (connection.FAILED, "")
    fact = f"what listens at {told.address} does not offer this (Method not found!)"
    assert result.stderr == f"twophase: {fact}: no coordinator, or one of an older release\n"


@pytest.mark.parametrize("options", [["--older-than", "-1"], ["--watch", "0"], ["--watch", "2", "--json"]])
def test_a_bad_option_is_told_before_anybody_is_asked(runner: CliRunner, told: Told, options: list[str]) -> None:
    result = run(runner, told, *options)

    assert result.exit_code == 2
    assert told.scripted.reads == []


def test_it_is_watched_until_ctrl_c(runner: CliRunner, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("twophase.coordinator.operator.indoubt_cli.time.sleep", nap)
    told.scripted.doubts = pb.ListInDoubtResponse(branches=[unseen()])

    result = run(runner, told, "--watch", "2.5")

    assert (result.exit_code, naps) == (0, [2.5] * 3)
    assert result.stdout.count(gid(1, 1)) == 3


def test_watching_goes_on_while_the_coordinator_is_away(
    runner: CliRunner, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("twophase.coordinator.operator.indoubt_cli.time.sleep", nap)
    monkeypatch.setattr(connection, "SECONDS", 0.2)

    result = run(runner, f"127.0.0.1:{free_port()}", "--watch", "1")

    assert (result.exit_code, len(naps)) == (0, 2)
    assert result.stderr.count("cannot be reached") == 2


def test_ctrl_c_is_no_answer(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("twophase.coordinator.operator.indoubt_cli.ask", interrupted)

    assert run(runner, "127.0.0.1:1").exit_code == 130


# --- without a coordinator


def test_a_database_is_looked_into_without_a_coordinator(runner: CliRunner, database: Database) -> None:
    for name in (gid(1, 1), gid(2, 1).replace("0123456789abcdef", "fedcba9876543210"), "somebody_elses"):
        with database.connect(autocommit=False) as session:
            session.execute("CREATE TABLE IF NOT EXISTS purse (id integer)" if name == gid(1, 1) else "SELECT 1")
            session.execute("SELECT pg_current_xact_id()")
            session.execute(sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(name)))

    shown = runner.invoke(cli.app, ["indoubt", "--dsn", database.dsn, "--all"])
    told = runner.invoke(cli.app, ["indoubt", "--dsn", database.dsn, "--json", "--older-than", "0"])

    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith(f"2 branches are in doubt in the database {database.name}, the oldest for ")
    assert "somebody_elses" not in shown.stdout
    assert "decision" not in shown.stdout
    assert told.exit_code == 4
    found = json.loads(told.stdout)
    assert found["database"] == database.name
    assert [one["gid"][:19] for one in found["branches"]] == ["tp-0123456789abcdef", "tp-fedcba9876543210"]
    assert found["branches"][0]["txid"] == TXID.format(1)


@pytest.mark.parametrize(
    ("dsn", "told"),
    [
        ("postgresql://u:topsecret@127.0.0.1:{port}/none", "cannot be looked at"),
        ("postgresql://u:topsecret@x@127.0.0.1:{port}/none", "neither a connection URI"),
    ],
)
def test_a_database_that_cannot_be_looked_into_is_one_line_without_its_password(
    runner: CliRunner, dsn: str, told: str
) -> None:
    result = runner.invoke(cli.app, ["indoubt", "--dsn", dsn.format(port=free_port())])

    assert (result.exit_code, result.stdout) == (1, "")
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert "topsecret" not in result.stderr


def test_a_missing_driver_is_told_with_what_to_type(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "twophase.coordinator.operator.offline", None)

    result = runner.invoke(cli.app, ["indoubt", "--dsn", "postgresql://x"])

    assert result.exit_code == 1
    assert "pip install 'twophase[participant]'" in result.stderr
