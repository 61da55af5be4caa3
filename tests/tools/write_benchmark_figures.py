"""Writes what the kept run has measured into docs/choosing.md and docs/benchmarks/README.md.

twophase bench report --suite full --out docs/benchmarks/full     most of an hour; on a machine that does nothing else
python tests/tools/write_benchmark_figures.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from twophase.benchmarks.report.paper.cited import filled, for_choosing, for_readme
from twophase.benchmarks.report.paper.folder import RESULTS, read

DOCS: Final = Path(__file__).parents[2] / "docs"
RUN: Final = DOCS / "benchmarks" / "full" / RESULTS


def main() -> None:
    if not RUN.exists():
        sys.exit(f"{RUN} is not there; type: twophase bench report --suite full --out {RUN.parent}")
    found = read(RUN)
    if not found.is_whole:
        sys.exit(f"{RUN} is void, or lacks a section; measure it again")
    for path, write in ((DOCS / "choosing.md", for_choosing), (DOCS / "benchmarks" / "README.md", for_readme)):
        path.write_text(filled(path.read_text(encoding="utf-8"), write(found)), encoding="utf-8")
        sys.stderr.write(f"{path} is written\n")


if __name__ == "__main__":
    main()
