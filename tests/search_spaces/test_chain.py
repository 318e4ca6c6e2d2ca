"""Chains: what is laid out is what the space decides and lowers to."""

import numpy as np
import pytest
import torch
from tiny_space import TinySpace
from toy_space import ToySpace

from search_spaces.chain import Position
from search_spaces.fbnet import FBNetSpace
from search_spaces.fbnetv2 import FBNetV2Space
from search_spaces.hybrid import HybridSpace
from search_spaces.nb201 import NB201Space
from search_spaces.space import SearchSpace, sample

SPACES = [FBNetSpace((1, 28, 28), 10), FBNetV2Space((1, 28, 28), 10), HybridSpace((1, 28, 28), 10), TinySpace()]


def chain(space: SearchSpace) -> list[Position]:
    found = space.chain()
    assert found is not None
    return found


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_decisions_lead_to_the_blocks_of_the_network(space: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        path = sample(space, rng)
        taken, found, state = dict(path.decisions), [], 0
        for position in chain(space):
            (k,) = [k for k, each in enumerate(position.candidates) if each.items() <= taken.items()]
            found.append(position.blocks[state][k])
            state = int(position.leads_to[state, k])
        assert found == space.blocks(path)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_options_are_those_that_the_space_offers(space: SearchSpace) -> None:
    offered: dict[str, tuple[str, ...]] = {}
    rng = np.random.default_rng(0)

    def choose(name: str, options: list[str]) -> str:
        offered[name] = tuple(options)
        return options[int(rng.integers(len(options)))]

    for _ in range(200):
        space.decide(choose)  # type: ignore[arg-type]
    assert {name: every for position in chain(space) for name, every in position.options.items()} == offered


def test_weights_of_candidates_are_products_of_those_of_their_decisions() -> None:
    rng = np.random.default_rng(0)
    for position in chain(TinySpace()):
        weights = {name: torch.from_numpy(rng.dirichlet(np.ones(len(o)))) for name, o in position.options.items()}
        expected = [
            np.prod([float(weights[name][position.options[name].index(option)]) for name, option in taken.items()])
            for taken in position.candidates
        ]
        found = position.chances(weights)
        assert found.tolist() == pytest.approx(expected)
        assert float(found.sum()) == pytest.approx(1 if position.operator else len(expected))
        many = {name: torch.stack([weight, weight.flip(0)]) for name, weight in weights.items()}
        assert torch.equal(position.chances(many).reshape(-1, len(expected))[0], found)


def test_the_operator_is_decided_first_and_only_the_image_changes_its_size() -> None:
    found = chain(SPACES[1])
    assert [p.operator for p in found] == ["resolution", None, *[f"layer{i:02d}" for i in range(1, 10)], None, None]
    assert [p.resizes for p in found] == [True] + [False] * 12


def test_spaces_of_other_graphs_have_no_chain() -> None:
    assert NB201Space((1, 8, 8), 10).chain() is None
    assert ToySpace((1, 8, 8), 10).chain() is None
    assert HybridSpace((1, 28, 28), 10, "fabric-28").chain() is None
