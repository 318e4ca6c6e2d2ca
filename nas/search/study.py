"""The search: ask for a candidate, evaluate it if it is feasible, tell the result. One Optuna study."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.search.baselines import LARGEST, keeps, spread_family
from nas.search.executor import Executor
from nas.search.halving import Halving
from nas.search.journal import TrialJournal
from nas.search.record import REUSED_FROM, UNSOUND, describe, evaluated_trials, latencies
from nas.search.target import Target, metric, over_budget
from nas.training.oracle import ACCURACY
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace, sample_spread

STUDY_NAME = "search"
# An oracle that fails again and again is broken; the study is left as it is for when it is mended.
FAILURES_IN_A_ROW = 5
# Draws that the bins of the first candidates are filled from, and the most bins that there are.
DRAWS, BINS = 1000, 10


class SearchFailed(RuntimeError):
    """The oracle failed several times in a row."""


def open_study(journal: Path, latencies: Sequence[str], rating: str = ACCURACY) -> Study:
    """Open the study in ``journal``, or create it: the rating is maximised, each device's latency minimised.

    ``latencies`` name the latencies (see ``target.metric``), ``rating`` is what ratings are called.

    The caller must be the journal's only writer. What a killed writer left behind is mended: a lock, and a
    last line that was cut off.

    Raises:
        InputError: the journal is damaged elsewhere.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal.with_name(journal.name + ".lock").unlink(missing_ok=True)
    if journal.exists():
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with journal.open("rb+") as file:
                file.truncate(whole)
    try:
        study = optuna.create_study(
            storage=JournalStorage(TrialJournal(str(journal))),
            study_name=STUDY_NAME,
            directions=[StudyDirection.MAXIMIZE, *[StudyDirection.MINIMIZE for _ in latencies]],
            load_if_exists=True,
        )
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{journal} is damaged; delete it to search anew") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([rating, *latencies])
    return study


def read_study(journal: Path) -> Study:
    """Return the study in ``journal``, to be read.

    Raises:
        InputError: the journal is missing or damaged.
    """
    if not journal.exists():
        raise InputError(f"{journal} does not exist: the run has not come to its search")
    try:
        return optuna.load_study(study_name=STUDY_NAME, storage=JournalStorage(TrialJournal(str(journal))))
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{journal} is damaged: it holds no study") from None


