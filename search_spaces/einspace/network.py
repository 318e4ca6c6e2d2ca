"""From a network's steps to blocks, with the rewrites that pay, and to a torch module."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from search_spaces.block import Block, Network, Shape
from search_spaces.einspace.canonical import Fork, Steps
from search_spaces.einspace.grammar import (
    ADD,
    COL2IM,
    CONCATS,
    GROUPS,
    LINEAR,
    MAP_PERMUTES,
    NORM,
    POSITIONS,
    RELU,
    SCALED_DOT,
    SOFTMAX,
    SWAP,
    WINDOWS,
)
from search_spaces.einspace.joins import Add, Concat, Part, Product
from search_spaces.einspace.operators import (
    BatchNorm,
    Columns,
    Convolution,
    FeatureMap,
    LayerNorm,
    LeakyReLU,
    Linear,
    Permute,
    Positions,
    Softmax,
)
from search_spaces.einspace.signal import Signal, applied, axis_of, branched, joined
from search_spaces.operators import Classifier

_CHANNELS_LAST = (1, 2, 0)
_SWAPPED = (0, 2, 1)
# Of all others, which learn, there are as many as are drawn, however alike they start.
_LEARN_NOTHING = (Add, Columns, Concat, FeatureMap, LeakyReLU, Part, Permute, Product, Softmax)
_PLAIN: dict[str, Callable[[Shape], Block]] = {RELU: LeakyReLU, SOFTMAX: Softmax, POSITIONS: Positions}


@dataclass(frozen=True)
class Parallel:
    """Branches with the same input, and the block that joins them."""

    inners: tuple["Program", ...]
    join: Block


Program = tuple[Block | Parallel, ...]
"""What a network runs, one after another."""


class Node(NamedTuple):
    """A block and where its inputs come from: 0 is the image, n the n-th node."""

    block: Block
    sources: tuple[int, ...]


Wiring = tuple[Node, ...]
"""A network: its nodes in the order in which they run."""


def lowered(steps: Steps, signal: Signal, classes: int) -> Wiring:
    """Return the wiring of a whole network, whose steps say all that is implied.

    The classifier pools feature maps over their pixels and columns over their windows. The authors pool columns
    over the numbers of each: behind a layer norm, as in a transformer, that is zero whatever the image.
    """
    body, end = _program(steps, signal)
    found = list(body)
    if end.grid:
        _append(found, Permute(end.shape, (2, 1, 0)))
    channels, height, width = end.shape
    found.append(Classifier((width, height, channels) if end.grid else end.shape, classes))
    return _wired(tuple(found))


def _wired(program: Program) -> Wiring:
    """Return the wiring of a program, each branch's nodes one after another, then what joins them.

    What branches compute alike is computed once: the same blocks that learn nothing, of the same inputs.
    """
    nodes: list[Node] = []
    known: dict[tuple[str, tuple[int, ...]], int] = {}

    def run(parts: Program, source: int) -> int:
        for part in parts:
            if isinstance(part, Parallel):
                node = Node(part.join, tuple(run(inner, source) for inner in part.inners))
            else:
                node = Node(part, (source,))
            computed = node.block.key, node.sources
            if computed not in known or not isinstance(node.block, _LEARN_NOTHING):
                nodes.append(node)
                known[computed] = len(nodes)
            source = known[computed]
        return source

    run(program, 0)
    return tuple(nodes)


def edges_of(wiring: Wiring) -> tuple[list[str], list[tuple[int, int]]]:
    """Return a network as a graph: the image and its blocks by their operators, and what feeds what."""
    labels = ["image", *(node.block.spec for node in wiring)]
    return labels, [(source, number) for number, node in enumerate(wiring, 1) for source in node.sources]


def _program(steps: Steps, signal: Signal) -> tuple[Program, Signal]:
    found: list[Block | Parallel] = []
    for step in steps:
        if isinstance(step, Fork):
            parallel, signal = _parallel(step, signal)
            found.append(parallel)
        else:
            _append(found, _block(step, signal))
            after = applied(step, signal)
            assert after is not None
            signal = after
    return tuple(found), signal


def _parallel(fork: Fork, signal: Signal) -> tuple[Parallel, Signal]:
    source = branched(fork.branching, signal)
    assert source is not None
    inners, signals = [], []
    for number, inner in enumerate(fork.inners * fork.copies):
        program, out = _program(inner, source)
        if fork.branching in GROUPS:
            parts, dim = GROUPS[fork.branching]
            axis = axis_of(dim, signal)
            assert axis is not None
            program = (Part(signal.shape, axis, parts, number), *program)
        inners.append(program)
        signals.append(out)
    result = joined(fork.aggregation, tuple(signals))
    assert result is not None
    return Parallel(tuple(inners), _join(fork.aggregation, signals)), result


def _join(aggregation: str, signals: Sequence[Signal]) -> Block:
    first, *others = (signal.shape for signal in signals)
    if aggregation == ADD:
        return Add(first, tuple(others))
    if aggregation in CONCATS:
        axis = axis_of(CONCATS[aggregation][1], signals[0])
        assert axis is not None
        return Concat(first, tuple(others), axis)
    return Product(first, tuple(others), aggregation == SCALED_DOT)


def _block(function: str, signal: Signal) -> Block:
    shape = signal.shape
    if function in LINEAR:
        return Linear(shape, LINEAR[function])
    if function in WINDOWS:
        return Columns(shape, *WINDOWS[function])
    if function in MAP_PERMUTES:
        return Permute(shape, MAP_PERMUTES[function])
    if function == SWAP:
        return Permute(shape, _SWAPPED)
    if function == COL2IM:
        assert signal.grid is not None
        return FeatureMap(shape, *signal.grid)
    if function == NORM:
        return LayerNorm(shape) if signal.grid else BatchNorm(shape)
    return _PLAIN[function](shape)


def _append(found: list[Block | Parallel], block: Block) -> None:
    """Add a block behind others, as something faster that computes the same where there is such a thing.

    im2col and a linear layer are a convolution whose pixels become columns, which a col2im behind it makes a feature
    map again; so the windows themselves are never written down. A linear layer on the channels of a feature map
    is a convolution of kernel 1. Permutes in a row become one.
    """
    last = found[-1] if found else None
    if isinstance(last, Columns) and isinstance(block, Linear):
        found.pop()
        convolution = Convolution(last.in_shape, block.width, last.kernel, last.stride, last.padding)
        _append(found, convolution)
        _append(found, Columns(convolution.out_shape, 1, 1, 0))
    elif isinstance(last, Permute) and last.axes == _CHANNELS_LAST and isinstance(block, Linear):
        found.pop()
        convolution = Convolution(last.in_shape, block.width, 1, 1, 0)
        _append(found, convolution)
        _append(found, Permute(convolution.out_shape, _CHANNELS_LAST))
    elif isinstance(last, Permute) and isinstance(block, Permute):
        found.pop()
        first, second, third = (last.axes[axis] for axis in block.axes)
        if (first, second, third) != (0, 1, 2):
            _append(found, Permute(last.in_shape, (first, second, third)))
    elif _undone(last, block):
        found.pop()
    else:
        found.append(block)


def _undone(last: Block | Parallel | None, block: Block) -> bool:
    """Tell whether two blocks in a row make columns of a feature map's pixels and a feature map of them again."""
    if isinstance(last, FeatureMap) and isinstance(block, Columns):
        return (block.kernel, block.stride) == (1, 1)
    if isinstance(last, Columns) and isinstance(block, FeatureMap):
        return (last.kernel, last.stride) == (1, 1) and last.grid == (block.height, block.width)
    return False


class WiredNetwork(Network):
    """The modules of a wiring's blocks, connected as it says."""

    def __init__(self, layers: Iterable[nn.Module], wiring: Wiring) -> None:
        super().__init__(layers)
        self._wiring = wiring
        self._last_use = {source: number for number, node in enumerate(wiring, 1) for source in node.sources}

    def forward(self, x: Tensor) -> Tensor:
        """Map images (NCHW) to class scores (N, classes)."""
        outputs = {0: x}
        for number, (layer, node) in enumerate(zip(self.layers, self._wiring, strict=True), 1):
            outputs[number] = layer(*(outputs[source] for source in node.sources))
            for source in {source for source in node.sources if self._last_use[source] == number}:
                del outputs[source]  # so that an inference holds no more than it needs
        return outputs[len(self._wiring)]
