"""What every search space must do; a new space joins the list of ``SPACES``."""

import itertools
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from toy_space import ToySpace

from search_spaces.architecture import Architecture
from search_spaces.einspace.space import EinSpace
from search_spaces.errors import InputError
from search_spaces.fbnet import FBNetSpace
from search_spaces.fbnetv2 import FBNetV2Space
from search_spaces.hybrid import HybridSpace
from search_spaces.nb201 import NB201Space
from search_spaces.space import SearchSpace, replay, sample, sample_spread

SPACES: dict[str, Callable[[], SearchSpace]] = {
    "fbnet, 8 px gray": lambda: FBNetSpace((1, 8, 8), 10),
    "fbnet, 28 px gray": lambda: FBNetSpace((1, 28, 28), 10),
    "fbnet, 64 px": lambda: FBNetSpace((3, 64, 64), 5),
    "fbnet, 224 px": lambda: FBNetSpace((3, 224, 224), 1000),
    "fbnet, not square": lambda: FBNetSpace((3, 21, 34), 2),
    "fbnetv2, 28 px gray": lambda: FBNetV2Space((1, 28, 28), 10),
    "fbnetv2, not square": lambda: FBNetV2Space((3, 21, 34), 2),
    "fbnetv2, F1": lambda: FBNetV2Space((3, 128, 128), 10, "f1"),
    "hybrid, 28 px gray": lambda: HybridSpace((1, 28, 28), 10),
    "hybrid, 64 px": lambda: HybridSpace((3, 64, 64), 10),
    "hybrid, not square": lambda: HybridSpace((3, 21, 34), 2),
    "hybrid, 96 px": lambda: HybridSpace((3, 96, 96), 10),
    "hybrid, fabric": lambda: HybridSpace((1, 28, 28), 10, "fabric-28"),
    "nb201": lambda: NB201Space((3, 32, 32), 10),
    "nb201, gray, not square": lambda: NB201Space((1, 8, 12), 3),
    "einspace": lambda: EinSpace((3, 16, 16), 10),
    "einspace, gray, not square": lambda: EinSpace((1, 9, 12), 3),
    "toy": ToySpace,
}


@pytest.fixture(params=SPACES, scope="module")
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return SPACES[request.param]()


@pytest.fixture(scope="module")
def samples(space: SearchSpace) -> list[Architecture]:
    rng = np.random.default_rng(0)
    drawn = [draw(space, rng) for draw in (sample, sample_spread) for _ in range(20)]
    drawn += [space.mutate(parent, rng) for parent in drawn[:10]]
    drawn += [space.crossover(one, other, rng) for one, other in itertools.pairwise(drawn[:10])]
    return [*drawn, *space.baseline_family(), *space.named().values()]


def test_decisions_replay(space: SearchSpace, samples: list[Architecture]) -> None:
    for architecture in samples:
        assert architecture.space == space.name
        assert replay(space, dict(architecture.decisions)) == architecture


def test_decision_names_are_used_once(samples: list[Architecture]) -> None:
    for architecture in samples:
        assert len(dict(architecture.decisions)) == len(architecture.decisions)


def test_text_parses_back(space: SearchSpace, samples: list[Architecture]) -> None:
    for architecture in samples:
        assert space.parse(architecture.text) == architecture
        assert space.parse(architecture.text.removeprefix(f"{space.name}:")) == architecture


def test_canonical_texts_are_read_as_written(space: SearchSpace, samples: list[Architecture]) -> None:
    for architecture in samples:
        assert space.as_written(architecture.text) == space.pruned(architecture) == architecture


def test_options_do_not_break_the_text(samples: list[Architecture]) -> None:
    for architecture in samples:
        assert not any(set(option) & set(",: \n") for _, option in architecture.decisions)


def test_parameter_names_start_with_their_layer(space: SearchSpace, samples: list[Architecture]) -> None:
    built = dict(space.build(samples[0]).named_parameters())
    expected = {
        f"layers.{position}.{name}": parameter.shape
        for position, block in enumerate(space.blocks(samples[0]))
        for name, parameter in block.build().named_parameters()
    }
    assert {name: parameter.shape for name, parameter in built.items()} == expected


@pytest.mark.parametrize("change", ["{},x", "x{}", "elsewhere:{}", "", "no such name"])
def test_other_texts_are_input_errors(change: str, space: SearchSpace, samples: list[Architecture]) -> None:
    with pytest.raises(InputError):
        space.parse(change.format(samples[0].text.removeprefix(f"{space.name}:")))


