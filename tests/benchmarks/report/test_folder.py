"""The files of a report: whole or not there, and read again as they were."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.report.made_up import measurement, results, whole
from twophase.benchmarks.report.paper import folder, summary
from twophase.benchmarks.report.values import Section, Who


def test_what_is_written_reads_again_and_writes_the_same(tmp_path: Path) -> None:
    few = (Section.FAN_OUT, Section.CLEARING)
    found = results(*(each for each in whole().measurements if each.section in few))
    files = folder.write(found, tmp_path)
    assert [path.name for path in files] == ["report.html", "report.md", "results.json"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["clearing.svg", "fan-out.svg"]
    again = folder.read(tmp_path / "results.json")
    assert folder.as_text(again) == folder.as_text(found)
    before = {path: path.read_bytes() for path in files}
    assert {path: path.read_bytes() for path in folder.write(again, tmp_path)} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plots", "report.html", "report.md", "results.json"]


def test_results_are_json_with_a_measurement_a_line() -> None:
    found = results(measurement(Section.CLEARING, Who.TWO_PHASE, {"branches": 1}, clear_ms=math.inf))
    text = folder.as_text(found)
    assert json.loads(text) == found.to_json()
    assert len([line for line in text.splitlines() if line.startswith('{"section"')]) == 1
    assert json.loads(folder.as_text(results())) == results().to_json()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no json", "is not JSON"),
        ("[]", "not the results of a run"),
        ("{}", "it has no 'version'"),
        ('{"version": 99}', "version 99"),
        ('{"version": 1, "suite": "huge"}', "'huge' is not a valid Suite"),
    ],
)
def test_what_is_no_results_is_told_in_a_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(folder.NotResultsError, match=r"results\.json") as told:
        folder.read(path)
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def test_a_picture_is_no_results(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(folder.NotResultsError, match="not a text file"):
        folder.read(path)


def interrupted_in(directory: Path, *, leaving: str = "") -> None:
    with folder.made(directory) as made:
        assert made.is_dir()
        if leaving:
            (made / leaving).write_text("mine", encoding="utf-8")
        raise KeyboardInterrupt


def test_a_directory_made_for_nothing_goes_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted_in(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_was_there_stays_and_so_does_what_somebody_put_in(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted_in(tmp_path)
    assert tmp_path.is_dir()
    with pytest.raises(KeyboardInterrupt):
        interrupted_in(tmp_path / "new", leaving="note")
    assert (tmp_path / "new" / "note").exists()


def test_a_file_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OSError, match=r"report\.html"):
        folder.write(results(), tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("tmp")]


def test_a_terminal_gets_five_lines_at_most(tmp_path: Path) -> None:
    files = [tmp_path / "report.html"]
    lines = list(summary.lines_of(whole(), files))
    assert len(lines) == 5
    assert lines[-1] == f"The report: {tmp_path}/report.html"
    problems = [f"account {number} is wrong" for number in range(9)]
    void = list(summary.lines_of(results(problems=problems), files))
    assert len(void) == 5
    assert void[0].startswith("This run is void")
    assert "Nothing was measured" in next(iter(summary.lines_of(results(), files)))
