"""Mixing a chain: one pass with masks is what the sliced paths compute, at a cost that no number of widths raises."""

import itertools

import numpy as np
import pytest
import torch
from tiny_space import TinySpace
from torch import Tensor

from nas.training.mixing import Mixture, widened
from nas.training.supernet import Supernet
from search_spaces.architecture import Architecture
from search_spaces.chain import Position
from search_spaces.fbnet import FBNetSpace
from search_spaces.fbnetv2 import FBNetV2Space
from search_spaces.hybrid import HybridSpace
from search_spaces.space import SearchSpace, replay, sample
from search_spaces.squeeze_operators import SqueezeMBConv

TINY = TinySpace()
SPACES = [TINY, FBNetV2Space((1, 28, 28), 10), FBNetSpace((1, 8, 8), 10), HybridSpace((1, 8, 8), 10, "small-28")]


def chain(space: SearchSpace) -> list[Position]:
    found = space.chain()
    assert found is not None
    return found


def untrained(space: SearchSpace) -> Supernet:
    """Return a supernet whose channels do not look alike, also where nothing comes in."""
    found = Supernet(space, 0)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for name, parameter in found.parameters.items():
            if ".norm." in name:
                parameter.copy_(torch.rand_like(parameter) + 0.5)
    return found


def pictures(space: SearchSpace, count: int = 4) -> Tensor:
    return torch.randn(count, *space.input_shape, generator=torch.Generator().manual_seed(0))


def all_on(space: SearchSpace, path: Architecture) -> dict[str, Tensor]:
    """Return weights that leave ``path`` alone."""
    taken, found = dict(path.decisions), {}
    for position in chain(space):
        for name, every in position.options.items():
            found[name] = torch.zeros(len(every))
            found[name][every.index(taken.get(name, every[0]))] = 1
    return found


def soft(space: SearchSpace) -> dict[str, Tensor]:
    """Return weights of all operators and widths, and of the last resolution."""
    rng = np.random.default_rng(0)
    options = {name: every for position in chain(space) for name, every in position.options.items()}
    found = {name: torch.from_numpy(rng.dirichlet(np.ones(len(o)))).float() for name, o in options.items()}
    if "resolution" in found:
        found["resolution"] = torch.tensor([0.0, 1.0])
    return found


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_with_all_weight_on_one_path_it_is_that_path(space: SearchSpace) -> None:
    supernet, images, rng = untrained(space), pictures(space), np.random.default_rng(0)
    mixture = supernet.mixture()
    for path in [*space.baseline_family()[:4], *(sample(space, rng) for _ in range(12))]:
        with torch.no_grad():
            alone = supernet.forward(path, images)
            torch.testing.assert_close(mixture(all_on(space, path), images), alone, rtol=1e-4, atol=1e-5)


def test_what_a_mask_hides_is_nowhere_felt() -> None:
    supernet, images, rng = untrained(TINY), pictures(TINY), np.random.default_rng(0)
    mixture = supernet.mixture()
    whole = {name: parameter.detach().clone() for name, parameter in supernet.parameters.items()}
    for _ in range(20):
        path = sample(TINY, rng)
        shapes = {name: own.shape for name, own in TINY.build(path).named_parameters()}
        with torch.no_grad():
            for name, parameter in supernet.parameters.items():
                parameter.copy_(whole[name])
            scores = supernet.forward(path, images)
            for name, parameter in supernet.parameters.items():
                parameter += 100
                if name in shapes:
                    block = TINY.blocks(path)[int(name.split(".")[1])]
                    inner = name.split(".", 2)[2]
                    block.shared_part(inner, shapes[name], parameter).sub_(100)
            torch.testing.assert_close(mixture(all_on(TINY, path), images), scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_layer_is_the_weighted_sum_of_its_candidates_filled_up_with_zeros(layer: int) -> None:
    """Sum over operators and output channels of the paths' outputs, behind one width and with one expansion."""
    supernet, images, rng = untrained(TINY), pictures(TINY), np.random.default_rng(layer)
    until = 2 + layer
    mixture = Mixture(chain(TINY)[:until], supernet._modules[:until], supernet._part)
    name = f"layer{layer:02d}"
    asked = (name, f"{name}_channels")
    for _ in range(5):
        path = dict(sample(TINY, rng).decisions)
        weights = all_on(TINY, replay(TINY, path))
        random = soft(TINY)
        weights |= {each: random[each] for each in asked}
        every, widths = (len(chain(TINY)[until - 1].options[each]) for each in asked)
        expected = torch.zeros(())
        for i, j in itertools.product(range(every), range(widths)):
            single = weights | {name: torch.eye(every)[i], asked[1]: torch.eye(widths)[j]}
            with torch.no_grad():
                expected = expected + weights[name][i] * weights[asked[1]][j] * mixture(single, images)
        with torch.no_grad():
            torch.testing.assert_close(mixture(weights, images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_it_trains_its_weights_and_not_the_network(space: SearchSpace) -> None:
    supernet = untrained(space)
    weights = {name: weight.requires_grad_() for name, weight in soft(space).items()}
    supernet.mixture()(weights, pictures(space)).square().sum().backward()
    for name, weight in weights.items():
        assert weight.grad is not None and weight.grad.isfinite().all()
        assert weight.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in supernet.parameters.values())


def test_memory_does_not_grow_with_the_number_of_widths() -> None:
    class Fine(TinySpace):
        WIDE = (8, 16, 24, 32)

    def kept(space: SearchSpace) -> int:
        """Return the bytes that a step's backward pass needs."""
        found: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        weights = {name: weight.requires_grad_() for name, weight in soft(space).items()}
        mixture = untrained(space).mixture()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            mixture(weights, pictures(space, 64))
        return sum(found.values())

    coarse, fine = kept(TINY), kept(Fine())
    assert fine < 1.03 * coarse


def test_a_candidate_that_nothing_weighs_is_not_run() -> None:
    ran: list[str] = []
    supernet = untrained(TINY)

    def part(position: int, block: object, name: str, own: Tensor) -> Tensor:
        ran.append(f"{position} {getattr(block, 'spec', '')}")
        return supernet._part(position, block, name, own)  # type: ignore[arg-type]

    mixture = Mixture(chain(TINY), supernet._modules, part)
    path = TINY.parse("12x12,k3,e3,c16,k5sh,e2,c24,skip")
    mixture(all_on(TINY, path), pictures(TINY))
    assert {spec.split("_e")[0] for spec in ran if spec[0] in "34"} == {"3 mbconv_k5_s1"}


def test_filling_up() -> None:
    x = torch.ones(2, 3, 4, 5)
    assert widened(x, 3) is x
    assert widened(x, 5).sum(dim=(0, 2, 3)).tolist() == [40, 40, 40, 0, 0]
    assert widened(torch.ones(2, 3), 4).sum(0).tolist() == [2, 2, 2, 0]


def test_blocks_without_a_widest_are_refused() -> None:
    row = (SqueezeMBConv((16, 4, 4), 24, 3, 1, 2), SqueezeMBConv((16, 4, 4), 16, 3, 1, 4))
    position = Position(((16, 4, 4),), ({"layer": "k3", "w": "one"}, {"layer": "k3", "w": "other"}), (row,))
    with pytest.raises(ValueError, match="no block like mbconv_k3_s1_e4_g1_o16_16x4x4 has all the channels"):
        Mixture([position], [{block.key: block.build() for block in row}], lambda *_: torch.ones(()))
