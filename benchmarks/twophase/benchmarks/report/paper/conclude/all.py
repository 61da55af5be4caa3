"""All conclusions, in the order of the report; and what follows from them together.

Lives here: the order, who loses where, the table of decisions. Must not live here: any one conclusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from twophase.benchmarks.report.paper.compare import Strength
from twophase.benchmarks.report.paper.conclude import blocking, isolation, speed
from twophase.benchmarks.report.paper.conclude.values import Concludes, Conclusion
from twophase.benchmarks.report.paper.words import NAMES, listed
from twophase.benchmarks.report.values import Results, Who

FIRST: Final[Mapping[str, Concludes]] = {
    "capacity": speed.capacity,
    "contention": speed.contention,
    "waiting": blocking.waiting,
    "visible": isolation.visible,
    "aftermath": blocking.aftermath,
}
"""Those that the report opens with."""

FURTHER: Final[Mapping[str, Concludes]] = {
    "latency": speed.latency,
    "slow": blocking.slow,
    "cut-off": blocking.cut_off,
    "fan-out": speed.fan_out,
    "clearing": blocking.clearing,
    "price": speed.price,
    "peers": speed.peers,
}

UNMEASURED: Final = "not measured in this run"
EITHER: Final = "either: no difference was found"


@dataclass(frozen=True, slots=True)
class Decision:
    """A line of the table: if this is your case, then that, because of this, and how sure it is."""

    case: str
    choice: str
    because: str
    sure: str


def conclude(found: Results) -> dict[str, Conclusion]:
    """Everything that the results allow to say, by name. Nothing for a run that is void."""
    if found.is_void:
        return {}
    made = {name: function(found) for name, function in {**FIRST, **FURTHER}.items()}
    return {name: conclusion for name, conclusion in made.items() if conclusion is not None}


def losses(conclusions: Mapping[str, Conclusion], who: Who) -> str:
    """Where one of the two protocols is worse, in a sentence."""
    against = [each.matter for each in conclusions.values() if each.better not in (None, who)]
    name = "The saga" if who is Who.SAGA else NAMES[who].capitalize()
    return f"{name} loses in {listed(against)}." if against else f"{name} loses nowhere in what was measured."


def draws(conclusions: Mapping[str, Conclusion]) -> str:
    """Where no difference between the two was found, in a sentence; empty if there was one everywhere."""
    same = [each.matter for each in conclusions.values() if each.strength is Strength.NONE and each.compares]
    return f"No difference was found in {listed(same)}." if same else ""


_CASES: Final = (
    ("rows are rarely wanted by two transactions at once, and throughput is what counts", "capacity"),
    ("all transactions want the same few rows", "contention"),
    ("others need the same rows even while the coordinator is away", "waiting"),
    ("somebody reads while it runs, and must not act on half of it or on what is undone later", "visible"),
    ("a service in it is slow, and its rows elsewhere are wanted by others", "slow"),
    ("the network to a service fails now and then, and others work on its rows", "cut-off"),
    ("many participants take part in one transaction, and its latency counts", "fan-out"),
)


def decisions(conclusions: Mapping[str, Conclusion]) -> list[Decision]:
    """The table of decisions, as the figures have it."""
    lines = []
    for case, name in _CASES:
        conclusion = conclusions.get(name)
        if conclusion is None:
            lines.append(Decision(case, UNMEASURED, "–", "–"))
        else:
            choice = EITHER if conclusion.better is None else NAMES[conclusion.better]
            sure = "–" if conclusion.strength is None else conclusion.strength.value.partition(":")[0]
            lines.append(Decision(case, choice, conclusion.text, sure))
    return lines
