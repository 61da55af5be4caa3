"""The report of results that nobody measured, made once: drawing takes longer than what is tested of it.

Lives here: the document and its drawings, for everybody to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from benchmarks.report.made_up import whole
from twophase.benchmarks.report.paper.blocks import Document, Plot
from twophase.benchmarks.report.paper.document import document
from twophase.benchmarks.report.values import Results


@cache
def found() -> Results:
    """A whole run."""
    return whole()


@cache
def made() -> Document:
    """Its report."""
    return document(found())


def drawings() -> Mapping[str, Plot]:
    """By name."""
    return {plot.name: plot for plot in made().plots()}
