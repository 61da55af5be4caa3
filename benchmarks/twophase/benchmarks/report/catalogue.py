"""What each section varies and what it yields: the names in a measurement, with their meaning and unit.

Lives here: one table. Measuring fills in what it says, writing takes labels and units from it, and a test holds both to
it. Must not live here: anything that is done with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from twophase.benchmarks.report.values import Section


@dataclass(frozen=True, slots=True)
class Quantity:
    """`label` in words for an axis or a table's head, with its `unit`; whether more of it is better, if either is;
    and whether it is the longest of many, so that of several repetitions the longest counts."""

    label: str
    unit: str = ""
    more_is_better: bool | None = None
    is_longest: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One section: the question it answers, its factors, figures and series by name."""

    question: str
    factors: Mapping[str, Quantity]
    figures: Mapping[str, Quantity]
    series: Mapping[str, Quantity] = field(default_factory=dict)


_THROUGHPUT: Final = Quantity("done", "per second", more_is_better=True)
_P50: Final = Quantity("median latency", "ms", more_is_better=False)
_P99: Final = Quantity("99th percentile of latency", "ms", more_is_better=False)
_REFUSED: Final = Quantity("refused, conflicts included", "per 10,000", more_is_better=False)
_UNDONE: Final = Quantity("compensated", "per 10,000", more_is_better=False)
_HALF: Final = Quantity("half done for good", "per 10,000", more_is_better=False)
_LATENCIES: Final = Quantity("latency", "ms", more_is_better=False)
_CPU: Final = Quantity("processor time of a transaction, all processes", "ms", more_is_better=False)
_LOCK_HOLD: Final = Quantity("row locked, median", "ms", more_is_better=False)
_LOCK_HOLD_MAX: Final = Quantity("row locked, longest", "ms", more_is_better=False, is_longest=True)
_LOST: Final = Quantity("transactions not done that would have been", "", more_is_better=False)
_GOODPUT: Final = Quantity("done in 100 ms", "", more_is_better=True)
_VICTIM: Final = Quantity("update of a hot row, by sending time", "ms", more_is_better=False)
_CONTROL: Final = Quantity("update of a row nobody else uses", "ms", more_is_better=False)

