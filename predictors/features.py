"""What an accuracy predictor sees of an architecture."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Architecture
from search_spaces.block import Block
from search_spaces.grid import Grid
from search_spaces.operators import Identity
from search_spaces.space import SearchSpace

LOG_MACS, LOG_PARAMS = -3, -2
"""Columns of the features."""


def _is_skip(block: Block) -> float:
    return float(isinstance(block, Identity))


def features(space: SearchSpace, architecture: Architecture) -> list[float]:
    """Return the numeric descriptors of all decisions, then log MACs, log parameters and the number of skips."""
    blocks = space.blocks(architecture)
    macs, params = (sum(counts) for counts in zip(*(block.counts for block in blocks), strict=True))
    return [*space.descriptors(architecture), math.log(macs), math.log(params), sum(map(_is_skip, blocks))]


def feature_matrix(space: SearchSpace, architectures: Sequence[Architecture]) -> NDArray:
    """Return one row of ``features`` per architecture."""
    networks = [space.canonical(architecture) for architecture in architectures]
    rows = {network: features(space, network) for network in dict.fromkeys(networks)}
    return np.array([rows[network] for network in networks], float)


def grid_features(grid: Grid, rows: NDArray) -> NDArray:
    """Return one row of ``features`` per row of option numbers."""
    counted = [np.log(grid.total(rows, lambda block, i=i: block.counts[i])) for i in range(2)]  # type: ignore[misc]
    return np.column_stack([grid.describe(rows), *counted, grid.total(rows, _is_skip)])
