"""The command line: what is run, what is told instead, and that expected failures leave no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer
from typer.testing import CliRunner, Result

from fixtures.clusters import Database, MakeCluster
from twophase.participant import NotReady, cli, migrations
from twophase.participant.loading import load
from twophase.participant.server import ServerSettings
from twophase.v1 import participant_pb2, participant_pb2_grpc, types_pb2

TWOPHASE = Path(sys.executable).with_name("twophase")
HERE = Path(__file__).parent

SHOP = """
import psycopg
from twophase.participant import Participant
payment = Participant("payment")
stock = Participant("stock", dsn="dbname=stock")
number = 7
class Services:
    delivery = Participant("delivery")
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes modules into a directory of their own, which is the current one and is not on the import path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    known = set(sys.modules)

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")

    write("tp_shop", SHOP)
    yield write
    for name in set(sys.modules) - known:
        if name.startswith("tp_"):
            del sys.modules[name]


@pytest.fixture
def run() -> Callable[..., Result]:
    """Runs the verbs as they are mounted."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("participant")(cli.participant)
    app.add_typer(cli.ledger_app)
    runner = CliRunner()

    def invoke(*arguments: str, **variables: str) -> Result:
        unset = {name: None for name in os.environ if name.startswith("TWOPHASE_")}
        return runner.invoke(app, arguments, env={**unset, **variables})

    return invoke


@pytest.mark.usefixtures("shop")
def test_a_participant_is_found_by_its_module_and_attribute() -> None:
    assert load("tp_shop:payment").name == "payment"
    assert load("tp_shop:Services.delivery").name == "delivery"


@pytest.mark.parametrize(
    ("target", "told", "remedies"),
    [
        ("", "'' is not MODULE:ATTRIBUTE", "twophase participant shop:payment"),
        (":payment", "':payment' is not MODULE:ATTRIBUTE", "twophase participant shop:payment"),
        ("tp_shop:", "'tp_shop:' is not MODULE:ATTRIBUTE", "twophase participant shop:payment"),
        (
            "tp_shop",
            "'tp_shop' is not MODULE:ATTRIBUTE; in 'tp_shop' there are payment, stock",
            "twophase participant tp_shop:payment",
        ),
        (
            "tp_shop:paiment",
            "module 'tp_shop' has no 'paiment'; in 'tp_shop' there are payment, stock",
            "tp_shop:stock",
        ),
        ("tp_shop:payment.x", "module 'tp_shop' has no 'payment.x'", "tp_shop:payment"),
        ("tp_shop:number", "'tp_shop:number' is a int, not a Participant; in 'tp_shop' there are", "tp_shop:payment"),
        ("tp_empty:payment", "module 'tp_empty' has no 'payment'; there is no Participant in 'tp_empty'", ""),
        ("tp_one:payment", "module 'tp_one' has no 'payment'; in 'tp_one' there is stock", "tp_one:stock"),
        ("tp_shops:payment", "there is no module 'tp_shops'; in ", ""),
        ("tp_shop.payment:payment", "there is no module 'tp_shop.payment'", ""),
        ("tp_needs:payment", "module 'tp_needs' needs 'tp_not_there', which is not installed", "pip install"),
        ("tp_wrong:payment", "tp_wrong.py:6: operation 'charge' has no parameter for the connection", ""),
        (".relative:payment", "'.relative' is no name of a module", "the module's full name"),
        ("..:payment", "'..' is no name of a module", "the module's full name"),
    ],
)
def test_what_is_there_instead_is_told(shop: Callable[[str, str], None], target: str, told: str, remedies: str) -> None:
    shop("tp_empty", "")
    shop("tp_one", "from tp_shop import stock")
    shop("tp_needs", "import tp_not_there")
    shop(
        "tp_wrong",
        "import psycopg\nfrom twophase.participant import Participant\n"
        "payment = Participant('payment')\n\n\n@payment.operation\ndef charge() -> None: ...\n",
    )
    with pytest.raises(NotReady) as raised:
        load(target)
    assert told in str(raised.value)
    assert remedies in "\n".join(raised.value.remedies)


def test_modules_of_the_current_directory_are_offered(shop: Callable[[str, str], None], tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="there are tp_shop"):
        load("tp_nowhere:payment")
    (tmp_path / "tp_shop.py").unlink()
    with pytest.raises(NotReady, match="there are no modules"):
        load("tp_nowhere:payment")


def test_a_defect_of_the_module_is_its_own(shop: Callable[[str, str], None]) -> None:
    shop("tp_broken", "1 / 0")
    with pytest.raises(ZeroDivisionError):
        load("tp_broken:payment")
    shop("tp_odd", "int('x')")
    with pytest.raises(ValueError, match="invalid literal"):
        load("tp_odd:payment")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would be served; nothing is."""
    given: dict[str, Any] = {}

    async def serve(participant: object, announce: object, **options: Any) -> bool:
        given.update(options, participant=participant)
        return True

    monkeypatch.setattr(cli, "serve", serve)
    return given


