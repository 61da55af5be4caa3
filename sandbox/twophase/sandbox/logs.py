"""Log files of what runs in the sandbox: their ends, for error messages."""

from __future__ import annotations

from pathlib import Path


def tail_of(path: Path, *, lines: int = 8) -> str:
    """The last lines of a log, as the end of a message."""
    try:
        text = path.read_text(errors="replace").rstrip()
    except FileNotFoundError:
        text = ""
    if not text:
        return "It has said nothing."
    return "Its log ends with:\n" + "\n".join(text.splitlines()[-lines:])
