"""What every sampler must do in a study: resume to the same trials, wherever the process died."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from fakes import made_up_accuracy, made_up_table, run_study, told
from toy_space import ToySpace

from nas.search.journal import TrialJournal
from nas.search.samplers import SamplerKind
from nas.search.study import open_study
from nas.search.target import TableTarget
from search_spaces.architecture import Architecture
from search_spaces.fbnet import FBNetSpace
from search_spaces.space import SearchSpace

KINDS = get_args(SamplerKind)
SPACES: dict[str, SearchSpace] = {"fbnet": FBNetSpace((1, 8, 8), 10), "toy": ToySpace((1, 8, 8), 10)}
TRIALS = 26
BUDGET_MS = {"fbnet": 0.24, "toy": 0.047}


Ran = tuple[Path, list[str], int]


class Died(BaseException):
    """Stands for the death of the process: nothing in the search catches it."""


@pytest.fixture(params=KINDS, scope="module")
def kind(request: pytest.FixtureRequest) -> SamplerKind:
    return request.param


@pytest.fixture(params=SPACES, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def space(name: str) -> SearchSpace:
    return SPACES[name]


@pytest.fixture(scope="module")
def undisturbed(kind: SamplerKind, name: str, space: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A study that ran through, what was evaluated for it, and its journal's lines before anyone read it."""
    rated: list[str] = []

    def work(architecture: Architecture) -> float:
        rated.append(architecture.id)
        return made_up_accuracy(architecture)

    journal = tmp_path_factory.mktemp("study") / "study.journal"
    run_study(journal, kind, space, BUDGET_MS[name], TRIALS, factory=lambda: work)
    return journal, rated, len(journal.read_bytes().splitlines())


def test_study_has_its_trials(undisturbed: Ran, space: SearchSpace) -> None:
    trials = told(undisturbed[0])
    assert [trial[0] for trial in trials] == list(range(TRIALS))
    assert {trial[1] for trial in trials} == {"COMPLETE"}
    for _, _, params, values, attrs in trials:
        architecture = space.parse(str(attrs["architecture"]))
        assert space.decide(lambda decision, _, params=params: str(params[decision])) == architecture
        assert attrs["id"] == architecture.id and attrs["macs"] == space.macs(architecture)
        assert values is not None and values[1] == attrs["predicted_ms cpu"]


def test_only_feasible_architectures_are_evaluated_and_each_once(
    undisturbed: Ran, name: str, space: SearchSpace
) -> None:
    journal, rated, _ = undisturbed
    assert len(set(rated)) == len(rated)
    budget_ms = BUDGET_MS[name]
    target = TableTarget(space, made_up_table(space), budget_ms)
    seen: dict[str, float] = {}
    for trial in open_study(journal, ["cpu"]).trials:
        architecture = space.parse(trial.user_attrs["architecture"])
        over = target.predict_ms(architecture) - budget_ms
        assert trial.constraints == {"budget cpu": pytest.approx(over)}
        assert trial.user_attrs["feasible"] == trial.user_attrs["evaluated"] == (over <= 0)
        assert (architecture.id in rated) == (over <= 0)
        expected = made_up_accuracy(architecture) if over <= 0 else 0.0
        assert seen.setdefault(architecture.id, expected) == trial.values[0] == expected


def test_budget_divides_the_space(name: str, space: SearchSpace, tmp_path: Path) -> None:
    # Otherwise the test above would say nothing.
    attrs = [trial[4] for trial in run_study(tmp_path / "j", "random", space, BUDGET_MS[name], TRIALS)]
    assert 3 <= sum(bool(a["feasible"]) for a in attrs) <= TRIALS - 3


def test_same_seed_same_trials(
    undisturbed: Ran, kind: SamplerKind, name: str, space: SearchSpace, tmp_path: Path
) -> None:
    assert run_study(tmp_path / "again", kind, space, BUDGET_MS[name], TRIALS) == told(undisturbed[0])


