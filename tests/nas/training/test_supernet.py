"""The supernet computes what the networks that inherit from it compute, shares what it should, and learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_space import ToySpace

from nas.training.data import Dataset, load_dataset, to_tensor
from nas.training.supernet import Supernet
from nas.training.train import Recipe, accuracy, recalibrate
from search_spaces.block import Block
from search_spaces.einspace.space import EinSpace
from search_spaces.errors import InputError
from search_spaces.fbnet import CANDIDATES, OPTIONS, FBNetSpace
from search_spaces.hybrid import HybridSpace
from search_spaces.nb201 import NB201Space
from search_spaces.operators import MBConv, conv_norm
from search_spaces.space import SearchSpace, sample

SPACE = FBNetSpace((1, 8, 8), 10)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("digits", None, 0)


@pytest.fixture(scope="module")
def images(data: Dataset) -> Tensor:
    return to_tensor(np.asarray(data.train.images[:8]), data.mean, data.std)


def random_norms(supernet: Supernet) -> None:
    """Give batch norm weights of their own, or all channels would look alike to a wrong slice."""
    with torch.no_grad():
        for name, parameter in supernet.parameters.items():
            if ".norm." in name:
                parameter.copy_(torch.rand_like(parameter) + 0.5)


HYBRIDS = [HybridSpace((1, 8, 8), 10, macro) for macro in ("small-28", "fabric-28")]


@pytest.mark.parametrize(
    "space", [SPACE, ToySpace((1, 8, 8), 10), NB201Space((1, 8, 8), 10), *HYBRIDS], ids=lambda space: space.name
)
def test_every_candidate_computes_what_its_heir_computes(space: SearchSpace, images: Tensor) -> None:
    supernet = Supernet(space, 0)
    random_norms(supernet)
    rng = np.random.default_rng(0)
    paths = [sample(space, rng) for _ in range(10)]
    if isinstance(space, FBNetSpace):
        paths += [space.parse(",".join([option] * space.searchable)) for option in OPTIONS]
    seen: set[str] = set()
    for path in paths:
        with torch.no_grad():
            scores = supernet.forward(path, images)
            assert torch.equal(scores, supernet.inherit(path).train()(images))
        seen |= {block.key for block in space.blocks(path)}
    assert not isinstance(space, FBNetSpace) or seen == {block.key for block in space.distinct_blocks()}


def test_heir_has_weights_of_its_own(images: Tensor) -> None:
    supernet = Supernet(SPACE, 0)
    path = SPACE.parse("k3_e6," * 7 + "k3_e6")
    before = {name: p.detach().clone() for name, p in supernet.parameters.items()}
    heir = supernet.inherit(path)
    with torch.no_grad():
        for parameter in heir.parameters():
            parameter.zero_()
    assert all(torch.equal(supernet.parameters[name], before[name]) for name in before)
    assert all(parameter.requires_grad for parameter in heir.parameters())


def test_parameters_are_the_largest_of_each_name() -> None:
    supernet = Supernet(SPACE, 0)
    for position, row in enumerate(SPACE.positions()):
        for block in row:
            for name, parameter in block.build().named_parameters():
                whole = supernet.parameters[f"layers.{position}.{name}"]
                assert all(size <= most for size, most in zip(parameter.shape, whole.shape, strict=True))
    names = {f"layers.{i}.{n}" for i, row in enumerate(SPACE.positions()) for b in row for n in own_names(b)}
    assert set(supernet.parameters) == names


def own_names(block: Block) -> list[str]:
    return [name for name, _ in block.build().named_parameters()]


def used_window(option: str, name: str, whole: Tensor, block: MBConv) -> Tensor:
    """Return where a candidate uses the maximal parameter, worked out by hand from kernel, width and groups."""
    kernel, _, groups = CANDIDATES[option]
    mid, c_in = block.mid_channels, block.in_shape[0]
    used = torch.zeros(whole.shape, dtype=torch.bool)
    if name == "depthwise.conv.weight":
        edge = (whole.shape[2] - kernel) // 2
        used[:mid, :, edge : edge + kernel, edge : edge + kernel] = True
    elif name == "expand.conv.weight":
        for group in range(groups):
            rows, columns = mid // groups, c_in // groups
            used[group * rows : (group + 1) * rows, group * columns : (group + 1) * columns] = True
    elif name == "project.conv.weight":
        # Behind the shuffle every second channel belongs to a group; channels stand where ungrouped ones do.
        rows = len(whole) // groups
        for out in range(len(whole)):
            for channel in range(mid):
                place = (channel % (mid // groups)) * groups + channel // (mid // groups) if groups > 1 else channel
                used[out, channel] = place // (mid // groups) == out // rows
    elif name.startswith("project.norm"):
        used[:] = True
    else:
        used[:mid] = True
    return used


@pytest.mark.parametrize("option", CANDIDATES)
def test_a_step_changes_the_used_window_alone(option: str, images: Tensor) -> None:
    supernet = Supernet(SPACE, 0)
    random_norms(supernet)
    path = SPACE.parse(",".join([option] * SPACE.searchable))
    before = {name: p.detach().clone() for name, p in supernet.parameters.items()}
    optimiser = torch.optim.SGD(supernet.parameters.values(), 0.1)
    (supernet.forward(path, images) * torch.randn(8, 10)).sum().backward()
    optimiser.step()
    blocks = SPACE.blocks(path)
    for full, parameter in supernet.parameters.items():
        _, position, name = full.split(".", 2)
        block = blocks[int(position)]
        changed = parameter.detach() != before[full]
        if name not in own_names(block):
            assert not changed.any(), full
        if not isinstance(block, MBConv) or name not in own_names(block):
            continue
        window = used_window(option, name, parameter, block)
        assert not (changed & ~window).any(), full
        # Batch norm behind a linear projection cancels its bias, whose gradient is zero therefore.
        if name.endswith("conv.weight"):
            # ReLUs that are silent on these few images leave some gradients at zero.
            assert (parameter.grad != 0)[window].float().mean() > 0.3, full


def dense_twin(block: MBConv, weights: dict[str, Tensor]) -> nn.Sequential:
    """Return the ungrouped computation whose 1x1 weights are zero outside the diagonal blocks."""
    mid, c_in, c_out, g = block.mid_channels, block.in_shape[0], block.out_channels, block.groups
    expand, depthwise = conv_norm(c_in, mid, 1, 1, 1, True), conv_norm(mid, mid, block.kernel, block.stride, mid, True)
    project = conv_norm(mid, c_out, 1, 1, 1, False)
    with torch.no_grad():
        for module, name in ((expand, "expand"), (depthwise, "depthwise"), (project, "project")):
            module.norm.weight.copy_(weights[f"{name}.norm.weight"])  # type: ignore[union-attr, operator]
            module.norm.bias.copy_(weights[f"{name}.norm.bias"])  # type: ignore[union-attr, operator]
        for module, name, rows, columns in ((expand, "expand", mid, c_in), (project, "project", c_out, mid)):
            dense = torch.zeros(rows, columns, 1, 1)
            for group in range(g):
                part = slice(group * rows // g, (group + 1) * rows // g)
                dense[part, group * columns // g : (group + 1) * columns // g] = weights[f"{name}.conv.weight"][part]
            module.conv.weight.copy_(dense)  # type: ignore[union-attr, operator]
        depthwise.conv.weight.copy_(weights["depthwise.conv.weight"])  # type: ignore[union-attr, operator]
    # Channel c of the expansion goes to place (c mod per group) * groups + its group.
    per_group = mid // g
    order = torch.empty(mid, dtype=torch.long)
    for channel in range(mid):
        order[(channel % per_group) * g + channel // per_group] = channel

    class Shuffle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, order]

    return nn.Sequential(expand, Shuffle(), depthwise, project).train()


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_candidate_is_the_block_diagonal_dense_computation(kernel: int, stride: int) -> None:
    block = MBConv((8, 6, 6), 16, kernel, stride, 3, 2, always_expand=True)
    largest = MBConv((8, 6, 6), 16, 5, stride, 6, 1, always_expand=True).build()
    wholes = {name: torch.rand_like(p) - 0.4 for name, p in largest.named_parameters()}
    grouped = block.build().train()
    parts = {n: block.shared_part(n, p.shape, wholes[n]) for n, p in grouped.named_parameters()}
    with torch.no_grad():
        for name, parameter in grouped.named_parameters():
            assert parts[name].shape == parameter.shape
            parameter.copy_(parts[name])
        x = torch.randn(4, *block.in_shape)
        torch.testing.assert_close(grouped(x), dense_twin(block, parts)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
def test_grouped_and_dense_candidates_see_the_same_features(kernel: int) -> None:
    # A dense alternative whose weights are zero wherever the grouped one has none computes the same.
    shape = (8, 6, 6)
    grouped, dense = (MBConv(shape, 8, kernel, 1, 1, groups, always_expand=True) for groups in (2, 1))
    largest = MBConv(shape, 8, 5, 1, 6, 1, always_expand=True).build()
    wholes = {name: torch.rand_like(p) - 0.4 for name, p in largest.named_parameters()}
    half = torch.arange(8) // 4
    wholes["expand.conv.weight"][:8] *= (half[:, None] == half[None, :]).float()[:, :, None, None]
    wholes["project.conv.weight"][:, :8] *= (half[:, None] == half[None, :]).float()[:, :, None, None]
    x = torch.randn(4, *shape)
    outputs = []
    for block in (grouped, dense):
        module = block.build().train()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(block.shared_part(name, parameter.shape, wholes[name]))
            outputs.append((module.expand(x), module(x)))
    torch.testing.assert_close(outputs[0][0], outputs[1][0], rtol=1e-4, atol=1e-5)


def test_seed_decides_the_weights_and_leaves_the_random_state_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (Supernet(SPACE, seed).parameters for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_learns_and_resumes_to_the_same_weights(data: Dataset, tmp_path: Path) -> None:
    recipe = Recipe(12)  # of 17 steps
    straight = Supernet(SPACE, 0).fit(data, recipe, 0, tmp_path / "straight", lambda *_: None)

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Supernet(SPACE, 0).fit(data, recipe, 0, tmp_path / "stopped", stop)
    resumed = Supernet(SPACE, 0).fit(data, recipe, 0, tmp_path / "stopped", lambda *_: None)
    assert all(torch.equal(p, resumed.parameters[name]) for name, p in straight.parameters.items())

    rng = np.random.default_rng(0)
    heirs = [straight.inherit(sample(SPACE, rng)) for _ in range(6)]
    found = [accuracy(recalibrate(heir, data), data.val, data) for heir in heirs]
    # Chance is 0.1; paths learn slowly, since each step trains one of them.
    assert np.mean(found) > 0.18, found


def test_trained_supernet_is_loaded_without_a_step(data: Dataset, tmp_path: Path) -> None:
    checkpoint, recipe = tmp_path / "c", Recipe(1)
    trained = Supernet(SPACE, 0).fit(data, recipe, 0, checkpoint, lambda *_: None)
    told: list[tuple[int, int]] = []
    loaded = Supernet(SPACE, 0).fit(data, recipe, 0, checkpoint, lambda *done: told.append(done))
    assert told == [(1, 1)]
    assert all(torch.equal(p, loaded.parameters[name]) for name, p in trained.parameters.items())


def test_gradients_reach_shared_weights_through_the_loss(images: Tensor) -> None:
    supernet = Supernet(SPACE, 0)
    F.cross_entropy(supernet.forward(SPACE.parse("skip," * 7 + "skip"), images), torch.arange(8)).backward()
    assert supernet.parameters["layers.0.conv.weight"].grad is not None
    assert supernet.parameters["layers.1.depthwise.conv.weight"].grad is None


def test_networks_without_layers_in_common_are_refused() -> None:
    with pytest.raises(InputError, match=r"networks of einspace have no layers in common.*--oracle train"):
        Supernet(EinSpace((1, 8, 8), 10), 0)
