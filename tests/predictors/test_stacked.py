"""The stacked rating weighs scores by what they tell, and predicts accuracies; left out, a network is not looked at."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge

from predictors.stacked import StackedRating, leave_one_out
from predictors.warp import RankWarp

RNG = np.random.default_rng(0)
GOOD, OTHER, USELESS = RNG.standard_normal((3, 40))
TRAINED = stats.norm.cdf(GOOD + OTHER + 0.3 * RNG.standard_normal(40))
SCORES = {"good": list(GOOD), "other": list(np.exp(OTHER)), "useless": list(USELESS)}


def test_weights_are_those_of_ridge_regression_on_quantiles() -> None:
    found = StackedRating.fit(SCORES, list(TRAINED))
    Z = np.stack([RankWarp(np.array(values)).z for values in SCORES.values()], axis=1)
    z = RankWarp(TRAINED).z
    expected = [Ridge(p, fit_intercept=False, positive=True).fit(Z, z).coef_ for p in np.logspace(-1, 3, 9)]
    weights = list(found.weights.values())
    assert any(np.allclose(weights, each, atol=1e-3) for each in expected)
    assert min(found.weights["good"], found.weights["other"]) > 0.4 > found.weights["useless"] >= 0
    assert list(found.weights) == list(SCORES)


def test_combination_is_better_than_its_parts_also_left_out() -> None:
    def rho(rating: object) -> float:
        return float(stats.spearmanr(rating, TRAINED).statistic)

    left_out = rho(leave_one_out(SCORES, list(TRAINED)))
    assert left_out > 0.9 > max(rho(values) for values in SCORES.values())
    assert rho(StackedRating.fit(SCORES, list(TRAINED)).predict(SCORES)) >= left_out


def test_left_out_network_is_not_looked_at() -> None:
    changed = [*TRAINED[:-1], 0.0]
    assert leave_one_out(SCORES, list(TRAINED))[-1] == leave_one_out(SCORES, changed)[-1]


def test_nothing_to_learn_is_nothing_learned() -> None:
    noise = {"a": list(USELESS), "b": list(OTHER)}
    found = leave_one_out(noise, list(np.random.default_rng(3).random(40)))
    assert np.ptp(found) < 0.5


def test_predictions_are_accuracies_of_any_network() -> None:
    rating = StackedRating.fit(SCORES, list(TRAINED))
    far = {"good": [1e9, -np.inf], "other": [1e9, 0.0], "useless": [0.0, -np.inf]}
    best, worst = rating.predict(far)
    assert 1 >= best > np.quantile(TRAINED, 0.9) and np.quantile(TRAINED, 0.1) > worst >= 0
    assert (np.diff(rating.predict({"good": [-1, 0, 1], "other": [1, 1, 1], "useless": [0, 0, 0]})) > 0).all()


def test_logarithms_make_no_difference_to_observed_networks() -> None:
    logs = {**SCORES, "other": list(np.log(SCORES["other"]))}
    found = [StackedRating.fit(scores, list(TRAINED)).predict(scores) for scores in (SCORES, logs)]
    assert found[0] == pytest.approx(found[1])


def test_networks_without_a_signal() -> None:
    scores = {"naswot": [-np.inf, -np.inf, *GOOD[2:]]}
    found = StackedRating.fit(scores, list(TRAINED)).predict(scores)
    assert np.isfinite(found).all() and found[0] == found[1] == found.min()
    nothing = {"naswot": [-np.inf] * 12}
    assert np.isfinite(StackedRating.fit(nothing, list(TRAINED[:12])).predict(nothing)).all()


def test_a_file_holds_it() -> None:
    rating = StackedRating.fit(SCORES, list(TRAINED))
    assert StackedRating(**json.loads(json.dumps(asdict(rating)))) == rating
