"""Quality is out of fold, and the Gaussian process is left only for what is clearly better."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin

from predictors import floors, quality
from predictors.features import LOG_MACS
from predictors.gp import AccuracyGP
from predictors.quality import (
    PREDICTORS,
    PredictorQuality,
    chance_tau,
    choose,
    cross_predict,
    kendall_tau,
    trusted,
)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "_TREES", 20)


def brute_force_tau_b(x: NDArray, y: NDArray) -> float:
    points = zip(x, y, strict=True)
    pairs = [(np.sign(a - c), np.sign(b - d)) for (a, b), (c, d) in itertools.combinations(points, 2)]
    untied = math.sqrt(sum(a != 0 for a, _ in pairs) * sum(b != 0 for _, b in pairs))
    return float(sum(a * b for a, b in pairs) / untied)


def test_kendall_tau_against_all_pairs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, 6, 15), rng.integers(0, 6, 15)
        assert kendall_tau(x, y) == pytest.approx(brute_force_tau_b(x, y))


@pytest.mark.parametrize("scores", [[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
def test_kendall_tau_of_a_constant_is_zero(scores: list[float]) -> None:
    assert kendall_tau(scores, [0.5, 0.5, 0.5]) == 0
    assert kendall_tau([0.5, 0.5, 0.5], scores) == 0


@pytest.mark.parametrize("count", [5, 12, 50])
def test_tau_of_chance_is_what_drawing_finds(count: int) -> None:
    rng = np.random.default_rng(0)
    taus = [kendall_tau(rng.random(count), rng.random(count)) for _ in range(1500)]
    assert np.std(taus) == pytest.approx(chance_tau(count), rel=0.06)


def test_tau_of_chance_of_three_by_hand() -> None:
    taus = [brute_force_tau_b(np.arange(3), np.array(order)) for order in itertools.permutations(range(3))]
    assert chance_tau(3) == pytest.approx(np.std(taus))


class Memory(RegressorMixin, BaseEstimator):
    """Knows what it was fitted to exactly and nothing else; its intervals reach as far as it is told."""

    def __init__(self, below: float = 0.0, above: float = 0.0) -> None:
        self.below = below
        self.above = above

    def fit(self, X: NDArray, y: NDArray) -> "Memory":
        self.known_ = {row.tobytes(): value for row, value in zip(X, y, strict=True)}
        return self

    def predict(self, X: NDArray) -> NDArray:
        return np.array([self.known_.get(row.tobytes(), len(self.known_)) for row in X], float)

    def interval(self, X: NDArray) -> tuple[NDArray, NDArray]:
        return self.predict(X) - self.below, self.predict(X) + self.above


def test_no_observation_predicts_itself() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 2)), rng.normal(size=20)
    estimator = Memory(1, 2)
    median, low, high = cross_predict(estimator, X, y)
    # Each was predicted by the other four fifths.
    assert np.array_equal([median, low, high], [np.full(20, 16), np.full(20, 15), np.full(20, 18)])
    assert not hasattr(estimator, "known_")


def test_fewer_observations_than_folds() -> None:
    with pytest.raises(ValueError, match="n_splits=5"):
        cross_predict(Memory(), np.zeros((4, 1)), np.zeros(4))


def test_only_what_is_clearly_better_is_trusted_instead() -> None:
    by_chance = chance_tau(40)
    assert trusted({"gp": 0.5, "ridge": 0.5 + 0.99 * by_chance, "forest": 0.4}, 40) == "gp"
    assert trusted({"gp": 0.5, "ridge": 0.5 + 1.01 * by_chance, "forest": 0.4}, 40) == "ridge"
    assert trusted({"gp": 0.1, "ridge": 0.4, "forest": 0.6}, 40) == "forest"  # the best of those
    assert trusted({"gp": 0.5, "ridge": 0.65}, 10) == "gp"  # of few, chance makes as much
    assert trusted({"gp": 0.5, "ridge": 0.65}, 100) == "ridge"
    assert trusted({"gp": -0.2, "ridge": -0.2}, 40) == "gp"


def architectures(n: int, d: int, seed: int = 0) -> NDArray:
    """Return made-up features of which the last three stand for MACs, parameters and skips."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d + 3))
    X[:, -2] = 0.8 * X[:, -3] + 0.6 * X[:, -2]
    return X


def test_gp_is_chosen_where_accuracy_bends() -> None:
    X = architectures(60, 3)
    assert choose(X, np.cos(2 * X[:, 0]) + np.cos(2 * X[:, 1])) == "gp"


def test_gp_is_chosen_where_others_are_as_good() -> None:
    X = architectures(60, 3)
    assert choose(X, X[:, 0] + 0.5 * X[:, 1]) == "gp"


