"""The README shows what is: its code runs, its links lead somewhere, its commands have these options."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from twophase.sandbox.system import Service, System

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PARTICIPANT = ROOT / "tests" / "participant" / "smallest.py"
CLIENT = HERE / "smallest_client.py"


def shown(path: Path) -> str:
    """A file as the README shows it: without its docstring."""
    return path.read_text(encoding="utf-8").split('"""\n\n', 1)[1].rstrip()


@pytest.mark.parametrize("path", [PARTICIPANT, CLIENT], ids=["participant", "client"])
def test_the_code_in_the_readme_is_a_file_that_the_tests_run(path: Path) -> None:
    assert f"```python\n{shown(path)}\n```" in README


def test_every_link_leads_to_a_file_of_the_project() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


async def test_every_option_in_the_readme_is_one_of_its_command() -> None:
    commands = re.findall(r"^twophase (serve|participant|ledger sql|demo) ?([^|#\n]*)", README, re.MULTILINE)
    assert {verb for verb, _ in commands} == {"serve", "participant", "ledger sql"}
    for verb, rest in [*commands, ("demo", "--orders --count --keep --json")]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "twophase.coordinator", *verb.split(), "--help"),
            stdout=asyncio.subprocess.PIPE,
            env={"COLUMNS": "200", "PATH": "/usr/bin:/bin", "PYTHONWARNINGS": "error"},
        )
        text, _ = await process.communicate()
        assert process.returncode == 0
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in text.decode(), f"twophase {verb} has no {option}"


@pytest.mark.integration
async def test_the_readmes_client_and_participant_work_together(tmp_path: Path) -> None:
    where = {"PYTHONPATH": f"{PARTICIPANT.parent}:{HERE}"}
    services = [
        Service(
            "payment",
            "smallest:payment",
            schema="CREATE TABLE customer AS SELECT 'c-1' AS id, 30::numeric AS funds",
            cluster="one",
            environment=where,
        ),
        Service(
            "inventory",
            "smallest_inventory:inventory",
            schema="CREATE TABLE shelf AS SELECT 'lamp' AS sku, 9 AS pieces",
            cluster="one",
            environment=where,
        ),
    ]
    async with System(services) as system:
        first = await run_client(tmp_path, system.address, "order/4711")
        again = await run_client(tmp_path, system.address, "order/4711")
        refused = await run_client(tmp_path, system.address, "order/4712")
        with system.connect("payment") as payment, system.connect("inventory") as inventory:
            funds = payment.execute("SELECT funds::text FROM customer").fetchone()
            pieces = inventory.execute("SELECT pieces FROM shelf").fetchone()
    assert first.startswith("committed everywhere as ")
    assert again == first
    assert "NO_FUNDS" in refused
    assert "customer c-1 has not 19.90 left" in refused
    assert (funds, pieces) == (("10.10",), (8,))


async def run_client(directory: Path, address: str, request_id: str) -> str:
    """The README's client, sent to another address, with another request id."""
    script = directory / "client.py"
    text = CLIENT.read_text(encoding="utf-8").replace("127.0.0.1:7400", address).replace("order/4711", request_id)
    script.write_text(text, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(sys.executable, script, stdout=asyncio.subprocess.PIPE)
    text_out, _ = await process.communicate()
    assert process.returncode == 0
    return text_out.decode().strip()
