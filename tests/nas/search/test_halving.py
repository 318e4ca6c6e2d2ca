"""Successive halving: the rule against a second implementation, and studies that record, resume and never mix rungs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import made_up_accuracy, made_up_table, told
from optuna.study import Study
from optuna.trial import TrialState
from toy_space import ToySpace

from nas.search.executor import InProcess, Outcome
from nas.search.halving import REDUCTION, Halving, may_reach_front, rungs
from nas.search.journal import TrialJournal
from nas.search.record import evaluated_trials, trials_table, unrated_ids
from nas.search.samplers import SamplerKind, make_sampler
from nas.search.study import Driver, SearchFailed, enqueue, first_candidates, open_study
from nas.search.target import TableTarget
from nas.training.oracle import RungJob, rung_checkpoint
from search_spaces.fbnet import FBNetSpace
from search_spaces.space import SearchSpace

SPACE = FBNetSpace((1, 8, 8), 10)
TOY = ToySpace((1, 8, 8), 10)
EPOCHS, TRIALS, BUDGET_MS = 9, 30, 0.3
Told = tuple[Any, ...]


class Died(BaseException):
    """Stands for the death of the process."""


def rung_accuracy(job: RungJob) -> float:
    """Improves with the epochs, and less noisily so; the last is what ``made_up_accuracy`` says."""
    architecture, epochs = job
    noise = int(architecture.id[4:8], 16) / 0xFFFF - 0.5
    return made_up_accuracy(architecture) * (0.5 + epochs / 18) + 0.1 * noise * (1 - epochs / EPOCHS)


def run(
    journal: Path,
    kind: SamplerKind = "random",
    work: Callable[[RungJob], float] = rung_accuracy,
    space: SearchSpace = SPACE,
    trials: int = TRIALS,
) -> list[Told]:
    """Bring a study with halving to its trials and return what it holds."""
    targets = [TableTarget(space, made_up_table(space), BUDGET_MS)]
    study = open_study(journal, ["cpu"])
    study.sampler = make_sampler(kind, space, targets, 0)
    enqueue(study, first_candidates(space, targets, 12, 0))
    halving = Halving(study, EPOCHS, journal.parent)
    Driver(study, space, targets, InProcess(lambda: work), trials, halving=halving).run()
    return told(journal)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(1, [1]), (2, [1, 2]), (3, [1, 3]), (8, [1, 2, 8]), (9, [1, 3, 9]), (30, [3, 10, 30]), (81, [9, 27, 81])],
)
def test_rungs(epochs: int, expected: list[int]) -> None:
    assert rungs(epochs) == expected


def rank(point: tuple[float, float], points: list[tuple[float, float]]) -> dict[tuple[float, float], int]:
    """Return each point's rank: one more than the worst rank among those that dominate it."""

    def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    found: dict[tuple[float, float], int] = {}
    for each in sorted([*points, point], key=lambda p: (p[1], -p[0])):
        found[each] = 1 + max((found[other] for other in found if dominates(other, each)), default=-1)
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 40])
def test_best_third_by_non_dominated_rank_goes_on(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(20):
        (accuracy, ms), *others = [(float(a), float(b)) for a, b in rng.random((count + 1, 2))]
        ranks = rank((accuracy, ms), others)
        ahead = sum(ranks[other] < ranks[accuracy, ms] for other in others)
        assert may_reach_front((accuracy, ms), others) == (ranks[accuracy, ms] == 0 or ahead < (count + 1) / REDUCTION)


def test_slower_candidates_do_not_stop_a_faster_one() -> None:
    rng = np.random.default_rng(0)
    faster = [(float(a), float(b)) for a, b in rng.random((30, 2))]
    for accuracy in (0.05, 0.3, 0.6):
        slower = [(1.0 - n / 100, 2.0 + n) for n in range(20)]
        assert not may_reach_front((accuracy, 1.5), faster) or may_reach_front((accuracy, 1.5), [*faster, *slower])
    assert may_reach_front((0.01, -1.0), [*faster, *faster])
    assert not may_reach_front((0.01, 1.5), faster)


def test_the_later_of_two_equal_candidates_is_behind() -> None:
    assert may_reach_front((0.5, 1.0), [])
    assert not may_reach_front((0.5, 1.0), [(0.5, 1.0)] * 2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RungJob], int]:
    """A study that ran through, the jobs that were run for it, and the number of its journal's lines."""
    jobs: list[RungJob] = []

    def work(job: RungJob) -> float:
        jobs.append(job)
        return rung_accuracy(job)

    journal = tmp_path_factory.mktemp("study") / "j"
    run(journal, work=work)
    return journal, jobs, len(journal.read_bytes().splitlines())


