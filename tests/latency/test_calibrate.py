"""Calibration: what is known is found, what is not stays near what physics expects, in any unit of time."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from latency.calibrate import (
    _EXPECTED,
    _NOISE,
    _SPREAD,
    Calibration,
    Features,
    KindTerm,
    Share,
    cross_predicted,
)

TRUE = Calibration(slope=0.9, offset_ms=0.25, block_ms=0.012, switch_share=0.55)


def draw(count: int, seed: int = 0) -> list[Features]:
    """Return networks of 6 to 24 blocks of about 0.1 ms, some of whose borders are switches."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        blocks = rng.uniform(0.02, 0.2, rng.integers(6, 25))
        found.append(Features(core_ms=blocks.sum(), blocks=len(blocks), switch_ms=rng.uniform(0, 0.3) * blocks.sum()))
    return found


def measured(features: list[Features], noise: float, seed: int = 1) -> list[float]:
    rng = np.random.default_rng(seed)
    return [TRUE.predict_ms(f) * float(rng.lognormal(0, noise)) for f in features]


def numbers(calibration: Calibration) -> list[float]:
    return [calibration.slope, calibration.offset_ms, calibration.block_ms, calibration.switch_share]


def test_prediction_by_hand() -> None:
    calibration = Calibration(slope=0.5, offset_ms=3.0, block_ms=0.25, switch_share=0.75)
    assert calibration.predict_ms(Features(core_ms=2.0, blocks=6, switch_ms=4.0)) == 0.5 * 2 + 3 + 0.25 * 6 + 0.75 * 4


def test_many_predictions_are_those_one_by_one() -> None:
    rng = np.random.default_rng(0)
    core_ms, switch_ms, blocks = rng.uniform(1, 9, 20), rng.uniform(0, 2, 20), rng.integers(1, 30, 20)
    each = [
        TRUE.predict_ms(Features(core_ms=c, blocks=int(b), switch_ms=s))
        for c, b, s in zip(core_ms, blocks, switch_ms, strict=True)
    ]
    assert TRUE.predict_many_ms(core_ms, blocks, switch_ms).tolist() == each


def test_many_networks_tell_the_coefficients() -> None:
    features = draw(400)
    found = Calibration.fit(features, measured(features, 0.001))
    assert numbers(found) == pytest.approx(numbers(TRUE), rel=0.03)
    others = draw(100, seed=2)
    assert [found.predict_ms(f) for f in others] == pytest.approx([TRUE.predict_ms(f) for f in others], rel=0.002)


def test_few_networks_do_not_leave_the_prior() -> None:
    others = draw(200, seed=2)
    truth = np.array([TRUE.predict_ms(f) for f in others])
    rows = np.array([[f.core_ms, 1, f.blocks, f.switch_ms] for f in others])
    ours, plain = [], []
    for seed in range(20):
        known = draw(4, seed=10 + seed)
        ms = np.array(measured(known, _NOISE, seed))
        design = np.array([[f.core_ms, 1, f.blocks, f.switch_ms] for f in known]) / ms[:, None]
        found = Calibration.fit(known, ms.tolist())
        block_ms = np.mean([f.core_ms / f.blocks for f in known])
        units = np.array([1, 3 * block_ms, block_ms, 1])
        assert (np.abs(np.array(numbers(found)) / units - _EXPECTED) < 2 * _SPREAD).all()
        ours.append(np.abs([found.predict_ms(f) for f in others] / truth - 1).mean())
        plain.append(np.abs(rows @ np.linalg.lstsq(design, np.ones(4), rcond=None)[0] / truth - 1).mean())
    assert np.mean(ours) < 0.7 * np.mean(plain) and max(ours) < 0.06


def test_what_is_as_expected_stays_as_expected() -> None:
    features = draw(3)
    slope, _, _, share = _EXPECTED
    ms = [slope * f.core_ms + share * f.switch_ms for f in features]
    assert numbers(Calibration.fit(features, ms)) == pytest.approx([slope, 0, 0, share], abs=1e-9)


def penalty(values: NDArray, features: list[Features], ms: list[float]) -> float:
    """Return minus the log posterior, of the coefficients in the units of the prior."""
    block_ms = np.mean([f.core_ms / f.blocks for f in features])
    slope, offset, block, share = values
    predicted = [
        slope * f.core_ms + 3 * block_ms * offset + block_ms * block * f.blocks + share * f.switch_ms for f in features
    ]
    errors = (np.array(predicted) / np.array(ms) - 1) / _NOISE
    return float((errors**2).sum() + (((values - _EXPECTED) / _SPREAD) ** 2).sum())


