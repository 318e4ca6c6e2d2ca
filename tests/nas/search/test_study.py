"""The study on disk, the first candidates, and a driver that outlives a failing oracle."""

from pathlib import Path

import numpy as np
import optuna
import pytest
from fakes import made_up_accuracy, made_up_table, run_study, told
from optuna.trial import TrialState
from toy_space import ToySpace

from nas.search.baselines import LARGEST
from nas.search.executor import InProcess, Outcome
from nas.search.record import evaluated_trials, trials_table, unsound_architectures, unsound_lines
from nas.search.samplers import SamplerKind, make_sampler
from nas.search.study import (
    FAILURES_IN_A_ROW,
    STUDY_NAME,
    Driver,
    SearchFailed,
    enqueue,
    first_candidates,
    open_study,
    read_study,
)
from nas.search.target import RecordedTarget, TableTarget
from nas.training.recorded import Recorded
from nas.training.soundness import Unsound
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace
from search_spaces.hybrid import HybridSpace
from search_spaces.space import SearchSpace, enumerate_architectures, sample_spread

SPACE = FBNetSpace((1, 8, 8), 10)
TOY = ToySpace((1, 8, 8), 10)
BUDGET_MS = 0.24


def target(space: SearchSpace, budget_ms: float | None = None) -> TableTarget:
    return TableTarget(space, made_up_table(space), budget_ms)


