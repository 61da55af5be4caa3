"""Somebody who watches a run and remembers what it told."""

from __future__ import annotations

from collections.abc import Callable

from twophase.benchmarks.report.values import Results, Section


class Watching:
    """Remembers what it is told; `then` is called as a measurement begins."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.then = then
        self.errors: dict[Section, Exception] = {}
        self.kept: list[Results] = []

    def __call__(self, section: Section, done: int, total: int, what: str, /) -> None:
        self.then()

    def failed(self, section: Section, error: Exception) -> None:
        self.errors[section] = error

    def so_far(self, results: Results) -> None:
        self.kept.append(results)
