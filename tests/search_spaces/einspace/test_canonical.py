"""Equal networks have one derivation, and it computes what any other computes."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.einspace.canonical import derived, followed, simplified, steps
from search_spaces.einspace.derivation import Branch, Module, Op, Route, Seq, from_tokens, sequence, tokens
from search_spaces.einspace.derive import Derivation
from search_spaces.einspace.grammar import MAP_PERMUTES
from search_spaces.einspace.place import Place, Whole
from search_spaces.einspace.seeds import convolution
from search_spaces.einspace.signal import Signal
from search_spaces.einspace.space import EinSpace
from search_spaces.space import pick

SPACE = EinSpace((4, 8, 12), 5)
A, B, C = Op("norm"), Op("linear16"), Op("relu")


def same(*trees: Module) -> bool:
    return len({SPACE.canonical_of(tree) for tree in trees}) == 1


NOTHING = Op("identity")
EQUAL: dict[str, list[Module]] = {
    "sequences": [Seq(Seq(A, B), C), Seq(A, Seq(B, C)), sequence(A, NOTHING, B, C)],
    "routing around identities": [Seq(A, B), Route("identity", Seq(A, B), "identity")],
    "routings split": [
        Route("permute231", B, "permute312"),
        Seq(Route("permute231", B, "identity"), Route("permute312", NOTHING, "identity")),
    ],
    "permutes that cancel": [Seq(Route("permute231", NOTHING, "permute312"), A), Seq(A, NOTHING)],
    "permutes composed": [
        Seq(Route("permute213", NOTHING, "permute231"), A),
        Seq(Route("identity", NOTHING, "permute132"), A),
    ],
    "columns and back": [Seq(Route("im2col_k1s1", NOTHING, "col2im"), A), Seq(A, NOTHING)],
    "parts joined as split": [Seq(Branch("group2_d1", "concat2_d1", (NOTHING, NOTHING)), A), Seq(A, NOTHING)],
    "convolution in parts": [
        convolution(3, 1, 16),
        Seq(Route("im2col_k3s1", B, "identity"), Route("identity", NOTHING, "col2im")),
    ],
    "summands": [
        Seq(Branch("clone2", "add", (Seq(A, C), NOTHING)), A),
        Seq(Branch("clone2", "add", (NOTHING, Seq(A, C))), A),
    ],
    "summands one of which is implied": [
        Seq(Branch("clone2", "add", (Seq(convolution(3, 2, 16), A), NOTHING)), A),
        Seq(Branch("clone2", "add", (convolution(1, 2, 16), Seq(convolution(3, 2, 16), A))), A),
    ],
    "implied shortcut": [
        Seq(Branch("clone2", "add", (convolution(3, 2, 16), convolution(1, 2, 16))), A),
        Seq(Branch("clone2", "add", (convolution(3, 2, 16), NOTHING)), A),
    ],
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_networks_are_one(name: str) -> None:
    assert same(*EQUAL[name])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Seq(A, B), Seq(B, A)),
        (Route("permute231", B, "permute312"), Route("permute312", B, "permute231")),
        (convolution(3, 1, 16), convolution(3, 2, 16)),
        (Branch("clone2", "add", (B, A)), Branch("clone2", "concat2_d1", (B, A))),
        (Branch("clone4", "add", (B,)), Branch("clone8", "add", (B,))),
        (Seq(Branch("clone2", "add", (A, A)), C), Seq(Branch("clone2", "add", (A, Op("identity"))), C)),
    ],
    ids=range(6),
)
def test_different_networks_are_two(one: Module, other: Module) -> None:
    assert not same(one, other)


def test_permutes_in_a_row_are_what_arrays_make_of_them() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    for names in itertools.product(MAP_PERMUTES, repeat=3):
        expected = array
        for name in names:
            expected = expected.transpose(MAP_PERMUTES[name])
        found = array
        merged = simplified(names)
        for step in merged:
            found = found.transpose(MAP_PERMUTES[str(step)])
        assert len(merged) <= 1 and np.array_equal(found, expected)


Grid = tuple[int, int] | None


class Interpreter:
    """Runs a derivation tree function by function, columns as (N, S, D), with the weights of a built network."""

    def __init__(self, tree: Module, network: nn.Module) -> None:
        self._tree = tree
        self._layers = [layer for layer in network.layers if list(layer.parameters())]  # type: ignore[union-attr]

    def __call__(self, images: Tensor) -> Tensor:
        self._next = iter(self._layers)
        x, _ = self._run(self._tree, images, None, Whole(5))
        classifier = next(self._next).linear
        return F.linear(x.mean((2, 3) if x.dim() == 4 else 1), classifier.weight, classifier.bias)

    def _run(self, module: Module, x: Tensor, grid: Grid, place: Place) -> tuple[Tensor, Grid]:
        if isinstance(module, Op):
            return self._apply(module.function, x, grid)
        if isinstance(module, Seq):
            return self._run(module.second, *self._run(module.first, x, grid, place), place)
        if isinstance(module, Route):
            x, grid = self._run(module.inner, *self._apply(module.pre, x, grid), place)
            return self._apply(module.post, x, grid)
        number = int(module.branching.removeprefix("clone").removeprefix("group").partition("_")[0])
        dim = int(module.branching[-1]) if "_d" in module.branching else 0
        parts = x.chunk(number, dim) if dim else [x] * number
        outs: list[tuple[Tensor, Grid]] = []
        for part, inner in zip(parts, module.inners * module.copies, strict=True):
            second = outs and module.copies == 1
            behind = place.second(module.aggregation, _signal(*outs[0])) if second else None
            here = behind or place.first(module.aggregation, module.branching, _signal(part, grid))
            out, out_grid = self._run(inner, part, grid, here)
            way = behind.way(_signal(out, out_grid)) if behind else None
            for function in way.functions if way else ():
                out, out_grid = self._apply(function, out, out_grid)
            outs.append((out, out_grid))
        tensors = [out for out, _ in outs]
        if module.aggregation == "add":
            return torch.stack(tensors).sum(0), outs[0][1]
        if module.aggregation.startswith("concat"):
            return torch.cat(tensors, int(module.aggregation[-1])), outs[0][1]
        product = torch.matmul(*tensors)
        scale = tensors[0].shape[-1] ** 0.5 if module.aggregation == "scaled_dot" else 1
        return product / scale, outs[0][1]

    def _apply(self, name: str, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        if name == "identity":
            return x, grid
        if name.startswith("linear"):
            layer = next(self._next)
            return F.linear(x, layer.weight.flatten(1), layer.bias), grid
        if name == "norm":
            layer = next(self._next)
            if x.dim() == 4:
                return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias), grid
            return F.layer_norm(x, x.shape[2:], layer.weight, layer.bias), grid
        if name == "positions":
            return x + next(self._next).positions.reshape(1, *x.shape[1:]), grid
        if name in ("relu", "softmax"):
            return (F.leaky_relu(x, 0.01) if name == "relu" else x.softmax(-1)), grid
        if name.startswith("permute"):
            return x.permute(0, *(int(digit) for digit in name.removeprefix("permute"))), grid
        if name == "col2im":
            assert grid is not None
            return x.transpose(1, 2).reshape(len(x), -1, *grid), None
        kernel, stride = (int(size) for size in name.removeprefix("im2col_k").split("s"))
        padding = 1 if kernel == 3 else 0
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in x.shape[2:])
        return F.unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2), (height, width)


def _signal(x: Tensor, grid: Grid) -> Signal:
    first, second, third = (1, *x.shape[1:]) if grid else tuple(x.shape[1:])
    return Signal((first, second, third), grid)


def trees(count: int, seed: int) -> list[Module]:
    rng = np.random.default_rng(seed)
    image = Signal(SPACE.input_shape)
    return [
        Derivation(image, Whole(5), SPACE.limits, lambda _, options: pick(SPACE, options, rng)).tree()
        for _ in range(count)
    ]


def test_tokens_are_the_tree() -> None:
    for tree in trees(60, 0):
        assert from_tokens(iter(list(tokens(tree)))) == tree


def test_canonical_derivations_stay_as_they_are() -> None:
    for tree in trees(60, 1):
        network = steps(tree)
        assert steps(derived(network)) == network
        canonical = SPACE.canonical_of(tree)
        assert SPACE.tree(canonical) == derived(steps(SPACE.tree(canonical)))
        assert SPACE.canonical_of(SPACE.tree(canonical)) == canonical == SPACE.parse(canonical.text)


def test_canonical_networks_compute_what_was_derived() -> None:
    """Without any rewriting, function by function, as the tree says; the blocks' weights are mapped in their order."""
    compared = 0
    for tree in trees(60, 2):
        architecture = SPACE.canonical_of(tree)
        orders = [
            followed(steps(each), Signal(SPACE.input_shape), Whole(5)) for each in (tree, SPACE.tree(architecture))
        ]
        if SPACE.macs(architecture) > 3e7 or orders[0] != orders[1]:  # summands may have changed places
            continue
        torch.manual_seed(0)
        network = SPACE.build(architecture).eval()
        written = Interpreter(tree, network)
        images = torch.randn(2, *SPACE.input_shape)
        with torch.no_grad():
            expected = network(images)
            torch.testing.assert_close(written(images), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
        compared += 1
    assert compared > 30
