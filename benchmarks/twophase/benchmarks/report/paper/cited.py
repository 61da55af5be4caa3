"""What other documents cite of a run: text between two marks, made from its results.

Lives here: the marks, and the text for each document. Must not live here: where the documents are.
"""

from __future__ import annotations

from typing import Final

from twophase.benchmarks.report.paper.conclude.all import conclude, decisions, losses
from twophase.benchmarks.report.paper.words import duration
from twophase.benchmarks.report.values import Results, Who

BEGIN: Final = "<!-- measured: written by tests/tools/write_benchmark_figures.py -->"
END: Final = "<!-- end of what was measured -->"


def run_of(found: Results) -> str:
    """Which run it was."""
    revision = found.setting.get("revision") or "unknown"
    return (
        f"revision {revision} on {found.setting['machine']}, {found.started[:10]}, suite {found.suite}, seed"
        f" {found.seed}, {duration(found.seconds)}"
    )


def for_choosing(found: Results) -> str:
    """The table of cases with their figures, and where either protocol loses. For a document in `docs/`."""
    conclusions = conclude(found)
    rows = [f"| {each.case} | **{each.choice}** | {each.because} |" for each in decisions(conclusions)]
    lines = [
        f"Measured in one run, which is kept: {run_of(found)}.",
        (
            "[The whole report](benchmarks/full/report.md) has the spread behind each figure, the settings, and under"
            " which of them it comes out the other way."
        ),
        "",
        "| if | then | because, as measured |",
        "|---|---|---|",
        *rows,
        "",
        losses(conclusions, Who.TWO_PHASE),
        losses(conclusions, Who.SAGA),
    ]
    return "\n".join(lines)


def for_readme(found: Results) -> str:
    """Where the run is. For the document beside its directory."""
    lines = [
        f"A full run is kept here, with everything that was measured: {run_of(found)}.",
        "",
        "- [the report](full/report.md), to read here",
        "- [the same as one page](full/report.html), to download and to print",
        "- [its results](full/results.json), to check, and to write the report from again with `--from`",
    ]
    return "\n".join(lines)


def filled(document: str, text: str) -> str:
    """The document with this text between its marks. Raises ValueError if it has none."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the document has no place for what was measured, between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"
