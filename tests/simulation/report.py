"""`make simulate SEEDS=n`: runs seeds on all cores, prints the first that breaks a rule as a transcript, and which seed
finds which planted bug. With `SEEDS=0` only the bugs.

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
from simulation.runs import CALM, SAGA_SETTINGS, SETTINGS
from simulation.seeds import Verdict, run_seed

_CHUNK = 100
_FOR_A_BUG = 1000
_CALM = "processes, servers and the network fail"
_NAMED = {_CALM: CALM, **SETTINGS, **SAGA_SETTINGS}
# Of the seeds of the calm setting, one in so many is run in each of the others, too.
_SHARES = {_CALM: 1, **dict.fromkeys(SETTINGS, 50), **dict.fromkeys(SAGA_SETTINGS, 20)}


def _run(chunk: tuple[str, range]) -> tuple[int, Verdict | None]:
    """A chunk of seeds: how many transfers there were, and the first seed that is wrong."""
    name, seeds = chunk
    transfers = 0
    for seed in seeds:
        verdict = run_seed(seed, _NAMED[name])
        transfers += verdict.transfers
        if verdict.violations:
            return transfers, verdict
    return transfers, None


def _find(number: int) -> Verdict | None:
    """The seed that finds a bug, if that very seed is right without it."""
    bug = BUGS[number]
    found = bug.find(range(1, _FOR_A_BUG + 1))
    return None if found is None or run_seed(found.seed, bug.setting).violations else found


def main(seeds: int, first: int = 1) -> int:
    """Runs `seeds` seeds from `first`, some in every setting; looks for every planted bug. Returns the exit code."""
    console = Console(highlight=False, soft_wrap=True)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for name in _NAMED:
            count = seeds // _SHARES[name]
            chunks = [(name, range(at, min(at + _CHUNK, first + count))) for at in range(first, first + count, _CHUNK)]
            if not chunks:
                continue
            transfers = 0
            with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console, transient=True) as bar:
                task = bar.add_task(name, total=len(chunks))
                for sent, wrong in pool.map(_run, chunks):
                    transfers += sent
                    bar.advance(task)
                    if wrong is not None:
                        pool.shutdown(cancel_futures=True)
                        bar.stop()
                        return _tell(console, name, wrong.seed)
            console.print(f"{name:44} {count:>8,} seeds {transfers:>10,} transfers   0 violations")
        missed = 0
        for bug, found in zip(BUGS, pool.map(_find, range(len(BUGS))), strict=True):
            missed += found is None
            shown = "NOT FOUND" if found is None else f"seed {found.seed:>4}   {found.violations[0]:.100}"
            console.print(f"{bug.name:44} {shown}")
    console.print(f"{len(BUGS) - missed} of {len(BUGS)} planted bugs found within {_FOR_A_BUG:,} seeds")
    return 1 if missed else 0


def _tell(console: Console, name: str, seed: int) -> int:
    verdict = run_seed(seed, _NAMED[name], keep_trace=True)
    console.print("\n".join(verdict.trace))
    console.print(f"{name}, seed {seed}:")
    for violation in verdict.violations:
        console.print(f"  {violation}")
    return 1


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))
