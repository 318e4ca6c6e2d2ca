"""Proposals against trying every candidate, and what they must never be."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from fakes import made_up_accuracy, made_up_table
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.base import clone
from toy_space import ToySpace

from nas.search import proposal
from nas.search.candidates import Architectures, Batch, source_of
from nas.search.pareto import hypervolume
from nas.search.proposal import FIRST_FIT, Proposer
from nas.search.target import TableTarget
from predictors import floors, gp
from predictors.floors import AccuracyFloor
from predictors.gp import AccuracyGP
from predictors.quality import GENERAL
from search_spaces.extremes import lowest
from search_spaces.fbnet import FBNetSpace
from search_spaces.space import SearchSpace, enumerate_architectures


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "_TREES", 10)


@dataclass(frozen=True)
class Points:
    """Numbered candidates with features (n, d) and latencies (n, devices), all of which are drawn."""

    X: NDArray
    ms: NDArray

    def of(self, numbers: NDArray) -> Batch:
        return Batch(numbers, numbers, self.X[numbers], self.ms[numbers])

    def draw(self, rng: np.random.Generator) -> Batch:
        return self.of(rng.permutation(len(self.X)))

    def vary(self, parents: Batch, rng: np.random.Generator) -> Batch:
        return self.of(np.arange(0))


def points(count: int, features: int, devices: int, seed: int = 0) -> tuple[Points, NDArray]:
    """Return candidates and their accuracies, to which speed is an enemy."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(count, features))
    ms = np.exp(0.4 * X[:, :1] + 0.3 * rng.normal(size=(count, devices)))
    return Points(X, ms), 0.9 - 0.1 * np.exp(-X[:, 0] - np.sin(X[:, 1]))


def proposed(
    proposer: Proposer, source: Points, y: NDArray, seen: NDArray, pending: NDArray | None = None, seed: int = 0
) -> int | None:
    given = source.of(np.arange(0) if pending is None else pending)
    found = proposer.propose(source.of(seen), y[seen], given, np.random.default_rng(seed))
    return None if found is None else int(found.rows[0])


def expected_gains(
    source: Points, y: NDArray, seen: NDArray, pending: NDArray, limits: list[float | None], candidates: NDArray
) -> NDArray:
    """Return the expected gain of each candidate, by trying many outcomes of each."""
    model = AccuracyGP(calibrated=False).fit(source.X[seen], y[seen])
    known, accuracies = np.append(seen, pending), y[seen]
    if len(pending):
        accuracies = np.append(accuracies, model.predict(source.X[pending]))
        model = model.believing(source.X[pending])
    mean, std = model.latent(source.X[candidates])
    gains = np.zeros(len(candidates))
    outcomes = norm.ppf((np.arange(300) + 0.5) / 300)
    for i, candidate in enumerate(candidates):
        drawn = model.warp_.back(mean[i] + std[i] * outcomes)
        if not limits:
            gains[i] = np.maximum(drawn - accuracies.max(), 0).mean()
        for device, limit in enumerate(limits):
            front = list(zip(accuracies.tolist(), source.ms[known, device].tolist(), strict=True))
            floor = np.quantile(accuracies, 0.1, method="lower")
            ceiling = 1.05 * float(source.ms[known, device].max()) if limit is None else limit
            before = hypervolume(front, floor, ceiling)
            one = float(source.ms[candidate, device])
            gains[i] += np.mean([hypervolume([*front, (a, one)], floor, ceiling) for a in drawn]) / before - 1
    return gains


@pytest.mark.parametrize("pending", [0, 2])
@pytest.mark.parametrize("limits", [[None], [1.2], [None, 1.4], []], ids=str)
def test_the_best_of_all_candidates_is_proposed(limits: list[float | None], pending: int) -> None:
    source, y = points(70, 3, len(limits), seed=1)
    within = np.all([source.ms[:, i] <= (limit or np.inf) for i, limit in enumerate(limits)] or [[True] * 70], axis=0)
    seen = np.flatnonzero(within)[:12]  # a number of observations at which hyper-parameters are learned
    unseen = np.setdiff1d(np.flatnonzero(within), seen)
    running = np.arange(0)
    for _ in range(pending):  # what is best before it runs
        gains = expected_gains(source, y, seen, running, limits, np.setdiff1d(unseen, running))
        running = np.append(running, np.setdiff1d(unseen, running)[np.argmax(gains)])
    left = np.setdiff1d(unseen, running)
    gains = expected_gains(source, y, seen, running, limits, left)
    found = proposed(Proposer(source, limits), source, y, seen, running)
    assert found in left
    assert gains[left == found] == pytest.approx(gains.max(), rel=0.01)
    assert np.sum(gains > 0.98 * gains.max()) <= 3  # otherwise this would say little


def test_order_of_candidates_does_not_matter() -> None:
    source, y = points(200, 3, 1)
    seen = np.arange(20)
    assert len({proposed(Proposer(source, [None]), source, y, seen, seed=seed) for seed in range(4)}) == 1


