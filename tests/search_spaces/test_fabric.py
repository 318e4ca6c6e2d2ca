"""Paths through a fabric: HyTra's published numbers, and every path of small fabrics one by one."""

import itertools
from collections.abc import Sequence

import pytest

from search_spaces.fabric import START, Fabric

OPTIONS = {0: 1, 1: 1, 2: 2, 3: 2}
"""Of HyTra's scales: convolution alone at 56 and 28 px, attention too at 14 and 7 px."""


@pytest.mark.parametrize(
    ("rows", "paths"), [([[4, 1, 4]], 131), ([[4, 2, 4]], 115), ([[4, 3, 4]], 80), ([[4, 4, 4]], 16)]
)
def test_paths_of_a_block_of_four_layers(rows: list[list[int]], paths: int) -> None:
    assert Fabric.of(rows).paths(OPTIONS, begins=range(4)) == paths


@pytest.mark.parametrize(
    ("rows", "begins", "paths"),
    [
        ([[4, 1, 4]], None, 51),  # behind the stem, at 56 or 28 px
        ([[1, 2, 3], [3, 2, 4]], range(4), 99),  # not at 7 px alone
        ([[4, 3, 4]], range(4), 80),
        ([[4, 4, 4]], range(4), 16),
    ],
)
def test_paths_that_the_search_of_hytra_allows(rows: list[list[int]], begins: Sequence[int] | None, paths: int) -> None:
    assert Fabric.of(rows).paths(OPTIONS, begins) == paths


FABRICS = [
    Fabric.of([[4, 1, 4]]),
    Fabric.of([[4, 1, 4], [1, 2, 3], [2, 2, 4]]),
    Fabric.of([[2, 1, 1], [2, 1, 2], [1, 2, 2], [1, 2, 3]], start=0),
    Fabric.of([[3, 1, 3], [1, 3, 3]], start=0),
]


def allowed(fabric: Fabric, path: Sequence[int]) -> bool:
    within = all(low <= scale <= high for scale, (low, high) in zip(path, fabric.bounds, strict=True))
    steps = itertools.pairwise([max(fabric.start, 0), *path])
    return within and all(after - before in (0, 1) for before, after in steps)


@pytest.mark.parametrize("fabric", FABRICS, ids=lambda fabric: str(fabric.bounds))
def test_following_scales_make_every_allowed_path_and_no_other(fabric: Fabric) -> None:
    paths: list[list[int]] = [[]]
    for layer in range(len(fabric.bounds)):
        # Nothing ends where it cannot go on.
        assert all(fabric.following(layer, path[-1] if path else fabric.start) for path in paths)
        paths = [
            [*path, each] for path in paths for each in fabric.following(layer, path[-1] if path else fabric.start)
        ]
    every = [list(p) for p in itertools.product(range(4), repeat=len(fabric.bounds)) if allowed(fabric, p)]
    assert sorted(paths) == every
    assert fabric.paths(dict.fromkeys(range(4), 1)) == len(every)
    weighed = sum(2 ** path.count(2) * 2 ** path.count(3) for path in every)
    assert fabric.paths(OPTIONS) == weighed


def test_the_finest_comes_first() -> None:
    fabric = Fabric.of([[2, 1, 3]])
    assert fabric.following(0, START) == [0, 1] and fabric.following(1, 1) == [1, 2] and fabric.following(1, 2) == [2]


def test_stages_are_layers_of_one_scale() -> None:
    assert Fabric.of([[2, 1, 1], [3, 2, 2]], start=0).fixed
    assert not FABRICS[2].fixed
    assert Fabric.of([[1, 1, 1], [2, 1, 2]]).bounds == ((0, 0), (0, 1), (0, 1))
    assert FABRICS[2].holds(2, 1) and not FABRICS[2].holds(1, 1)
