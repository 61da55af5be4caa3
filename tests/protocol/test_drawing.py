"""docs/protocol.md shows the machine that runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from twophase.coordinator.protocol.twophase import TABLE

_TOOL = Path(__file__).parents[1] / "tools" / "draw_protocol.py"


def test_the_document_is_drawn_from_the_table() -> None:
    spec = importlib.util.spec_from_file_location("draw_protocol", _TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = tool.DOCUMENT.read_text(encoding="utf-8")
    assert tool.render(text) == text, "run: python tests/tools/draw_protocol.py"
    assert text.count("\n    voting --> ") + text.count("\n    deciding --> ") > 0
    assert tool.diagram().count(" --> ") == len(TABLE) + 3
