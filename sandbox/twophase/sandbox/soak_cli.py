"""The verb `twophase soak`: its options, its words, its exit codes.

Lives here: what stands between a command line and `drill.soak`. Must not live here: the soak itself. Imported when the
verb runs; what takes long to import, or starts threads, is imported later still.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from twophase.sandbox.signals import Failure, end_on_signals, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twophase.sandbox.drill.soak import Plan, Soaked
    from twophase.sandbox.system import System

VIOLATED: Final = 1
_SAGAS_FOR_EACH_KILL: Final = 100
_SHOWN: Final = 20


def soak(
    sagas: Annotated[int, typer.Option(min=1, help="How many sagas are run.")] = 10_000,
    kills: Annotated[
        int | None, typer.Option(min=0, help="How often processes are killed. Without it: once for 100 sagas.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="What decides who dies when, and what the sagas are.")] = 1,
    clients: Annotated[int, typer.Option(min=1, help="How many sagas run at a time.")] = 16,
    json_: Annotated[  # noqa: FBT002 - an option of a command line
        bool, typer.Option("--json", help="Print one JSON object, and nothing else, on standard output.")
    ] = False,
) -> None:
    """Run thousands of sagas while processes are killed at random, and check that every one is done or undone, once.

    Starts a coordinator and four banks on three Postgres servers. One saga in five is made to be refused, or too slow.
    The coordinator, participants, or all of them are killed (SIGKILL) at moments that the seed decides, and started
    again. In the end every saga must have ended, and every database say what the clients were told. The exit code is 0
    only then.
    """
    from twophase.sandbox.drill.soak import Plan

    plan = Plan(sagas, sagas // _SAGAS_FOR_EACH_KILL if kills is None else kills, seed=seed, clients=clients)
    soaked = run(_run(plan))
    if isinstance(soaked, Failure):
        typer.echo(f"twophase soak: {soaked.message}", err=True)
        raise typer.Exit(soaked.code)
    if json_:
        typer.echo(json.dumps(soaked.to_json()))
    else:
        for line in lines_of(soaked):
            typer.echo(line)
    raise typer.Exit(0 if soaked.passed else VIOLATED)


def lines_of(soaked: Soaked) -> Iterator[str]:
    """What a soak came to, in sentences."""
    said = soaked.to_json()
    wrong = [*said["violations"], *(f"outside: {each}" for each in said["outside_violations"])]
    yield from (f"WRONG: {each}" for each in wrong[:_SHOWN])
    if len(wrong) > _SHOWN:
        yield f"WRONG: and {len(wrong) - _SHOWN} more; --json has them all"
    yield (
        f"{said['sagas']} sagas: {said['completed']} done, {said['compensated']} undone, {said['not_begun']} not begun,"
        f" {said['unknown']} unknown to their clients; {said['made_to_be_undone']} were made to be undone;"
        f" {said['compensations']} compensations"
    )
    by_process = ", ".join(f"{name} {times}" for name, times in said["kills_by_process"].items())
    yield f"{said['kills']} kills{f' ({by_process})' if by_process else ''}, seed {said['seed']}"
    yield (
        f"{said['seconds']:g} s, {said['sagas_per_second']:g} sagas a second;"
        f" {said['seconds_to_the_end']:g} s after the last answer every one had ended"
    )
    yield f"{len(said['violations'])} violations, {len(said['outside_violations'])} by the outside checker"


async def _run(plan: Plan) -> Soaked:
    """Runs it. The guardian comes before anything that starts threads."""
    from twophase.sandbox.guardian import Guardian

    end_on_signals()
    with Guardian() as guardian:
        from twophase.sandbox.drill.setting import setting_of
        from twophase.sandbox.drill.soak import Soak
        from twophase.sandbox.drill.stage import Stage, bank_services
        from twophase.sandbox.system import System

        typer.echo("starting a coordinator, four banks and three Postgres servers", err=True)
        async with System(bank_services(), guardian=guardian) as system:
            is_right = False
            try:
                progress = _Progress(plan.sagas)
                soaked = await Soak(Stage(system), plan).run(progress.tell, setting=setting_of(system))
                is_right = soaked.passed
            finally:
                if not is_right:
                    _keep_logs(system)
            return soaked


class _Progress:
    """A line on standard error for each tenth."""

    def __init__(self, sagas: int) -> None:
        self._sagas = sagas
        self._told = 0

    def tell(self, answered: int, kills: int) -> None:
        """So many are answered, and so many processes have died."""
        tenth = answered * 10 // self._sagas
        if tenth > self._told:
            self._told = tenth
            typer.echo(f"{answered} of {self._sagas} sagas answered, {kills} kills", err=True)


def _keep_logs(system: System) -> None:
    """They go with the system; what went wrong is told in them."""
    from twophase.sandbox.drill.screen import keep_logs

    where = Path(tempfile.mkdtemp(prefix="twophase-soak-"))
    try:
        keep_logs(system, where)
    except OSError as error:
        typer.echo(f"twophase soak: the logs could not be kept: {error}", err=True)
    else:
        typer.echo(f"the logs of all processes are in {where}", err=True)
