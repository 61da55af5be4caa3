"""docs/participants.md says what the example does."""

from __future__ import annotations

import re
from pathlib import Path

from twophase.sandbox.drill.without_postgres import WITHOUT_POSTGRES
from twophase.sandbox.tcc import main, theatre

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "participants.md").read_text(encoding="utf-8")


def test_its_command_has_these_options() -> None:
    (command,) = re.findall(r"^python -m twophase\.sandbox\.tcc (.*)$", PAGE, re.MULTILINE)
    options = main._options(command.split())
    assert options.categories == {"stalls": 100}
    assert options.coordinator == "127.0.0.1:7400"


def test_what_it_quotes_is_there() -> None:
    (check,) = re.findall(r"`(CHECK \(.*?\))`", PAGE)
    assert check in theatre.SCHEMA
    (pattern,) = re.findall(r"--only '(.*)\*'", PAGE)
    assert all(drill.name.startswith(pattern) for drill in WITHOUT_POSTGRES)


def test_every_link_leads_to_a_file_of_the_project() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
