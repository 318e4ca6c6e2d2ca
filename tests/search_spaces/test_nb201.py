"""NAS-Bench-201 against its published figures, its authors' rules and second implementations."""

import csv
import gzip
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_space import ToySpace

from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.nb201 import CONV1, CONV3, EDGES, NONE, OPERATIONS, POOL, SKIP, Cell, NB201Space, published
from search_spaces.space import enumerate_architectures, sample

REPOSITORY = Path(__file__).resolve().parents[2]
ACCURACY = REPOSITORY.parent / "shared" / "data" / "nas" / "nb201_accuracy.csv.gz"
needs_data = pytest.mark.skipif(not ACCURACY.is_file(), reason=f"no real data at {ACCURACY}")

Form = tuple[tuple[tuple[str, tuple[int, ...]], ...], tuple[int, ...]]

SPACE = NB201Space((3, 32, 32), 10)
CELLS = list(itertools.product(OPERATIONS, repeat=6))


def canonical(*cell: str) -> Cell:
    return options(SPACE.parse(",".join(cell)))


def options(architecture: Architecture) -> Cell:
    return tuple(option for _, option in architecture.decisions)


@pytest.fixture(scope="module")
def found() -> dict[Cell, Cell]:
    """Return the canonical cell of every cell."""
    return {cell: canonical(*cell) for cell in CELLS}