@pytest.mark.parametrize("limits", [[None, None], [0.9, None], [0.9, 1.1]], ids=str)
def test_nothing_seen_pending_or_over_a_limit_is_proposed_until_all_is_used_up(limits: list[float | None]) -> None:
    source, y = points(60, 2, 2)
    within = np.all([source.ms[:, i] <= (limit or np.inf) for i, limit in enumerate(limits)], axis=0)
    proposer, seen, pending = Proposer(source, limits, GENERAL), [], []
    while True:
        found = proposed(proposer, source, y, np.array(seen, int), np.array(pending, int), len(seen))
        if found is None:
            break
        assert within[found] and found not in seen + pending
        pending.append(found)
        if len(pending) > 3:  # outcomes come in another order than they were proposed
            seen.append(pending.pop(-2))
    assert len(seen + pending) == within.sum() > 10


def test_too_few_ratings_are_not_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    source, y = points(40, 2, 1)
    monkeypatch.setattr(gp, "learn", None)
    limit = float(np.median(source.ms))
    found = proposed(Proposer(source, [limit]), source, y, np.arange(FIRST_FIT - 1))
    assert found is not None and found >= FIRST_FIT - 1 and source.ms[found, 0] <= limit
    with pytest.raises(TypeError):
        proposed(Proposer(source, [limit]), source, y, np.arange(FIRST_FIT))
    assert proposed(Proposer(source, [1e-9]), source, y, np.arange(3)) is None


def test_what_is_pending_counts_as_observed_at_its_median() -> None:
    source, y = points(150, 2, 1, seed=3)
    seen = np.arange(20)
    first = proposed(Proposer(source, [None]), source, y, seen)
    assert first is not None
    pending = np.array([first])
    second = proposed(Proposer(source, [None]), source, y, seen, pending)
    # With the median as an outcome, hyper-parameters kept: what a search would do that got just that.
    proposer = Proposer(source, [None])
    median = proposer._model(source.of(seen), y[seen]).predict(source.X[pending])
    score = proposal.Score(
        proposer._model(source.of(seen), y[seen]), source.of(seen), y[seen], source.of(pending), np.array([np.inf])
    )
    assert score._floor == np.quantile([*y[seen], *median], 0.1, method="lower") and score._best == max(
        y[seen].max(), median[0]
    )
    rest = np.setdiff1d(np.arange(150), [*seen, first])
    assert second == rest[np.argmax(score(source.of(rest)))]
    assert score(source.of(pending))[0] < 0.5 * score(source.of(np.array([second])))[0]


def test_pending_candidates_may_be_parents() -> None:
    source, y = points(60, 2, 1)
    source.ms[40] = 0.01  # the fastest of all is on the front, whatever its accuracy
    parents: list[set[int]] = []

    class Breeding(Points):
        def vary(self, parents_: Batch, rng: np.random.Generator) -> Batch:
            parents.append(set(parents_.rows.tolist()))
            return self.of(np.arange(0))

    breeding = Breeding(source.X, source.ms)
    seen = np.arange(20)
    proposed(Proposer(breeding, [None]), breeding, y, seen, np.array([40]))
    assert 40 in parents[0]
    assert len(parents) == proposal.GENERATIONS and all(p & set(seen.tolist()) for p in parents)


