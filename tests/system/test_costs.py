"""R14 and R12, counted on real Postgres: what a transaction costs in messages, syncs, statements and round trips.

What it may cost is in `benchmarks/baseline.json`. Cheaper is a difference, too: then the baseline is written anew, with
`make counts ARGS=--write`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fixtures.clusters import MakeCluster
from twophase.benchmarks import baseline
from twophase.benchmarks.counts import CASES, NAMES, SETTINGS, prepare_servers


@pytest.mark.timeout(300)
async def test_r14_what_a_transaction_costs(tmp_path: Path, make_cluster: MakeCluster) -> None:
    clusters = {name: make_cluster(name, **SETTINGS) for name in NAMES}
    prepare_servers(clusters)
    known = baseline.read()
    costs = {case: await baseline.count(case, clusters, tmp_path, expected=known.get(case)) for case in CASES}
    assert baseline.differences(costs, known) == []


RULES: dict[str, dict[str, Any]] = {
    "two writing branches": {"journal_syncs": 1, "wal_syncs": 4, "messages": {"prepare": 2, "commit": 2}},
    "four writing branches": {"journal_syncs": 1, "wal_syncs": 8, "messages": {"prepare": 4, "commit": 4}},
    "two operations at one participant": {"journal_syncs": 1, "wal_syncs": 1, "messages": {"apply": 1}},
    "one writing branch": {"journal_syncs": 1, "wal_syncs": 1, "messages": {"apply": 1}},
    "one writer and two readers": {"journal_syncs": 1, "wal_syncs": 1, "messages": {"prepare": 2, "apply": 1}},
    "two readers": {"journal_syncs": 1, "wal_syncs": 0, "messages": {"prepare": 2}},
    # Nothing is forced, and the branch that refused is told nothing.
    "one of two refuses": {"journal_syncs": 0, "messages": {"prepare": 2, "abort": 1}},
    "saga of two steps": {"journal_syncs": 1, "wal_syncs": 2, "messages": {"apply": 2}},
    # The start and the turn are forced; the third message undoes the first step.
    "saga whose second step refuses": {"journal_syncs": 2, "wal_syncs": 3, "messages": {"apply": 3}},
}


@pytest.mark.parametrize("case", CASES)
def test_r14_the_baseline_is_what_the_rules_say(case: str) -> None:
    """The file is written by a command; what the rules promise is not its to change. The rest is."""
    cost = baseline.read()[case]
    assert {name: value for name, value in cost.items() if name in RULES[case]} == RULES[case]


@pytest.mark.parametrize("case", [name for name, case in CASES.items() if not case.races])
def test_nothing_is_sent_twice_or_alone_that_could_go_together(case: str) -> None:
    cost = baseline.read()[case]
    assert cost["round_trips"] <= cost["statements"]
    assert cost["frames"] <= sum(cost["messages"].values())
