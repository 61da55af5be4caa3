"""The verb `twophase drill`: its options, its table, its exit codes.

Lives here: what stands between a command line and `drill.run`. Must not live here: the drills, and how they look on a
screen (`drill.screen`) or a page (`drill.page`). Imported when the verb
runs; what takes long to import, or starts threads, is imported later still.
"""

from __future__ import annotations

import fnmatch
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from twophase.sandbox.signals import Failure, end_on_signals, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twophase.sandbox.drill.run import Report
    from twophase.sandbox.drill.values import Drill
    from twophase.sandbox.system import System

VIOLATED: Final = 1
WRONG_INPUT: Final = 2


def drill(
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Only drills whose name matches, such as 'participant.*'; repeatable."),
    ] = None,
    quick: Annotated[  # noqa: FBT002 - an option of a command line
        bool, typer.Option("--quick", help="Only those that matter most, in about two minutes.")
    ] = False,
    list_: Annotated[  # noqa: FBT002 - an option of a command line
        bool, typer.Option("--list", help="Say which drills there are, and run none.")
    ] = False,
    json_: Annotated[  # noqa: FBT002 - an option of a command line
        bool, typer.Option("--json", help="Print one JSON object, and nothing else, on standard output.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a page with a timeline of every drill; it needs nothing else.", dir_okay=False
        ),
    ] = None,
    keep_logs: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY",
            help="Copy the logs of all processes there. Without it they are kept only if something is wrong.",
            file_okay=False,
        ),
    ] = None,
) -> None:
    """Kill real processes under load, at every point, and check that nothing is lost and nothing stays in doubt.

    Starts a coordinator and four banks on three Postgres servers, moves money between them, kills, freezes and
    restarts them and cuts their connections, and compares what the clients were told with what every database holds.
    The exit code is 0 only if nothing is wrong and every point was really hit.
    """
    from twophase.sandbox.drill.catalogue import catalogue

    candidates = [each for each in catalogue() if each.quick or not quick]
    chosen = _chosen(candidates, only) if only else candidates
    if list_:
        width = max(len(each.name) for each in chosen)
        for each in chosen:
            typer.echo(f"{each.name:{width}}  {each.about}")
        return
    report = run(_run(chosen, as_json=json_, logs=keep_logs))
    if isinstance(report, Failure):
        _fail(report.message, report.code)
    _tell(report, as_json=json_, html=html)
    raise typer.Exit(0 if report.passed else VIOLATED)


async def _run(chosen: Sequence[Drill], *, as_json: bool, logs: Path | None) -> Report:
    """Runs them. The guardian comes before anything that starts threads."""
    from twophase.sandbox.guardian import Guardian

    end_on_signals()
    with Guardian() as guardian:
        from rich.console import Console

        from twophase.sandbox.drill.crowd import SLOTS
        from twophase.sandbox.drill.run import run_drills
        from twophase.sandbox.drill.screen import Progression
        from twophase.sandbox.drill.setting import setting_of
        from twophase.sandbox.drill.stage import Stage, bank_services
        from twophase.sandbox.system import System

        progress = Progression(Console(stderr=True, highlight=False), len(chosen), quiet=as_json)
        with progress.shown():
            slots = {"max_prepared_transactions": str(SLOTS)}
            async with System(bank_services(), postgres=slots, guardian=guardian) as system:
                is_right = False
                try:
                    setting = setting_of(system)
                    begins, ended = progress.begins, progress.ended
                    report = await run_drills(Stage(system), chosen, ended, on_begin=begins, setting=setting)
                    is_right = report.passed
                finally:
                    _keep_logs(system, logs, is_right=is_right)
                return report


def _keep_logs(system: System, to: Path | None, *, is_right: bool) -> None:
    """They go with the system; what went wrong is told in them."""
    from twophase.sandbox.drill.screen import keep_logs

    if to is None and is_right:
        return
    where = to or Path(tempfile.mkdtemp(prefix="twophase-drill-"))
    try:
        keep_logs(system, where)
    except OSError as error:
        typer.echo(f"twophase drill: the logs could not be kept: {error}", err=True)
    else:
        typer.echo(f"the logs of all processes are in {where}", err=True)


def _tell(report: Report, *, as_json: bool, html: Path | None) -> None:
    from twophase.sandbox.drill import page, screen

    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        screen.show(screen.screen(), report)
    if html is not None:
        try:
            html.parent.mkdir(parents=True, exist_ok=True)
            html.write_text(page.html(report), encoding="utf-8")
        except OSError as error:
            _fail(f"the page could not be written: {error}", WRONG_INPUT)
        typer.echo(f"the timelines are in {html}", err=True)


def _chosen(candidates: Sequence[Drill], patterns: Sequence[str]) -> list[Drill]:
    """Those that one of the patterns means, in their own order. A pattern that means none ends it all."""
    names: set[str] = set()
    for pattern in patterns:
        meant = {each.name for each in candidates if _matches(each.name, pattern)}
        if not meant:
            _fail(f"no drill matches {pattern!r}; see twophase drill --list", WRONG_INPUT)
        # A whole name means this one, and not those whose names go on after it.
        names |= {pattern} if pattern in meant else meant
    return [each for each in candidates if each.name in names]


def _matches(name: str, pattern: str) -> bool:
    """A pattern without wildcards matches anywhere in the name."""
    return fnmatch.fnmatchcase(name, pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*")


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"twophase drill: {message}", err=True)
    raise typer.Exit(code)