def test_trials_tell_how_far_they_came(undisturbed: tuple[Path, list[RungJob], int]) -> None:
    journal, jobs, _ = undisturbed
    trained: dict[str, list[int]] = {}
    for architecture, epochs in jobs:
        trained.setdefault(architecture.id, []).append(epochs)
    states = set()
    for trial in open_study(journal, ["cpu"]).trials:
        attrs = trial.user_attrs
        states.add(trial.state)
        if not attrs["feasible"]:
            assert attrs["id"] not in trained and "epochs" not in attrs
            continue
        reached = trained[attrs["id"]]
        assert reached == rungs(EPOCHS)[: len(reached)] and attrs["epochs"] == reached[-1]
        architecture = SPACE.parse(attrs["architecture"])
        for epochs in reached:
            assert attrs[f"accuracy at epoch {epochs}"] == rung_accuracy((architecture, epochs))
        done = reached[-1] == EPOCHS
        assert trial.state == (TrialState.COMPLETE if done else TrialState.PRUNED)
        assert attrs["evaluated"] is done
        assert trial.values == ([made_up_accuracy(architecture), attrs["predicted_ms cpu"]] if done else None)
        assert done or "origin" not in attrs
    assert states == {TrialState.COMPLETE, TrialState.PRUNED}
    assert {len(reached) for reached in trained.values()} == {1, 2, 3}


def test_nobody_takes_a_stopped_candidate_for_a_rated_one(undisturbed: tuple[Path, list[RungJob], int]) -> None:
    study = open_study(undisturbed[0], ["cpu"])
    stopped = {t.user_attrs["id"] for t in study.trials if t.state == TrialState.PRUNED}
    assert not stopped & {trial.architecture.id for trial in evaluated_trials(study, SPACE)}
    assert not stopped & set(trials_table(study, "predicted_ms cpu")["id"])
    assert not stopped & {trial.user_attrs["id"] for trial in study.best_trials}
    # Nor proposes it again.
    assert unrated_ids(study, TRIALS) == stopped and unrated_ids(study, 0) == set()


def test_what_was_saved(undisturbed: tuple[Path, list[RungJob], int], tmp_path: Path) -> None:
    journal, jobs, _ = undisturbed
    candidates = len({architecture.id for architecture, _ in jobs})
    finished = sum(epochs == EPOCHS for _, epochs in jobs)
    previous = {rung: ([0, *rungs(EPOCHS)])[n] for n, rung in enumerate(rungs(EPOCHS))}
    spent = sum(epochs - previous[epochs] for _, epochs in jobs)
    assert Halving(open_study(journal, ["cpu"]), EPOCHS, tmp_path).lines() == {
        "candidates stopped early": f"{candidates - finished} of {candidates}",
        "epochs trained": f"{spent} of {candidates * EPOCHS}",
    }


def test_unfinished_networks_are_kept_as_long_as_they_are_needed(tmp_path: Path) -> None:
    def work(job: RungJob) -> float:
        path = rung_checkpoint(tmp_path, job[0])
        assert path.exists() == (job[1] != rungs(EPOCHS)[0])
        path.touch()
        assert len(list(tmp_path.glob("*.safetensors"))) == 1
        if job[1] == EPOCHS and job[0].id < "8":
            raise RuntimeError("diverged")
        return rung_accuracy(job)

    assert {trial[1] for trial in run(tmp_path / "j", work=work)} == {"COMPLETE", "PRUNED", "FAIL"}
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_stopped_architecture_stays_stopped(tmp_path: Path) -> None:
    jobs: list[RungJob] = []

    def work(job: RungJob) -> float:
        jobs.append(job)
        return rung_accuracy(job)

    for trials in (40, 60):  # the second time what was stopped is known from the study alone
        run(tmp_path / "j", space=TOY, work=work, trials=trials)
    assert len(set(jobs)) == len(jobs)
    states: dict[str, set[str]] = {}
    repeated = 0
    for trial in open_study(tmp_path / "j", ["cpu"]).trials:
        states.setdefault(trial.user_attrs["id"], set()).add(trial.state.name)
        repeated += trial.state == TrialState.PRUNED and "epochs" not in trial.user_attrs
    assert all(len(found) == 1 for found in states.values()) and repeated > 0


