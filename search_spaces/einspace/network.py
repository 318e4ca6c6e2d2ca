"""From a network's steps to blocks, with the rewrites that pay, and to a torch module."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

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
_PLAIN: dict[str, Callable[[Shape], Block]] = {RELU: LeakyReLU, SOFTMAX: Softmax, POSITIONS: Positions}


@dataclass(frozen=True)
class Parallel:
    """Branches with the same input, and the block that joins them."""

    inners: tuple["Program", ...]
    join: Block


Program = tuple[Block | Parallel, ...]
"""What a network runs, one after another."""


def lowered(steps: Steps, signal: Signal, classes: int) -> Program:
    """Return the program of a whole network, whose steps say all that is implied.

    The classifier pools feature maps over their pixels and columns over their windows. The authors pool columns
    over the numbers of each: behind a layer norm, as in a transformer, that is zero whatever the image.
    """
    body, end = _program(steps, signal)
    found = list(body)
    if end.grid:
        _append(found, Permute(end.shape, (2, 1, 0)))
    channels, height, width = end.shape
    found.append(Classifier((width, height, channels) if end.grid else end.shape, classes))
    return tuple(found)


def blocks(program: Program) -> Iterator[Block]:
    """Yield the blocks of a program in the order in which they run."""
    for part in program:
        if isinstance(part, Parallel):
            for inner in part.inners:
                yield from blocks(inner)
            yield part.join
        else:
            yield part


def edges_of(program: Program) -> tuple[list[str], list[tuple[int, int]]]:
    """Return a program as a graph: the image and its blocks by their operators, and what feeds what."""
    labels = ["image"]
    edges: list[tuple[int, int]] = []

    def run(parts: Program, source: int) -> int:
        for part in parts:
            sources = [source]
            if isinstance(part, Parallel):
                sources = [run(inner, source) for inner in part.inners]
            labels.append((part.join if isinstance(part, Parallel) else part).spec)
            source = len(labels) - 1
            edges.extend((each, source) for each in sources)
        return source

    run(program, 0)
    return labels, edges


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


class TreeNetwork(Network):
    """The modules of a program's blocks, connected as the program says."""

    def __init__(self, layers: Iterable[nn.Module], program: Program) -> None:
        super().__init__(layers)
        self._program = program

    def forward(self, x: Tensor) -> Tensor:
        """Map images (NCHW) to class scores (N, classes)."""
        return _run(self._program, x, iter(self.layers))


def _run(program: Program, x: Tensor, layers: Iterator[nn.Module]) -> Tensor:
    for part in program:
        if isinstance(part, Parallel):
            outputs = [_run(inner, x, layers) for inner in part.inners]
            x = next(layers)(*outputs)
        else:
            x = next(layers)(x)
    return x
