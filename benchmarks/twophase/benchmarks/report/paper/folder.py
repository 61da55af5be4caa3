"""The files of a report: `report.html`, `report.md` with its drawings, `results.json`; and reading that again.

Lives here: what is written where, whole or not at all. Must not live here: what is in the files.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from twophase.benchmarks.report.paper.markdown import PLOTS
from twophase.benchmarks.report.values import Results

HTML: Final = "report.html"
MARKDOWN: Final = "report.md"
RESULTS: Final = "results.json"


class NotResultsError(ValueError):
    """A file is not what a run wrote. The message says why, in a line."""


def read(path: Path) -> Results:
    """The results of an earlier run. Raises `OSError`, and `NotResultsError` if the file has something else in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Results.from_json(found)
    except UnicodeDecodeError as error:
        raise NotResultsError(f"{path} is not a text file") from error
    except json.JSONDecodeError as error:
        raise NotResultsError(f"{path} is not JSON: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise NotResultsError(f"{path} is JSON, and not the results of a run: it has no {error}") from error
    except ValueError as error:
        raise NotResultsError(f"{path} cannot be read: {error}") from error


@contextlib.contextmanager
def made(directory: Path) -> Iterator[Path]:
    """The directory, writable; whatever of it was made here goes again if the block fails. Raises `OSError`."""
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
        yield directory
    except BaseException:
        for each in missing:
            with contextlib.suppress(OSError):  # somebody else has put something there: that stays
                each.rmdir()
        raise


def write(results: Results, directory: Path) -> list[Path]:
    """All files, into a directory that is there; older ones of the same names are replaced. Raises `OSError`."""
    from twophase.benchmarks.report.paper.document import document
    from twophase.benchmarks.report.paper.html import html
    from twophase.benchmarks.report.paper.markdown import markdown

    keep(results, directory)
    found = document(Results.from_json(results.to_json()))  # of what is written: read again, it makes the same report
    plots = directory / PLOTS
    plots.mkdir(exist_ok=True)
    for plot in found.plots():
        _replace(plots / f"{plot.name}.svg", plot.svg)
    _replace(directory / MARKDOWN, markdown(found))
    _replace(directory / HTML, html(found))
    return [directory / name for name in (HTML, MARKDOWN, RESULTS)]


def keep(results: Results, directory: Path) -> None:
    """The results alone, of a run that is under way: whatever becomes of it, they are there. Raises `OSError`."""
    _replace(directory / RESULTS, as_text(results))


def as_text(results: Results) -> str:
    """`results.json`: one measurement a line, so that two runs can be compared by a diff."""
    found = results.to_json()
    lines = ",\n".join(json.dumps(each, ensure_ascii=False) for each in found.pop("measurements"))
    head = json.dumps(found, ensure_ascii=False, indent=1).removesuffix("\n}")
    return f'{head},\n "measurements": [\n{lines}\n ]\n}}\n'


def _replace(path: Path, text: str) -> None:
    """A reader sees the old file or the new one."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as written:
        try:
            written.write(text)
            written.flush()
            os.chmod(written.name, 0o644)  # noqa: PTH101 - a temporary file is its owner's only
            os.replace(written.name, path)  # noqa: PTH105 - from a name to a path
        except BaseException:
            os.unlink(written.name)  # noqa: PTH108 - as above
            raise