def first_candidates(
    space: SearchSpace, targets: Sequence[Target], trials: int, seed: int, proposed: Sequence[Architecture] = (),
    largest: bool = False,
) -> list[tuple[Architecture, str]]:  # fmt: skip
    """Return the candidates that every search starts with, and their origin: at most half of ``trials``.

    What is ``proposed`` (``search``), one random architecture per latency bin (``random``), and the feasible part of
    the hand-made family (``baseline``), spread over latency where there is no room for all of it. Uniform draws would
    leave the fast end empty: bins hold equally many of a thousand draws that lean towards one option, by latency on the
    first device. With ``largest``, as far as there is room, the one with the most MACs of each bin follows: for ratings
    that hardly show what capacity is worth later.
    """
    room = max(1, trials // 2)
    members = spread_family(space, targets, min(room - 1, max(BINS, room - BINS)))
    family = [(a, "baseline") for a in members]
    rng = np.random.default_rng(seed)
    drawn = [a for a in (sample_spread(space, rng) for _ in range(DRAWS)) if keeps(a, targets)]
    bins = max(1, min(BINS, room - len(family)))
    ordered = sorted({a.id: a for a in drawn}.values(), key=targets[0].predict_ms)
    parts = [part for part in np.array_split(np.arange(len(ordered)), bins) if len(part)]
    spread = [(ordered[int(rng.choice(part))], "random") for part in parts]
    known = [(a, "search") for a in proposed]
    candidates = {a.id: (a, origin) for a, origin in [*known, *spread, *family]}
    for part in parts if largest else ():
        most = max((ordered[int(i)] for i in part), key=space.macs)
        candidates.setdefault(most.id, (most, LARGEST))
    return list(candidates.values())[:room]


def enqueue(study: Study, candidates: Sequence[tuple[Architecture, str]]) -> None:
    """Put ``candidates`` before the sampler's own trials; those that are in the study already stay as they are.

    A longer search starts with others than a shorter one: it gets as many of the new ones as it starts with more. What
    an earlier run has rated is beside these.
    """
    trials = study.get_trials(deepcopy=False)
    present = [trial.system_attrs.get("fixed_params") for trial in trials]
    missing = [(dict(a.decisions), origin) for a, origin in candidates if dict(a.decisions) not in present]
    begun = sum("origin" in t.user_attrs and REUSED_FROM not in t.user_attrs for t in trials)
    room = max(0, len(candidates) - begun)
    for decisions, origin in missing[:room]:
        study.enqueue_trial(decisions, user_attrs={"origin": origin})


@dataclass
class Driver:
    """Runs a study: the only one who asks and tells.

    Every trial is recorded with its architecture and known latencies before it is evaluated. A
    candidate over a budget is told at once, infeasible and never evaluated; its accuracy is stored as 0 because
    Optuna needs a value, and ``evaluated`` says that it is none. An architecture that was rated before
    keeps its rating. Trials that a killed run left unfinished are finished first.

    With ``halving`` a candidate is evaluated rung by rung. One that is stopped is told as pruned, without values, so
    that nothing takes its last accuracy for a rating. If it is proposed again it stays stopped. So does a candidate
    whose network cannot learn; the trial records why.
    """

    study: Study
    space: SearchSpace
    targets: Sequence[Target]
    executor: Executor
    trials: int
    progress: Callable[[int, int], None] = lambda done, total: None
    halving: Halving | None = None
    _rated: dict[str, float | None] = field(default_factory=dict)
    _running: dict[int, tuple[Trial, Architecture]] = field(default_factory=dict)
    _same: dict[str, list[Trial]] = field(default_factory=dict)
    _failures: int = 0

    def run(self) -> None:
        """Bring the study to ``trials`` trials, beside those that an earlier run has rated.

        Raises:
            SearchFailed: several evaluations in a row failed.
        """
        stopped = self.study.get_trials(deepcopy=False, states=[TrialState.PRUNED])
        self._rated = {t.user_attrs["id"]: None for t in stopped}
        self._rated |= {t.architecture.id: t.accuracy for t in evaluated_trials(self.study, self.space)}
        for frozen in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            self._start(Trial(self.study, frozen._trial_id))
        while True:
            self._report()
            while len(self._running) < self.executor.slots and self._asked() < self.trials:
                self._start(self.study.ask())
                self._report()
            if not self._running:
                return
            self._collect()

    def _own(self) -> list[FrozenTrial]:
        return [t for t in self.study.get_trials(deepcopy=False) if REUSED_FROM not in t.user_attrs]

    def _asked(self) -> int:
        return sum(trial.state != TrialState.WAITING for trial in self._own())

    def _report(self) -> None:
        self.progress(sum(trial.state.is_finished() for trial in self._own()), self.trials)

    def _start(self, trial: Trial) -> None:
        architecture = self.space.decide(lambda name, options: str(trial.suggest_categorical(name, options)))
        ms = [target.predict_ms(architecture) for target in self.targets]
        describe(trial, self.space, architecture, [metric(t.kind, t.device) for t in self.targets], ms)
        excess = over_budget(self.targets, ms)
        for constraint, value in excess.items():
            if constraint not in trial.constraints:  # a resumed trial may have it
                trial.set_constraint(constraint, value)
        feasible = all(value <= 0 for value in excess.values())
        trial.set_user_attr("feasible", feasible)
        if not feasible:
            self._tell(trial, None)
        elif architecture.id in self._rated:
            self._tell(trial, self._rated[architecture.id])
        elif architecture.id in self._same:
            self._same[architecture.id].append(trial)
        else:
            self._same[architecture.id] = []
            self._running[trial.number] = (trial, architecture)
            self._advance(trial, architecture)

    def _advance(self, trial: Trial, architecture: Architecture) -> None:
        """Have the candidate evaluated, or trained to its next rung; settle it where there is none."""
        if self.halving is None:
            self.executor.submit(trial.number, architecture)
        elif (job := self.halving.job(trial, architecture)) is not None:
            self.executor.submit(trial.number, job)
        else:
            self._settle(trial, architecture, self.halving.accuracy(trial))

    def _collect(self) -> None:
        outcome = self.executor.next()
        trial, architecture = self._running[int(str(outcome.key))]
        if outcome.unsound:
            trial.set_user_attr(UNSOUND, outcome.error)
            self._settle(trial, architecture, None)
            return
        if outcome.error is not None:
            self._fail(trial, architecture, outcome.error)
            return
        self._failures = 0
        if self.halving is None:
            self._settle(trial, architecture, float(outcome.value))
        else:
            self.halving.record(trial, float(outcome.value))
            self._advance(trial, architecture)

    def _settle(self, trial: Trial, architecture: Architecture, accuracy: float | None) -> None:
        self._rated[architecture.id] = accuracy
        for each in self._done(trial, architecture):
            self._tell(each, accuracy)

    def _done(self, trial: Trial, architecture: Architecture) -> list[Trial]:
        """Return the trials that wait for this one's result, itself included; none of them is running any more."""
        del self._running[trial.number]
        if self.halving is not None:
            self.halving.forget(architecture)
        return [trial, *self._same.pop(architecture.id)]

    def _tell(self, trial: Trial, accuracy: float | None) -> None:
        trial.set_user_attr("evaluated", accuracy is not None)
        if accuracy is None and trial.user_attrs["feasible"]:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, [accuracy or 0.0, *latencies(trial)])

    def _fail(self, trial: Trial, architecture: Architecture, error: str) -> None:
        for each in self._done(trial, architecture):
            each.set_user_attr("error", error)
            self.study.tell(each, state=TrialState.FAIL)
        self._failures += 1
        if self._failures == FAILURES_IN_A_ROW:
            raise SearchFailed(f"{self._failures} evaluations in a row failed, the last with {error}")