def test_torn_last_line_and_stale_lock_are_mended(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    before = run_study(journal, "random", TOY, None, 6)
    whole = journal.read_bytes()
    with journal.open("ab") as file:
        file.write(b'{"op_code": 6, "wor')
    (tmp_path / "study.journal.lock").symlink_to("nowhere")
    assert told(journal) == before
    assert journal.read_bytes()[: len(whole)] == whole
    assert not (tmp_path / "study.journal.lock").is_symlink()
    assert len(run_study(journal, "random", TOY, None, 8)) == 8


def test_journal_that_is_one_torn_line(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    journal.write_bytes(b'{"op_code": 0, "work')
    assert len(open_study(journal, ["cpu"]).trials) == 0


def test_directions_and_names(tmp_path: Path) -> None:
    study = open_study(tmp_path / "j", ["predicted_ms cpu", "recorded_ms board"])
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", "predicted_ms cpu", "recorded_ms board"]
    assert open_study(tmp_path / "j", ["predicted_ms cpu", "recorded_ms board"]).study_name == STUDY_NAME


def test_reading_a_study(tmp_path: Path) -> None:
    run_study(tmp_path / "j", "random", TOY, None, 4)
    assert len(read_study(tmp_path / "j").trials) == 4
    with pytest.raises(InputError, match="does not exist"):
        read_study(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    for content in (b"", b"nonsense\n", b"{}\n", b"[1]\n", b"\xff\xfe\n"):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            read_study(tmp_path / "bad")
        if content:
            with pytest.raises(InputError, match="bad is damaged; delete it to search anew"):
                open_study(tmp_path / "bad", ["cpu"])


@pytest.mark.parametrize("trials", [2, 5, 12, 40, 100])
@pytest.mark.parametrize("budget_ms", [None, BUDGET_MS])
def test_first_candidates(trials: int, budget_ms: float | None) -> None:
    found = first_candidates(SPACE, [target(SPACE, budget_ms)], trials, 0)
    assert 1 <= len(found) <= trials // 2
    assert len({architecture.id for architecture, _ in found}) == len(found)
    assert {origin for _, origin in found} <= {"random", "baseline"}
    family = SPACE.baseline_family()
    assert all((architecture in family) == (origin == "baseline") for architecture, origin in found)
    latencies = [target(SPACE).predict_ms(architecture) for architecture, _ in found]
    assert budget_ms is None or max(latencies) <= budget_ms
    assert found == first_candidates(SPACE, [target(SPACE, budget_ms)], trials, 0)


def test_first_candidates_are_spread_over_latency() -> None:
    found = first_candidates(SPACE, [target(SPACE)], 100, 0)
    assert sum(origin == "baseline" for _, origin in found) == len(SPACE.baseline_family())
    rng = np.random.default_rng(0)
    drawn = {a.id: a for a in (sample_spread(SPACE, rng) for _ in range(1000))}
    edges = np.percentile([target(SPACE).predict_ms(a) for a in drawn.values()], np.linspace(0, 100, 11))
    random = [a for a, origin in found if origin == "random"]
    assert all(a.id in drawn for a in random)
    # One per tenth of the draws, unless it is of the family.
    bins = np.searchsorted(edges[1:-1], [target(SPACE).predict_ms(a) for a in random])
    assert len(set(bins)) == len(bins) >= 8 and np.abs(np.diff(np.sort(bins))).max() <= 2


def test_the_largest_of_each_bin_is_a_first_candidate_while_there_is_room() -> None:
    without = first_candidates(SPACE, [target(SPACE)], 100, 0)
    found = first_candidates(SPACE, [target(SPACE)], 100, 0, largest=True)
    assert found[: len(without)] == without
    assert len(first_candidates(SPACE, [target(SPACE)], 12, 0, largest=True)) <= 6
    largest = {a.id for a, origin in found if origin == LARGEST}
    assert 5 <= len(largest) <= 10
    rng = np.random.default_rng(0)
    drawn = {a.id: a for a in (sample_spread(SPACE, rng) for _ in range(1000))}.values()
    ordered = sorted(drawn, key=target(SPACE).predict_ms)
    bins = [[ordered[i] for i in part] for part in np.array_split(np.arange(len(ordered)), 10)]
    assert largest <= {max(part, key=SPACE.macs).id for part in bins}


def test_bins_are_as_many_as_there_is_room_for() -> None:
    family = len(TOY.baseline_family())
    for trials, most in ((4, 1), (10, 3), (16, 6), (100, 10)):
        origins = [origin for _, origin in first_candidates(TOY, [target(TOY)], trials, 0)]
        assert 1 <= origins.count("random") <= most and len(origins) <= trials // 2
        assert origins.count("baseline") <= family


def test_a_large_family_leaves_the_random_ones_their_bins_and_is_spread_over_latency() -> None:
    space = HybridSpace((3, 64, 64), 10)
    everywhere = target(space)
    members = [everywhere.predict_ms(a) for a in space.baseline_family()]
    for trials, family in ((12, 5), (30, 10), (40, 10), (60, 20), (200, len(members))):
        found = first_candidates(space, [everywhere], trials, 0)
        origins = [origin for _, origin in found]
        assert origins.count("baseline") == family and len(found) <= trials // 2
        assert origins.count("random") == max(1, min(10, trials // 2 - family))
        chosen = [everywhere.predict_ms(a) for a, origin in found if origin == "baseline"]
        assert (min(chosen), max(chosen)) == (min(members), max(members))


def test_bins_are_by_the_first_device() -> None:
    backwards = made_up_table(SPACE, "board")
    opposite = backwards.calibration.model_copy(update={"slope": -1.0, "offset_ms": 9.0})
    board = TableTarget(SPACE, backwards.model_copy(update={"calibration": opposite}), None)
    first = first_candidates(SPACE, [target(SPACE), board], 60, 0)
    assert first == first_candidates(SPACE, [target(SPACE)], 60, 0)
    assert first != first_candidates(SPACE, [board, target(SPACE)], 60, 0)


def test_what_is_proposed_comes_first() -> None:
    _, _, *others = (a for a, _ in first_candidates(SPACE, [target(SPACE)], 40, 1))
    first = first_candidates(SPACE, [target(SPACE)], 40, 0, others[:2])
    assert first[:2] == [(others[0], "search"), (others[1], "search")] and len(first) <= 20
    assert {a for a, _ in first[2:]} <= {a for a, _ in first_candidates(SPACE, [target(SPACE)], 40, 0)}


def test_no_feasible_draw_and_no_feasible_baseline() -> None:
    assert first_candidates(SPACE, [target(SPACE, 1e-6)], 40, 0) == []


def test_networks_that_take_no_time_leave_the_others_their_bins() -> None:
    networks = list(enumerate_architectures(TOY))
    latencies = {a: 0.0 if a == TOY.named()["smallest"] else target(TOY).predict_ms(a) for a in networks}
    assert 0.0 in latencies.values()
    recorded = RecordedTarget("phone", Recorded(Path("t.csv"), latencies), None)
    found = first_candidates(TOY, [recorded], 40, 0)
    assert sum(origin == "random" for _, origin in found) >= 4


def test_every_device_has_to_be_kept() -> None:
    loose, tight = target(SPACE, 1.0), target(SPACE, BUDGET_MS)
    for architecture, _ in first_candidates(SPACE, [loose, tight], 100, 0):
        assert tight.predict_ms(architecture) <= BUDGET_MS


def test_enqueuing_resumes_without_doubling(tmp_path: Path) -> None:
    candidates = first_candidates(SPACE, [target(SPACE)], 40, 0)
    study = open_study(tmp_path / "j", ["cpu"])
    enqueue(study, candidates[:3])
    for _ in range(2):
        enqueue(open_study(tmp_path / "j", ["cpu"]), candidates)
    trials = open_study(tmp_path / "j", ["cpu"]).trials
    assert [t.system_attrs["fixed_params"] for t in trials] == [dict(a.decisions) for a, _ in candidates]
    assert [t.user_attrs["origin"] for t in trials] == [origin for _, origin in candidates]
    assert {t.state for t in trials} == {TrialState.WAITING}


def test_longer_search_starts_with_no_more_than_half_of_its_trials(tmp_path: Path) -> None:
    study = open_study(tmp_path / "j", ["cpu"])
    for trials in (16, 26, 30, 30):
        enqueue(study, first_candidates(SPACE, [target(SPACE)], trials, 0))
        assert len(study.trials) <= trials // 2
    assert len(study.trials) == len(first_candidates(SPACE, [target(SPACE)], 30, 0))


def test_longer_search_gets_no_candidate_twice(tmp_path: Path) -> None:
    run_study(tmp_path / "j", "random", SPACE, None, 6)
    attrs = [trial[4] for trial in run_study(tmp_path / "j", "random", SPACE, None, 60)]
    first = [a["id"] for a in attrs if "origin" in a]
    assert len(set(first)) == len(first) > 10


class Broken:
    """Work that fails as long as ``broken`` is set."""

    def __init__(self) -> None:
        self.broken = True
        self.calls = 0

    def __call__(self, architecture: Architecture) -> float:
        self.calls += 1
        if self.broken:
            raise RuntimeError("no more\nmemory")
        return made_up_accuracy(architecture)


def test_search_stops_after_failures_in_a_row_and_goes_on_when_mended(tmp_path: Path) -> None:
    work = Broken()
    with pytest.raises(SearchFailed, match="5 evaluations in a row failed, the last with RuntimeError: no more"):
        run_study(tmp_path / "j", "gp", SPACE, None, 20, factory=lambda: work)
    failed = [trial for trial in told(tmp_path / "j") if trial[1] == "FAIL"]
    assert work.calls == len(failed) == FAILURES_IN_A_ROW
    assert all("no more" in str(trial[4]["error"]) for trial in failed)
    work.broken = False
    trials = run_study(tmp_path / "j", "gp", SPACE, None, 20, factory=lambda: work)
    assert [trial[1] for trial in trials].count("COMPLETE") == 20 - FAILURES_IN_A_ROW and len(trials) == 20


def test_failures_now_and_then_do_not_stop_the_search(tmp_path: Path) -> None:
    calls = 0

    def work(architecture: Architecture) -> float:
        nonlocal calls
        calls += 1
        if calls % 3:
            raise ValueError("bad luck")
        return 0.5

    trials = run_study(tmp_path / "j", "random", SPACE, None, 15, factory=lambda: work)
    assert [trial[1] for trial in trials].count("FAIL") == 10


class Slow:
    """An executor of several slots whose jobs end in reverse order."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.waiting: list[tuple[object, Architecture]] = []
        self.rated: list[str] = []

    def submit(self, key: object, job: Architecture) -> None:
        assert len(self.waiting) < self.slots
        self.waiting.append((key, job))

    def next(self) -> Outcome:
        key, job = self.waiting.pop()
        self.rated.append(job.id)
        return Outcome(key, made_up_accuracy(job))  # type: ignore[arg-type]

    def close(self) -> None:
        pass


@pytest.mark.parametrize("kind", ["gp", "random", "tpe", "nsga2"])
def test_several_slots(kind: str, tmp_path: Path) -> None:
    study, executor = open_study(tmp_path / "j", ["cpu"]), Slow(4)
    targets = [target(TOY)]
    study.sampler = make_sampler(kind, TOY, targets, 0)  # type: ignore[arg-type]
    Driver(study, TOY, targets, executor, 30).run()
    assert len(study.trials) == 30 and {t.state for t in study.trials} == {TrialState.COMPLETE}
    assert len(set(executor.rated)) == len(executor.rated)
    for trial in study.trials:
        assert trial.values[0] == made_up_accuracy(TOY.parse(trial.user_attrs["architecture"]))


def test_progress_counts_finished_trials(tmp_path: Path) -> None:
    shown: list[tuple[int, int]] = []
    study, targets = open_study(tmp_path / "j", ["cpu"]), [target(TOY)]
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    Driver(study, TOY, targets, InProcess(lambda: made_up_accuracy), 5, lambda *done: shown.append(done)).run()
    assert shown[0] == (0, 5) and shown[-1] == (5, 5) and shown == sorted(shown)


def test_several_devices(tmp_path: Path) -> None:
    study = open_study(tmp_path / "j", ["cpu", "board"])
    slow = made_up_table(SPACE, "board").model_copy(update={"slope": 2.0})
    targets = [TableTarget(SPACE, made_up_table(SPACE), BUDGET_MS), TableTarget(SPACE, slow, 1.5 * BUDGET_MS)]
    study.sampler = make_sampler("gp", SPACE, targets, 0)
    enqueue(study, first_candidates(SPACE, targets, 16, 0))
    Driver(study, SPACE, targets, InProcess(lambda: made_up_accuracy), 16).run()
    for trial in study.trials:
        architecture = SPACE.parse(trial.user_attrs["architecture"])
        assert trial.values[1:] == [t.predict_ms(architecture) for t in targets]
        assert trial.user_attrs["feasible"] and set(trial.constraints) == {"budget cpu", "budget board"}
    assert [len(rated.ms) for rated in evaluated_trials(study, SPACE)] == [2] * len(evaluated_trials(study, SPACE))
    boards = trials_table(study, "predicted_ms board")["ms"]
    assert boards.tolist() == [trial.values[2] for trial in study.trials]


def test_trials_table(tmp_path: Path) -> None:
    run_study(tmp_path / "j", "random", SPACE, BUDGET_MS, 24)
    study = open_study(tmp_path / "j", ["cpu"])
    table = trials_table(study, "predicted_ms cpu")
    assert list(table.columns) == [
        "trial", "id", "architecture", "origin", "evaluated", "feasible", "accuracy", "score", "ms", "macs", "params",
    ]  # fmt: skip
    assert table["trial"].tolist() == list(range(24))
    assert set(table["origin"]) == {"random", "baseline", "search"}
    assert (table["accuracy"].isna() == ~table["evaluated"]).all() and table["evaluated"].nunique() == 2
    assert table["score"].isna().all()
    assert (table["feasible"] == (table["ms"] <= BUDGET_MS)).all()
    for _, row in table.iterrows():
        architecture = SPACE.parse(row["architecture"])
        assert (row["id"], row["macs"], row["params"]) == (
            architecture.id, SPACE.macs(architecture), SPACE.params(architecture),
        )  # fmt: skip


def test_scores_are_not_called_accuracies(tmp_path: Path) -> None:
    run_study(tmp_path / "j", "random", SPACE, BUDGET_MS, 12)
    accuracies = trials_table(open_study(tmp_path / "j", ["cpu"]), "predicted_ms cpu")["accuracy"]
    study = open_study(tmp_path / "j", ["cpu"], "block-wise score")
    assert study.metric_names == ["block-wise score", "cpu"]
    table = trials_table(read_study(tmp_path / "j"), "predicted_ms cpu")
    assert table["accuracy"].isna().all() and table["score"].equals(accuracies.rename("score"))


def test_trials_table_of_an_empty_study(tmp_path: Path) -> None:
    table = trials_table(open_study(tmp_path / "j", ["cpu"]), "predicted_ms cpu")
    assert len(table) == 0 and "ms" in table.columns


def test_evaluated_trials_name_each_architecture_once(tmp_path: Path) -> None:
    run_study(tmp_path / "j", "random", TOY, None, 40)
    rated = evaluated_trials(open_study(tmp_path / "j", ["cpu"]), TOY)
    assert len({r.architecture.id for r in rated}) == len(rated) < 40
    assert [r.number for r in rated] == sorted(r.number for r in rated)
    for each in rated:
        assert each.accuracy == made_up_accuracy(each.architecture)
        assert each.ms == (target(TOY).predict_ms(each.architecture),)


def cannot_learn(architecture: Architecture) -> bool:
    return architecture.text.count("k3") > 3


@pytest.mark.parametrize("kind", ["random", "evolution", "gp"])
def test_candidates_that_cannot_learn_are_stopped(kind: SamplerKind, tmp_path: Path) -> None:
    rated: list[str] = []

    def work(architecture: Architecture) -> float:
        rated.append(architecture.id)
        if cannot_learn(architecture):
            raise Unsound("its scores are not finite")
        return made_up_accuracy(architecture)

    journal, trials = tmp_path / "j", 40
    run_study(journal, kind, SPACE, None, trials - 7, factory=lambda: work)
    run_study(journal, kind, SPACE, None, trials, factory=lambda: work)
    study = read_study(journal)
    assert len(study.trials) == trials and len(set(rated)) == len(rated)
    broken = {
        trial.user_attrs["id"] for trial in study.trials if cannot_learn(SPACE.parse(trial.user_attrs["architecture"]))
    }
    assert len(broken) >= 6  # more than may fail in a row
    for trial in study.trials:
        stopped = trial.user_attrs["id"] in broken
        assert (trial.state == TrialState.PRUNED) == stopped
        assert (trial.user_attrs.get("unsound") == "its scores are not finite") == stopped
    assert {a.id for a in unsound_architectures(study, SPACE, trials)} == broken
    assert not broken & {each.architecture.id for each in evaluated_trials(study, SPACE)}
    assert unsound_lines(study) == {
        "candidates that cannot learn": f"{len(broken)} of {len(set(rated))}",
        "its scores are not finite": f"{len(broken)}",
    }
    proposed = [trial for trial in study.trials if "origin" not in trial.user_attrs]
    share = sum(trial.user_attrs["id"] in broken for trial in proposed[len(proposed) // 2 :]) / (len(proposed) / 2)
    assert share < 0.35 or kind == "random"
