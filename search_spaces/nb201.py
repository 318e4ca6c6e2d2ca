"""The topology space of NAS-Bench-201: one cell of four nodes and six edges, repeated fifteen times.

Source: NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search (ICLR 2020, arXiv
2001.00326), section 2, and its authors' code. Of the 15,625 cells 5,425 are different networks. The authors count
6,466: they compare expressions in which zeros remain as summands, so that one network may have several, and in
which a convolution whose result is used twice reads like two convolutions, so that several networks may have one.
"""

import copy
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np
from torch import Tensor, nn

from search_spaces.architecture import Architecture
from search_spaces.block import Block, Network, Shape
from search_spaces.cell_operators import AveragePool, NormClassifier, ReLUConvNorm, ResidualDown, Zero
from search_spaces.errors import InputError
from search_spaces.operators import Identity
from search_spaces.space import Choose, Graph, SearchSpace

NONE, SKIP, CONV1, CONV3, POOL = OPERATIONS = (
    "none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3",
)  # fmt: skip
# Source and target node of each edge, in the order of the published texts: an edge comes after those that feed it.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
CHANNELS = (16, 32, 64)
CELLS_PER_STAGE = 5
SMALLEST_SIDE = 8

Cell = tuple[str, ...]
"""The operation of each of ``EDGES``."""

# The edges of every way from the cell's input to its output.
_PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))
_EDGE_NAMES = tuple(f"edge{source}{target}" for source, target in EDGES)
_FORM = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"
_PATTERN = re.compile(re.escape(_FORM).replace(r"\{\}", r"(\w+)"))

# The cell with the best mean test accuracy on CIFAR-10, and two that the authors' code names.
_NAMED = {
    "cifar10_best": (CONV3, CONV3, CONV3, SKIP, CONV1, CONV3),
    "resnet": (CONV3, NONE, CONV3, SKIP, NONE, SKIP),
    "all_conv3x3": (CONV3,) * 6,
}


def published(architecture: Architecture) -> str:
    """Return the text of an architecture in the form of NAS-Bench-201: ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``."""
    return _FORM.format(*_cell(architecture))


def _cell(architecture: Architecture) -> Cell:
    return tuple(operation for _, operation in architecture.decisions)


def _computation(cell: Cell) -> tuple[str, ...]:
    """Return an expression of the cell's output, and of each operation that runs for it.

    Skips and zeros vanish, and sums have no order. The second part tells an operation whose result is used twice
    from two equal ones, which have weights of their own.
    """
    # The summands at each node: an expression, and the operations behind it (edge number and expression).
    nodes: list[list[tuple[str, frozenset[tuple[int, str]]]]] = [[("input", frozenset())], [], [], []]
    for number, ((source, target), operation) in enumerate(zip(EDGES, cell, strict=True)):
        if operation == SKIP:
            nodes[target] += nodes[source]
        elif operation != NONE and nodes[source]:
            expression = f"{operation}({_sum(text for text, _ in nodes[source])})"
            behind = frozenset().union(*(operations for _, operations in nodes[source]))
            nodes[target].append((expression, behind | {(number, expression)}))
    running = frozenset().union(*(operations for _, operations in nodes[-1]))
    return _sum(text for text, _ in nodes[-1]), *sorted(expression for _, expression in running)


def _sum(terms: Iterable[str]) -> str:
    return "+".join(sorted(terms))


@cache
def _canonical_cells() -> dict[Cell, Cell]:
    """Return for each cell the first, in the order of ``OPERATIONS``, that computes the same."""
    first: dict[tuple[str, ...], Cell] = {}
    cells = itertools.product(OPERATIONS, repeat=len(EDGES))
    return {cell: first.setdefault(_computation(cell), cell) for cell in cells}


def _architecture(cell: Cell) -> Architecture:
    return Architecture("nb201", tuple(zip(_EDGE_NAMES, cell, strict=True)))