CATALOGUE: Final[Mapping[Section, Entry]] = {
    Section.CAPACITY: Entry(
        "How many transactions a second, when every client sends the next as soon as the last is done?",
        {
            "workload": Quantity("workload"),
            "clients": Quantity("clients"),
            "refused_share": Quantity("meant to be refused", "%"),
        },
        {
            "throughput_per_s": _THROUGHPUT,
            "p50_ms": _P50,
            "p99_ms": _P99,
            "cpu_ms": _CPU,
            "refused_per_10000": _REFUSED,
            "compensated_per_10000": _UNDONE,
            "half_per_10000": _HALF,
        },
    ),
    Section.LATENCY: Entry(
        "How long does one take while so many a second are asked for, whether or not the last ones are done?",
        {"workload": Quantity("workload"), "offered_per_s": Quantity("offered", "per second")},
        {
            "throughput_per_s": _THROUGHPUT,
            "p50_ms": _P50,
            "p99_ms": _P99,
            "late_per_10000": Quantity("not answered in time", "per 10,000", more_is_better=False),
        },
        {"latencies_ms": _LATENCIES},
    ),
    Section.CONTENTION: Entry(
        "What is left when more and more transactions want the same rows?",
        {"hot_rows": Quantity("rows that all transactions share (0: none)"), "clients": Quantity("clients")},
        {
            "throughput_per_s": _THROUGHPUT,
            "p99_ms": _P99,
            "refused_per_10000": _REFUSED,
            "compensated_per_10000": _UNDONE,
            "half_per_10000": _HALF,
            "lock_hold_p50_ms": _LOCK_HOLD,
        },
    ),
    Section.CRASH: Entry(
        "What do others notice while the coordinator is dead, and until everything is as it should be?",
        {"point": Quantity("killed at"), "outage_s": Quantity("until it was started again", "s")},
        {
            "goodput_before_per_s": Quantity("done before the crash", "per second", more_is_better=True),
            "lost": _LOST,
            "victim_p99_ms": Quantity("update of a hot row, 99th percentile", "ms", more_is_better=False),
            "victim_max_ms": Quantity("update of a hot row, longest", "ms", more_is_better=False, is_longest=True),
            "victim_late_share": Quantity("updates of hot rows not done within a second", "%", more_is_better=False),
            "control_p99_ms": Quantity("update of a row nobody else uses, 99th percentile", "ms", more_is_better=False),
            "lock_hold_p50_ms": _LOCK_HOLD,
            "lock_hold_max_ms": _LOCK_HOLD_MAX,
            "in_doubt_p50_ms": Quantity("prepared, median", "ms", more_is_better=False),
            "in_doubt_max_ms": Quantity("prepared, longest", "ms", more_is_better=False, is_longest=True),
            "in_doubt_branches": Quantity("branches prepared when it died", "", more_is_better=False),
            "clear_ms": Quantity("from ready again to the last branch out of doubt", "ms", more_is_better=False),
            "unfinished": Quantity("sagas begun and not ended when it died", "", more_is_better=False),
            "consistent_ms": Quantity("from ready again to the last saga ended", "ms", more_is_better=False),
        },
        {
            "goodput_per_100_ms": _GOODPUT,
            "refused_per_100_ms": Quantity("refused or not answered in 100 ms"),
            "victim_at_ms": Quantity("sent", "ms since the load began"),
            "victim_ms": _VICTIM,
            "control_ms": _CONTROL,
            "lock_holds_ms": Quantity("row locked", "ms", more_is_better=False),
            "in_doubt_ms": Quantity("prepared", "ms", more_is_better=False),
            "down_ms": Quantity("dead from and ready again", "ms since the load began"),
        },
    ),
    Section.SLOW: Entry(
        "One participant answers late: what do transactions notice that do not need it?",
        {"delay_ms": Quantity("each of its answers later by", "ms")},
        {
            "others_p50_ms": Quantity("transactions without it, median", "ms", more_is_better=False),
            "others_p99_ms": Quantity("transactions without it, 99th percentile", "ms", more_is_better=False),
            "with_it_p50_ms": Quantity("transactions with it, median", "ms", more_is_better=False),
            "lock_hold_p50_ms": Quantity(
                "row locked elsewhere by transactions with it, median", "ms", more_is_better=False
            ),
        },
    ),
    Section.PARTITION: Entry(
        "The coordinator and one participant cannot hear each other for a while: who can still work, and on what?",
        {"seconds": Quantity("cut off for", "s")},
        {
            "done_without_it_per_s": Quantity("done without it, while cut off", "per second", more_is_better=True),
            "done_with_it_per_s": Quantity("done with it, while cut off", "per second", more_is_better=True),
            "refused_with_it_share": Quantity("of those with it refused at once", "%"),
            "victim_max_ms": Quantity("update of a row in doubt, longest", "ms", more_is_better=False, is_longest=True),
            "in_doubt_max_ms": Quantity("prepared, longest", "ms", more_is_better=False, is_longest=True),
            "consistent_ms": Quantity("from the end of the cut to all ended", "ms", more_is_better=False),
        },
        {"goodput_per_100_ms": _GOODPUT, "cut_ms": Quantity("cut off from and until", "ms since the load began")},
    ),
    Section.ISOLATION: Entry(
        "What could others see that was never whole?",
        {"workload": Quantity("workload"), "refused_share": Quantity("meant to be refused", "%")},
        {
            "seen_half_per_10000": Quantity(
                "looks that saw a transaction half done", "per 10,000", more_is_better=False
            ),
            "undone_seen_per_10000": Quantity(
                "looks that saw what was undone later", "per 10,000", more_is_better=False
            ),
            "half_per_10000": _HALF,
            "reservation_p50_ms": Quantity("reserved without being sold, median", "ms", more_is_better=False),
            "reservation_max_ms": Quantity(
                "reserved without being sold, longest", "ms", more_is_better=False, is_longest=True
            ),
            "compensated_per_10000": _UNDONE,
            "throughput_per_s": _THROUGHPUT,
        },
    ),
    Section.FAN_OUT: Entry(
        "What does it cost to ask more participants?",
        {"participants": Quantity("participants")},
        {"p50_ms": _P50, "p99_ms": _P99, "throughput_per_s": _THROUGHPUT},
    ),
    Section.CLEARING: Entry(
        "So many branches are in doubt when the coordinator starts: how long until none is?",
        {"branches": Quantity("branches in doubt"), "decided": Quantity("decided before the crash")},
        {
            "clear_ms": Quantity("from exec to the last branch out of doubt", "ms", more_is_better=False),
            "ready_ms": Quantity("from exec to ready", "ms", more_is_better=False),
        },
    ),
}
