"""Child processes for the tests of the SQLite journal, and other ways to look at it from outside."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

PRELUDE = """
import asyncio, sys
from journal.samples import SHOP, propose, begun, txid
from twophase.coordinator.journal.port import JournalFailed
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.protocol.decisions import ABORT
"""
STRACE = shutil.which("strace")


def start(code: str, path: Path, *wrapper: str) -> subprocess.Popen[str]:
    """A child process that runs `code` with the journal's path as argument."""
    return subprocess.Popen(
        [*wrapper, sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"},
    )


def run(code: str, path: Path, *wrapper: str) -> str:
    """What the child wrote to its output. It must end well."""
    with start(code, path, *wrapper) as child:
        try:
            out, err = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == 0, err
    return out


def content(path: Path) -> bytes | None:
    """What is in a file; None for what is none."""
    return path.read_bytes() if path.is_file() else None