@pytest.mark.parametrize("kind", ["gp", "evolution", "tpe", "nsga2"])
def test_every_sampler_lives_with_stopped_trials(kind: SamplerKind, tmp_path: Path) -> None:
    trials = run(tmp_path / "j", kind)
    assert {trial[1] for trial in trials} == {"COMPLETE", "PRUNED"} and len(trials) == TRIALS
    if kind in ("gp", "evolution"):
        assert len({str(trial[4]["id"]) for trial in trials}) == TRIALS


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_death_in_a_rung(share: float, undisturbed: tuple[Path, list[RungJob], int], tmp_path: Path) -> None:
    expected, last = undisturbed[1], int(share * len(undisturbed[1]))
    done: list[RungJob] = []

    def work(job: RungJob) -> float:
        if len(done) == last:
            raise Died
        done.append(job)
        return rung_accuracy(job)

    with pytest.raises(Died):
        run(tmp_path / "j", work=work)

    def rest(job: RungJob) -> float:
        done.append(job)
        return rung_accuracy(job)

    assert run(tmp_path / "j", work=rest) == told(undisturbed[0])
    assert done == expected


def test_death_at_any_write(
    undisturbed: tuple[Path, list[RungJob], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, append, left = told(undisturbed[0]), TrialJournal.append_logs, 0

    def dies(self: TrialJournal, logs: list[dict[str, Any]]) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Died
        append(self, logs)

    # Around the last trials, where every kind of write occurs and little is left to do.
    writes = undisturbed[2]
    for write in [writes // 2, *range(writes - 40, writes - 1, 6)]:
        left, journal = write, tmp_path / f"{write}.journal"
        with monkeypatch.context() as patch:
            patch.setattr(TrialJournal, "append_logs", dies)
            with pytest.raises(Died):
                run(journal)
        assert run(journal) == expected, write


class Slow:
    """An executor of several slots whose jobs end in reverse order."""

    slots = 4

    def __init__(self) -> None:
        self.waiting: list[tuple[object, RungJob]] = []
        self.done: list[RungJob] = []

    def submit(self, key: object, job: RungJob) -> None:
        assert len(self.waiting) < self.slots
        self.waiting.append((key, job))

    def next(self) -> Outcome:
        key, job = self.waiting.pop()
        self.done.append(job)
        return Outcome(key, rung_accuracy(job))  # type: ignore[arg-type]

    def close(self) -> None:
        pass


def test_several_slots(tmp_path: Path) -> None:
    study, executor, targets = open_study(tmp_path / "j", ["cpu"]), Slow(), [TableTarget(TOY, made_up_table(TOY), None)]
    study.sampler = make_sampler("random", TOY, targets, 0)
    halving = Halving(study, EPOCHS, tmp_path)
    Driver(study, TOY, targets, executor, 40, halving=halving).run()  # type: ignore[arg-type]
    assert {t.state for t in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED} and len(study.trials) == 40
    assert len(set(executor.done)) == len(executor.done)
    leaders = sum("epochs" in trial.user_attrs for trial in study.trials)
    assert leaders == len({architecture.id for architecture, _ in executor.done}) < 40


def test_failures_in_a_row_end_the_search(tmp_path: Path) -> None:
    def broken(job: RungJob) -> float:
        raise RuntimeError("no memory")

    with pytest.raises(SearchFailed, match="no memory"):
        run(tmp_path / "j", work=broken)


def entered(study: Study, at_first_rung: float, ms: tuple[float, ...]) -> Any:
    trial = study.ask()
    for device, value in enumerate(ms):
        trial.set_user_attr(f"predicted_ms device {device}", value)
    Halving(study, EPOCHS, Path("unused")).record(trial, at_first_rung)
    return trial


def test_one_device_whose_front_is_in_reach_is_enough(tmp_path: Path) -> None:
    study = open_study(tmp_path / "j", ["device 0", "device 1"])
    for n in range(10):
        entered(study, 0.5 + 0.01 * n, (1.0, 2.0))
    halving = Halving(study, EPOCHS, tmp_path)
    assert halving.stops(entered(study, 0.4, (1.5, 2.5)))
    assert not halving.stops(entered(study, 0.39, (1.6, 1.5)))
    # The hand-made family and the first random candidates go all the way.
    first = entered(study, 0.1, (3.0, 3.0))
    assert halving.stops(first)
    first.set_user_attr("origin", "baseline")
    assert not halving.stops(first)
    architecture = SPACE.parse(",".join(["k3_e1"] * 8))
    assert halving.job(first, architecture) == (architecture, 3)
