"""docs/protocol.md shows the machines that run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from twophase.coordinator.protocol import saga, twophase

_TOOL = Path(__file__).parents[1] / "tools" / "draw_protocol.py"


def test_the_document_is_drawn_from_the_tables() -> None:
    spec = importlib.util.spec_from_file_location("draw_protocol", _TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = tool.DOCUMENT.read_text(encoding="utf-8")
    assert tool.render(text) == text, "run: python tests/tools/draw_protocol.py"
    assert tool.diagram(tool.TWO_PHASE).count(" --> ") == len(twophase.TABLE) + 3
    assert tool.diagram(tool.SAGA).count(" --> ") == len(saga.TABLE) + 4
    for machine in (tool.TWO_PHASE, tool.SAGA):
        assert tool.diagram(machine) in text
        assert tool.table(machine) in text