def test_schedule_of_refits() -> None:
    due = [proposal._due(n, 1.1) for n in range(8, 40)]
    assert due[:13] == list(range(8, 21)) and due[13:20] == [20, 22, 22, 24, 24, 26, 26]
    assert [proposal._due(n, 2.0) for n in (8, 15, 16, 31, 32, 63, 64)] == [8, 8, 16, 16, 32, 32, 64]
    points_ = sorted({proposal._due(n, 1.1) for n in range(8, 1000)})
    assert all(b / a <= 1.13 for a, b in itertools.pairwise(points_))


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of observations that hyper-parameters have been learned from."""
    counts: list[int] = []
    learn = gp.learn

    def counting(X: NDArray, z: NDArray, groups: NDArray) -> object:
        counts.append(len(z))
        return learn(X, z, groups)

    monkeypatch.setattr(gp, "learn", counting)
    return counts


def test_hyper_parameters_are_learned_when_due(learned: list[int]) -> None:
    source, y = points(60, 3, 1)
    proposer = Proposer(source, [None])
    for n in range(FIRST_FIT, 31):
        for _ in range(2):
            proposed(proposer, source, y, np.arange(n))
    assert learned == [*range(8, 21), 22, 24, 26, 28, 30]
    # Other outcomes of the same candidates are other observations.
    proposed(proposer, source, y**2, np.arange(30))
    assert learned[-2:] == [30, 30]


Choice = Callable[[NDArray, NDArray, object], str]


def test_a_floor_is_used_for_as_long_as_it_is_better(monkeypatch: pytest.MonkeyPatch, learned: list[int]) -> None:
    asked: list[int] = []

    def chosen(X: NDArray, y: NDArray, predictors: object) -> str:
        asked.append(len(y))
        return "ridge" if len(y) < 64 else "gp"

    monkeypatch.setattr(proposal, "choose", chosen)
    source, y = points(100, 3, 1)
    proposer = Proposer(source, [None])
    used = {}
    for n in range(FIRST_FIT, 80):
        used[n] = type(proposer._model(source.of(np.arange(n)), y[:n])).__name__
    assert asked == [32, 64]  # asked of so many alone, and once
    first, back = (next(n for n in range(c, 80) if proposal._due(n, 1.1) == n) for c in (32, 64))
    turns = [n for n in range(FIRST_FIT + 1, 80) if used[n] != used[n - 1]]
    # At the first fits that are due from then on.
    assert turns == [first, back]
    assert {used[8], used[79]} == {"AccuracyGP"} and used[turns[0]] == "AccuracyFloor"


def test_predictor_is_the_one_that_cross_validation_trusts() -> None:
    # A sum of many small parts: a straight line knows it best.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 45))
    source, y = Points(X, np.exp(rng.normal(size=(60, 1)))), X @ rng.choice([-1, 1], 45)
    model = Proposer(source, [None], GENERAL)._model(source.of(np.arange(60)), y)
    assert isinstance(model, AccuracyFloor) and model.kind == "ridge" and not model.calibrated
    again = clone(model).fit(X, y)
    assert np.array_equal(model.predict(X), again.predict(X))  # of all observations
    # A search that has come here and one that is resumed here propose the same.
    proposer = Proposer(source, [None], GENERAL)
    for n in range(29, 36):
        assert proposed(proposer, source, y, np.arange(n)) == proposed(
            Proposer(source, [None], GENERAL), source, y, np.arange(n)
        )


def source_for(space: SearchSpace, limit_by_rows: bool = True) -> Architectures:
    target = TableTarget(space, made_up_table(space), None)
    return source_of(space, [target.predict_ms], [target.predict_grid_ms if limit_by_rows else None])


@pytest.mark.parametrize("by_rows", [True, False], ids=["rows", "drawn"])
def test_same_arguments_same_proposal(by_rows: bool) -> None:
    space = FBNetSpace((1, 8, 8), 10)
    source = source_for(space, by_rows)
    first = source.draw(np.random.default_rng(0))[:30]
    y = np.array([made_up_accuracy(source.architecture(first[i : i + 1])) for i in range(30)])
    continued = Proposer(source, [0.24])
    for n in (8, 9, 21, 30):
        proposals = [
            p.propose(first[:n], y[:n], source.of([]), np.random.default_rng(n))
            for p in (continued, Proposer(source, [0.24]))
        ]
        assert proposals[0] is not None and proposals[1] is not None
        assert source.architecture(proposals[0]) == source.architecture(proposals[1])
        assert proposals[0].ms[0, 0] <= 0.24 and proposals[0].keys[0] not in first[:n].keys
    other = continued.propose(first, y, source.of([]), np.random.default_rng(31))
    assert other is not None


@pytest.mark.parametrize("by_rows", [True, False], ids=["rows", "drawn"])
def test_generations_find_what_no_draw_keeps(by_rows: bool) -> None:
    space = FBNetSpace((3, 32, 32), 10, "imagenet")
    source = source_for(space, by_rows)
    target = TableTarget(space, made_up_table(space), None)
    draws = source.draw(np.random.default_rng(0))
    limit = float(draws.ms.min()) * 0.999
    assert target.predict_ms(lowest(space, target.predict_ms, 0)) < limit
    observed = draws[np.argsort(draws.ms[:, 0])[:10]]
    y = np.array([made_up_accuracy(source.architecture(observed[i : i + 1])) for i in range(10)])
    found = Proposer(source, [limit]).propose(observed, y, source.of([]), np.random.default_rng(0))
    assert found is not None and found.ms[0, 0] <= limit


def test_search_of_a_small_space_finds_the_front() -> None:
    space = ToySpace((1, 8, 8), 10)
    source = source_for(space)
    every = source.of(list(enumerate_architectures(space)))
    y = np.array([made_up_accuracy(a) for a in enumerate_architectures(space)])
    proposer, seen = Proposer(source, [None]), list(range(8))
    while len(seen) < 15:
        found = proposer.propose(every[np.array(seen)], y[seen], source.of([]), np.random.default_rng(len(seen)))
        assert found is not None
        seen.append(int(np.flatnonzero(every.keys == found.keys[0])[0]))
    volume = [hypervolume(list(zip(y[s], every.ms[s, 0], strict=True)), 0.3, 0.2) for s in (seen, slice(None))]
    assert volume[0] > 0.97 * volume[1]
