"""`make search`: goes through every course and prints what it found.

Lives here: the table and the exit code. Must not live here: the search.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from search.bugs import BUGS, Bug
from search.courses import COURSES, Course
from search.explore import Found, search
from search.saga_bugs import SAGA_BUGS, SagaBug
from search.saga_courses import SAGA_COURSES, SagaCourse


def main(pattern: str = "") -> int:
    """Runs the courses whose name contains `pattern`, then the planted bugs. Returns the exit code."""
    console = Console(highlight=False, soft_wrap=True)
    wrong = 0
    console.print(f"{'':42}{'worlds':>12}{'moves':>12}{'depth':>7}{'ends':>8}{'seconds':>9}")
    for course in (*COURSES, *SAGA_COURSES):
        if pattern in course.name:
            started = time.monotonic()
            with console.status(course.name):
                found = _search(course)
            figures = f"{found.worlds:>12,}{found.moves:>12,}{found.depth:>7}{found.resting:>8,}"
            console.print(f"{course.name:42}{figures}{time.monotonic() - started:>9.1f}")
            wrong += found.violation is not None
            _tell(console, found)
    bugs = (*BUGS, *SAGA_BUGS)
    missed = []
    for bug in bugs:
        name = type(bug.moves).__name__
        found = _search(bug)
        if (found.violation or "").startswith(bug.breaks):
            console.print(f"{name}, found after {found.worlds:,} worlds:")
            _tell(console, found)
        else:
            missed.append(name)
    console.print(f"{len(bugs) - len(missed)} of {len(bugs)} planted bugs found {' '.join(missed)}")
    console.print(f"{wrong} violations" if wrong else "0 violations; from every world everything ends")
    console.print(f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024:,} MiB of memory")
    return 1 if wrong or missed else 0


def _search(each: Course | SagaCourse | Bug | SagaBug) -> Found:
    match each:
        case Course() | Bug():
            return search(each.world, each.moves)
        case SagaCourse() | SagaBug():
            return search(each.world, each.moves)


def _tell(console: Console, found: Found) -> None:
    if found.violation is not None:
        console.print(f"  {found.violation}")
        for number, step in enumerate(found.path, start=1):
            console.print(f"  {number:>3}  {step}")


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