def test_ids_are_equal_for_equal_networks_alone(space: SearchSpace, samples: list[Architecture]) -> None:
    for one, other in itertools.combinations(samples, 2):
        same_blocks = space.blocks(one) == space.blocks(other)
        assert (one.id == other.id) == (one.text == other.text) == (one == other) == same_blocks


def test_blocks_chain_from_the_image_to_the_scores(space: SearchSpace, samples: list[Architecture]) -> None:
    for architecture in samples:
        blocks = space.blocks(architecture)
        assert blocks[0].in_shape == space.input_shape
        if space.positions():  # elsewhere blocks branch
            assert all(one.out_shape == other.in_shape for one, other in itertools.pairwise(blocks))
        assert blocks[-1].out_shape == (space.classes, 1, 1)


def test_networks_compute_scores(space: SearchSpace, samples: list[Architecture]) -> None:
    sizes = sorted(samples, key=space.macs)
    for architecture in (sizes[0], sizes[len(sizes) // 2], sizes[-1]):
        with torch.no_grad():
            scores = space.build(architecture).eval()(torch.randn(2, *space.input_shape))
        assert scores.shape == (2, space.classes) and torch.isfinite(scores).all()


def test_networks_can_be_trained(space: SearchSpace, samples: list[Architecture]) -> None:
    architecture = min(samples, key=space.macs)
    network = space.build(architecture).train()
    network(torch.randn(2, *space.input_shape)).square().sum().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_positions_hold_every_block(space: SearchSpace, samples: list[Architecture]) -> None:
    positions = [set(row) for row in space.positions()]
    if not positions:
        pytest.skip("networks have no positions in common")
    assert all(positions)
    for architecture in samples:
        blocks = space.blocks(architecture)
        assert len(blocks) == len(positions)
        assert all(block in row for block, row in zip(blocks, positions, strict=True))


def test_distinct_blocks_are_those_of_the_positions(space: SearchSpace) -> None:
    distinct = space.distinct_blocks()
    keys = [block.key for block in distinct]
    assert len(set(keys)) == len(keys) > 0
    if space.positions():
        assert set(keys) == {block.key for row in space.positions() for block in row}


def test_equal_keys_are_equal_computations(space: SearchSpace, samples: list[Architecture]) -> None:
    by_key: dict[str, tuple[object, ...]] = {}
    used = [block for architecture in samples for block in space.blocks(architecture)]
    for block in [*used, *(block for row in space.positions() for block in row)]:
        facts = (type(block), block.in_shape, block.out_shape, block.macs, block.params)
        assert by_key.setdefault(block.key, facts) == facts


def test_counts_are_sums_over_blocks(space: SearchSpace, samples: list[Architecture]) -> None:
    for architecture in samples:
        blocks = space.blocks(architecture)
        assert space.macs(architecture) == sum(block.macs for block in blocks) > 0
        assert space.params(architecture) == sum(block.params for block in blocks) > 0


def test_descriptors_are_as_many_finite_numbers_for_all(space: SearchSpace, samples: list[Architecture]) -> None:
    rows = [space.descriptors(architecture) for architecture in samples]
    assert len({len(row) for row in rows}) == 1
    assert np.isfinite(np.array(rows, float)).all()


def test_descriptors_tell_architectures_apart(space: SearchSpace, samples: list[Architecture]) -> None:
    distinct = set(samples)
    assert len({tuple(space.descriptors(architecture)) for architecture in distinct}) == len(distinct)


def test_baseline_family_is_distinct_and_inside(space: SearchSpace) -> None:
    family = space.baseline_family()
    assert len({architecture.id for architecture in family}) == len(family) >= 2
    assert len({space.macs(architecture) for architecture in family}) == len(family)
    for architecture in family:
        assert replay(space, dict(architecture.decisions)) == architecture


def test_named_are_inside_and_parse(space: SearchSpace) -> None:
    for name, architecture in space.named().items():
        assert space.parse(name) == architecture
        assert replay(space, dict(architecture.decisions)) == architecture


def test_space_and_architectures_travel_to_other_processes(space: SearchSpace, samples: list[Architecture]) -> None:
    travelled, architecture = pickle.loads(pickle.dumps((space, samples[0])))
    assert architecture == samples[0]
    assert (travelled.name, travelled.input_shape) == (space.name, space.input_shape)
    assert travelled.blocks(architecture) == space.blocks(samples[0])
    assert travelled.parse(samples[1].text) == samples[1]
