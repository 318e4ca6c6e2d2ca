"""Searching a space without end: every sampler, resumed where it was, and cheap enough to be asked for each trial."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import optuna
import pytest

from nas.search import candidates
from nas.search import study as studies
from nas.search.executor import InProcess
from nas.search.record import Evaluated
from nas.search.samplers import SamplerKind, make_sampler
from nas.search.samplers.evolution import EvolutionSampler
from nas.search.samplers.proposing import ProposingSampler
from nas.search.study import Driver, enqueue, first_candidates, open_study
from nas.search.target import Kind
from search_spaces.architecture import Architecture
from search_spaces.einspace.derive import Limits
from search_spaces.einspace.space import EinSpace
from search_spaces.space import sample

SPACE = EinSpace((1, 8, 8), 10, limits=Limits(3_000_000, 300_000, 40_000, 40, 3))
KINDS: tuple[SamplerKind, ...] = ("random", "evolution", "gp", "tpe", "nsga2")
TRIALS, BUDGET_MS = 20, 2.0


@dataclass(frozen=True)
class MacsTarget:
    """A device on which a million multiply-accumulates take a millisecond."""

    budget_ms: float | None = BUDGET_MS
    device: ClassVar[str] = "cpu"
    kind: ClassVar[Kind] = "predicted"

    def predict_ms(self, architecture: Architecture) -> float:
        return 0.01 + SPACE.macs(architecture) / 1e6


def made_up_accuracy(architecture: Architecture) -> float:
    """Convolutions, norms and activations help, less and less."""
    text = architecture.text
    return (
        0.9 - 0.4 * 0.7 ** text.count("im2col_k3") - 0.2 * 0.5 ** text.count("norm") - 0.2 * 0.5 ** text.count("relu")
    )


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "DRAWN", 30)
    monkeypatch.setattr(candidates, "CHILDREN", 10)
    monkeypatch.setattr(studies, "DRAWS", 60)


def searched(journal: Path, kind: SamplerKind, trials: int, seed: int = 0) -> list[tuple[dict[str, str], str, float]]:
    """Bring the study to its trials; return the parameters, the origin and the accuracy of each."""
    targets = [MacsTarget()]
    study = open_study(journal, ["predicted_ms cpu"])
    study.sampler = make_sampler(kind, SPACE, targets, seed)
    enqueue(study, first_candidates(SPACE, targets, TRIALS, 0))
    Driver(study, SPACE, targets, InProcess(lambda: made_up_accuracy), trials).run()
    found = study.get_trials(deepcopy=False)
    for trial in found:
        architecture = SPACE.parse(trial.user_attrs["architecture"])
        assert SPACE.decide(lambda name, _, trial=trial: trial.params[name]) == architecture
    return [(t.params, t.user_attrs.get("origin", "search"), t.values[0]) for t in found]


@pytest.mark.parametrize("kind", KINDS)
def test_every_sampler_searches_and_resumes(kind: SamplerKind, tmp_path: Path) -> None:
    whole = searched(tmp_path / "whole", kind, TRIALS)
    assert len(whole) == TRIALS
    assert searched(tmp_path / "parts", kind, TRIALS - 4) == whole[:-4]
    assert searched(tmp_path / "parts", kind, TRIALS) == whole
    if kind in ("evolution", "gp"):  # these propose what is new and within the budget
        networks = [SPACE.decide(lambda name, _, params=params: params[name]) for params, _, _ in whole]
        assert len(set(networks)) == TRIALS
        assert all(MacsTarget().predict_ms(network) <= BUDGET_MS for network in networks)


def test_first_candidates_are_residual_networks_and_random_ones_over_latency() -> None:
    space = EinSpace((1, 8, 8), 10)
    found = first_candidates(space, [MacsTarget(None)], 40, 0)
    assert {a for a, origin in found if origin == "baseline"} == set(space.baseline_family())
    macs = [space.macs(a) for a, origin in found if origin == "random"]
    assert len(macs) == 10 and max(macs) > 100 * min(macs)


def test_random_search_follows_the_grammar() -> None:
    """A module is a computation in 32 of 100 cases, not in one of four."""
    sampler = make_sampler("random", SPACE, [MacsTarget(None)], 0)
    assert isinstance(sampler, ProposingSampler)
    study = optuna.create_study()
    assert [sampler.propose(study, number) for number in range(3)] == [
        sample(SPACE, np.random.default_rng([0, number])) for number in range(3)
    ]


def test_the_published_tournament_is_won_by_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of a hundred, with replacement: the best of all is a parent in 1 - 0.99 ** 10 = 9.6 % of the cases."""
    rng = np.random.default_rng(3)
    drawn = list(dict.fromkeys(sample(SPACE, rng) for _ in range(140)))[-100:]
    population = [
        Evaluated(number, architecture, "random", number / 100, (0.0,)) for number, architecture in enumerate(drawn)
    ]
    parents: list[int] = []
    monkeypatch.setattr(EinSpace, "mutate", lambda self, parent, rng: parents.append(drawn.index(parent)) or parent)
    sampler = make_sampler("evolution", SPACE, [MacsTarget(None)], 0)
    assert isinstance(sampler, EvolutionSampler)
    for _ in range(3000):
        sampler._child(population, 0, rng)
    ranks = np.arange(100)
    expected = ((ranks + 1) / 100) ** 10 - (ranks / 100) ** 10
    found = np.bincount(parents, minlength=100) / 3000
    assert np.abs(np.cumsum(found) - np.cumsum(expected)).max() < 0.04  # Kolmogorov: 0.035 at a level of 0.1 %