def _operation(name: str, shape: Shape) -> Block:
    makers: dict[str, Callable[[Shape], Block]] = {
        NONE: Zero,
        SKIP: Identity,
        CONV1: lambda shape: ReLUConvNorm(shape, shape[0], kernel=1),
        CONV3: lambda shape: ReLUConvNorm(shape, shape[0], kernel=3),
        POOL: AveragePool,
    }
    return makers[name](shape)


class CellNetwork(Network):
    """The modules of blocks one after another, those of a cell's edges as the cell connects them."""

    # How many of the layers belong together: the stem, then of each stage its cells and the block behind them.
    _PARTS = (1, *((len(EDGES),) * CELLS_PER_STAGE + (1,)) * len(CHANNELS))

    def __init__(self, layers: Iterable[nn.Module], cell: Cell) -> None:
        super().__init__(layers)
        self._cell = cell

    def forward(self, x: Tensor) -> Tensor:
        """Map images (NCHW) to class scores (N, classes)."""
        layers = iter(self.layers)
        for size in self._PARTS:
            part = list(itertools.islice(layers, size))
            x = part[0](x) if size == 1 else self._run_cell(x, part)
        return x

    def _run_cell(self, x: Tensor, edges: Sequence[nn.Module]) -> Tensor:
        nodes: list[Tensor | None] = [x, None, None, None]
        for (source, target), operation, edge in zip(EDGES, self._cell, edges, strict=True):
            value, sum_so_far = nodes[source], nodes[target]
            if operation != NONE and value is not None:
                nodes[target] = edge(value) if sum_so_far is None else sum_so_far + edge(value)
        # Without any path the edge from the input to the output is none, and its zeros are the output.
        return edges[EDGES.index((0, 3))](x) if nodes[3] is None else nodes[3]


