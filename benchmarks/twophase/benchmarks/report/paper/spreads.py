"""A figure over its repetitions: what it is, and where that of another run would lie.

Lives here: what a few repetitions tell. Must not live here: when one figure is better than another (`compare`), words.

Two or three repetitions hardly tell how much a figure varies: the median of another run lies outside their least and
most every third time. All contenders and settings of a section together tell it well. So the variance of one is taken
together with that of all, as if these were a few more repetitions (a prior, as in Smyth, Statistical Applications in
Genetics and Molecular Biology 3, 2004), and from that comes the interval in which 19 of 20 medians of another run are
expected (a prediction interval, by Student's t).
"""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_PRIOR: Final = 4
"""How many degrees of freedom the other settings together count for."""

_STUDENT: Final = {4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_STUDENT_ABOVE: Final = 2.228
"""Two-sided 95 % quantiles of t by degrees of freedom, and the one for more of them."""

_OF_MEDIAN: Final = {1: 1.0, 2: 0.5, 3: 0.449, 4: 0.298, 5: 0.287}
"""Variance of the median of so many normal values with variance 1; of many it is pi / 2 of the mean's."""

_OF_VARIANCES: Final = {1: 0.455, 2: 0.693, 3: 0.789, 4: 0.839, 5: 0.870}
"""The median of estimates of a variance with so many degrees of freedom, of the variance: that of chi-squared."""

_SMALL: Final = 0.01
"""Of a section's usual value. Below that, a factor means nothing."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the repetitions: its value, and from where to where that of another run is expected.

    The value is the median; of what is a longest in itself, that of all repetitions.
    """

    value: float
    low: float
    high: float
    repetitions: int


class _Scale(ABC):
    """On which values vary alike, whether they are large or small."""

    @abstractmethod
    def to(self, value: float) -> float: ...

    @abstractmethod
    def back(self, scaled: float) -> float: ...


@dataclass(frozen=True, slots=True)
class _Factors(_Scale):
    """For what varies by factors: a logarithm but for small values, where it knows zero and less."""

    small: float

    def to(self, value: float) -> float:
        return math.asinh(value / self.small)

    def back(self, scaled: float) -> float:
        return self.small * math.sinh(scaled)


@dataclass(frozen=True, slots=True)
class _Shares(_Scale):
    """For how many of `whole` something happened to (Fisher's arcsine of the square root)."""

    whole: float

    def to(self, value: float) -> float:
        return math.asin(math.sqrt(value / self.whole))

    def back(self, scaled: float) -> float:
        return self.whole * math.sin(min(max(scaled, 0.0), math.pi / 2)) ** 2


@dataclass(frozen=True, slots=True)
class Noise:
    """How much a figure usually varies from one repetition to the next: the variance on a scale.

    Usually is at half of the settings: what varies wildly at one of them is no reason to know less of the others.
    """

    variance: float
    scale: _Scale

    @classmethod
    def among(cls, cells: Sequence[Sequence[float]], *, whole: float | None = None) -> Noise | None:
        """From the repetitions of every setting; of a share `whole` is what it is of. None if nothing was repeated."""
        finite = [value for cell in cells for value in cell if math.isfinite(value)]
        scale: _Scale
        if whole is not None and all(0 <= value <= whole for value in finite):
            scale = _Shares(whole)
        else:
            scale = _Factors(_SMALL * statistics.median([abs(value) for value in finite if value] or [100.0]))
        variances = [
            _squares(cell, scale) / (len(cell) - 1) / _OF_VARIANCES.get(len(cell) - 1, 1.0)
            for cell in cells
            if len(cell) > 1 and any(cell) and all(map(math.isfinite, cell))
        ]
        return cls(statistics.median(variances), scale) if variances else None

    def spread(self, values: Sequence[float]) -> Spread:
        """Of the repetitions of one setting; there must be one. What never ended has no interval but what was seen."""
        median, count = statistics.median(values), len(values)
        if not all(map(math.isfinite, values)):
            return Spread(median, min(values), max(values), count)
        degrees = _PRIOR + count - 1
        variance = (_PRIOR * self.variance + _squares(values, self.scale)) / degrees
        both = 2 * _OF_MEDIAN.get(count, math.pi / 2 / count)  # this run's median varies, and so does the other's
        away = _STUDENT.get(degrees, _STUDENT_ABOVE) * math.sqrt(variance * both)
        middle = self.scale.to(median)
        low, high = (self.scale.back(middle + each) for each in (-away, away))
        return Spread(median, low if min(values) < 0 else max(0.0, low), high, count)


def spread_among(
    values: Sequence[float], cells: Sequence[Sequence[float]], *, whole: float | None = None
) -> Spread | None:
    """The spread of one setting among all of them; `whole` as for `Noise.among`. None if there are no values; without
    any repetition, a point."""
    if not values:
        return None
    noise = Noise.among(cells, whole=whole)
    if noise is None:
        return Spread(statistics.median(values), min(values), max(values), len(values))
    return noise.spread(values)


def longest_of(values: Sequence[float]) -> Spread | None:
    """Of a figure that is the longest of something: it depends on what was hit, so it is the longest of all, and its
    spread what was seen. None if there are no values."""
    return Spread(max(values), min(values), max(values), len(values)) if values else None


def _squares(values: Sequence[float], scale: _Scale) -> float:
    scaled = [scale.to(value) for value in values]
    middle = statistics.fmean(scaled)
    return sum((each - middle) ** 2 for each in scaled)
