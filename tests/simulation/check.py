"""What must hold at the end of a run, whatever happened in it.

Lives here: the ledger of ledgers: what clients were told against what every database holds. Must not live
here: the run.
"""

from __future__ import annotations

from collections import Counter

from simulation.world import ACCOUNTS, NAMES, OPENING, Loss, Run, Told, Transfer


def violations(run: Run) -> tuple[str, ...]:
    """Every contradiction, with the rule it breaks."""
    found = [] if run.at_rest else ["R9: something is still prepared"]
    databases = {bank: participant.database for bank, participant in run.participants.items()}
    held = Counter((bank, *movement) for bank, database in databases.items() for movement in database.movements)
    for transfer in run.transfers:
        there = Counter({key: count for key, count in held.items() if key[1] == transfer.name})
        wrong = _wrong(transfer, there)
        if wrong is None:
            continue
        lost = [loss for loss in run.losses if transfer.name in loss.transfers]
        found.extend(_unseen(run, lost) if lost and not wrong.startswith("R7") else [wrong])
    strangers = {key[1] for key in held} - {transfer.name for transfer in run.transfers}
    found.extend(f"R1: nobody sent {name}" for name in sorted(strangers))
    total = sum(sum(participant.database.balances.values()) for participant in run.participants.values())
    if total != len(NAMES) * ACCOUNTS * OPENING and not run.losses:
        found.append(f"money: {total} in the end")
    if run.meddled:
        # What a person did may contradict the decision, and even leave a branch to another person; never unseen.
        if run.alarms or not found or _cannot_be_seen(run):
            return ()
        return ("R11: a branch ended against the others, and no alarm was raised",)
    found.extend(f"R11: an alarm without a cause: {alarm}" for alarm in run.alarms if not _has_cause(run, alarm))
    return tuple(found)


def _cannot_be_seen(run: Run) -> bool:
    """Whether a branch finished by hand is one that nobody can know of: it never reached the disk, or the network
    made two prepares of one, and the one that the coordinator got the answer of was refused."""
    return any(gid in run.unheard_of or gid in run.participants[bank].refused for bank, gid in run.meddled)


def _wrong(transfer: Transfer, there: Counter[tuple[str, str, int, int]]) -> str | None:
    """What a transfer's movements contradict, if anything."""
    wanted = Counter((bank, transfer.name, account, amount) for bank, account, amount in transfer.movements)
    if not transfer.movements:
        return None
    if there == wanted:
        return f"R6: {transfer.name} was told failed, and is there" if transfer.told is Told.FAILED else None
    if not there:
        return f"R6: {transfer.name} was told ok, and is not there" if transfer.told is Told.OK else None
    if there > wanted:
        return f"R7: {transfer.name} took effect more than once: {sorted(there)}"
    return f"R1: {transfer.name} is at {sorted({key[0] for key in there})} only"


def _unseen(run: Run, losses: list[Loss]) -> list[str]:
    """What a failover lost contradicts what others hold or were told: each such loss must have its alarm."""
    return [
        f"R11: {loss.gid} was lost at {loss.bank}, and no alarm was raised"
        for loss in losses
        if not any(_tells(alarm, loss) for alarm in run.alarms)
    ]


def _has_cause(run: Run, alarm: str) -> bool:
    """An alarm of a timeline needs a failover of that participant, one of a branch that this branch was lost."""
    if "timeline" in alarm:
        return any(f"'{bank}'" in alarm for bank in run.failovers)
    return any(_tells(alarm, loss) for loss in run.losses)


def _tells(alarm: str, loss: Loss) -> bool:
    """Whether it names the branch or its transaction, or says that the participant's server was failed over."""
    transaction = "-".join(loss.gid.split("-")[2:5])
    return transaction in alarm or ("timeline" in alarm and f"'{loss.bank}'" in alarm)
