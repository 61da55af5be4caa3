"""The report: one page that needs nothing else, with every section, its drawing and its tables, the same both ways."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from typing import Final

import pytest

from benchmarks.report import made as everything
from benchmarks.report.made_up import names_missing, results
from twophase.benchmarks.report.catalogue import CATALOGUE
from twophase.benchmarks.report.paper import method, sections
from twophase.benchmarks.report.paper.blocks import (
    Block,
    Bullets,
    Contents,
    Document,
    Finding,
    Heading,
    Paragraph,
    Part,
    Plot,
    Table,
)
from twophase.benchmarks.report.paper.document import document
from twophase.benchmarks.report.paper.html import html
from twophase.benchmarks.report.paper.markdown import markdown
from twophase.benchmarks.report.paper.words import NAMES, SUBJECTS, TITLES, milliseconds, number
from twophase.benchmarks.report.values import NEVER, Results, Section, Who

MOST_BYTES: Final = 4_000_000
NASTY: Final = '<b>&"quoted"</b> | *star*'


@pytest.fixture(scope="module", name="found")
def whole_run() -> Results:
    return everything.found()


@pytest.fixture(scope="module", name="made")
def whole_report() -> Document:
    return everything.made()


class Page(HTMLParser):
    """What a browser and a screen reader would look for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.outside: list[str] = []
        self.drawings: list[str] = []
        self.headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.tags[tag] += 1
        if "id" in known:
            self.ids[known["id"]] += 1
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(tag)
        if tag == "svg":
            self.drawings.append(known.get("aria-label", ""))
        for name, value in known.items():
            if name in ("src", "href", "data", "xlink:href"):
                (self.links if value.startswith("#") else self.outside).append(value)
            self.links += re.findall(r"url\((#[^)]*)\)", value)


@pytest.fixture(scope="module")
def page(made: Document) -> Page:
    return Page(html(made))


def test_made_up_results_have_everything_that_the_catalogue_names(found: Results) -> None:
    assert names_missing(found) == []


def test_the_page_needs_nothing_from_outside(page: Page, made: Document) -> None:
    assert page.outside == []
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    assert "@import" not in html(made)
    assert len(html(made).encode()) < MOST_BYTES


def test_every_reference_within_the_page_has_its_one_target(page: Page) -> None:
    assert [name for name, count in page.ids.items() if count > 1] == []
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


