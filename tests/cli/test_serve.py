"""`twophase serve` as a process: its one line, its ends, and each reason why it does not start in one line."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from twophase.coordinator.client import AsyncClient, NotFound, operation

Serve = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def serve(journal: Path) -> Iterator[Serve]:
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str, listen: str = "127.0.0.1:0", path: Path = journal) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "twophase.coordinator", "serve"]
        process = subprocess.Popen(
            [*command, "--journal", str(path), "--listen", listen, "--ballast=1", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={key: value for key, value in os.environ.items() if not key.startswith("TWOPHASE_")},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def ready(process: subprocess.Popen[str]) -> str:
    """The address in the ready line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("twophase coordinator is ready on "), line + (
        process.stderr.read() if process.stderr else ""
    )
    return line.split()[5]


def failure(process: subprocess.Popen[str]) -> str:
    """The one line of a process that does not start."""
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (1, ""), err
    assert err.startswith("twophase: ")
    assert err.count("\n") == 1, err
    return err


def test_after_a_restore_every_participant_must_be_there(serve: Serve, journal: Path) -> None:
    assert "there is no journal" in failure(serve("--after-restore"))
    assert "File name too long" in failure(serve("--after-restore", path=journal.with_name(300 * "j")))
    assert not journal.exists()
    process = serve()
    ready(process)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=20)
    assert "knows no participant" in failure(serve("--after-restore"))
    line = failure(serve("--after-restore", "--participant", "stock=127.0.0.1:1"))
    assert "participant 'stock' does not tell what it has seen" in line


async def test_it_says_that_it_is_ready_serves_and_ends_well(serve: Serve) -> None:
    for epoch in (1, 2):
        process = serve()
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.endswith(f", epoch {epoch})\n")
        async with AsyncClient(line.split()[5]) as client:
            with pytest.raises(NotFound, match="nobody"):
                await client.execute(operation("nobody", "nothing"))
        process.send_signal(signal.SIGTERM if epoch == 1 else signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "", "")


def test_a_port_in_use_is_one_line_and_touches_no_journal(serve: Serve, journal: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        told = failure(serve(listen=f"127.0.0.1:{port}"))

    assert f"127.0.0.1:{port}: the port is in use" in told
    assert "--listen" in told
    assert not journal.exists()


def test_two_coordinators_never_share_a_port(serve: Serve, tmp_path: Path) -> None:
    address = ready(serve())

    assert "the port is in use" in failure(serve(listen=address, path=tmp_path / "another.db"))


def test_a_second_coordinator_on_a_journal_is_one_line(serve: Serve, journal: Path) -> None:
    ready(serve())

    assert str(journal) in failure(serve())


def test_a_journal_of_a_newer_schema_is_one_line(serve: Serve, journal: Path) -> None:
    first = serve()
    ready(first)
    first.terminate()
    first.wait(20)
    connection = sqlite3.connect(journal)
    connection.execute("PRAGMA user_version = 999")
    connection.commit()
    connection.close()

    assert "999" in failure(serve())


def test_a_file_that_is_no_journal_is_one_line(serve: Serve, journal: Path) -> None:
    journal.write_text("a diary, rather " * 1000)

    assert str(journal) in failure(serve())


def test_an_unfinished_transaction_that_cannot_be_read_is_one_line(serve: Serve, journal: Path) -> None:
    process = serve()
    ready(process)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=20)
    with closing(sqlite3.connect(journal, isolation_level=None)) as connection:
        txid = "00000001-0badcafe-000000000001"
        connection.execute("INSERT INTO transactions VALUES (?, 1, 0)", (txid,))
        connection.execute("INSERT INTO events VALUES (1, ?, 0, 'of tomorrow', '{}')", (txid,))
    assert "cannot be read (ValueError(\"unknown kind 'of tomorrow'\")); run the twophase" in failure(serve())


def test_a_directory_that_is_not_there_is_one_line(serve: Serve, tmp_path: Path) -> None:
    assert "nowhere" in failure(serve(path=tmp_path / "nowhere" / "journal.db"))


def test_beside_a_file_that_is_no_journal_no_ballast_stays(serve: Serve, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"x" * 8192)

    assert "not a database" in failure(serve(path=photo))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png", "photo.png.lock"]


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])  # noqa: S104
def test_it_does_not_listen_beyond_loopback_unless_told_to(serve: Serve, journal: Path, host: str) -> None:
    told = failure(serve(listen=f"{host}:0"))

    assert "--allow-plaintext" in told
    assert "TWOPHASE_ALLOW_PLAINTEXT=1" in told
    assert not journal.exists()


def test_it_listens_everywhere_if_told_to(serve: Serve) -> None:
    assert ready(serve("--allow-plaintext", listen="0.0.0.0:0")).startswith("0.0.0.0:")


def failing_journal(journal: Path) -> list[str]:
    """The command of a coordinator whose journal fails as soon as it is ready."""
    code = f"""
import asyncio, pathlib
from twophase.coordinator import server
from twophase.coordinator.journal.port import JournalFailed
from twophase.contract.addresses import Address

def announce(line):
    journal_failure = JournalFailed("fsync of the journal: Input/output error")
    engines[0].failed.set_exception(journal_failure)

engines = []
class Engine(server.Engine):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        engines.append(self)

server.Engine = Engine
asyncio.run(server.serve(server.Settings(pathlib.Path({str(journal)!r}), Address("127.0.0.1", 0)), announce))
"""
    return [sys.executable, "-c", code]


def test_r10_a_failed_journal_ends_the_process_at_once_with_one_line(journal: Path) -> None:
    ended = subprocess.run(failing_journal(journal), check=False, capture_output=True, text=True, timeout=30)

    assert ended.returncode == 74
    assert ended.stderr.count("\n") == 1
    assert "Input/output error" in ended.stderr


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2>&1 >/dev/null | true"])
def test_r10_a_failed_journal_ends_the_process_where_nothing_can_be_said(journal: Path, redirection: str) -> None:
    command = f"exec 3>&1; {{ {shlex.join(failing_journal(journal))}; echo $? >&3; }} {redirection}"
    ended = subprocess.run(["sh", "-c", command], check=False, stdout=subprocess.PIPE, text=True, timeout=30)

    assert ended.stdout.strip() == "74"
