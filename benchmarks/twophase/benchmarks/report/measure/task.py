"""One load of one contender, and what its clients were told: the values that go to its process and come back.

Lives here: `Task`, `Answer`, `Told`, and their JSON. Must not live here: sending (`pacing`), what the books hold
(`books`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self, TypeAlias

from twophase.benchmarks.report.measure.business import Deed, Mix, Workload, deed_of


class Told(StrEnum):
    """What a client knows. REFUSED, CONFLICT and AWAY left nothing behind, UNDONE was done in part and taken back.

    HALF: some of it is done for good, and nobody will take it back. UNKNOWN is whole or nothing.
    """

    OK = "ok"
    REFUSED = "refused"
    CONFLICT = "conflict"
    UNDONE = "undone"
    HALF = "half"
    AWAY = "away"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Task:
    """A load: `clients` one after the other (a closed loop), or `rate` a second (an open one) if that is not 0.

    Durations in seconds; what counts are the `seconds` behind `warm_up`. `timeout` is what a client waits for: an open
    load is over so long after the last sending, whatever is not answered then. `run` begins every name.
    """

    run: str
    mix: Mix
    seed: str
    seconds: float
    warm_up: float = 0.5
    clients: int = 16
    rate: float = 0.0
    timeout: float = 5.0

    def planned(self) -> Iterator[tuple[float, Deed]]:
        """An open load: when to send, in seconds from the time that counts, and what."""
        for number in range(round((self.warm_up + self.seconds) * self.rate)):
            yield number / self.rate - self.warm_up, self.deed(f"{self.run}/{number}")

    def of_client(self, client: int) -> Iterator[Deed]:
        """A closed load: what one client sends, without an end."""
        return (self.deed(f"{self.run}/{client}.{number}") for number in itertools.count())

    def deed(self, name: str) -> Deed:
        """What a name stands for."""
        return deed_of(self.mix, self.seed, name)

    def to_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """What `to_json` made."""
        mix = Mix(**{**found["mix"], "workload": Workload(found["mix"]["workload"])})
        return cls(**{**found, "mix": mix})


@dataclass(frozen=True, slots=True)
class Answer:
    """`at`: when it was due (open) or sent (closed), in seconds from the time that counts; `seconds` until the answer.

    What was not answered in time has waited at least so long, and is UNKNOWN.
    """

    name: str
    at: float
    seconds: float
    told: Told

    @property
    def end(self) -> float:
        """When it was answered, in seconds from the time that counts."""
        return self.at + self.seconds


@dataclass(slots=True)
class Log:
    """What one load's clients were told. `begin`: when the time that counts began, in seconds since 1970."""

    begin: float = 0.0
    seconds: float = 0.0
    answers: list[Answer] = field(default_factory=list)

    def inside(self) -> list[Answer]:
        """A closed load: answered in the time that counts."""
        return [each for each in self.answers if 0 <= each.end < self.seconds]

    def due(self) -> list[Answer]:
        """An open load: to be sent in the time that counts, whenever it was answered."""
        return [each for each in self.answers if 0 <= each.at < self.seconds]

    def to_json(self) -> dict[str, Any]:
        """For `from_json`."""
        answers = [(each.name, round(each.at, 6), round(each.seconds, 6), each.told) for each in self.answers]
        return {"begin": self.begin, "seconds": self.seconds, "answers": answers}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """What `to_json` made."""
        answers = [Answer(name, at, seconds, Told(told)) for name, at, seconds, told in found["answers"]]
        return cls(found["begin"], found["seconds"], answers)


Tell: TypeAlias = Callable[[str], None]
"""Is told `begin` and `end` of the time that counts, at those moments."""
