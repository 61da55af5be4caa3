"""Standard output: what its encoding has no letters for."""

from __future__ import annotations

import io

import pytest

from twophase.coordinator.operator.screen import columns, plain, screen


def test_what_the_output_cannot_say_is_escaped_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))

    console = screen()
    console.print(columns(("why",), [("für Zoë",)]))
    console.print(plain("a\x1b[2Jb"))

    assert rb"f\xfcr Zo\xeb" in written.getvalue()
    assert rb"a\ufffd[2Jb" in written.getvalue()