def authors_text(cell: Cell) -> str:
    """Return what the authors' code compares (``Structure.to_unique_str`` with ``consider_zero``)."""
    nodes = ["0"]
    for target in (1, 2, 3):
        terms = []
        for (source, _), operation in ((e, o) for e, o in zip(EDGES, cell, strict=True) if e[1] == target):
            if operation == NONE or nodes[source] == "#":
                terms.append("#")
            else:
                terms.append(nodes[source] if operation == SKIP else f"({nodes[source]})@{operation}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]


def computations(cell: Cell) -> Iterator[Form]:
    """Yield the cell's graph of operations under every numbering of those that run for the output."""
    nodes: list[list[int]] = [[-1], [], [], []]  # the operations that are summed at each node; -1 is the input
    inputs: dict[int, list[int]] = {}
    for number, ((source, target), operation) in enumerate(zip(EDGES, cell, strict=True)):
        if operation == SKIP:
            nodes[target] = nodes[target] + nodes[source]
        elif operation != NONE and nodes[source]:
            inputs[number] = nodes[source]
            nodes[target] = [*nodes[target], number]
    running, new = set(), set(nodes[3])
    while new:
        running |= new
        new = {i for number in new for i in inputs.get(number, [])} - running
    running -= {-1}
    for order in itertools.permutations(sorted(running)):
        place = {-1: -1, **{number: i for i, number in enumerate(order)}}
        rows = tuple((cell[number], tuple(sorted(place[i] for i in inputs[number]))) for number in order)
        yield rows, tuple(sorted(place[i] for i in nodes[3]))


def test_different_networks(found: dict[Cell, Cell]) -> None:
    every = list(enumerate_architectures(SPACE))
    assert len(every) == len(set(every)) == len({a.id for a in every}) == 5425
    assert {options(architecture) for architecture in every} == set(found.values())


def test_canonical_cells_are_those_of_a_second_implementation(found: dict[Cell, Cell]) -> None:
    first: dict[Form, Cell] = {}
    for cell in CELLS:
        form = min(computations(cell))
        assert first.setdefault(form, cell) == found[cell]


def test_the_authors_count_texts(found: dict[Cell, Cell]) -> None:
    texts = {cell: authors_text(cell) for cell in CELLS}
    assert len(set(texts.values())) == 6466
    # The two reasons why that is not the number of networks: zeros that remain, and results that are used twice.
    silent = (NONE, NONE, NONE, NONE, NONE, NONE), (NONE, NONE, NONE, NONE, NONE, CONV1)
    assert found[silent[0]] == found[silent[1]] and texts[silent[0]] != texts[silent[1]]
    once, twice = (CONV3, NONE, SKIP, NONE, SKIP, SKIP), (NONE, CONV3, NONE, CONV3, NONE, SKIP)
    assert found[once] != found[twice] and texts[once] == texts[twice]
    weights = [SPACE.params(SPACE.parse(",".join(cell))) for cell in (once, twice)]
    assert weights[0] < weights[1]


def test_canonical_cells_are_their_own_and_the_first(found: dict[Cell, Cell]) -> None:
    rank = {cell: place for place, cell in enumerate(CELLS)}
    for cell, form in found.items():
        assert found[form] == form and rank[form] <= rank[cell]


def test_canonical_cells_have_no_edge_without_use(found: dict[Cell, Cell]) -> None:
    for cell in set(found.values()):
        kept = [edge for edge, operation in zip(EDGES, cell, strict=True) if operation != NONE]
        fed, used = {0}, {3}
        for source, target in kept:
            fed |= {target} if source in fed else set()
        for source, target in reversed(kept):
            used |= {source} if target in used else set()
        assert all(source in fed and target in used for source, target in kept)


SAME = [
    ((CONV1, NONE, NONE, NONE, SKIP, NONE), (NONE, NONE, NONE, CONV1, NONE, NONE)),
    ((SKIP, NONE, SKIP, NONE, NONE, SKIP), (NONE, NONE, NONE, SKIP, NONE, NONE)),
    ((CONV1, CONV3, NONE, SKIP, POOL, CONV1), (CONV3, CONV1, NONE, SKIP, CONV1, POOL)),
    ((CONV3, POOL, CONV1, NONE, NONE, NONE), (NONE,) * 6),
    ((NONE, NONE, CONV3, NONE, CONV3, CONV3), (NONE,) * 6),
    ((CONV3, CONV1, POOL, CONV1, NONE, NONE), (NONE, NONE, NONE, CONV1, NONE, NONE)),
]
DIFFERENT = [
    ((CONV1, NONE, NONE, NONE, CONV3, NONE), (CONV3, NONE, NONE, NONE, CONV1, NONE)),
    ((CONV1, NONE, SKIP, NONE, SKIP, SKIP), (NONE, CONV1, NONE, CONV1, NONE, SKIP)),
    ((SKIP, NONE, NONE, SKIP, SKIP, NONE), (NONE, NONE, NONE, SKIP, NONE, NONE)),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_isomorphic_cells(one: Cell, other: Cell) -> None:
    assert canonical(*one) == canonical(*other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_cells_that_differ(one: Cell, other: Cell) -> None:
    assert canonical(*one) != canonical(*other)


def whole_params(cell: Cell) -> int:
    """Count all parameters, batch norm and bias included, as the authors do."""
    return sum(parameter.numel() for parameter in SPACE.build(SPACE.parse(",".join(cell))).parameters())


@pytest.mark.parametrize(
    ("cell", "params", "flops"), [((CONV3,) * 6, 1_531_546, 220_119_690), ((SKIP,) * 6, 73_306, 7_783_050)]
)
def test_published_sizes(cell: Cell, params: int, flops: int) -> None:
    """The benchmark's own figures for CIFAR-10: 1.531546 M and 220.11969 M, 0.073306 M and 7.78305 M.

    Its operations are those of convolutions and the linear layer with its bias, without the global pooling.
    """
    assert whole_params(cell) == params
    assert SPACE.macs(SPACE.parse(",".join(cell))) - 64 * 8 * 8 + 10 == flops


class Reference(nn.Module):
    """The published forward pass around the layers of a network: every edge runs, zeros are added like the rest."""

    def __init__(self, layers: nn.ModuleList, cell: Cell) -> None:
        super().__init__()
        self.layers, self.cell = layers, cell

    def forward(self, x: Tensor) -> Tensor:
        rest = list(self.layers)
        x = rest.pop(0)(x)
        for stage in range(3):
            if stage:
                x = rest.pop(0)(x)
            for _ in range(5):
                edges, rest = rest[:6], rest[6:]
                n1 = edges[0](x)
                n2 = edges[1](x) + edges[2](n1)
                x = edges[3](x) + edges[4](n1) + edges[5](n2)
        return rest.pop(0)(x)


@pytest.mark.parametrize("seed", range(12))
def test_networks_compute_what_the_published_forward_pass_computes(seed: int) -> None:
    space = NB201Space((2, 8, 12), 3)
    architecture = space.parse(",".join([NONE] * 6)) if seed == 0 else sample(space, np.random.default_rng(seed))
    network = space.build(architecture).eval()
    images = torch.randn(2, *space.input_shape)
    with torch.no_grad():
        expected = Reference(network.layers, options(architecture))(images)  # type: ignore[arg-type]
        torch.testing.assert_close(network(images), expected)


def test_edges_without_operation_are_not_run() -> None:
    network = SPACE.build(SPACE.parse("resnet"))
    ran: set[int] = set()
    for position, layer in enumerate(network.layers):  # type: ignore[arg-type]
        layer.register_forward_hook(lambda *_, position=position: ran.add(position))
    network.eval()(torch.randn(1, 3, 32, 32))
    left_out = [block.spec == "zero" for block in SPACE.blocks(SPACE.parse("resnet"))]
    assert ran == {position for position, zero in enumerate(left_out) if not zero}
    assert sum(left_out) == 3 * 15


def test_macro_architecture() -> None:
    blocks = SPACE.blocks(SPACE.parse("all_conv3x3"))
    assert len(blocks) == 1 + 3 * 5 * 6 + 2 + 1
    assert [block.in_shape for block in blocks[1::31]] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert [blocks[place].spec for place in (0, 31, 62, 93)] == [
        "conv_norm_k3_o16", "residual_s2_o32", "residual_s2_o64", "norm_classifier_o10",
    ]  # fmt: skip


def test_free_blocks_are_zeros_and_skips() -> None:
    free = {block.spec for block in SPACE.distinct_blocks() if block.free}
    assert free == {"zero", "identity"}


def test_published_form() -> None:
    text = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|nor_conv_3x3~2|"
    assert options(SPACE.as_written(text)) == (POOL, CONV1, SKIP, CONV1, SKIP, CONV3)
    assert published(SPACE.as_written(text)) == text
    assert SPACE.parse(text) == SPACE.parse("nb201:" + ",".join((POOL, CONV1, SKIP, CONV1, SKIP, CONV3)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("|none~0|+|none~0|none~1|", "does not have the form"),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|none~1|", "does not have the form"),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|nor_conv_5x5~2|", "did you mean 'nor_conv_"),
        ("resnett", "did you mean 'resnet'"),
        ("none,none", "ends early"),
        ("fbnet/small-8:skip", "belongs to the space"),
    ],
)
def test_other_texts(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        SPACE.parse(text)


@needs_data
def test_all_published_texts_round_trip() -> None:
    with gzip.open(ACCURACY, "rt") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15625
    assert all(published(SPACE.as_written(row["arch"])) == row["arch"] for row in rows)
    best = max(float(row["cifar10_test_acc"]) for row in rows)
    named = SPACE.named()["cifar10_best"]
    assert max(float(r["cifar10_test_acc"]) for r in rows if SPACE.parse(r["arch"]) == named) == best


def test_pruned_leaves_out_what_nothing_uses() -> None:
    def pruned(*cell: str) -> Cell:
        return options(SPACE.pruned(SPACE.as_written(",".join(cell))))

    # Node 2 leads nowhere; an edge that carries no signal but is added to the output stays.
    assert pruned(CONV1, CONV3, POOL, SKIP, CONV1, NONE) == (CONV1, NONE, NONE, SKIP, CONV1, NONE)
    assert pruned(NONE, NONE, CONV3, SKIP, NONE, CONV1) == (NONE, NONE, CONV3, SKIP, NONE, CONV1)
    assert pruned(CONV1, CONV3, POOL, NONE, NONE, NONE) == (NONE,) * 6


def test_pruning_keeps_the_computation(found: dict[Cell, Cell]) -> None:
    for cell in CELLS[::7]:
        assert found[options(SPACE.pruned(SPACE.as_written(",".join(cell))))] == found[cell]


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 30, 32), (3, 32, 30), (1, 7, 7)])
def test_sizes_that_do_not_fit(shape: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="multiples of 4"):
        NB201Space(shape, 10)