@pytest.mark.usefixtures("shop")
def test_options_and_variables_are_the_same(run: Callable[..., Result], served: dict[str, Any]) -> None:
    options = run(
        *("participant", "tp_shop:payment", "--dsn", "dbname=a", "--listen", "0.0.0.0:1", "--coordinator", "c:2"),
        *("--advertise", "p:3", "--allow-plaintext", "--connections", "5", "--grace", "1.5", "--log-level", "error"),
    )
    assert options.exit_code == 0, options.output
    by_options = dict(served)
    served.clear()
    variables = run(
        "participant",
        "tp_shop:payment",
        TWOPHASE_DSN="dbname=a",
        TWOPHASE_LISTEN="0.0.0.0:1",
        TWOPHASE_COORDINATOR="c:2",
        TWOPHASE_ADVERTISE="p:3",
        TWOPHASE_ALLOW_PLAINTEXT="1",
        TWOPHASE_CONNECTIONS="5",
        TWOPHASE_GRACE="1.5",
        TWOPHASE_LOG_LEVEL="error",
    )
    assert variables.exit_code == 0, variables.output
    assert served == by_options
    assert served["dsn"] == "dbname=a"
    settings = served["settings"]
    assert settings == ServerSettings(
        "0.0.0.0:1", "c:2", "p:3", allow_plaintext=True, grace=1.5, database=settings.database
    )
    assert settings.database.work_connections == 5


@pytest.mark.usefixtures("shop", "served")
def test_migrate_comes_first_and_uses_the_same_database(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    migrated: list[tuple[str, str]] = []
    monkeypatch.setattr(migrations, "migrate", lambda dsn, name: migrated.append((dsn, name)))
    assert run("participant", "tp_shop:stock", "--migrate").exit_code == 0
    assert run("participant", "tp_shop:stock", "--migrate", "--dsn", "dbname=b").exit_code == 0
    assert run("participant", "tp_shop:stock").exit_code == 0
    assert migrated == [("dbname=stock", "stock"), ("dbname=b", "stock")]
    refused = run("participant", "tp_shop:payment", "--migrate")
    assert refused.exit_code == 1
    assert "participant 'payment' has no database" in refused.stderr


@pytest.mark.usefixtures("shop")
def test_an_expected_failure_is_told_with_what_to_type(run: Callable[..., Result]) -> None:
    result = run("participant", "tp_shop:number")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "twophase: 'tp_shop:number' is a int, not a Participant; in 'tp_shop' there are payment, stock",
        "  type: twophase participant tp_shop:payment",
        "  type: twophase participant tp_shop:stock",
    ]


