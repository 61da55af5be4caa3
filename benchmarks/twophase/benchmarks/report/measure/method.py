"""The sizes of a run in words, by section: what a reader needs to know to do it again.

Lives here: sentences made of the plan's numbers. Must not live here: what is the same in every run (`report.paper`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twophase.benchmarks.report.measure.plan import Plan
from twophase.benchmarks.report.measure.sections import capacity, crash, isolation, network
from twophase.benchmarks.report.values import Section


def method_of(plan: Plan) -> Mapping[Section, Sequence[str]]:
    """Durations in seconds, rates a second."""
    times = f"{plan.repetitions} repetitions"
    warm = f"after {plan.warm_up:g} s of warming up"
    outages = ", ".join("never started again" if each is None else f"{each:g} s" for each in plan.outages)
    return {
        Section.CAPACITY: [
            f"{times}, each {plan.seconds:g} s {warm}; {plan.accounts} accounts at each bank.",
            (
                "Nobody tries again: a conflict counts as refused. All contenders run the same business code, and"
                " SQLAlchemy's runs past its mapper."
            ),
            "DBOS keeps its state in a database on one of the two servers, and is not told a workflow's input.",
        ],
        Section.LATENCY: [
            f"{times}, each {plan.latency_seconds:g} s {warm}.",
            f"Contenders by hand have {capacity.CONNECTIONS} connections to each database; what is due waits for one.",
        ],
        Section.CONTENTION: [
            (
                f"{times}, each {plan.seconds:g} s {warm}, {plan.contention_clients} clients; both rows of a transfer"
                " are hot. Nobody tries again. This project's participants wait for a lock for half a second at most,"
                " the contenders by hand without end."
            ),
        ],
        Section.CRASH: [
            f"{plan.crash_repetitions} repetitions of each outage: {outages}.",
            (
                f"{plan.crash_rate:g} transfers a second, each on one of {crash.HOT_ROWS} hot rows of the first"
                f" database and a cold one of the second; clients give up after {crash.PATIENCE:g} s and do not try"
                " again."
            ),
            f"{crash.VICTIM_RATE:g} updates a second of hot rows, and as many of rows that nobody wants.",
            "Goodput is back where half a second brings nine tenths of what was done before.",
            (
                f"Where nobody starts the coordinator again, that was measured for {plan.never_seconds:g} s and a few"
                " more: rows would stay locked for ever."
            ),
        ],
        Section.SLOW: [
            (
                f"{plan.network_repetitions} repetitions of {plan.slow_seconds:g} s, {plan.network_rate:g} transfers a"
                f" second, {network.SLOW_HOT_SHARE:.0%} of them on {network.HOT_ROWS} hot rows."
            ),
        ],
        Section.PARTITION: [
            (
                f"{plan.network_repetitions} repetitions, {plan.network_rate:g} transfers a second,"
                f" {network.CUT_HOT_SHARE:.0%} of them on {network.HOT_ROWS} hot rows; clients give up after"
                f" {network.PATIENCE:g} s. At once is within {network.AT_ONCE:g} s."
            ),
        ],
        Section.ISOLATION: [
            (
                f"{times} of {plan.isolation_seconds:g} s; {isolation.LOOKS:g} looks a second, at random moments, every"
                " other one the other way round. A look has the five latest that the first database shows."
            ),
            (
                "Of orders, what is reserved and what is paid. How long they were reserved is known of those that were"
                " sold: the checkout's compensations leave no trace."
            ),
        ],
        Section.FAN_OUT: [
            (
                f"{times} of {plan.fan_seconds:g} s {warm}, longer with more than 8 participants;"
                f" {capacity.FAN_CLIENTS} clients; the databases are on two servers."
            ),
        ],
        Section.CLEARING: [f"{plan.clearing_repetitions} repetitions; two branches for each transfer."],
    }
