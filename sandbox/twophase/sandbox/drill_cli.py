"""The verb `twophase drill`: its options, its table, its exit codes.

Lives here: what stands between a command line and `drill.run`. Must not live here: the drills. Imported when the verb
runs; what takes long to import, or starts threads, is imported later still.
"""

from __future__ import annotations

import fnmatch
import json
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from twophase.sandbox.signals import Failure, end_on_signals, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twophase.sandbox.drill.run import Outcome, Report
    from twophase.sandbox.drill.values import Drill

VIOLATED: Final = 1
WRONG_INPUT: Final = 2
_VERDICTS: Final = {"passed": "ok", "failed": "WRONG", "skipped": "skipped"}


def drill(
    only: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Only drills whose name matches, such as 'participant.*'.")
    ] = None,
    quick: Annotated[  # noqa: FBT002 - an option of a command line
        bool, typer.Option("--quick", help="Only those that matter most, in about a minute.")
    ] = False,
    list_: Annotated[  # noqa: FBT002 - an option of a command line
        bool, typer.Option("--list", help="Say which drills there are, and run none.")
    ] = False,
    json_: Annotated[  # noqa: FBT002 - an option of a command line
        bool, typer.Option("--json", help="Print one JSON object, and nothing else, on standard output.")
    ] = False,
) -> None:
    """Kill real processes under load, at every point, and check that nothing is lost and nothing stays in doubt.

    Starts a coordinator and four banks on three Postgres servers, moves money between them, kills, freezes and
    restarts, and compares what the clients were told with what every database holds. The exit code is 0 only if nothing
    is wrong and every point was really hit.
    """
    from twophase.sandbox.drill.catalogue import catalogue

    chosen = [each for each in catalogue() if _matches(each.name, only) and (each.quick or not quick)]
    if not chosen:
        _fail(f"no drill matches {only!r}; see twophase drill --list", WRONG_INPUT)
    if list_:
        width = max(len(each.name) for each in chosen)
        for each in chosen:
            typer.echo(f"{each.name:{width}}  {each.about}")
        return
    report = run(_run(chosen, as_json=json_))
    if isinstance(report, Failure):
        _fail(report.message, report.code)
    if json_:
        typer.echo(json.dumps(report.to_json()))
    else:
        _show(report)
    raise typer.Exit(0 if report.passed else VIOLATED)


async def _run(chosen: Sequence[Drill], *, as_json: bool) -> Report:
    """Runs them. The guardian comes before anything that starts threads."""
    from twophase.sandbox.guardian import Guardian

    end_on_signals()
    with Guardian() as guardian:
        from twophase.sandbox.drill.crowd import SLOTS
        from twophase.sandbox.drill.run import run_drills
        from twophase.sandbox.drill.stage import Stage, bank_services
        from twophase.sandbox.system import System

        if not as_json:
            typer.echo(f"{len(chosen)} drills on a coordinator, four banks and three Postgres servers ...", err=True)
        async with System(
            bank_services(), postgres={"max_prepared_transactions": str(SLOTS)}, guardian=guardian
        ) as system:
            return await run_drills(Stage(system), chosen, (lambda _: None) if as_json else _tell)


def _matches(name: str, pattern: str | None) -> bool:
    """A pattern without wildcards matches anywhere in the name."""
    if pattern is None:
        return True
    return fnmatch.fnmatchcase(name, pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*")


def _tell(outcome: Outcome) -> None:
    recovered = "" if outcome.recovery_ms is None else f"{outcome.recovery_ms:.0f} ms"
    typer.echo(f"  {_VERDICTS[outcome.verdict.value]:7}  {outcome.drill.name:60} {recovered:>9}")
    if outcome.skipped:
        typer.echo(f"           {outcome.skipped}")
    for violation in outcome.violations:
        typer.echo(f"           {violation}")


def _show(report: Report) -> None:
    summary = report.to_json()
    typer.echo("")
    drills = f"{len(report.outcomes)} drills"
    if summary["drills_skipped"]:
        drills += f" ({summary['drills_skipped']} skipped)"
    typer.echo(f"{drills}, {summary['violations']} violations, {report.in_doubt_left} in doubt")
    typer.echo(f"{len(report.wanted & report.hit)} of {len(report.wanted)} crash points of these drills hit")
    if summary["points_missed"]:
        typer.echo(f"NOT HIT: {', '.join(summary['points_missed'])}")
    if summary["recovery_ms_median"] is not None:
        median, longest = summary["recovery_ms_median"], summary["recovery_ms_max"]
        typer.echo(f"from ready to nothing in doubt: median {median:.0f} ms, longest {longest:.0f} ms")


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"twophase drill: {message}", err=True)
    raise typer.Exit(code)
