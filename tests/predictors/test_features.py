"""Features are the descriptors and the statistics, in this order, for any space."""

import math

import numpy as np
import pytest
from toy_space import ToySpace

from predictors.features import LOG_MACS, LOG_PARAMS, feature_matrix, features, grid_features
from search_spaces.fbnet import FBNetSpace
from search_spaces.hybrid import HybridSpace
from search_spaces.nb201 import NB201Space
from search_spaces.operators import Identity
from search_spaces.space import SearchSpace, sample_spread

SPACES = [
    FBNetSpace((1, 8, 8), 10),
    FBNetSpace((3, 224, 224), 1000),
    NB201Space((3, 32, 32), 10),
    HybridSpace((1, 28, 28), 10),
    ToySpace(),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_features(space: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    drawn = [sample_spread(space, rng) for _ in range(20)]
    matrix = feature_matrix(space, drawn)
    assert matrix.shape == (20, len(space.descriptors(drawn[0])) + 3) and matrix.dtype == float
    assert np.isfinite(matrix).all()
    for architecture, row in zip(drawn, matrix, strict=True):
        assert row.tolist() == features(space, architecture)
        assert row[:-3].tolist() == space.descriptors(architecture)
        assert row[LOG_MACS] == pytest.approx(math.log(space.macs(architecture)))
        assert row[LOG_PARAMS] == pytest.approx(math.log(space.params(architecture)))
        assert row[-1] == sum(isinstance(block, Identity) for block in space.blocks(architecture))


def test_features_of_nothing() -> None:
    assert len(feature_matrix(SPACES[0], [])) == 0


@pytest.mark.parametrize("space", [space for space in SPACES if space.grid()], ids=lambda space: space.name)
def test_features_of_rows_are_those_of_their_architectures(space: SearchSpace) -> None:
    rng = np.random.default_rng(1)
    drawn = [sample_spread(space, rng) for _ in range(50)]
    grid = space.grid()
    assert grid is not None
    found = grid_features(grid, grid.encode(drawn))
    assert found == pytest.approx(feature_matrix(space, drawn), rel=1e-12)
    assert grid_features(grid, grid.encode([])).shape == (0, found.shape[1])
