"""The baseline: what a transaction is allowed to cost, as counted when it was last written.

Lives here: the file, and the comparison with it. Must not live here: counting (`counts`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from twophase.benchmarks.counts import CASES, Cost, cost_of
from twophase.sandbox.postgres import Cluster

FILE: Final = Path(__file__).resolve().parents[2] / "baseline.json"
"""Of this checkout; an installed package has none."""
# A server syncs for reasons of its own, too; a cost that is really higher is so every time.
_TRIES: Final = 3


def read() -> dict[str, dict[str, Any]]:
    """By case, what it cost. Raises `OSError`."""
    found: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def write(costs: Mapping[str, Cost]) -> None:
    """Makes these the baseline. Raises `OSError`."""
    lines = {case: cost.to_json() for case, cost in costs.items()}
    FILE.write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")


def differences(costs: Mapping[str, Cost], baseline: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Every case whose cost is another one than that of the baseline, in words; cheaper ones, too."""
    found = [f"{case}: is in the baseline, and is not counted any more" for case in baseline.keys() - costs.keys()]
    for case, cost in costs.items():
        now, then = cost.to_json(), baseline.get(case)
        if then is None:
            found.append(f"{case}: is not in the baseline")
        elif now != then:
            changed = {name: (then.get(name), now[name]) for name in now if now[name] != then.get(name)}
            found += [f"{case}: {name} was {before}, is {after}" for name, (before, after) in changed.items()]
    return found


async def count(
    case: str, clusters: Mapping[str, Cluster], directory: Path, *, expected: Mapping[str, Any] | None = None
) -> Cost:
    """Counts a case until it is as expected, or has been counted twice alike, or three times."""
    seen: list[Cost] = []
    for number in range(_TRIES):
        place = directory / f"{case} {number}"
        place.mkdir()
        cost = await cost_of(CASES[case], clusters, place)
        if cost in seen or cost.to_json() == expected:
            return cost
        seen.append(cost)
    return seen[-1]