@pytest.mark.parametrize("count", [1, 4, 30])
def test_fit_is_the_most_probable_calibration(count: int) -> None:
    features = draw(count, seed=3)
    ms = measured(features, 0.02)
    found = minimize(penalty, _EXPECTED, (features, ms), tol=1e-12).x
    block_ms = np.mean([f.core_ms / f.blocks for f in features])
    expected = [found[0], 3 * block_ms * found[1], block_ms * found[2], found[3]]
    assert numbers(Calibration.fit(features, ms)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("factor", [1000.0, 0.001])
@pytest.mark.parametrize("count", [2, 22])
def test_unit_of_time_does_not_matter(count: int, factor: float) -> None:
    features = draw(count)
    ms = measured(features, 0.02)
    scaled = [Features(core_ms=factor * f.core_ms, blocks=f.blocks, switch_ms=factor * f.switch_ms) for f in features]
    found, other = Calibration.fit(features, ms), Calibration.fit(scaled, [factor * each for each in ms])
    expected = [found.slope, factor * found.offset_ms, factor * found.block_ms, found.switch_share]
    assert numbers(other) == pytest.approx(expected)
    assert cross_predicted(scaled, [factor * each for each in ms]) == pytest.approx(
        factor * cross_predicted(features, ms)
    )


def test_cross_predicted_leaves_each_out() -> None:
    features = draw(7)
    ms = measured(features, 0.05)
    found = cross_predicted(features, ms)
    for i, one in enumerate(features):
        others = Calibration.fit([*features[:i], *features[i + 1 :]], [*ms[:i], *ms[i + 1 :]])
        assert found[i] == pytest.approx(others.predict_ms(one), rel=1e-12)
    # What one took to run changes what is predicted for all but itself.
    changed = cross_predicted(features, [2 * ms[0], *ms[1:]])
    assert changed[0] == found[0] and (changed[1:] != found[1:]).all()


def varied(count: int, seed: int = 0) -> list[Features]:
    """Return networks of three kinds of blocks whose latencies span two orders of magnitude."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        scale = 10 ** rng.uniform(-2, 0)
        shares = {
            name: Share(float(rng.uniform(0.5, 2) * scale), int(rng.integers(1, 12)))
            for name in ("Add", "Linear", "Part")
            if rng.random() < 0.7
        } or {"Add": Share(scale, 1)}
        found.append(
            Features(
                core_ms=sum(share.core_ms for share in shares.values()), blocks=sum(s.blocks for s in shares.values()),
                switch_ms=0.0, kinds=shares,
            )
        )  # fmt: skip
    return found


TERMS = {
    "Add": KindTerm(slope=-0.2, block_ms=0.0, first_ms=0.005),
    "Linear": KindTerm(slope=0.15, block_ms=0.0, first_ms=0.0),
    "Part": KindTerm(slope=0.0, block_ms=-0.003, first_ms=0.002),
}


def test_terms_of_kinds_by_hand() -> None:
    calibration = Calibration(
        slope=1, offset_ms=0.5, block_ms=0, switch_share=0, least_ms=0.6, million_ms=0.25,
        kinds={"Add": KindTerm(slope=0.5, block_ms=0.25, first_ms=0.125)},
    )  # fmt: skip
    shares = {"Add": Share(2.0, 3), "Unknown": Share(1.0, 1)}
    found = calibration.predict_ms(Features(core_ms=3.0, blocks=4, switch_ms=0.0, millions=2.0, kinds=shares))
    assert found == 0.5 + 3.0 + 0.25 * 2 + (0.5 * 2 + 0.25 * 3 + 0.125)
    # No network is said to be faster than that.
    assert calibration.predict_ms(Features(core_ms=0.01, blocks=1, switch_ms=0.0)) == 0.6


def test_kinds_are_told_apart_where_networks_vary() -> None:
    true = Calibration(slope=1, offset_ms=0.04, block_ms=0, switch_share=0, kinds=TERMS)
    features = varied(96)
    rng = np.random.default_rng(1)
    ms = [true.predict_ms(f) * float(rng.lognormal(0, 0.03)) for f in features]
    together = [f.model_copy(update={"kinds": {}}) for f in features]
    apart_error, together_error = (
        float(np.mean(np.abs(cross_predicted(f, ms) / np.array(ms) - 1))) for f in (features, together)
    )
    assert apart_error < 0.06 and apart_error < 0.7 * together_error
    assert Calibration.fit(features, ms).least_ms == min(ms) / 2


def test_terms_of_kinds_in_any_unit_of_time() -> None:
    features = varied(40)
    ms = [f.core_ms + 0.03 for f in features]

    def slower(f: Features) -> Features:
        shares = {name: Share(1000 * share.core_ms, share.blocks) for name, share in f.kinds.items()}
        return f.model_copy(update={"core_ms": 1000 * f.core_ms, "kinds": shares})

    fast = Calibration.fit(features, ms)
    slow = Calibration.fit([slower(f) for f in features], [1000 * each for each in ms])
    predictions = [1000 * fast.predict_ms(f) for f in features]
    assert [slow.predict_ms(slower(f)) for f in features] == pytest.approx(predictions)
