"""The ends of a space are those of all its networks, and the smallest still lets the image through."""

import pytest
import torch
from fakes import made_up_accuracy, made_up_table
from tiny_space import TinySpace
from toy_space import ToySpace

from nas.search.target import TableTarget
from search_spaces.extremes import largest, leads_through, lowest, smallest
from search_spaces.fbnet import FBNetSpace
from search_spaces.nb201 import NB201Space
from search_spaces.space import SearchSpace, enumerate_architectures

SPACE = FBNetSpace((1, 8, 8), 10)
TOY = ToySpace((1, 8, 8), 10)


def target(space: SearchSpace) -> TableTarget:
    return TableTarget(space, made_up_table(space), None)


@pytest.mark.parametrize("seed", range(3))
def test_lowest_is_that_of_all(seed: int) -> None:
    every = list(enumerate_architectures(TOY))
    for predict in (target(TOY).predict_ms, lambda a: -target(TOY).predict_ms(a), made_up_accuracy):
        assert predict(lowest(TOY, predict, seed)) == min(predict(a) for a in every)


def test_lowest_of_a_large_space_is_the_lowest_of_each_layer() -> None:
    table = made_up_table(SPACE)
    costs = [min(table.features([block]).core_ms for block in row) for row in SPACE.positions()]
    best = table.predict_ms(SPACE.blocks(lowest(SPACE, target(SPACE).predict_ms, 0)))
    assert best == pytest.approx(table.calibration.offset_ms + table.calibration.slope * sum(costs))


@pytest.mark.parametrize("space", [TOY, TinySpace(), NB201Space((1, 8, 8), 10)], ids=lambda space: space.name)
def test_largest_and_smallest_are_those_of_all(space: SearchSpace) -> None:
    counts = [space.macs(a) for a in enumerate_architectures(space)]
    assert space.macs(largest(space)) == max(counts)
    # Networks of NAS-Bench-201 that let nothing through have as few MACs as those that skip.
    assert space.macs(smallest(space)) == min(counts)


def test_ends_of_fbnet() -> None:
    assert {option for _, option in largest(SPACE).decisions} == {"k5_e6"}
    assert {option for _, option in smallest(SPACE).decisions} == {"skip"}


def test_smallest_cell_depends_on_the_image() -> None:
    space = NB201Space((1, 8, 8), 10)
    nothing = space.parse(",".join(["none"] * 6))
    assert space.macs(nothing) == space.macs(smallest(space))
    for architecture, lets_through in ((smallest(space), True), (nothing, False)):
        network = space.build(architecture)
        scores = network(torch.randn(4, 1, 8, 8))
        assert leads_through(space.graph(architecture)) is lets_through
        assert (float(scores.detach().std(0).max()) > 1e-3) is lets_through


def test_ways_through_a_graph() -> None:
    labels = ["in", "a", "b", "out"]
    assert leads_through((labels, [(0, 1), (1, 3)]))
    assert leads_through((labels, [(1, 3), (0, 1)]))
    assert not leads_through((labels, [(0, 1), (2, 3)]))
