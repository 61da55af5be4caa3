"""The whole report: what comes first, the sections, and where it was measured.

Lives here: the order of the report, its first page and its last one. Must not live here: HTML, Markdown, drawings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from twophase.benchmarks.report.catalogue import CATALOGUE
from twophase.benchmarks.report.paper.blocks import (
    Block,
    Bullets,
    Contents,
    Document,
    Finding,
    Paragraph,
    Part,
    Table,
)
from twophase.benchmarks.report.paper.conclude.all import FIRST, conclude, decisions, draws, losses
from twophase.benchmarks.report.paper.conclude.values import Conclusion
from twophase.benchmarks.report.paper.method import COMPARED, CONTENDERS, SAGA, TWO_PHASE, WORDS
from twophase.benchmarks.report.paper.sections import sections
from twophase.benchmarks.report.paper.words import TITLES, number
from twophase.benchmarks.report.values import Results, Who

TITLE = "Two-phase commit or a saga: what each costs"


def document(found: Results) -> Document:
    """The report of these results. A run that is void has no figures in it, and says why."""
    conclusions = conclude(found)
    parts = [
        *_opening(found, conclusions),
        *([] if found.is_void else [_further(conclusions)]),
        *sections(found),
        _setting(found),
    ]
    return Document(TITLE, _subtitle(found), parts)


def _subtitle(found: Results) -> str:
    machine = found.setting.get("machine", "an unknown machine")
    return (
        f"Suite {found.suite}, seed {found.seed}, begun {found.started}, {found.seconds / 60:.0f} minutes on {machine}."
    )


def _opening(found: Results, conclusions: Mapping[str, Conclusion]) -> Iterator[Part]:
    if found.is_void:
        lines: list[Block] = [
            Paragraph("The databases did not hold what they should, so no figure of this run is shown.", "Void."),
            Bullets(list(found.problems)),
        ]
        yield Part("void", "This run is void", lines)
        yield _patterns()
        return
    yield Part("conclusions", "In short", [*_lacking(found), *_first(conclusions), *_losses(conclusions)])
    yield _patterns()
    rows = [(each.case, each.choice, each.because, each.sure) for each in decisions(conclusions)]
    head = ("if", "then", "because here", "how sure")
    table = Table("If this is your case, and what was measured", head, rows, 4)
    yield Part("which", "Which one, when", [*_always(), table])


def _lacking(found: Results) -> Iterator[Block]:
    if found.missing:
        lines = [f"{TITLES[section]}: {why}." for section, why in found.missing.items()]
        yield Paragraph("Some of it was not measured, or not to the end, and nothing follows from that:", "Not whole.")
        yield Bullets(lines)


def _first(conclusions: Mapping[str, Conclusion]) -> Iterator[Block]:
    yield Paragraph(
        "Two-phase commit changes several databases everywhere or nowhere, and makes others wait meanwhile. A saga"
        " commits step by step, undoes what was done if a later step is refused, and lets others see what may not last."
        " Figures are medians of several repetitions; in brackets stands where another run's are expected. What is"
        " called longest is the longest of all repetitions."
    )
    found = [_finding(conclusions[name]) for name in FIRST if name in conclusions]
    yield from found
    if not found:
        yield Paragraph("Nothing was measured that two-phase commit and a saga could be compared by.")


def _losses(conclusions: Mapping[str, Conclusion]) -> Iterator[Block]:
    if any(each.strength is not None for each in conclusions.values()):
        yield Paragraph(losses(conclusions, Who.TWO_PHASE), "Where two-phase commit loses.")
        yield Paragraph(losses(conclusions, Who.SAGA), "Where the saga loses.")
        if same := draws(conclusions):
            yield Paragraph(same, "Where neither does.")


def _patterns() -> Part:
    blocks: list[Block] = [
        Paragraph(TWO_PHASE, "Two-phase commit."),
        Paragraph(SAGA, "A saga."),
        Paragraph("What is meant here by", "Words."),
        Bullets(list(WORDS)),
    ]
    return Part("patterns", "What the two are", blocks)


def _always() -> Iterator[Block]:
    yield Paragraph(
        "Before any figure: if all of it lies in one database, use one local transaction, an ordinary BEGIN and"
        " COMMIT. If nobody may ever act on half of it, it is two-phase commit. If a part cannot be undone, a saga"
        " has to put it last, behind everything that may be refused. What happens outside of databases, such as a"
        " mail, cannot be prepared either: it comes after the commit. Where several lines of the table hold, the one"
        " that would hurt your business most decides."
    )


def _further(conclusions: Mapping[str, Conclusion]) -> Part:
    rest = [_finding(found) for name, found in conclusions.items() if name not in FIRST]
    contents = Contents([(section.value, TITLES[section], entry.question) for section, entry in CATALOGUE.items()])
    return Part("further", "Further conclusions, and contents", [*rest, contents])


def _finding(found: Conclusion) -> Finding:
    sure = f"{found.strength.value}." if found.strength is not None else ""
    return Finding(found.text, found.figures, found.holds_when, found.flips_when, sure, found.section)


def _setting(found: Results) -> Part:
    setting = found.setting
    rows = [("suite and seed", f"{found.suite}, {found.seed}"), ("begun", found.started)]
    rows.append(("how long it took", f"{found.seconds:.0f} s"))
    rows.append(("a fixed piece of work took", _pace(found)))
    for name, value in setting.items():
        if name != "method":
            rows.append((name.replace("_", " "), _told(value)))
    contenders = Table("The contenders", ("name", "what it does"), CONTENDERS, 2)
    table = Table("Where, when and with what", ("what", "value"), rows, 2)
    absent = [Paragraph(f"{reason}.", f"Left out ({name}):") for name, reason in found.left_out.items()]
    return Part(
        "setting", "How to read it, and where it was measured", [Paragraph(COMPARED), contenders, *absent, table]
    )


def _pace(found: Results) -> str:
    """How fast the machine itself was, section by section."""
    paces = [(TITLES[section], pace) for section in CATALOGUE if (pace := found.pace_us(section)) is not None]
    told = [f"{title} {number(pace)}" for title, pace in paces]
    return f"in µs of processor time, on average: {', '.join(told)}" if told else "not timed in this run"


def _told(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_told(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_told(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