def test_a_floor_is_chosen_where_macs_alone_decide() -> None:
    # One number of dozens tells something, and that under much noise.
    X = architectures(60, 40)
    y = X[:, LOG_MACS] + np.random.default_rng(50).normal(scale=1.5, size=60)
    assert choose(X, y) == "MACs"


def test_ridge_is_chosen_where_accuracy_is_a_sum_of_many_small_parts() -> None:
    rng = np.random.default_rng(0)
    X = architectures(60, 45)
    assert choose(X, X[:, :45] @ rng.choice([-1, 1], 45)) == "ridge"


def test_choice_is_that_of_the_taus(monkeypatch: pytest.MonkeyPatch) -> None:
    X = architectures(30, 3)
    y = X[:, 0]
    medians: Iterator[NDArray] = iter([-y, y, -y, -y, -y])
    calibrated = []

    def found(predictor: AccuracyGP, *_: NDArray) -> tuple[NDArray, ...]:
        calibrated.append(predictor.calibrated)
        return next(medians), y, y

    monkeypatch.setattr(quality, "cross_predict", found)
    assert choose(X, y) == "ridge"
    assert calibrated == [False] * len(PREDICTORS)
    assert all(predictor.calibrated for predictor in PREDICTORS.values())


@pytest.fixture(scope="module")
def found() -> PredictorQuality:
    X = architectures(40, 3)
    y = 0.6 + 0.1 * X[:, 0] + 0.05 * X[:, LOG_MACS]
    return PredictorQuality.of(X, y, {"same": y, "opposite": -y, "constant": np.zeros(40)})


def test_every_predictor_is_scored_on_the_same_architectures(found: PredictorQuality) -> None:
    assert found.observations == 40
    assert list(found.kendall) == list(PREDICTORS) == ["gp", "ridge", "forest", "MACs", "parameters"]
    assert found.kendall["gp"] > 0.9 > found.kendall["MACs"] > 0
    assert found.alone == pytest.approx({"same": 1.0, "opposite": -1.0, "constant": 0.0})
    assert 0.75 < found.coverage_90 <= 1 and found.used == "gp"


def test_taus_are_those_of_the_medians_out_of_fold(found: PredictorQuality) -> None:
    X = architectures(40, 3)
    y = 0.6 + 0.1 * X[:, 0] + 0.05 * X[:, LOG_MACS]
    for name in ("gp", "MACs"):
        assert found.kendall[name] == kendall_tau(cross_predict(PREDICTORS[name], X, y)[0], y)
    _, low, high = cross_predict(AccuracyGP(), X, y)
    assert found.coverage_90 == np.mean((low <= y) & (y <= high))


def test_coverage_is_that_of_the_gps_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    y = np.arange(10.0)
    memory = {"gp": Memory(10, 3.5), "ridge": Memory()}  # unseen ones are taken for 8: nothing above 11.5, below -2
    monkeypatch.setattr(quality, "PREDICTORS", memory)
    monkeypatch.setattr(Memory, "set_params", lambda self, **_: self)
    assert PredictorQuality.of(y[:, None], y, {}).coverage_90 == 1
    memory["gp"] = Memory(3.5, 10)  # from 4.5 on
    assert PredictorQuality.of(y[:, None], y, {}).coverage_90 == 0.5


@pytest.mark.parametrize(
    ("used", "verdict"),
    [("gp", "gp, for chance may explain that ridge is ahead"), ("ridge", "ridge, for the gp is not as good")],
)
def test_quality_in_words(used: str, verdict: str) -> None:
    made_up = PredictorQuality(40, {"gp": 0.516, "ridge": 0.7}, {"MACs": -0.25}, 0.875, used)
    assert made_up.lines() == {
        "observations": "40",
        "Kendall tau of gp, fitted": "+0.52",
        "Kendall tau of ridge, fitted": "+0.70",
        "Kendall tau of MACs alone": "-0.25",
        "coverage of the 90 % interval": "88 %",
        "used": verdict,
    }
    assert made_up.text() == (
        "cross-validated Kendall tau on 40 candidates: gp +0.52, ridge +0.70 (without a fit: MACs -0.25); "
        f"the gp's 90 % interval covers 88 %; used: {verdict}"
    )


def test_the_best_is_used_without_a_word() -> None:
    assert PredictorQuality(40, {"gp": 0.7, "ridge": 0.5}, {}, 0.9, "gp").text().endswith("; used: gp")


def test_no_observations_of_the_same_accuracy_break_it() -> None:
    X = architectures(12, 2)
    quality_of = PredictorQuality.of(X, np.full(12, 0.5), {"any": X[:, 0]})
    assert set(quality_of.kendall.values()) == {0.0} and quality_of.used == "gp" and quality_of.coverage_90 == 1
