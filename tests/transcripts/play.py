"""Playing transcripts: every command on a stage, and what it leaves on the board.

Lives here: the books of phrases that there are, and the run. Must not live here: what any of them means.

Another protocol brings a book of its own phrases, and runs of its own beside `two_phase` and `saga_run`; it joins the
others here, and in `recovery.take_up`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from transcripts import told, told_failures, told_recovery, told_saga, told_two_phase
from transcripts.language import Impossible, Unknown, act
from transcripts.script import Command, Wrong, compare, read, rewrite
from transcripts.stage import Stage

BOOKS = (told.BOOK, told_two_phase.BOOK, told_saga.BOOK, told_failures.BOOK, told_recovery.BOOK)


def play(commands: tuple[Command, ...], stage: Stage) -> Iterator[tuple[Command, tuple[str, ...]]]:
    """Each command with the lines it produces. Raises `Wrong` for one that says nothing, or cannot be done."""
    for command in commands:
        try:
            act(BOOKS, stage, command.text)
            stage.settle()
        except (Unknown, Impossible) as error:
            raise Wrong(f"{command.place}: {error}") from error
        yield command, stage.board.take()


def check(path: Path, stage: Stage) -> None:
    """Plays a transcript. Raises `Wrong` at the first line that is not what happens."""
    for command, produced in play(read(path.name, path.read_text(encoding="utf-8")), stage):
        compare(command, produced)


def write_anew(path: Path) -> None:
    """Writes what happens below every command of a transcript, in its place."""
    text = path.read_text(encoding="utf-8")
    produced = {command.line: lines for command, lines in play(read(path.name, text), Stage())}
    path.write_text(rewrite(text, produced), encoding="utf-8")