class NB201Space(SearchSpace):
    """The space for images of ``input_shape``: stem, three stages of five equal cells, residual blocks between.

    Raises:
        InputError: the image is too small, or its sides cannot be halved twice.
    """

    name = "nb201"
    searchable = len(EDGES)
    fragile = True  # cells may be without any path

    def __init__(self, input_shape: Shape, classes: int, macro: str | None = None) -> None:
        super().__init__(input_shape, classes)
        _, height, width = input_shape
        if min(height, width) < SMALLEST_SIDE or height % 4 or width % 4:
            raise InputError(
                f"images of {height} x {width} px do not fit the nb201 space: it takes sides of {SMALLEST_SIDE} px "
                "or more that are multiples of 4"
            )
        stem = ReLUConvNorm(input_shape, CHANNELS[0], kernel=3, relu=False)
        # The alternatives of each position by operation, and the edge that they stand at; one by "" where fixed.
        self._positions: list[tuple[str, dict[str, Block]]] = [("", {"": stem})]
        shape = stem.out_shape
        for channels in CHANNELS:
            if channels != shape[0]:
                down = ResidualDown(shape, channels)
                self._positions.append(("", {"": down}))
                shape = down.out_shape
            alternatives = {operation: _operation(operation, shape) for operation in OPERATIONS}
            self._positions += [(edge, alternatives) for edge in _EDGE_NAMES] * CELLS_PER_STAGE
        self._positions.append(("", {"": NormClassifier(shape, classes)}))
        self._recorded = False

    def as_recorded(self) -> "NB201Space":
        """Return the space of all 15,625 cells: benchmarks list equal networks that are written differently apart.

        Their blocks, and so their counts, are those of the canonical cell all the same.
        """
        recorded = copy.copy(self)
        recorded._recorded = True
        return recorded

    def decide(self, choose: Choose) -> Architecture:
        """Choose one of five operations per edge."""
        cell = tuple(choose(edge, OPERATIONS) for edge in _EDGE_NAMES)
        return _architecture(cell if self._recorded else _canonical_cells()[cell])

    def as_written(self, text: str) -> Architecture:
        """Return the decisions of a text as they stand there; the published form is understood too.

        Raises:
            InputError: the text is none of this space.
        """
        if "|" not in text:
            return super().as_written(text)
        found = _PATTERN.fullmatch(text)
        if found is None:
            form = _FORM.format(*["op"] * len(EDGES))
            raise InputError(f"architecture {text!r} does not have the form {form}")
        return super().as_written(",".join(found.groups()))

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the first cell, in the order of the operations, that computes the same."""
        return _architecture(_canonical_cells()[_cell(architecture)])

    def pruned(self, architecture: Architecture) -> Architecture:
        """Return the architecture without edges to nodes from which no path leads to the cell's output."""
        cell = _cell(architecture)
        used = {3}
        for (source, target), operation in reversed(list(zip(EDGES, cell, strict=True))):
            if operation != NONE and target in used:
                used.add(source)
        kept = (operation if target in used else NONE for (_, target), operation in zip(EDGES, cell, strict=True))
        return _architecture(tuple(kept))

    def blocks(self, architecture: Architecture) -> list[Block]:
        """Lower to stem, six blocks per cell, residual blocks and classifier."""
        chosen = {"": "", **dict(self._run(architecture).decisions)}
        return [alternatives[chosen[edge]] for edge, alternatives in self._positions]

    def positions(self) -> list[list[Block]]:
        """Return the stem, the five operations of each edge of each cell, the residual blocks and the classifier."""
        return [list(alternatives.values()) for _, alternatives in self._positions]

    def wire(self, architecture: Architecture, layers: Iterable[nn.Module]) -> nn.Module:
        """Return the network whose cells connect ``layers``; edges without an operation are not run."""
        return CellNetwork(layers, _cell(self._run(architecture)))

    def _run(self, architecture: Architecture) -> Architecture:
        """Return the cell that an architecture runs."""
        return self.canonical(architecture) if self._recorded else architecture

    def descriptors(self, architecture: Architecture) -> list[float]:
        """Say what the canonical cell is made of, then 1 or 0 for every edge and operation; none has no number.

        Numbers of each operation; number of paths from the input to the output, of those that skip and those that
        pool; convolutions on the deepest and the shallowest path and on average, 3x3 ones on the deepest, edges on
        the longest.
        """
        cell = _cell(self.canonical(architecture))
        paths = [path for path in ([cell[i] for i in edges] for edges in _PATHS) if NONE not in path]
        depths = [sum(operation in (CONV1, CONV3) for operation in path) for path in paths] or [-1]
        return [
            *(float(cell.count(operation)) for operation in OPERATIONS[1:]),
            float(len(paths)),
            float(sum(set(path) == {SKIP} for path in paths)),
            float(sum(POOL in path for path in paths)),
            float(sum(depth > 0 for depth in depths)),
            float(max(depths)),
            float(min(depths)),
            float(np.mean(depths)),
            float(max((path.count(CONV3) for path in paths), default=-1)),
            float(max(map(len, paths), default=0)),
            *(float(chosen == option) for chosen in cell for option in OPERATIONS[1:]),
        ]

    def graph(self, architecture: Architecture) -> Graph:
        """Return the canonical cell: its input, an operation per edge that runs, and its output."""
        cell = _cell(self.canonical(architecture))
        running = [(edge, operation) for edge, operation in zip(EDGES, cell, strict=True) if operation != NONE]
        # An operation feeds those that begin where it ends; numbers start after the input's.
        ends = [0, *(target for (_, target), _ in running)]
        starts = [None, *(source for (source, _), _ in running), 3]
        edges = [(i, j) for i, end in enumerate(ends) for j, start in enumerate(starts) if j > i and start == end]
        return ["input", *(operation for _, operation in running), "output"], edges

    def baseline_family(self) -> list[Architecture]:
        """Residual cells of one to three convolutions in a row, and the dense cell, of either kernel."""
        family: list[Cell] = []
        for conv in (CONV1, CONV3):
            family += [
                (conv, NONE, NONE, SKIP, SKIP, NONE),
                (conv, NONE, NONE, SKIP, conv, NONE),
                (conv, NONE, conv, SKIP, NONE, conv),
                (conv,) * len(EDGES),
            ]
        return [_architecture(_canonical_cells()[cell]) for cell in family]

    def named(self) -> dict[str, Architecture]:
        """Return the best cell on CIFAR-10 and the cells that the authors name."""
        return {name: _architecture(_canonical_cells()[cell]) for name, cell in _NAMED.items()}
