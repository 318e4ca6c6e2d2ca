"""Rows of option numbers say of thousands of architectures what the space says of each."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from toy_space import ToySpace

from search_spaces.architecture import Architecture
from search_spaces.fbnet import OPTIONS, FBNetSpace
from search_spaces.grid import Grid
from search_spaces.hybrid import HybridSpace
from search_spaces.nb201 import NB201Space
from search_spaces.space import SearchSpace, replay, sample, sample_spread

SPACES = [FBNetSpace((1, 8, 8), 10), FBNetSpace((3, 32, 32), 10, "imagenet"), HybridSpace((1, 28, 28), 10)]


@pytest.fixture(params=SPACES, ids=lambda space: space.name)
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return request.param


@pytest.fixture
def grid(space: SearchSpace) -> Grid:
    grid = space.grid()
    assert grid is not None
    return grid


def random_rows(grid: Grid, count: int, seed: int = 0) -> NDArray:
    """Return rows that are not canonical, many of their options skips."""
    rng = np.random.default_rng(seed)
    rows = rng.integers([len(options) for options in grid.options.values()], size=(count, len(grid.options)))
    skips = np.array([options.index("skip") if "skip" in options else -1 for options in grid.options.values()])
    skipped = (rng.random(rows.shape) < rng.random((count, 1))) & (skips >= 0)
    return np.where(skipped, skips, rows).astype(np.int16)


def architecture(space: SearchSpace, grid: Grid, row: NDArray) -> Architecture:
    return replay(space, grid.decisions(row))


def test_spaces_whose_decisions_depend_on_each_other_have_none() -> None:
    assert ToySpace().grid() is None
    assert HybridSpace((1, 28, 28), 10, "fabric-28").grid() is None


def test_options_are_those_that_are_chosen_among(space: SearchSpace, grid: Grid) -> None:
    asked: dict[str, tuple[str, ...]] = {}
    space.decide(lambda name, options: asked.setdefault(name, tuple(options))[0])
    assert list(grid.options.items()) == list(asked.items())


def test_rows_and_architectures_round_trip(space: SearchSpace, grid: Grid) -> None:
    rng = np.random.default_rng(0)
    drawn = [sample(space, rng) for _ in range(50)] + list(space.named().values()) + space.baseline_family()
    rows = grid.encode(drawn)
    assert rows.shape == (len(drawn), len(grid.options)) and rows.dtype == np.int16
    assert [grid.decisions(row) for row in rows] == [dict(a.decisions) for a in drawn]
    assert [architecture(space, grid, row) for row in rows] == drawn
    assert grid.encode([]).shape == (0, len(grid.options))


def test_canonical_rows_are_those_of_canonical_architectures(space: SearchSpace, grid: Grid) -> None:
    rows = random_rows(grid, 300)
    expected = grid.encode([architecture(space, grid, row) for row in rows])
    found = grid.canonical(rows)
    assert np.array_equal(found, expected)
    assert np.array_equal(grid.canonical(found), found)
    # The small macro-architecture has no two layers whose order does not matter.
    assert np.array_equal(found, rows) == (space is SPACES[0])


def test_every_pattern_of_skips_has_its_canonical_row() -> None:
    space = SPACES[1]
    grid = space.grid()
    assert grid is not None
    skip = OPTIONS.index("skip")
    patterns = list(itertools.product((0, 3, skip), repeat=6))
    rows = np.full((len(patterns), len(grid.options)), 5)
    rows[:, 4:10] = patterns  # across the border of two stages
    assert np.array_equal(grid.canonical(rows), grid.encode([architecture(space, grid, row) for row in rows]))


def canonical_and_valid(space: SearchSpace, grid: Grid, rows: NDArray) -> bool:
    return rows.dtype == np.int16 and np.array_equal(rows, grid.encode([architecture(space, grid, r) for r in rows]))


def test_mutation_changes_a_decision_and_stays_canonical(space: SearchSpace, grid: Grid) -> None:
    parents = grid.sample_spread(2000, np.random.default_rng(0))
    raw = replace(grid, canonical=lambda rows: rows).mutate(parents, np.random.default_rng(1))
    changed = raw != parents
    counts = changed.sum(1)
    sizes = [len(options) for options in grid.options.values()]
    assert counts.min() == 1 and raw.min() >= 0 and (raw < sizes).all()
    # One of D, and each of the others with a chance of 1 / D.
    size = len(grid.options)
    assert counts.mean() == pytest.approx(2 - 1 / size, abs=0.1)
    assert changed.mean(0) == pytest.approx(np.full(size, counts.mean() / size), rel=0.4)
    # Every other option may come instead.
    for options in set(grid.options.values()):
        alike = [each == options for each in grid.options.values()]
        pairs = zip(parents[:, alike].flat, raw[:, alike].flat, strict=True)
        assert len({(a, b) for a, b in pairs if a != b}) == len(options) * (len(options) - 1)
    found = grid.mutate(parents, np.random.default_rng(1))
    assert np.array_equal(found, grid.canonical(raw))
    assert canonical_and_valid(space, grid, found[:200])


def test_crossover_takes_every_option_from_a_parent(space: SearchSpace, grid: Grid) -> None:
    rng = np.random.default_rng(0)
    mothers, fathers = grid.sample_spread(500, rng), grid.sample_spread(500, rng)
    raw = replace(grid, canonical=lambda rows: rows).crossover(mothers, fathers, np.random.default_rng(1))
    assert ((raw == mothers) | (raw == fathers)).all()
    assert (raw == mothers)[mothers != fathers].mean() == pytest.approx(0.5, abs=0.05)
    children = grid.crossover(mothers, fathers, np.random.default_rng(1))
    assert np.array_equal(children, grid.canonical(raw)) and canonical_and_valid(space, grid, children[:200])
    assert np.array_equal(grid.crossover(mothers, mothers, rng), mothers)


def test_spread_draws_are_like_those_of_the_space(space: SearchSpace, grid: Grid) -> None:
    rng = np.random.default_rng(0)
    rows = grid.sample_spread(1500, rng)
    assert canonical_and_valid(space, grid, rows[:200])
    assert np.array_equal(rows, grid.sample_spread(1500, np.random.default_rng(0)))
    ours = np.log(grid.total(rows, lambda block: block.macs))
    theirs = np.log([space.macs(sample_spread(space, rng)) for _ in range(1500)])
    tenths = np.linspace(10, 90, 9)
    spread = np.ptp(np.percentile(theirs, [5, 95]))
    assert np.percentile(ours, tenths) == pytest.approx(np.percentile(theirs, tenths), abs=0.12 * spread)


def test_decisions_with_other_options_have_favourites_of_their_own() -> None:
    options = {"a": ("x", "y"), "b": ("x", "y"), "c": ("p", "q", "r"), "d": ("only",)}
    grid = Grid(options, [], [], canonical=lambda rows: rows)
    rows = grid.sample_spread(4000, np.random.default_rng(0))
    assert [set(column) for column in rows.T] == [{0, 1}, {0, 1}, {0, 1, 2}, {0}]
    # Half of the time each leans to a common favourite: two thirds agree by that (E[lean^2] = 1/3), half of the rest.
    assert (rows[:, 0] == rows[:, 1]).mean() == pytest.approx(1 / 3 + 2 / 3 / 2, abs=0.03)
    assert (rows[:, 0] == rows[:, 2]).mean() == pytest.approx(1 / 3, abs=0.03)
    mutated = grid.mutate(rows, np.random.default_rng(1))
    assert (mutated[:, 3] == 0).all() and mutated.max(0).tolist() == [1, 1, 2, 0]


def test_totals_and_descriptions_are_those_of_each_architecture(space: SearchSpace, grid: Grid) -> None:
    rows = grid.canonical(random_rows(grid, 60))
    every = [architecture(space, grid, row) for row in rows]
    assert grid.total(rows, lambda block: block.macs).tolist() == [space.macs(a) for a in every]
    assert grid.total(rows, lambda block: block.counts[1]).tolist() == [space.params(a) for a in every]
    assert np.array_equal(grid.describe(rows), [space.descriptors(a) for a in every])
    for position in range(len(grid.positions)):
        chosen = grid.chosen(rows, position, lambda block: float(hash(block.key)))
        assert chosen.tolist() == [float(hash(space.blocks(a)[position].key)) for a in every]


def test_positions_are_those_of_the_space(space: SearchSpace, grid: Grid) -> None:
    assert [set(blocks) for _, blocks in grid.positions] == [set(row) for row in space.positions()]


def test_blocks_depend_on_the_decisions_that_change_their_input() -> None:
    grid = SPACES[2].grid()
    assert grid is not None
    names = list(grid.options)
    asked = [[names[decision] for decision in decisions] for decisions, _ in grid.positions]
    assert asked[:3] == [["scale1_width"], ["scale1_width", "layer01_at1"], ["scale1_width", "layer02_at1"]]
    assert asked[4] == ["scale1_width", "scale2", "scale2_width"]
    assert asked[-2:] == [["scale3_width", "layer11_at3"], ["scale3_width"]]
    assert [len(decisions) for decisions, _ in SPACES[0].grid().positions] == [0, *[1] * 8, 0, 0]  # type: ignore[union-attr]


def test_cells_have_no_grid_either() -> None:
    assert NB201Space((3, 32, 32), 10).grid() is None
