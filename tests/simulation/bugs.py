"""Planted bugs: the system with one thing wrong. A seed must be found that shows each of them.

Lives here: the list, and the setting that shows each. Must not live here: what is wrong (`wrong_coordinators`,
`wrong_sagas`, `wrong_participants`), and what is right.

What one rule forbids is often caught by a second one as well. Such a bug is planted in both, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from simulation import wrong_coordinators as coordinators
from simulation import wrong_participants as participants
from simulation import wrong_sagas as sagas
from simulation.runs import (
    BUSY,
    CALM,
    COPIED,
    DEAD_LETTERS,
    FAILED_OVER,
    FROZEN,
    MEDDLED,
    PRUNED,
    PRUNED_AND_MEDDLED,
    SAGAS,
    SAGAS_COPIED,
    SAGAS_FAILED_OVER,
    SAGAS_FROZEN,
    SLOW_DISK,
    SLOW_STANDBYS,
    Setting,
    Transfer,
)
from simulation.seeds import Verdict, first_wrong
from simulation.world import World
from twophase.contract.names import Epoch
from twophase.coordinator.engine.api import NeverSeen, Submission


@dataclass(frozen=True, slots=True)
class Bug:
    """What is wrong, and how it is planted: other parts, or a patch while the seeds run."""

    name: str
    parts: dict[str, Any] = field(default_factory=dict)
    plant: Callable[[], AbstractContextManager[Any]] = nullcontext
    setting: Setting = CALM

    def find(self, seeds: Iterable[int]) -> Verdict | None:
        """The first seed that shows it; None if none does."""
        with self.plant():
            return first_wrong(seeds, self.setting, **self.parts)


class ForgetsTheRequest(World):
    """The client makes a new request id for every try."""

    def request(self, transfer: Transfer, attempt: int, seen: Epoch | NeverSeen) -> Submission:
        asked = super().request(transfer, attempt, seen)
        number = next(self._numbers)
        return Submission(f"{asked.request_id}/{number}", 1, seen, asked.calls, asked.deadline)


BUGS = (
    # The journal.
    Bug("what is read at the start is not forced", {"journal": coordinators.ActsOnWhatItReads}),
    Bug("a decision is answered before its sync", {"journal": coordinators.AnswersBeforeTheSync}),
    Bug("the fence is not checked", plant=coordinators.fence_is_not_checked, setting=FROZEN),
    Bug("a request id is not claimed", plant=coordinators.request_id_is_not_claimed, setting=COPIED),
    Bug("pruning forgets heuristics", plant=coordinators.pruning_forgets_heuristics, setting=PRUNED_AND_MEDDLED),
    # The coordinator.
    Bug("a lost vote counts as yes", plant=coordinators.lost_is_yes),
    Bug("an abort is not decided", plant=coordinators.abort_is_not_decided, setting=COPIED),
    Bug("at the deadline nothing is decided", plant=coordinators.deadline_aborts_without_deciding, setting=SLOW_DISK),
    Bug("an unanswered delegate is taken for refused", plant=coordinators.unanswered_delegate_is_refused),
    Bug("the seen epoch is not checked", plant=coordinators.seen_epoch_is_not_checked, setting=COPIED),
    Bug("live transactions are read first", plant=coordinators.live_is_read_first),
    Bug("a heuristic outcome is no alarm", plant=coordinators.heuristic_is_no_alarm, setting=MEDDLED),
    Bug("nobody sweeps", plant=coordinators.no_sweeps),
    Bug(
        "GIDs are matched by prefix in a sweep",
        {"participant": participants.ListsByPrefix},
        coordinators.gids_are_matched_by_prefix,
    ),
    Bug("a sweep believes every timeline", plant=coordinators.sweeps_believe_everybody, setting=FAILED_OVER),
    Bug("a failover is no alarm", plant=coordinators.failover_is_no_alarm, setting=FAILED_OVER),
    Bug("a retry under a new id", {"world": ForgetsTheRequest}),
    # The participants.
    Bug("the ledger row is written apart", {"participant": participants.WritesTheRowApart}),
    Bug("the ledger has no key", {"participant": participants.HasNoLedgerKey}),
    Bug(
        "an absent row is taken for not applied",
        {"participant": participants.TakesAnAbsentRowForNotApplied},
        setting=BUSY,
    ),
    Bug("42704 is taken for success", {"participant": participants.TakesUndefinedForDone}, setting=MEDDLED),
    Bug("what is applied is called aborted", {"participant": participants.SwallowsWhatIsApplied}, setting=MEDDLED),
    Bug("55P03 is taken for aborted", {"participant": participants.TakesBusyForAborted}, setting=SLOW_STANDBYS),
    Bug("a batch has one Sync", {"participant": participants.SyncsOnce}, setting=BUSY),
    Bug("a branch is finished by its prefix", {"participant": participants.FinishesByPrefix}, setting=BUSY),
    Bug("the command tag is not looked at", {"participant": participants.AnswersYesToARollback}),
    Bug("a pool takes back what is unknown", {"participant": participants.PutsBackWhatIsUnknown}),
    Bug("a tombstone waits without a timeout", {"participant": participants.WaitsForTheTombstone}, setting=BUSY),
    Bug("a participant rolls back on age", {"participant": participants.RollsBackOnAge}),
    Bug(
        "a participant ignores its horizon",
        {"participant": participants.IgnoresTheHorizon},
        setting=replace(PRUNED, later=(16.0, 18.0, 20.0)),
    ),
    Bug("a server without fsync", {"participant": participants.ForgetsWhatItPrepared}),
    # Sagas: the journal.
    Bug("a start is answered before its sync", {"journal": sagas.StartsBeforeTheSync}, setting=SAGAS),
    Bug("a turn is answered before its sync", {"journal": sagas.TurnsBeforeTheSync}, setting=SAGAS_FAILED_OVER),
    Bug(
        "a saga's request id is free before it is undone",
        plant=sagas.request_id_is_released_at_the_turn,
        setting=DEAD_LETTERS,
    ),
    Bug(
        "the fence is not checked for a saga",
        plant=coordinators.fence_is_not_checked,
        setting=replace(SAGAS_FROZEN, trouble=0.4, sync=1.0),
    ),
    # Sagas: the coordinator.
    Bug("a saga is told done too early", plant=sagas.told_when_the_last_step_is_sent, setting=SAGAS),
    Bug("a saga turns at its deadline", plant=sagas.turns_at_the_deadline, setting=SAGAS),
    Bug("unknown steps are not undone", plant=sagas.unknown_steps_are_skipped, setting=SAGAS),
    Bug("steps are undone in any order", plant=sagas.compensations_in_any_order, setting=SAGAS),
    Bug("a resumed saga goes back", plant=sagas.resume_goes_back, setting=SAGAS),
    Bug(
        "a resumed saga forgets its turn",
        plant=sagas.resume_forgets_the_turn,
        setting=replace(SAGAS_FAILED_OVER, fickle=0.4, moody=0.4),
    ),
    Bug("not now is taken for never", plant=sagas.retry_is_final, setting=SAGAS_COPIED),
    Bug("an unanswered step is taken for refused", plant=sagas.unanswered_is_refused, setting=SAGAS),
    Bug("a step that was given up is taken for refused", plant=sagas.a_given_up_step_is_refused, setting=SAGAS),
    Bug("a dead letter is dropped", plant=sagas.dead_letters_are_dropped, setting=DEAD_LETTERS),
    # Sagas: the participants.
    Bug("a compensation claims nothing", {"participant": participants.ClaimsNothing}, setting=SAGAS_COPIED),
    Bug("a compensation claims afterwards", {"participant": participants.ClaimsAfterwards}, setting=SAGAS_COPIED),
    Bug("a compensation runs before it claims", {"participant": participants.UndoesBeforeItClaims}, setting=SAGAS),
    Bug("a compensation has no row", {"participant": participants.UndoesWithoutARow}, setting=SAGAS),
    Bug(
        "the row of a compensation is written apart",
        {"participant": participants.NotesTheCompensationApart},
        setting=SAGAS_COPIED,
    ),
    Bug("what must succeed refuses for good", {"participant": participants.RefusesForGood}, setting=SAGAS),
    Bug(
        "an absent step is taken for not applied",
        {"participant": participants.TakesAnAbsentRowForNotApplied},
        setting=SAGAS_COPIED,
    ),
)
