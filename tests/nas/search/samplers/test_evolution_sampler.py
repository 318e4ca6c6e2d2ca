"""Regularised evolution: children of front members, age instead of merit, and what happens when nothing new is left."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import optuna
import pytest
from fakes import made_up_accuracy, made_up_table, run_study
from optuna.study import Study
from toy_space import ToySpace

from nas.search.pareto import hypervolume
from nas.search.record import evaluated_trials
from nas.search.samplers import evolution
from nas.search.samplers.evolution import EvolutionSampler
from nas.search.study import open_study
from nas.search.target import TableTarget
from search_spaces.architecture import Architecture
from search_spaces.extremes import lowest
from search_spaces.fbnet import FBNetSpace
from search_spaces.space import enumerate_architectures, sample, sample_spread

SPACE = FBNetSpace((1, 8, 8), 10)
BUDGET_MS = 0.24
predict_ms = TableTarget(SPACE, made_up_table(SPACE), None).predict_ms


def sampler(*latencies: Callable[[Architecture], float], seed: int = 0) -> EvolutionSampler:
    latencies = latencies or (predict_ms,)
    return EvolutionSampler(SPACE, latencies, [None] * len(latencies), seed)


def rate(study: Study, architecture: Architecture, *latencies: Callable[[Architecture], float]) -> None:
    """Add a rated architecture to a study."""
    trial = study.ask()
    for name, value in {"architecture": architecture.text, "id": architecture.id, "evaluated": True}.items():
        trial.set_user_attr(name, value)
    study.tell(trial, [made_up_accuracy(architecture), *[latency(architecture) for latency in latencies]])


def studied(architectures: Sequence[Architecture], *latencies: Callable[[Architecture], float]) -> Study:
    """Return a study, in memory, in which these architectures are rated."""
    latencies = latencies or (predict_ms,)
    study = optuna.create_study(directions=["maximize", *["minimize" for _ in latencies]])
    for architecture in architectures:
        rate(study, architecture, *latencies)
    return study


def draws(count: int, seed: int = 0) -> list[Architecture]:
    rng = np.random.default_rng(seed)
    return list({a.id: a for a in (sample(SPACE, rng) for _ in range(count))}.values())


def changes(child: Architecture, parent: Architecture) -> int:
    return sum(a != b for a, b in zip(child.decisions, parent.decisions, strict=True))


def on_front(architectures: Sequence[Architecture], latency: Callable[[Architecture], float]) -> list[Architecture]:
    """Return those that no other dominates, by comparing each with each."""
    points = {a: (made_up_accuracy(a), latency(a)) for a in architectures}
    return [
        a
        for a in architectures
        if not any(points[b][0] >= points[a][0] and points[b][1] <= points[a][1] for b in architectures if b != a)
    ]


@pytest.fixture
def whole_tournament(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate of the population enters, and no child has two parents."""
    monkeypatch.setattr(evolution, "TOURNAMENT", 1000)
    monkeypatch.setattr(evolution, "CROSSOVERS", 0.0)


def test_parents_are_all_of_the_front_and_nothing_else(whole_tournament: None) -> None:
    candidates = draws(40)
    study, front = studied(candidates), on_front(candidates, predict_ms)
    parents = set()
    for number in range(200):
        child = sampler().propose(study, number)
        (parent,) = [a for a in front if changes(child, a) == 1]
        parents.add(parent)
    assert parents == set(front) and 3 <= len(front) <= 20


def test_devices_take_turns(whole_tournament: None) -> None:
    candidates, latencies = draws(40), (predict_ms, lambda a: -predict_ms(a))
    study = studied(candidates, *latencies)
    fronts = [on_front(candidates, latency) for latency in latencies]
    assert len({*fronts[0], *fronts[1]}) > max(map(len, fronts))
    for number in range(60):
        child = sampler(*latencies).propose(study, number)
        assert any(changes(child, parent) == 1 for parent in fronts[number % 2])


def test_old_candidates_have_no_children_however_good(whole_tournament: None) -> None:
    best = SPACE.parse("k5_e6,k5_e6,k5_e6,k5_e6,k5_e6,k5_e6,k5_e6,k5_e6")
    later = draws(evolution.POPULATION)
    assert len(later) == evolution.POPULATION and made_up_accuracy(best) > max(map(made_up_accuracy, later))
    young = studied([*later[1:], best])
    old = studied([best, *later])
    assert any(changes(sampler().propose(young, n), best) == 1 for n in range(50))
    assert not any(changes(sampler().propose(old, n), best) == 1 for n in range(50))


def test_one_entrant_wins_its_tournament(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolution, "TOURNAMENT", 1)
    monkeypatch.setattr(evolution, "CROSSOVERS", 0.0)
    candidates = draws(20)
    study = studied(candidates)
    children = [sampler().propose(study, n) for n in range(200)]
    assert {a for child in children for a in candidates if changes(child, a) == 1} == set(candidates)


def test_some_children_have_two_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolution, "CROSSOVERS", 1.0)
    small, big = SPACE.parse(",".join(["k3_e1"] * 8)), SPACE.parse(",".join(["k5_e6"] * 8))
    study = studied([small, big])
    shared = [min(changes(sampler().propose(study, n), a) for a in (small, big)) for n in range(50)]
    assert max(shared) >= 3


def test_proposal_is_a_function_of_seed_number_and_trials() -> None:
    proposals = [sampler(seed=seed).propose(studied(draws(15)), 15) for seed in (0, 0, 1)]
    assert proposals[0] == proposals[1] != proposals[2]


def test_nothing_rated_yet() -> None:
    limit = 1.05 * predict_ms(lowest(SPACE, predict_ms, 0))
    study = studied([])
    assert predict_ms(EvolutionSampler(SPACE, [predict_ms], [BUDGET_MS], 0).propose(study, 0)) <= BUDGET_MS
    assert sampler().propose(study, 0) != sampler().propose(study, 1)
    # A budget that hardly any keep, and one that none keeps: the driver records the candidate as infeasible.
    for budget_ms in (limit, 0.0):
        EvolutionSampler(SPACE, [predict_ms], [budget_ms], 0).propose(study, 0)


def test_space_that_is_used_up(tmp_path: Path) -> None:
    toy = ToySpace((1, 8, 8), 10)
    trials = run_study(tmp_path / "j", "evolution", toy, None, 40)
    assert {str(trial[4]["id"]) for trial in trials} == {a.id for a in enumerate_architectures(toy)}
    assert len(evaluated_trials(open_study(tmp_path / "j", ["cpu"]), toy)) < 40 == len(trials)


def gained(propose: Callable[[Study, int], Architecture], trials: int = 80) -> float:
    study = studied([])
    for number in range(trials):
        rate(study, propose(study, number), predict_ms)
    points = [(trial.values[0], trial.values[1]) for trial in study.trials if trial.values[1] <= BUDGET_MS]
    return hypervolume(points, 0.4, BUDGET_MS)


def test_evolution_beats_random() -> None:
    evolved, random = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        evolved.append(gained(EvolutionSampler(SPACE, [predict_ms], [BUDGET_MS], seed).propose))
        random.append(gained(lambda study, number, rng=rng: sample_spread(SPACE, rng)))  # type: ignore[misc]
    assert median(evolved) > 1.02 * median(random)