RECORDED = SPACE.as_recorded()


def recorded(*cell: str) -> Architecture:
    return RECORDED.parse(",".join(cell))


def test_recorded_space_lists_all_cells_as_they_are_written() -> None:
    every = list(enumerate_architectures(RECORDED))
    assert [options(architecture) for architecture in every] == CELLS
    assert len({architecture.id for architecture in every}) == 15625
    # The space that it was made of is as it was.
    assert len(list(enumerate_architectures(SPACE))) == 5425


def test_recorded_cells_are_those_of_the_text() -> None:
    text = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|nor_conv_3x3~2|"
    assert published(RECORDED.parse(text)) == text
    assert published(recorded(CONV1, CONV3, POOL, NONE, NONE, NONE)) != published(
        SPACE.parse(",".join((CONV1, CONV3, POOL, NONE, NONE, NONE)))
    )


def test_recorded_cells_count_as_their_canonical_ones(found: dict[Cell, Cell]) -> None:
    for cell in CELLS[::11]:
        written, canon = recorded(*cell), SPACE.as_written(",".join(found[cell]))
        assert options(written) == cell
        assert RECORDED.blocks(written) == SPACE.blocks(canon)
        assert RECORDED.macs(written) == SPACE.macs(canon) and RECORDED.params(written) == SPACE.params(canon)
        assert RECORDED.descriptors(written) == SPACE.descriptors(canon)


