"""What must hold at the end of a run, whatever happened in it.

Lives here: the ledger of ledgers: what clients were told against what every database holds. Must not live
here: the run.
"""

from __future__ import annotations

from collections import Counter

from simulation.world import ACCOUNTS, NAMES, OPENING, Run, Told


def violations(run: Run) -> tuple[str, ...]:
    """Every contradiction, with the rule it breaks."""
    found = [] if run.at_rest else ["R9: something is still prepared"]
    databases = {bank: participant.database for bank, participant in run.participants.items()}
    held = Counter((bank, *movement) for bank, database in databases.items() for movement in database.movements)
    wanted_by_name = {transfer.name: transfer for transfer in run.transfers}
    for transfer in run.transfers:
        wanted = Counter((bank, transfer.name, account, amount) for bank, account, amount in transfer.movements)
        there = Counter({key: count for key, count in held.items() if key[1] == transfer.name})
        if not transfer.movements:
            continue
        if there == wanted:
            if transfer.told is Told.FAILED:
                found.append(f"R6: {transfer.name} was told failed, and is there")
        elif not there:
            if transfer.told is Told.OK:
                found.append(f"R6: {transfer.name} was told ok, and is not there")
        elif there > wanted:
            found.append(f"R7: {transfer.name} took effect more than once: {sorted(there)}")
        else:
            found.append(f"R1: {transfer.name} is at {sorted({key[0] for key in there})} only")
    strangers = {key[1] for key in held} - wanted_by_name.keys()
    found.extend(f"R1: nobody sent {name}" for name in sorted(strangers))
    total = sum(sum(participant.database.balances.values()) for participant in run.participants.values())
    if total != len(NAMES) * ACCOUNTS * OPENING:
        found.append(f"money: {total} in the end")
    if run.meddled:
        # What a person did may contradict the decision, and even leave a branch to another person; never unseen.
        return () if run.alarms or not found else ("R11: a branch ended against the others, and no alarm was raised",)
    found.extend(f"R11: an alarm without a cause: {alarm}" for alarm in run.alarms)
    return tuple(found)
