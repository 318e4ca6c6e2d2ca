"""Stages cover a chain once, and paths through them are those of its networks."""

import numpy as np
import pytest
from tiny_space import TinySpace

from search_spaces.fbnet import FBNetSpace
from search_spaces.hybrid import HybridSpace
from search_spaces.macros import MacroSpace
from search_spaces.space import enumerate_architectures, sample_spread
from search_spaces.stages import Stage, cut, paths

SPACES = [TinySpace(), FBNetSpace((1, 28, 28), 10), HybridSpace((1, 28, 28), 10), FBNetSpace((3, 224, 224), 10)]


def stages_of(space: MacroSpace) -> tuple[list[Stage], Stage]:
    chain = space.chain()
    assert chain is not None
    return cut(chain)


@pytest.mark.parametrize(
    ("space", "layers"),
    [
        # The stem and, in the hybrid space, what decides its width are part of the first stage.
        (SPACES[1], [2, 2, 2, 2, 1]),
        (SPACES[2], [4, 4, 4]),
        (SPACES[3], [2, 4, 4, 4, 4, 4, 1]),
        (SPACES[0], [2, 1, 2]),
    ],
    ids=lambda value: value.name if isinstance(value, MacroSpace) else "",
)
def test_a_stage_ends_where_the_shape_changes(space: MacroSpace, layers: list[int]) -> None:
    found, head = stages_of(space)
    assert [len(stage.positions) for stage in found] == layers
    chain = space.chain()
    assert chain is not None and [p for stage in [*found, head] for p in stage.positions] == chain
    assert [stage.start for stage in [*found, head]] == [0, *np.cumsum(layers)]
    assert all(position.operator is None for position in head.positions)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_paths_make_up_a_network(space: MacroSpace) -> None:
    found, head = stages_of(space)
    rng = np.random.default_rng(0)
    for architecture in (sample_spread(space, rng) for _ in range(20)):
        blocks, decisions, shape = [], {}, space.input_shape
        for stage in [*found, head]:
            path = stage.path(architecture)
            blocks += stage.blocks(path, shape)
            decisions |= stage.decisions(path)
            shape = blocks[-1].out_shape
        assert blocks == space.blocks(architecture) and decisions == dict(architecture.decisions)


@pytest.mark.parametrize("space", [TinySpace(), FBNetSpace((1, 28, 28), 10)], ids=lambda space: space.name)
def test_all_paths_are_those_of_canonical_networks(space: MacroSpace) -> None:
    found, _ = stages_of(space)
    for stage in found:
        listed = paths(space, stage, 1000, 0)
        assert len(set(listed)) == len(listed) <= stage.combinations
        if isinstance(space, TinySpace):
            assert set(listed) == {stage.path(a) for a in enumerate_architectures(space)}
        else:  # no layer but the last of a stage keeps its shape, so all combinations are networks of their own
            assert len(listed) == stage.combinations


def test_of_too_many_paths_some_are_drawn() -> None:
    space = HybridSpace((1, 28, 28), 10)
    stage = stages_of(space)[0][1]
    drawn = paths(space, stage, 50, 0)
    assert stage.combinations == 9000 and len(set(drawn)) == len(drawn) == 50
    assert drawn == paths(space, stage, 50, 0) != paths(space, stage, 50, 1)
    few = paths(TinySpace(), stages_of(TinySpace())[0][2], 72, 0)  # one fewer than there are
    assert len(set(few)) == len(few) <= 72
