"""What is wanted of a figure, beside what was measured.

Lives here: the comparison, as a value. Must not live here: the figures. Nobody fails a build on it: a figure that was
measured on a busy machine says little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Wanted:
    """A figure, and the limit it is to keep. `unit` stands behind numbers; ratios have none."""

    what: str
    measured: float
    limit: float
    at_most: bool
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure keeps the limit; exactly at it is kept."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    @property
    def limit_in_words(self) -> str:
        """For a table."""
        return f"at {'most' if self.at_most else 'least'} {self.limit:g}{self.unit}"

    def to_json(self) -> dict[str, Any]:
        """With the verdict."""
        return {
            "what": self.what,
            "measured": round(self.measured, 3),
            "unit": self.unit.strip(),
            "limit": self.limit,
            "at_most": self.at_most,
            "met": self.met,
        }


def at_most(what: str, measured: float, limit: float, *, unit: str = "") -> Wanted:
    """The less, the better."""
    return Wanted(what, measured, limit, at_most=True, unit=unit)


def at_least(what: str, measured: float, limit: float, *, unit: str = "") -> Wanted:
    """The more, the better."""
    return Wanted(what, measured, limit, at_most=False, unit=unit)
