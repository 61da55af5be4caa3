"""The verb `twophase doctor`: is everything set up as it should be, and if not, what to type.

Lives here: options, layout, exit codes. Must not live here: the checks; the coordinator and the participants make them.
"""

from __future__ import annotations

import asyncio
import json as encoding
import socket
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Final

import typer
from rich.console import Console
from rich.text import Text

from twophase.contract.addresses import Address, InvalidAddress
from twophase.coordinator.client import (
    AsyncClient,
    CallRejected,
    Check,
    CheckResult,
    CoordinatorUnavailable,
    Diagnosis,
    TwophaseError,
)
from twophase.coordinator.operator.connection import DEFAULT_COORDINATOR, FAILED, WRONG_INPUT, AsJson, Coordinator, fail
from twophase.coordinator.operator.durations import counted
from twophase.coordinator.operator.layout import hanging
from twophase.coordinator.operator.screen import plain, screen

_PROBE_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 5.0
_STYLES: Final = {CheckResult.OK: "green", CheckResult.WARNING: "bold yellow", CheckResult.PROBLEM: "bold red"}
_MARKS: Final = {CheckResult.OK: "ok", CheckResult.WARNING: "WARNING", CheckResult.PROBLEM: "PROBLEM"}


@dataclass(frozen=True, slots=True)
class Report:
    """What was found: by the coordinator at `address`, or, without one, about the way to it."""

    address: str
    checks: tuple[Check, ...]
    diagnosis: Diagnosis | None = None

    def count(self, result: CheckResult) -> int:
        """How many checks have this result."""
        return sum(check.result is result for check in self._all())

    def _all(self) -> Iterator[Check]:
        yield from self.checks
        for participant in self.diagnosis.participants if self.diagnosis is not None else ():
            yield from participant.checks


def doctor(*, coordinator: Coordinator = DEFAULT_COORDINATOR, json: AsJson = False) -> None:
    """Check the coordinator, its journal and every participant: a line each, OK or what to type.

    It changes nothing. Exits with 0 if there is no problem (there may be warnings), with 1 if there is one.
    """
    try:
        address = Address.parse(coordinator)
    except InvalidAddress as error:
        fail(f"--coordinator: {error}; give it as in {DEFAULT_COORDINATOR}", WRONG_INPUT)
    report = asyncio.run(_examined(address))
    if json:
        typer.echo(encoding.dumps(as_dict(report), default=_plain))
    else:
        show(screen(), report)
    if report.count(CheckResult.PROBLEM):
        raise typer.Exit(FAILED)


async def _examined(address: Address) -> Report:
    unreached = await _probed(address)
    if unreached is not None:
        return Report(str(address), (unreached,))
    try:
        async with AsyncClient(str(address), timeout=_ANSWER_SECONDS) as client:
            diagnosis = await client.diagnose()
    except CoordinatorUnavailable as error:
        fact = f"something listens at {address}, and does not answer as a coordinator: {error}"
        remedy = "check that this is the coordinator's port and no other program's, and that it is not stopped"
    except CallRejected as error:
        fact = f"what listens at {address} offers no diagnosis: {error}"
        remedy = "check that this is the coordinator's port and not a participant's; or install a newer twophase there"
    except TwophaseError as error:
        fact, remedy = str(error), f"twophase doctor --coordinator {DEFAULT_COORDINATOR}"
    else:
        return Report(str(address), diagnosis.checks, diagnosis)
    return Report(str(address), (Check("coordinator", CheckResult.PROBLEM, fact, remedy),))


async def _probed(address: Address) -> Check | None:
    """Whether anybody listens there: gRPC would only say that it could not connect."""
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except TimeoutError:
        why = f"no answer within {_PROBE_SECONDS:g} s"
    except socket.gaierror as error:
        why = f"the host is not known ({error.strerror})"
    except OSError as error:
        why = "nothing listens there" if isinstance(error, ConnectionRefusedError) else str(error.strerror or error)
    else:
        writer.close()
        return None
    remedy = (
        f"twophase serve --journal FILE --listen {address}\n"
        "twophase doctor --coordinator HOST:PORT  -- if it listens elsewhere\n"
        "twophase indoubt --dsn DSN  -- shows what is prepared in a database, without a coordinator"
    )
    finding = f"the coordinator at {address} cannot be reached: {why}"
    return Check("coordinator", CheckResult.PROBLEM, finding, remedy)


def as_dict(report: Report) -> dict[str, Any]:
    """For JSON."""
    found = report.diagnosis
    return {
        "ok": not report.count(CheckResult.PROBLEM),
        "problems": report.count(CheckResult.PROBLEM),
        "warnings": report.count(CheckResult.WARNING),
        "coordinator": {
            "address": report.address,
            "journal_id": found.journal_id if found is not None else None,
            "label": found.label if found is not None else None,
            "epoch": found.epoch if found is not None else None,
            "checks": [asdict(check) for check in report.checks],
        },
        "participants": [asdict(one) for one in found.participants] if found is not None else [],
    }


def show(console: Console, report: Report) -> None:
    """A block for the coordinator and for each participant, then the count."""
    found = report.diagnosis
    journal = "" if found is None else f", journal {found.journal_id}{f' ({found.label})' if found.label else ''}"
    _show_block(console, "coordinator", f"{report.address}{journal}", report.checks)
    for one in found.participants if found is not None else ():
        console.print()
        _show_block(console, one.participant, one.address, one.checks)
    problems, warnings = report.count(CheckResult.PROBLEM), report.count(CheckResult.WARNING)
    console.print()
    style = "bold red" if problems else "bold yellow" if warnings else "bold green"
    console.print(Text(f"{counted(problems, 'problem')}, {counted(warnings, 'warning')}", style))


def _show_block(console: Console, name: str, where: str, checks: Iterable[Check]) -> None:
    console.print(Text.assemble((name, "bold"), f"  {where}"), soft_wrap=True)
    for check in checks:
        mark = Text(f"  {_MARKS[check.result]:<7}  ", _STYLES[check.result])
        said = Text.assemble((f"{check.subject}: ", "" if check.result is CheckResult.OK else "bold"))
        hanging(console, mark, said + plain(check.finding))
        for line in check.remedy.splitlines():
            hanging(console, " " * mark.cell_len, f"type: {line}")


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{value!r} has no JSON form")
