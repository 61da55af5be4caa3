"""Writes docs/failure-matrix.md.

twophase drill --json > drills.json
python tests/tools/write_failure_matrix.py < drills.json      with the times that were measured
python tests/tools/write_failure_matrix.py                    only the prose; the times stay
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from twophase.sandbox.drill.failures import FAILURES
from twophase.sandbox.drill.matrix import measured_by, measured_in, render

DOCUMENT = Path(__file__).parents[2] / "docs" / "failure-matrix.md"


def main() -> None:
    given = "" if sys.stdin.isatty() else sys.stdin.read()
    if given.strip():
        measured = measured_by(FAILURES, json.loads(given))
    else:
        measured = measured_in(DOCUMENT.read_text(encoding="utf-8"))
    DOCUMENT.write_text(render(FAILURES, measured), encoding="utf-8")
    sys.stderr.write(f"{DOCUMENT} is written\n")


if __name__ == "__main__":
    main()
