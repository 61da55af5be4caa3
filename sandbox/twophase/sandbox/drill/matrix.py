"""docs/failure-matrix.md: the failures, joined with what a run measured.

Lives here: the document's form. Must not live here: what is said of a failure (`failures`), running anything.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from twophase.sandbox.drill.failure import BOUNDS, Failure

_HEAD: Final = """\
# What fails, and what happens then

Everything here is tried: each row names its drills, and `twophase drill --only NAME` runs one. A drill makes the
failure happen to real processes under load, and then holds what the clients were told against every database.
*Measured* is the time from the ready line (or the end of the fault) until no branch of before was in doubt, and every
saga of before had ended: median and longest of the row's drills. *At most* is what the constants in the code allow:

{bounds}

`python tests/tools/write_failure_matrix.py < drills.json` writes this file from what `twophase drill --json` printed,
and without an input writes only the prose anew, which stands in `failures_inside.py`
and `failures_outside.py` beside the drills, in `sandbox/twophase/sandbox/drill`.

"""
_RUN: Final = "The run: "
_TITLES: Final = "| failure | what happens | who finishes it | at most | measured | drills |"
_UNMEASURED: Final = "not measured yet"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run says: a paragraph on the whole of it, and a cell for each failure, by its name."""

    run: str
    cells: Mapping[str, str]


def measured_by(failures: Iterable[Failure], report: Mapping[str, Any]) -> Measured:
    """What a run measured. `report` is what `twophase drill --json` printed."""
    drills = {drill["name"]: drill for drill in report["drills"]}
    cells = {
        failure.what: _cell([drills[name] for name in failure.drills if name in drills], len(failure.drills))
        for failure in failures
    }
    return Measured(_run(report), cells)


def measured_in(document: str) -> Measured:
    """What the document says of the run it was written from."""
    lines = document.splitlines()
    run = next((line for line in lines if line.startswith(_RUN)), "")
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return Measured(run, {row[0]: row[4] for row in rows})


def render(failures: Iterable[Failure], measured: Measured) -> str:
    """The document."""
    lines = [measured.run]
    for group, rows in groupby(failures, key=lambda failure: failure.group):
        lines += ["", f"## {group.value}", "", _TITLES, "|---|---|---|---|---|---|"]
        for failure in rows:
            named = ", ".join(f"`{name}`" for name in failure.drills)
            cell = measured.cells.get(failure.what, _UNMEASURED)
            cells = failure.what, failure.happens, failure.finished_by, failure.bound, cell, named
            lines.append(f"| {' | '.join(cells)} |")
    head = _HEAD.format(bounds="\n".join(f"- **{bound}** {meaning}" for bound, meaning in BOUNDS.items()))
    return head + "\n".join([*lines, ""])


def _run(report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    said = [f"{_RUN}{report['started']}, {report['machine']}; {versions}."]
    said += [
        f"{len(report['drills'])} drills: {report['drills_passed']} passed, {report['drills_failed']} failed,",
        f"{report['drills_skipped']} skipped;",
        f"{report['points_hit']} of {report['points_registered']} crash points hit;",
        f"{report['violations']} violations, {report['outside_violations']} by the outside checker;",
        f"{report['in_doubt_left']} branches in doubt at the end.",
    ]
    if report["recovery_ms_median"] is not None:
        median, longest = report["recovery_ms_median"], report["recovery_ms_max"]
        said.append(f"From ready to nothing of before in doubt: median {median:.0f} ms, longest {longest:.0f} ms.")
    return " ".join(said)


def _cell(drills: Sequence[Mapping[str, Any]], wanted: int) -> str:
    times = [drill["recovery_ms"] for drill in drills if drill["recovery_ms"] is not None]
    skipped = sum(drill["outcome"] == "skipped" for drill in drills)
    failed = sum(drill["outcome"] == "failed" for drill in drills)
    said = [f"{statistics.median(times):.0f} ms, {max(times):.0f} ms"] if times else []
    said += [f"{skipped} skipped on this machine"] if skipped else []
    said += [f"**{failed} failed**"] if failed else []
    said += [f"{wanted - len(drills)} {_UNMEASURED}"] if len(drills) < wanted else []
    return "; ".join(said) or "never in doubt"