def test_other_seed_other_trials(
    undisturbed: Ran, kind: SamplerKind, name: str, space: SearchSpace, tmp_path: Path
) -> None:
    first = [trial[2] for trial in told(undisturbed[0])]
    other = [trial[2] for trial in run_study(tmp_path / "other", kind, space, BUDGET_MS[name], TRIALS, seed=1)]
    assert other != first


@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
def test_death_in_an_evaluation(
    share: float,
    undisturbed: Ran,
    kind: SamplerKind,
    name: str,
    space: SearchSpace,
    tmp_path: Path,
) -> None:
    rated: list[str] = []
    evaluation = int(share * len(undisturbed[1]))

    def work(architecture: Architecture) -> float:
        if len(rated) == evaluation:
            raise Died
        rated.append(architecture.id)
        return made_up_accuracy(architecture)

    journal = tmp_path / "study.journal"
    with pytest.raises(Died):
        run_study(journal, kind, space, BUDGET_MS[name], TRIALS, factory=lambda: work)
    assert [trial[1] for trial in told(journal)].count("RUNNING") == 1
    again: list[str] = []

    def rest(architecture: Architecture) -> float:
        again.append(architecture.id)
        return made_up_accuracy(architecture)

    resumed = run_study(journal, kind, space, BUDGET_MS[name], TRIALS, factory=lambda: rest)
    assert resumed == told(undisturbed[0])
    assert [*rated, *again] == undisturbed[1]


def dies_at(write: int, torn: bool) -> Callable[[TrialJournal, list[dict[str, Any]]], None]:
    """Return a journal's ``append_logs`` that dies at its ``write``-th call, perhaps in the middle of the line."""
    append, calls = TrialJournal.append_logs, 0

    def patched(self: TrialJournal, logs: list[dict[str, Any]]) -> None:
        nonlocal calls
        calls += 1
        if calls > write:
            raise Died
        append(self, logs)
        if torn and calls == write:
            path = Path(self._file_path)
            path.write_bytes(path.read_bytes()[:-9])

    return patched


@pytest.mark.parametrize("torn", [False, True], ids=["between lines", "within a line"])
def test_death_at_any_write(
    torn: bool,
    undisturbed: Ran,
    kind: SamplerKind,
    name: str,
    space: SearchSpace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Every write of the journal is a place to die: between two parameters, attributes, states and values.
    writes = undisturbed[2]
    step = writes // (3 if kind in ("gp", "tpe") else 5)
    for write in range(2 + 7 * torn, writes, step):
        journal = tmp_path / f"{write}.journal"
        with monkeypatch.context() as patch:
            patch.setattr(TrialJournal, "append_logs", dies_at(write, torn))
            with pytest.raises(Died):
                run_study(journal, kind, space, BUDGET_MS[name], TRIALS)
        assert run_study(journal, kind, space, BUDGET_MS[name], TRIALS) == told(undisturbed[0]), write


def test_more_trials_extend_the_study(
    undisturbed: Ran, kind: SamplerKind, name: str, space: SearchSpace, tmp_path: Path
) -> None:
    journal = tmp_path / "study.journal"
    journal.write_bytes(undisturbed[0].read_bytes())
    before = told(journal)
    assert run_study(journal, kind, space, BUDGET_MS[name], TRIALS) == before
    extended = run_study(journal, kind, space, BUDGET_MS[name], TRIALS + 4)
    assert extended[:TRIALS] == before and len(extended) == TRIALS + 4


@pytest.mark.parametrize("kind", ["gp", "evolution"])
def test_only_feasible_and_new_architectures_are_proposed(kind: SamplerKind, tmp_path: Path) -> None:
    space = SPACES["fbnet"]
    trials = run_study(tmp_path / "j", kind, space, BUDGET_MS["fbnet"], TRIALS)
    proposed = [attrs for *_, attrs in trials if "origin" not in attrs]
    assert len(proposed) >= TRIALS // 2
    assert all(attrs["feasible"] for attrs in proposed)
    assert len({str(attrs["id"]) for *_, attrs in trials}) == TRIALS
