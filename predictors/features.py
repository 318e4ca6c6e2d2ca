"""What an accuracy predictor sees of an architecture."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Architecture
from search_spaces.operators import Identity
from search_spaces.space import SearchSpace


def features(space: SearchSpace, architecture: Architecture) -> list[float]:
    """Return the numeric descriptors of all decisions, then log MACs, log parameters and the number of skips."""
    blocks = space.blocks(architecture)
    statistics = [
        math.log(sum(block.macs for block in blocks)),
        math.log(sum(block.params for block in blocks)),
        float(sum(isinstance(block, Identity) for block in blocks)),
    ]
    return [*space.descriptors(architecture), *statistics]


def feature_matrix(space: SearchSpace, architectures: Sequence[Architecture]) -> NDArray:
    """Return one row of ``features`` per architecture."""
    return np.array([features(space, architecture) for architecture in architectures], float)
