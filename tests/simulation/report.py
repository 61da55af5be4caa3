"""`make simulate SEEDS=n`: runs seeds on all cores and prints the first that breaks a rule, with its transcript.

Lives here: the processes, the progress, the exit code. Must not live here: the run.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from simulation.bugs import BUGS
from simulation.seeds import Verdict, first_wrong, run_seed
from simulation.world import FAILED_OVER, MEDDLED

_CHUNK = 250
_FOR_A_BUG = 1000


def _run(first: int) -> tuple[int, Verdict | None]:
    """A chunk of seeds: how many transfers there were, and the first seed that is wrong."""
    transfers = 0
    for seed in range(first, first + _CHUNK):
        verdict = run_seed(seed)
        transfers += verdict.transfers
        if verdict.violations:
            return transfers, verdict
    return transfers, None


def main(seeds: int, first: int = 1) -> int:
    """Runs `seeds` seeds from `first`, then looks for every planted bug. Returns the exit code."""
    console = Console(highlight=False, soft_wrap=True)
    transfers = done = 0
    with (
        ProcessPoolExecutor(os.cpu_count()) as pool,
        Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console, transient=True) as progress,
    ):
        bar = progress.add_task("seeds", total=seeds)
        for count, wrong in pool.map(_run, range(first, first + seeds, _CHUNK)):
            transfers, done = transfers + count, done + _CHUNK
            progress.advance(bar, _CHUNK)
            if wrong is not None:
                pool.shutdown(cancel_futures=True)
                progress.stop()
                return _tell(console, wrong.seed)
    console.print(f"{done:,} seeds, {transfers:,} transfers, 0 violations")
    missed = 0
    for bug in BUGS:
        with bug.plant():
            found = first_wrong(range(1, _FOR_A_BUG + 1), bug.setting, **bug.parts)
        missed += found is None
        console.print(
            f"  {bug.name:50} {'NOT FOUND' if found is None else f'seed {found.seed}: {found.violations[0]:.100}'}"
        )
    for name, setting in (("branches finished by hand", MEDDLED), ("what failovers lose", FAILED_OVER)):
        wrong = first_wrong(range(1, _FOR_A_BUG + 1), setting)
        missed += wrong is not None
        console.print(f"  {name:50} {'always seen' if wrong is None else wrong}")
    return 1 if missed else 0


def _tell(console: Console, seed: int) -> int:
    verdict = run_seed(seed, keep_trace=True)
    console.print("\n".join(verdict.trace))
    console.print(f"seed {seed}:")
    for violation in verdict.violations:
        console.print(f"  {violation}")
    return 1


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))
