"""Blocks that were not measured: predicted from made-up devices of which it is known what they take."""

import numpy as np
import pytest

from latency.unmeasured import FEWEST_ROWS, Facts, Row, Unmeasured, left_out_predictions
from search_spaces.einspace.joins import Add, Concat
from search_spaces.einspace.operators import Convolution, LeakyReLU, Linear, Permute

SESSION_MS = 0.03
WIDTHS = (16, 32, 64, 128, 256, 512)


def linear(windows: int, numbers: int, width: int) -> Facts:
    return Facts.of(Linear((1, windows, numbers), width))


def core_ms(facts: Facts) -> float:
    return 0.004 + 1e-8 * facts.macs + 2e-7 * facts.moved + 3e-7 * facts.params


def linears(count: int, seed: int = 0) -> list[Facts]:
    rng = np.random.default_rng(seed)
    return [linear(int(rng.integers(1, 512)), *(int(rng.choice(WIDTHS)) for _ in range(2))) for _ in range(count)]


def measured(facts: list[Facts], noise: float = 0.0) -> list[Row]:
    rng = np.random.default_rng(7)
    return [(each, (SESSION_MS + core_ms(each)) * float(rng.lognormal(0, noise))) for each in facts]


def test_facts_by_hand() -> None:
    facts = Facts.of(Convolution((3, 8, 6), 16, 3, 2, 1))
    assert facts.kind == "Convolution" and facts.macs == 3 * 16 * 9 * 4 * 3 and facts.params == 3 * 16 * 9
    assert facts.moved == 3 * 8 * 6 + 16 * 4 * 3
    assert facts.sizes == (16, 4, 3, 3, 8, 6, 16, 3, 2, 1)
    # Engines compute each order of dimensions in a way of its own, but all linear layers alike.
    orders = [Facts.of(Permute((3, 8, 6), axes)).kind for axes in ((2, 1, 0), (0, 2, 1))]
    assert orders == ["permute_210", "permute_021"]
    assert linear(2, 16, 32).kind == linear(2, 16, 64).kind == "Linear"
    assert Facts.of(Permute((3, 8, 6), (2, 1, 0))).sizes == (6, 8, 3, 3, 8, 6, 2, 1, 0)


def test_facts_of_joins_have_one_length_and_count_every_input() -> None:
    two, four = (Facts.of(Add((2, 3, 4), ((2, 3, 4),) * others)) for others in (1, 3))
    assert two.sizes == (*(2, 3, 4) * 2, 1, 2, 3, 4) and four.sizes == (*(2, 3, 4) * 2, 3, 2, 3, 4)
    assert (two.moved, four.moved) == (3 * 24, 5 * 24)
    assert Facts.of(Concat((2, 3, 4), ((5, 3, 4),), 0)).moved == 24 + 60 + 84


def test_what_a_roofline_explains_is_predicted() -> None:
    unmeasured = Unmeasured(measured(linears(60)), SESSION_MS)
    for facts in linears(40, seed=1):
        assert unmeasured.predict_ms(facts) + SESSION_MS == pytest.approx(core_ms(facts) + SESSION_MS, rel=0.02)


def test_what_no_count_tells_is_learned_from_neighbours() -> None:
    # One order of the dimensions is thirty times slower, at the same counts.
    def slow_ms(block: Permute) -> float:
        return (30 if block.axes == (2, 1, 0) else 1) * 1e-7 * block.moved + 0.003

    rng = np.random.default_rng(0)
    blocks = [
        Permute(tuple(int(2 ** rng.integers(2, 8)) for _ in range(3)), axes)  # type: ignore[arg-type]
        for _ in range(30)
        for axes in ((2, 1, 0), (1, 2, 0))
    ]
    rows = [(Facts.of(block), SESSION_MS + slow_ms(block)) for block in blocks]
    found = left_out_predictions(rows, SESSION_MS)
    assert np.median(np.abs(found / [ms for _, ms in rows] - 1)) < 0.15


def test_operators_with_few_rows_are_predicted_by_all_together() -> None:
    lone = Facts.of(LeakyReLU((8, 8, 8)))
    rows = measured([*linears(40), lone])
    assert len([facts for facts, _ in rows if facts.kind == "LeakyReLU"]) < FEWEST_ROWS
    other = Facts.of(LeakyReLU((8, 16, 16)))
    assert Unmeasured(rows, SESSION_MS).predict_ms(other) == pytest.approx(core_ms(other), rel=0.3)


def test_predictions_are_positive_whatever_was_measured() -> None:
    rng = np.random.default_rng(3)
    # Faster than an empty session: as noise has it.
    rows = [(facts, SESSION_MS * float(rng.uniform(0.9, 1.0))) for facts in linears(30)]
    unmeasured = Unmeasured(rows, SESSION_MS)
    assert all(0 <= unmeasured.predict_ms(facts) < SESSION_MS for facts in linears(20, seed=1))


def test_the_same_rows_give_the_same_predictions() -> None:
    rows = measured(linears(50), noise=0.05)
    first, second = Unmeasured(rows, SESSION_MS), Unmeasured(list(rows), SESSION_MS)
    fresh = linears(20, seed=1)
    assert [first.predict_ms(f) for f in fresh] == [second.predict_ms(f) for f in fresh]


def test_rows_do_not_tell_themselves() -> None:
    # With noise, what is left out cannot be predicted better than the noise.
    rows = measured(linears(60), noise=0.1)
    errors = left_out_predictions(rows, SESSION_MS) / [ms for _, ms in rows] - 1
    assert 0.05 < np.mean(np.abs(errors)) < 0.2