def test_headings_go_down_one_level_at_a_time(page: Page) -> None:
    levels = [int(heading[1]) for heading in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_every_table_has_a_caption_and_every_drawing_says_what_is_seen(page: Page, made: Document) -> None:
    assert page.tags["table"] == page.tags["caption"] > len(Section)
    assert page.tags["figure"] == page.tags["figcaption"] == len(made.plots())
    assert len(page.drawings) == len(made.plots())
    assert all(len(label) > 20 for label in page.drawings)


def test_every_section_has_its_question_a_drawing_a_table_and_how_it_was_measured(made: Document) -> None:
    parts = {part.anchor: part for part in made.parts}
    for section, entry in CATALOGUE.items():
        blocks = parts[section].blocks
        assert blocks[0] == Paragraph(entry.question)
        kinds = {type(block) for block in blocks}
        assert {Plot, Table} <= kinds, section
        assert [block.text for block in blocks if isinstance(block, Heading)] == [
            "How it was measured",
            "What it does not say",
        ]


def test_every_figure_of_the_catalogue_is_in_a_table() -> None:
    for section, entry in CATALOGUE.items():
        shown = sections._SHOWN[section]
        told = {*shown.alone, *(figure for _, figures in shown.together for figure in figures)}
        assert told == set(entry.figures), section


def test_everything_has_its_words() -> None:
    for known in (TITLES, method.MEASURED, method.LIMITS, CATALOGUE):
        assert set(known) == set(Section)
    for names in (NAMES, SUBJECTS):
        assert set(names) == set(Who)
    assert [name for name, _ in method.CONTENDERS] == list(NAMES.values())


def test_the_report_opens_with_its_conclusions_then_what_the_two_are_then_the_decisions(made: Document) -> None:
    first, second, third = made.parts[:3]
    assert (first.anchor, second.anchor, third.anchor) == ("conclusions", "patterns", "which")
    assert sum(isinstance(block, Finding) for block in first.blocks) == 5
    leads = [block.lead for block in first.blocks if isinstance(block, Paragraph)]
    assert leads[-3:] == ["Where two-phase commit loses.", "Where the saga loses.", "Where neither does."]
    (table,) = [block for block in third.blocks if isinstance(block, Table)]
    assert {row[1] for row in table.rows} == {"two-phase commit", "saga"}


def test_markdown_says_what_the_page_says(made: Document) -> None:
    text = markdown(made)
    for part in made.parts:
        assert f"## {part.title}" in text
    for plot in made.plots():
        assert f"](plots/{plot.name}.svg)" in text
    for link in re.findall(r"\]\(#([^)]*)\)", text):
        assert f'<a id="{link}"></a>' in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(row.endswith(" |") for row in rows)


def test_a_void_run_shows_no_figures_and_says_why(found: Results) -> None:
    void = results(*found.measurements, problems=["account 7 of left holds 3"])
    made = document(void)
    assert made.plots() == []
    kinds = {type(block) for part in made.parts for block in part.blocks}
    assert Finding not in kinds
    assert {part.anchor for part in made.parts if any(isinstance(block, Table) for block in part.blocks)} == {"setting"}
    for text in (html(made), markdown(made)):
        assert "This run is void" in text
        assert "account 7 of left holds 3" in text


def test_what_is_missing_is_told_on_the_first_page_and_where_it_would_be() -> None:
    made = document(replace(results(), missing={Section.FAN_OUT: "no room for 32 databases"}))
    assert html(made).count("no room for 32 databases") == 2
    assert "Not whole." in [block.lead for block in made.parts[0].blocks if isinstance(block, Paragraph)]
    assert html(made).count("Not measured in this run.") == len(Section)


def test_whatever_is_in_the_results_is_escaped() -> None:
    made = document(results(problems=[NASTY]))
    assert "<b>&" not in html(made)
    assert "&lt;b&gt;&amp;" in html(made)
    assert "\\*star\\*" in markdown(made)


def test_how_a_run_measured_is_told_where_it_says_so(found: Results) -> None:
    told = Results(found.suite, 1, found.started, 1.0, {"method": {"capacity": ["2 rounds of 1 s"]}}, ())
    (capacity,) = [part for part in document(told).parts if part.anchor == Section.CAPACITY]
    assert Bullets(["2 rounds of 1 s"]) in capacity.blocks


def test_numbers_have_three_digits_that_count() -> None:
    told = [number(value) for value in (0, 0.01234, 1.0, 1.5, 12.34, 123.4, 1234.5, 12345, -0.5)]
    assert told == ["0", "0.0123", "1", "1.5", "12.3", "123", "1,230", "12,300", "-0.5"]
    assert milliseconds(12.3) == "12.3 ms"
    assert milliseconds(10_400) == "10.4 s"
    assert milliseconds(float("inf")) == "not in the time measured"


def test_a_crash_without_an_end_is_in_the_tables(made: Document) -> None:
    (crash,) = [part for part in made.parts if part.anchor == Section.CRASH]
    tables = [block for block in crash.blocks if isinstance(block, Table)]
    assert all(any("never started again" in row for row in table.rows) for table in tables)
    assert str(NEVER) not in str(tables).replace("never started again", "")


@pytest.mark.parametrize(
    "block",
    [
        Paragraph("text"),
        Bullets(["one"]),
        Heading("text"),
        Table("caption", ["a"], [["1"]], 1),
        Finding("text", [("figure", "1 ms")], "", "", "", "here"),
        Contents([("here", "title", "question")]),
    ],
    ids=lambda block: type(block).__name__,
)
def test_every_kind_of_block_can_be_written(block: Block) -> None:
    one = Document("title", "", [Part("here", "part", [block])])
    assert Page(html(one)).tags["section"] == 1
    assert markdown(one)