def test_canonical_cells_stay_as_they_are(found: dict[Cell, Cell]) -> None:
    for cell in set(found.values()):
        assert options(recorded(*cell)) == cell == canonical(*cell)


def test_recorded_networks_compute_what_the_canonical_ones_compute() -> None:
    space = NB201Space((2, 8, 8), 3)
    text = ",".join((SKIP, CONV3, NONE, NONE, POOL, NONE))  # the convolution leads nowhere
    written, canon = space.as_recorded().parse(text), space.parse(text)
    assert written != canon
    networks = [space.as_recorded().build(written).eval(), space.build(canon).eval()]
    assert [type(layer) for layer in networks[0].layers] == [type(layer) for layer in networks[1].layers]  # type: ignore[arg-type]
    networks[0].load_state_dict(networks[1].state_dict())
    images = torch.randn(2, *space.input_shape)
    with torch.no_grad():
        torch.testing.assert_close(networks[0](images), networks[1](images))


def test_descriptors_by_hand() -> None:
    # Paths: the skip 03; conv3 then pool over node 1; conv1 then conv3 over node 2; conv3, conv3, conv3 over both.
    cell = (CONV3, CONV1, CONV3, SKIP, POOL, CONV3)
    assert canonical(*cell) == cell
    summary = [1, 1, 3, 1, 4, 1, 1, 3, 3, 0, (0 + 1 + 2 + 3) / 4, 3, 3]
    edges = [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert SPACE.descriptors(recorded(*cell)) == [*summary, *itertools.chain(*edges)]


def test_descriptors_of_a_cell_without_any_path() -> None:
    assert SPACE.descriptors(recorded(*[NONE] * 6)) == [0] * 4 + [0] * 4 + [-1, -1, -1, -1, 0] + [0] * 24


def test_descriptors_are_equal_for_equal_networks_alone(found: dict[Cell, Cell]) -> None:
    described = {cell: tuple(SPACE.descriptors(recorded(*cell))) for cell in CELLS[::5]}
    for cell, numbers in described.items():
        assert numbers == tuple(SPACE.descriptors(recorded(*found[cell])))
    assert len(set(described.values())) == len({found[cell] for cell in described})


def test_other_spaces_are_recorded_as_they_are() -> None:
    toy = ToySpace()
    assert toy.as_recorded() is toy
