"""What the documents cite of the kept run is what it measured, and the kept report is what its results make."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from benchmarks.report.made_up import whole
from twophase.benchmarks.report.paper import folder
from twophase.benchmarks.report.paper.cited import BEGIN, END, filled, for_choosing, for_readme
from twophase.benchmarks.report.paper.conclude.all import conclude, decisions
from twophase.benchmarks.report.paper.document import document
from twophase.benchmarks.report.paper.markdown import markdown
from twophase.benchmarks.report.values import Suite

DOCS: Final = Path(__file__).parents[3] / "docs"
KEPT: Final = DOCS / "benchmarks" / "full"
WRITES: Final = {DOCS / "choosing.md": for_choosing, DOCS / "benchmarks" / "README.md": for_readme}

is_kept = pytest.mark.skipif(not (KEPT / folder.RESULTS).exists(), reason="no run is kept in docs/benchmarks/full")


@is_kept
def test_the_kept_run_is_a_whole_full_one() -> None:
    found = folder.read(KEPT / folder.RESULTS)
    assert (found.suite, found.is_whole) == (Suite.FULL, True)


@is_kept
@pytest.mark.parametrize("path", WRITES, ids=lambda path: path.name)
def test_documents_cite_what_the_kept_run_measured(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    written = filled(text, WRITES[path](folder.read(KEPT / folder.RESULTS)))
    assert text == written, "run tests/tools/write_benchmark_figures.py"


@is_kept
def test_the_kept_report_is_what_its_results_make() -> None:
    made = markdown(document(folder.read(KEPT / folder.RESULTS)))
    told = "run: twophase bench report --from docs/benchmarks/full/results.json --out docs/benchmarks/full"
    assert (KEPT / folder.MARKDOWN).read_text(encoding="utf-8") == made, told


@pytest.mark.parametrize("path", WRITES, ids=lambda path: path.name)
def test_every_document_that_cites_has_its_place(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert filled(filled(text, "one"), "other") == filled(text, "other")


def test_choosing_gets_every_case_with_its_figures() -> None:
    text = for_choosing(whole())
    for each in decisions(conclude(whole())):
        assert f"| {each.case} | **{each.choice}** | {each.because} |" in text
    assert "Two-phase commit loses in" in text
    assert "The saga loses in" in text


def test_a_document_without_a_place_is_told() -> None:
    with pytest.raises(ValueError, match="has no place"):
        filled("text", "figures")
