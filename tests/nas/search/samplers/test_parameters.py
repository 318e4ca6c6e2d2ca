"""The sampler for any study passes Optuna's own suites, and uses what it knows."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase

from nas.search.pareto import hypervolume
from nas.search.samplers.parameters import ParameterGPSampler

optuna.logging.set_verbosity(optuna.logging.ERROR)


class TestOptunasSuites(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: ParameterGPSampler(seed=0)


def cost(params: Mapping[str, Any]) -> float:
    return float(params["x"] ** 2 + params["n"])


def quality(x: float, n: int, kind: str) -> float:
    return 1 - (x - 0.6) ** 2 + 0.1 * n + (0.3 if kind == "b" else 0)


def objective(trial: optuna.Trial) -> tuple[float, float]:
    x, n = trial.suggest_float("x", 0, 1), trial.suggest_int("n", 0, 3)
    kind = trial.suggest_categorical("kind", ["a", "b", "c"])
    return quality(x, n, kind), cost({"x": x, "n": n})


def front(sampler: BaseSampler, trials: int = 40) -> tuple[float, list[dict[str, Any]]]:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.optimize(objective, n_trials=trials)
    points = [(t.values[0], t.values[1]) for t in study.trials]
    return hypervolume(points, 0.0, 4.0), [t.params for t in study.trials]


def test_known_objective_beats_random() -> None:
    ours = np.median([front(ParameterGPSampler({1: cost}, seed=s))[0] for s in range(3)])
    random = np.median([front(optuna.samplers.RandomSampler(seed=s))[0] for s in range(3)])
    assert ours > 1.01 * random


def test_nothing_beyond_a_limit_is_proposed() -> None:
    _, params = front(ParameterGPSampler({1: cost}, {1: 1.5}, seed=0), 30)
    assert all(cost(p) <= 1.5 for p in params[1:])  # the first trial tells which parameters there are


def test_same_seed_same_trials_and_another_seed_others() -> None:
    first, again, other = (front(ParameterGPSampler({1: cost}, seed=s), 14)[1] for s in (0, 0, 1))
    assert first == again != other


def test_several_unknown_objectives_and_one_alone() -> None:
    assert front(ParameterGPSampler(seed=0), 30)[0] > front(optuna.samplers.RandomSampler(seed=0), 15)[0]
    study = optuna.create_study(sampler=ParameterGPSampler(seed=0))
    study.optimize(lambda t: (t.suggest_float("x", -5, 5) - 1.2) ** 2, n_trials=30)
    assert study.best_value < 0.05


def test_few_parameters_and_many_trials() -> None:
    # From 32 trials on it is asked which predictor to trust; those that look at architectures' counts are not.
    study = optuna.create_study(sampler=ParameterGPSampler(seed=0))
    study.optimize(lambda t: (t.suggest_float("x", -5, 5) - 1.2) ** 2, n_trials=35)
    assert study.best_value < 0.05


def test_maximised_known_objective_with_a_limit() -> None:
    study = optuna.create_study(
        directions=["minimize", "maximize"],
        sampler=ParameterGPSampler({1: lambda p: -cost(p)}, {1: -1.5}, seed=0),
    )
    study.optimize(lambda t: (-objective(t)[0], -cost(t.params)), n_trials=20)
    assert all(t.values[1] >= -1.5 for t in study.trials[1:])