@pytest.mark.usefixtures("shop")
def test_work_that_never_ends_does_not_keep_the_process(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(*_: object, **__: object) -> bool:
        return False

    ended: list[int] = []
    monkeypatch.setattr(cli, "serve", serve)
    monkeypatch.setattr(os, "_exit", ended.append)
    run("participant", "tp_shop:payment")
    assert ended == [1]


def test_the_ledgers_sql_is_printed(run: Callable[..., Result]) -> None:
    result = run("ledger", "sql", "--participant", "payment", "--role", "app")
    assert result.exit_code == 0
    assert result.stdout.startswith("BEGIN")
    assert 'TO "app"' in result.stdout
    assert "'payment'" in result.stdout


@pytest.mark.parametrize("verb", ["sql", "migrate"])
def test_a_name_that_is_none_is_told(run: Callable[..., Result], verb: str) -> None:
    result = run("ledger", verb, "--participant", "Pay'ment", TWOPHASE_DSN="dbname=a")
    assert result.exit_code == 1
    assert result.stderr.startswith('twophase: participant name "Pay\'ment" is not 1 to 63 characters')


def test_a_ledger_needs_a_database(run: Callable[..., Result]) -> None:
    result = run("ledger", "migrate", "--participant", "payment")
    assert result.exit_code == 1
    assert "type: --dsn postgresql://" in result.stderr


def test_a_ledger_is_made_and_made_again(run: Callable[..., Result], empty_database: Database) -> None:
    for _ in range(2):
        result = run("ledger", "migrate", "--participant", "payment", "--dsn", empty_database.dsn)
        assert (result.exit_code, result.stdout) == (
            0,
            "the ledger of participant 'payment' is up to date (version 2)\n",
        )
    result = run("ledger", "migrate", "--participant", "stock", "--dsn", empty_database.dsn)
    assert result.exit_code == 1
    assert "holds the ledger of the participant payment, not of stock" in result.stderr


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `twophase` as a process; it is gone after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TWOPHASE_", "PG"))}
        process = subprocess.Popen(
            [TWOPHASE, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=HERE,
            env={**kept, **variables},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_process_takes_part_and_ends_when_told(
    start: Callable[..., subprocess.Popen[str]], empty_database: Database
) -> None:
    with empty_database.connect() as connection:
        connection.execute("CREATE TABLE customer (id text PRIMARY KEY, funds numeric NOT NULL)")
        connection.execute("INSERT INTO customer VALUES ('c', 10)")
    process = start("participant", "smallest:payment", "--migrate", TWOPHASE_DSN=empty_database.dsn)
    assert process.stdout is not None
    ready = process.stdout.readline()
    address = ready.split()[6]
    assert ready == f"twophase participant 'payment' is ready on {address} (database {empty_database.name})\n"
    operation = participant_pb2.BranchOperation(
        name="charge", payload=types_pb2.Payload(json='{"customer_id": "c", "amount": "7.50"}')
    )
    gid = "tp-0123456789abcdef-00000003-aabbccdd-000000000007-0001"
    with grpc.insecure_channel(address) as channel:
        stub = participant_pb2_grpc.ParticipantStub(channel)
        request = participant_pb2.PrepareRequest(gid=gid, operations=[operation], fingerprint=bytes(32))
        assert stub.Prepare(request).vote == types_pb2.VOTE_YES
        assert empty_database.prepared() == [gid]
        assert stub.Commit(participant_pb2.CommitRequest(gid=gid)).outcome == participant_pb2.COMMIT_OUTCOME_COMMITTED
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 0
    with empty_database.connect() as connection:
        assert connection.execute("SELECT funds::text FROM customer").fetchall() == [("2.50",)]


def test_a_server_without_slots_is_told_and_what_to_type(
    start: Callable[..., subprocess.Popen[str]], make_cluster: MakeCluster
) -> None:
    cluster = make_cluster(max_prepared_transactions=0)
    dsn = cluster.dsn()
    process = start("participant", "smallest:payment", "--migrate", TWOPHASE_DSN=dsn)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert "twophase: max_prepared_transactions is 0" in err
    assert "\n  type: ALTER SYSTEM SET max_prepared_transactions = " in err
    assert "Traceback" not in err
    assert cluster.password not in err


def test_a_database_without_a_ledger_is_told_and_the_remedy_works(
    run: Callable[..., Result], start: Callable[..., subprocess.Popen[str]], empty_database: Database
) -> None:
    process = start("participant", "smallest:payment", TWOPHASE_DSN=empty_database.dsn)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    [remedy] = [line for line in err.splitlines() if "twophase ledger sql" in line]
    words = remedy.strip().removeprefix("type: twophase ").partition(" |")[0].split()
    result = run(*words)
    assert result.exit_code == 0, result.output
    with empty_database.connect() as connection:
        connection.execute(result.stdout.encode(), prepare=False)


def test_a_second_server_on_a_port_is_told(start: Callable[..., subprocess.Popen[str]], database: Database) -> None:
    first = start("participant", "smallest:payment", TWOPHASE_DSN=database.dsn)
    assert first.stdout is not None
    address = first.stdout.readline().split()[6]
    second = start("participant", "smallest:payment", "--listen", address, TWOPHASE_DSN=database.dsn)
    out, err = second.communicate(timeout=60)
    assert (second.returncode, out) == (1, "")
    assert err.splitlines() == [
        f"twophase: cannot listen on {address}: the port is in use",
        "  type: --listen 127.0.0.1:0 (takes a free port)",
    ]
