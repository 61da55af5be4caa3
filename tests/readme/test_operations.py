"""The runbook's commands are real: each one parses, and those that look do so on a system that runs."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from twophase.sandbox.bank import SCHEMA
from twophase.sandbox.system import Service, System

ROOT = Path(__file__).parents[2]
PAGES = ("operations.md", "running.md", "journal.md")
RUNBOOK = "\n".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in PAGES)
TXID = "00000001-67ee1e35-00000000000d"
COMMANDS = sorted(set(re.findall(r"^(?:\$ )?twophase ([a-z].*)$", RUNBOOK, re.MULTILINE)))
LOOKING = ("doctor", "indoubt", "tx show", "tx list", "journal inspect", "saga dead list")
VERBS = (*LOOKING, "serve", "saga dead resolve")


async def twophase(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "twophase.coordinator", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"COLUMNS": "200", "PATH": "/usr/bin:/bin", "PYTHONWARNINGS": "error"},
    )
    text, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, text.decode()


def verb_of(command: str) -> str:
    (verb,) = [verb for verb in VERBS if command == verb or command.startswith(f"{verb} ")]
    return verb


def test_the_runbook_shows_every_verb_that_looks() -> None:
    assert {verb_of(command) for command in COMMANDS} >= set(LOOKING)


@pytest.mark.parametrize("verb", VERBS)
async def test_every_option_in_the_runbook_is_one_of_its_command(verb: str) -> None:
    code, text = await twophase(*verb.split(), "--help")
    assert code == 0
    assert any(verb_of(command) == verb for command in COMMANDS)
    options = {
        option for command in COMMANDS if verb_of(command) == verb for option in re.findall(r"--[a-z-]+", command)
    }
    assert {option for option in options if option not in text} == set()


def test_every_link_in_the_runbook_leads_to_a_file_of_the_project() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", RUNBOOK)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


@pytest.mark.integration
async def test_the_runbooks_commands_run() -> None:
    async with System([Service("east", "twophase.sandbox.bank:east", schema=SCHEMA)]) as system:
        there = ("--coordinator", system.address)
        assert await twophase("indoubt", *there) == (0, "nothing is in doubt\n")
        code, found = await twophase("doctor", *there)
        assert code == 0
        assert found.splitlines()[-1].startswith("0 problems")
        assert (await twophase("tx", "list", "--unfinished", *there))[0] == 0
        assert (await twophase("tx", "list", "--heuristic", *there))[0] == 0
        assert await twophase("saga", "dead", "list", *there) == (0, "there is no dead letter\n")
        code, said = await twophase("saga", "dead", "resolve", TXID, "s", "--reason", "put back by hand", *there)
        assert code == 1
        assert "no dead letter" in said
        code, said = await twophase("tx", "show", "order/try-9", *there)
        assert code != 0
        assert "does not mean that it was aborted" in said
        code, inside = await twophase("journal", "inspect", str(system.journal), "--unfinished")
        assert code == 0
        assert "has nothing to finish" in inside
