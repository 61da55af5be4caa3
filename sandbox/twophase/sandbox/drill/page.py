"""The report of a run as one page that needs nothing else: `twophase drill --html FILE`.

Lives here: the page's words and its style. Must not live here: the drawings (`chart`), escaping (`markup`).
"""

from __future__ import annotations

from typing import Final
from xml.etree import ElementTree as ET

from twophase.sandbox.drill.chart import chart, legend, patterns
from twophase.sandbox.drill.failures import FAILURES
from twophase.sandbox.drill.markup import element, page
from twophase.sandbox.drill.run import Outcome, Report, Verdict

_STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; color: #000; background: #fff; max-width: 940px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.1em; margin: 2.2em 0 .2em; }
table { border-collapse: collapse; width: 100%; } caption { text-align: left; font-weight: bold; }
th, td { text-align: left; padding: .15em .8em .15em 0; border-bottom: 1px solid #bbb; vertical-align: top; }
td.number, th.number { text-align: right; }
.wrong { font-weight: bold; } .wrong::before { content: "\\2717 "; } .right::before { content: "\\2713 "; }
.patterns { position: absolute; } svg.timeline { width: 100%; height: auto; }
svg text { font: 10px system-ui, sans-serif; } .end { text-anchor: end; } .middle { text-anchor: middle; }
.fill-up, .fill-ok { fill: #fff; stroke: #999; stroke-width: .5; } .fill-ok { fill: #ddd; }
.fill-between { fill: #bbb; } .fill-down { fill: #000; } .fill-frozen { fill: url(#hatched); stroke: #000;
  stroke-width: .5; } .fill-link { fill: url(#crossed); stroke: #000; stroke-width: .5; }
.plate { fill: #fff; } .tick { stroke: #ccc; stroke-width: .5; } .axis { stroke: #000; stroke-width: .7; }
.legend { list-style: none; padding: 0; font-size: 13px; }
@media print { section { break-inside: avoid; } }
"""
_FAILURES: Final = {name: failure for failure in FAILURES for name in failure.drills}
_WORDS: Final = {Verdict.PASSED: "passed", Verdict.FAILED: "FAILED", Verdict.SKIPPED: "skipped"}


def html(report: Report) -> str:
    """The page."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", "twophase drill"),
        element("style", _STYLE),
    )
    body = element(
        "body",
        patterns(),
        element("h1", "twophase drill"),
        *_summary(report),
        _contents(report),
        element("h2", "How to read the timelines"),
        legend(),
        *(_section(number, outcome) for number, outcome in enumerate(report.outcomes, start=1)),
    )
    return page(element("html", head, body, lang="en"))


def _summary(report: Report) -> list[ET.Element]:
    summary = report.to_json()
    recovery = "not measured"
    if summary["recovery_ms_median"] is not None:
        recovery = f"median {_milliseconds(summary['recovery_ms_median'])}, longest"
        recovery += f" {_milliseconds(summary['recovery_ms_max'])}"
    points = f"{len(report.wanted & report.hit)} of the {len(report.wanted)} of these drills were hit;"
    points += f" {summary['points_registered']} are registered"
    drills = f"{len(report.outcomes)}: {summary['drills_passed']} passed, {summary['drills_failed']} failed,"
    drills += f" {summary['drills_skipped']} skipped"
    rows = [
        ("drills", drills),
        ("crash points", points),
        ("violations", f"{summary['violations']}, and {summary['outside_violations']} by the outside checker"),
        ("branches in doubt at the end", str(summary["in_doubt_left"])),
        ("from the ready line until no branch of before was in doubt", recovery),
        ("begun, and how long it took", f"{report.setting.started}, {report.seconds:.0f} s"),
        ("machine", report.setting.machine),
        ("versions", ", ".join(f"{name} {version}" for name, version in report.setting.versions.items())),
    ]
    verdict = "Nothing was wrong." if report.passed else "Something was wrong."
    return [
        element("p", verdict, class_="right" if report.passed else "wrong"),
        element("table", *(element("tr", element("th", name), element("td", text)) for name, text in rows)),
        *(
            [element("p", f"Not hit: {', '.join(summary['points_missed'])}", class_="wrong")]
            * bool(summary["points_missed"])
        ),
    ]


def _contents(report: Report) -> ET.Element:
    rows = [
        element(
            "tr",
            element("td", element("a", outcome.drill.name, href=f"#drill-{number}")),
            element("td", _WORDS[outcome.verdict], class_=_sign(outcome)),
            element("td", _milliseconds(outcome.recovery_ms), class_="number"),
            element("td", f"{outcome.seconds:.1f} s", class_="number"),
        )
        for number, outcome in enumerate(report.outcomes, start=1)
    ]
    titles = element(
        "tr",
        element("th", "drill"),
        element("th", "outcome"),
        element("th", "recovery", class_="number"),
        element("th", "time", class_="number"),
    )
    return element("table", element("caption", "All drills"), titles, *rows)


def _section(number: int, outcome: Outcome) -> ET.Element:
    told = ", ".join(f"{count} {word}" for word, count in outcome.told.items())
    recovered = f"; nothing of before in doubt after {_milliseconds(outcome.recovery_ms)}"
    figures = ", ".join(f"{name.replace('_', ' ')} {figure:.2f}" for name, figure in outcome.figures.items())
    failure = _FAILURES.get(outcome.drill.name)
    told_of = [] if failure is None else [element("p", f"{failure.happens} Finished by: {failure.finished_by}.")]
    lines = [
        element("p", outcome.drill.about[:1].upper() + outcome.drill.about[1:] + "."),
        *told_of,
        element("p", _WORDS[outcome.verdict], class_=_sign(outcome)),
        element("p", f"Clients were told: {told}{recovered if outcome.recovery_ms is not None else ''}."),
    ]
    if outcome.skipped:
        lines.append(element("p", f"Skipped: {outcome.skipped}"))
    if figures:
        lines.append(element("p", f"Measured: {figures}."))
    if outcome.wrong:
        lines.append(element("ul", *(element("li", violation) for violation in outcome.wrong)))
    drawn = chart(outcome.timeline, f"timeline of the drill {outcome.drill.name}")
    return element("section", element("h2", outcome.drill.name, id=f"drill-{number}"), *lines, drawn)


def _sign(outcome: Outcome) -> str:
    match outcome.verdict:
        case Verdict.PASSED:
            return "right"
        case Verdict.FAILED:
            return "wrong"
        case Verdict.SKIPPED:
            return ""


def _milliseconds(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.0f} ms"
