"""A timeline as a drawing: a lane for each process and each link that failed, one for answers, one for branches.

Lives here: SVG that can be read in black and white, and its legend. Must not live here: the page around it (`page`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final
from xml.etree import ElementTree as ET

from twophase.sandbox.drill.business import Told
from twophase.sandbox.drill.markup import append, element
from twophase.sandbox.drill.timeline import DONE, IN_DOUBT, LATE, STEP, Mark, Timeline
from twophase.sandbox.life import Life
from twophase.sandbox.networks import WHOLE

_QUIET: Final = frozenset({Life.UP.value, WHOLE.name, DONE})
_FILLS: Final = {
    Life.DOWN.value: "fill-down",
    Life.FROZEN.value: "fill-frozen",
    Life.STARTING.value: "fill-between",
    Life.STOPPING.value: "fill-between",
    Life.STANDING_BY.value: "fill-between",
    IN_DOUBT: "fill-between",
}
_TOLD: Final = {Told.OK: "fill-ok", Told.FAILED: "fill-frozen", Told.UNKNOWN: "fill-down"}

_LEFT: Final = 190.0
_WIDTH: Final = 700.0
_LANE: Final = 20.0
_GRAPH: Final = 60.0
_GAP: Final = 14.0
_LETTER: Final = 6.0
_TICKS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)


def patterns() -> ET.Element:
    """The hatchings that every drawing of a page uses; once for each page."""

    def pattern(name: str, *lines: str) -> ET.Element:
        strokes = [element("path", d=line, stroke="black", stroke_width=1) for line in lines]
        ground = element("rect", width=6, height=6, fill="white")
        return element("pattern", ground, *strokes, id=name, width=6, height=6, patternUnits="userSpaceOnUse")

    diagonal, counter = "M-1,1 l2,-2 M0,6 l6,-6 M5,7 l2,-2", "M-1,5 l2,2 M0,0 l6,6 M5,-1 l2,2"
    drawn = element("defs", pattern("hatched", diagonal), pattern("crossed", diagonal, counter))
    return element("svg", drawn, width=0, height=0, aria_hidden="true", class_="patterns")


def legend() -> ET.Element:
    """What the fillings mean."""
    meanings = (
        ("fill-up", "up, or a whole link; an answer: committed"),
        ("fill-between", "starting, stopping or standing by; recovery: from the ready line until nothing is in doubt"),
        ("fill-down", f"down; an answer: unknown; a branch: prepared for longer than {LATE:g} s"),
        ("fill-frozen", "frozen (SIGSTOP); an answer: failed, nothing happened"),
        ("fill-link", "a link that fails, in the way that is named"),
    )
    rows = [
        element("li", element("svg", element("rect", width=30, height=12, class_=fill), width=30, height=12), " ", text)
        for fill, text in meanings
    ]
    return element("ul", *rows, class_="legend")


def chart(timeline: Timeline, label: str) -> ET.Element:
    """The drawing of one drill."""
    drawing = _Drawing(timeline, label)
    for who in _lanes(timeline):
        drawing.lane(who)
    drawing.answers()
    drawing.branches()
    return drawing.finish()


class _Drawing:
    """From top to bottom; `y` is where the next thing goes."""

    def __init__(self, timeline: Timeline, label: str) -> None:
        self._timeline = timeline
        self._scale = _WIDTH / max(timeline.seconds, STEP)
        self._y = 0.0
        self._svg = element("svg", role="img", aria_label=label, class_="timeline")

    def lane(self, who: str) -> None:
        """Who was what."""
        self._name(who, self._y + _LANE * 0.6)
        append(self._svg, self._rect(0, self._timeline.seconds, self._y + 2, _LANE - 5, "fill-up"))
        for begin, end, what in _spans(self._timeline, who):
            if what in _QUIET:
                continue
            append(self._svg, self._rect(begin, end, self._y + 2, _LANE - 5, _FILLS.get(what, "fill-link"), title=what))
            self._word(begin, end, what)
        self._y += _LANE

    def answers(self) -> None:
        """What the clients were told, stacked."""
        self._y += _GAP
        counts = self._timeline.answers
        highest = self._axis(max((sum(counted.values()) for counted in counts), default=0), "answers per 100 ms")
        for number, counted in enumerate(counts):
            base = self._y + _GRAPH
            for told, fill in _TOLD.items():
                height = counted.get(told, 0) / highest * _GRAPH
                if height:
                    base -= height
                    append(self._svg, self._rect(number * STEP, (number + 1) * STEP, base, height, fill))
        self._y += _GRAPH

    def branches(self) -> None:
        """How many branches were prepared, and for long."""
        self._y += _GAP
        samples = self._timeline.samples
        highest = self._axis(max((sample.prepared for sample in samples), default=0), "prepared branches")
        ends = [sample.at for sample in samples[1:]] + [self._timeline.seconds]
        for sample, end in zip(samples, ends, strict=False):
            for count, fill in ((sample.prepared, "fill-between"), (sample.late, "fill-down")):
                if count:
                    height = count / highest * _GRAPH
                    append(self._svg, self._rect(sample.at, end + STEP / 20, self._y + _GRAPH - height, height, fill))
        self._y += _GRAPH

    def finish(self) -> ET.Element:
        """With the axis of time below everything."""
        step = next((tick for tick in _TICKS if self._timeline.seconds / tick <= 16), _TICKS[-1])
        for number in range(math.floor(self._timeline.seconds / step) + 1):
            x = self._x(number * step)
            append(
                self._svg,
                element("line", x1=x, x2=x, y1=0, y2=self._y + 4, class_="tick"),
                element("text", f"{number * step:g}", x=x, y=self._y + 16, class_="middle"),
            )
        append(self._svg, element("text", "seconds", x=_LEFT - 8, y=self._y + 16, class_="end"))
        width, height = _LEFT + _WIDTH + 20, self._y + 22
        self._svg.set("viewBox", f"0 0 {width:g} {height:g}")
        self._svg.set("width", f"{width:g}")
        return self._svg

    def _axis(self, highest: int, text: str) -> int:
        top, base = self._y, self._y + _GRAPH
        self._name(text, top + _GRAPH / 2)
        append(
            self._svg,
            element("line", x1=_LEFT, x2=_LEFT + _WIDTH, y1=base, y2=base, class_="axis"),
            element("line", x1=_LEFT, x2=_LEFT, y1=top, y2=base, class_="axis"),
            element("text", str(highest), x=_LEFT - 4, y=top + 8, class_="end"),
            element("text", "0", x=_LEFT - 4, y=base, class_="end"),
        )
        return max(highest, 1)

    def _name(self, text: str, y: float) -> None:
        append(self._svg, element("text", text, x=_LEFT - 26, y=y + 2, class_="end name"))

    def _word(self, begin: float, end: float, what: str) -> None:
        room = (end - begin) * self._scale
        if room > len(what) * _LETTER + 8:
            x, y = self._x(begin) + 4, self._y + _LANE * 0.6
            back = element("rect", x=x - 2, y=y - 8, width=len(what) * _LETTER + 4, height=11, class_="plate")
            append(self._svg, back, element("text", what, x=x, y=y + 1))

    def _rect(self, begin: float, end: float, y: float, height: float, fill: str, *, title: str = "") -> ET.Element:
        x = self._x(begin)
        width = max(self._x(min(end, self._timeline.seconds)) - x, 1.0)
        told = [element("title", f"{title}, {begin:.2f} s to {end:.2f} s")] if title else []
        return element("rect", *told, x=x, y=y, width=width, height=height, class_=fill)

    def _x(self, seconds: float) -> float:
        return _LEFT + min(seconds, self._timeline.seconds) * self._scale


def _lanes(timeline: Timeline) -> Sequence[str]:
    """Processes always, links only if they failed, in the order in which they were first heard of."""
    told = {mark.who for mark in timeline.marks if mark.what not in _QUIET}
    known = dict.fromkeys((*timeline.before, *(mark.who for mark in timeline.marks)))
    return [who for who in known if who in told or timeline.before.get(who) in {life.value for life in Life}]


def _spans(timeline: Timeline, who: str) -> Iterator[tuple[float, float, str]]:
    """From when to when somebody was what."""
    own = [Mark(0.0, who, timeline.before[who])] if who in timeline.before else []
    own += [mark for mark in timeline.marks if mark.who == who]
    for mark, following in itertools.zip_longest(own, own[1:]):
        yield mark.at, timeline.seconds if following is None else following.at, mark.what
