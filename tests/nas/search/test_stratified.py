"""Networks to check a rating on reach all over the latencies, and differ in skips where latencies are alike."""

import numpy as np
import pytest
from fakes import made_up_table
from scipy import stats
from toy_space import ToySpace

from nas.search.stratified import stratified
from nas.search.target import TableTarget
from predictors.features import features
from search_spaces.fbnet import FBNetSpace
from search_spaces.nb201 import NB201Space
from search_spaces.space import SearchSpace, enumerate_architectures, sample, sample_spread

SPACE = FBNetSpace((1, 8, 8), 10)


def target(space: SearchSpace, budget_ms: float | None = None) -> TableTarget:
    return TableTarget(space, made_up_table(space), budget_ms)


@pytest.mark.parametrize("space", [SPACE, NB201Space((1, 8, 8), 10)], ids=lambda space: space.name)
def test_evenly_over_log_latency(space: SearchSpace) -> None:
    aim = target(space)
    found = stratified(space, aim, 16, 0)
    assert len({a.id for a in found}) == 16 and found == stratified(space, aim, 16, 0)
    logs = np.log([aim.predict_ms(a) for a in found])
    assert (np.diff(logs) >= 0).all()
    rng = np.random.default_rng(0)
    uniform = np.log([aim.predict_ms(sample(space, rng)) for _ in range(500)])
    assert logs[0] <= uniform.min() and logs[-1] > uniform.max() - 0.05
    # About one in each sixteenth of the range.
    assert len(set(((logs - logs[0]) / np.ptp(logs) * 15.99).astype(int))) >= 11


def test_skips_are_spread_at_equal_latency() -> None:
    found = stratified(SPACE, target(SPACE), 24, 1)
    skips = np.array([features(SPACE, a)[-1] for a in found])
    ms = [target(SPACE).predict_ms(a) for a in found]
    assert stats.spearmanr(skips, ms).statistic < 0 and len(set(skips)) >= 4
    drawn = [features(SPACE, sample_spread(SPACE, np.random.default_rng(i)))[-1] for i in range(200)]
    assert np.mean(skips) > 2 * np.mean(drawn) and np.abs(np.diff(skips)).mean() > 0.5


def test_budget_and_small_spaces() -> None:
    fast = target(SPACE, 0.2)
    assert all(fast.predict_ms(a) <= 0.2 for a in stratified(SPACE, fast, 12, 0))
    assert stratified(SPACE, target(SPACE, 1e-6), 12, 0) == []
    toy = ToySpace()
    assert len(stratified(toy, target(toy), 1000, 0)) == len(list(enumerate_architectures(toy)))
