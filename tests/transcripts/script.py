"""Transcripts as text: commands, and the lines each of them must produce.

Lives here: reading such a file, comparing it, writing it anew. Must not live here: what a command does.

A line that begins at the margin is a command, the indented lines below it are what it must produce. Lines that begin
with `#`, and empty ones, are for the reader.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

INDENT = "    "


class Wrong(AssertionError):
    """A transcript that does not say what happens. The message begins with the file and the line."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: where it stands, what it says, what it must produce."""

    file: str
    line: int
    text: str
    expected: tuple[str, ...]

    @property
    def place(self) -> str:
        """The file and the line, as editors understand them."""
        return f"{self.file}:{self.line}"


def read(file: str, text: str) -> tuple[Command, ...]:
    """The commands of a transcript. Raises `Wrong` for a line that belongs to no command."""
    commands: list[Command] = []
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if _is_command(line):
            commands.append(Command(file, number, line.rstrip(), tuple(_output_at(lines, number))))
        elif line.startswith(" ") and line.strip():
            above = lines[number - 2] if number > 1 else ""
            if not (_is_command(above) or above.startswith(" ")):
                raise Wrong(f"{file}:{number}: this line is the output of no command: it must follow one at once")
    return tuple(commands)


def compare(command: Command, produced: tuple[str, ...]) -> None:
    """Raises `Wrong`, with the first line that differs and both outputs, unless this is what must be produced."""
    if produced == command.expected:
        return
    differs = next(
        (at for at, pair in enumerate(zip(command.expected, produced, strict=False)) if pair[0] != pair[1]),
        min(len(command.expected), len(produced)),
    )
    expected, got = (each[differs] if differs < len(each) else "(nothing)" for each in (command.expected, produced))
    both = "\n".join(difflib.unified_diff(command.expected, produced, "expected", "got", lineterm="", n=9))
    raise Wrong(
        f"{command.file}:{command.line + 1 + differs}: {command.text!r} does not produce this line\n"
        f"expected: {expected.strip()}\n"
        f"got:      {got.strip()}\n\n{both}"
    )


def rewrite(text: str, produced: dict[int, tuple[str, ...]]) -> str:
    """The transcript with the output that was produced below each command, by its line; all else as it was, but for an
    empty line after each output."""
    lines = text.splitlines()
    written: list[str] = []
    for number, line in enumerate(lines, start=1):
        if _is_command(line):
            if written and written[-1].startswith(INDENT):
                written.append("")
            written += [line.rstrip(), *produced[number]]
        elif not line.startswith(" "):
            written.append(line.rstrip())
    return "\n".join(written).rstrip("\n") + "\n"


def transcripts(folder: Path) -> list[Path]:
    """Every transcript there is, by name."""
    return sorted(folder.glob("*.txt"))


def _is_command(line: str) -> bool:
    return bool(line.strip()) and not line.startswith((" ", "#"))


def _output_at(lines: list[str], after: int) -> Iterator[str]:
    for line in lines[after:]:
        if not line.startswith(" ") or not line.strip():
            return
        yield line.rstrip()
