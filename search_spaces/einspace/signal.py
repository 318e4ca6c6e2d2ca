"""What flows through a network, and what each function of the grammar makes of it, in closed form."""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

from search_spaces.block import Shape
from search_spaces.einspace.grammar import (
    ADD,
    COL2IM,
    CONCATS,
    GROUPS,
    IDENTITY,
    LINEAR,
    MAP_PERMUTES,
    NORM,
    POSITIONS,
    SOFTMAX,
    SWAP,
    WINDOWS,
)


class Signal(NamedTuple):
    """A feature map (C, H, W), or columns (1, S, D): S windows of a grid (height, width), D numbers each.

    Columns are kept as a feature map of one channel, so that what acts on the last dimensions acts on both alike.
    The grid is that of the last im2col that the data has passed; col2im makes a feature map of that size again.
    """

    shape: Shape
    grid: tuple[int, int] | None = None

    @property
    def size(self) -> int:
        """Number of elements (batch left out)."""
        return prod(self.shape)


class Work(NamedTuple):
    """Multiply-accumulates, weights, the elements of the largest tensor, and functions that are run."""

    macs: int
    params: int
    peak: int
    functions: int

    def __add__(self, other: "Work") -> "Work":  # type: ignore[override]
        return Work(
            self.macs + other.macs,
            self.params + other.params,
            max(self.peak, other.peak),
            self.functions + other.functions,
        )

    def times(self, copies: int) -> "Work":
        """Return the work of so many copies, each with weights of its own."""
        return Work(copies * self.macs, copies * self.params, self.peak, copies * self.functions)


@lru_cache(4000)
def applied(function: str, signal: Signal) -> Signal | None:
    """Return what a computation or routing function makes of a signal, None where it does not take it.

    Other than by the authors' rules, windows may be as large as the feature map with its padding, and softmax and layer
    norm are not taken over a single element: they would erase the signal.
    """
    (channels, height, width), grid = signal
    if function in LINEAR:
        return Signal((channels, height, LINEAR[function]), grid)
    if function == SWAP:
        return Signal((channels, width, height), grid) if grid else None
    if function in MAP_PERMUTES:
        if grid:
            return None
        first, second, third = MAP_PERMUTES[function]
        return Signal((signal.shape[first], signal.shape[second], signal.shape[third]))
    if function in WINDOWS:
        kernel, stride, padding = WINDOWS[function]
        if grid or kernel > min(height, width) + 2 * padding:
            return None
        grid = window_grid(height, width, kernel, stride, padding)
        return Signal((1, prod(grid), channels * kernel**2), grid)
    if function == COL2IM:
        return Signal((width, *grid)) if grid and prod(grid) == height else None
    if width == 1 and (function == SOFTMAX or (function == NORM and grid)):
        return None
    return signal


def window_grid(height: int, width: int, kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """Return how many windows there are, vertically and horizontally."""
    return (height + 2 * padding - kernel) // stride + 1, (width + 2 * padding - kernel) // stride + 1


def work(function: str, signal: Signal) -> Work:
    """Return the work of a function on a signal that it takes: linear layers, and weights of positional encodings."""
    after = applied(function, signal)
    assert after is not None
    if function in LINEAR:
        width = LINEAR[function]
        return Work(signal.size * width, signal.shape[2] * width, after.size, 1)
    return Work(0, signal.size if function == POSITIONS else 0, after.size, 0 if function == IDENTITY else 1)


def axis_of(dim: int, signal: Signal) -> int | None:
    """Return the axis of ``Signal.shape`` of a dimension counted from 1, None where the signal has fewer."""
    if signal.grid is None:
        return dim - 1
    return dim if dim < 3 else None


def resized(signal: Signal, axis: int, size: int) -> Signal:
    """Return the signal with another size along an axis."""
    channels, height, width = signal.shape
    shapes = (size, height, width), (channels, size, width), (channels, height, size)
    return Signal(shapes[axis], signal.grid)


def branched(branching: str, signal: Signal) -> Signal | None:
    """Return what each branch of a branching function gets, None where the parts would not be equal."""
    if branching not in GROUPS:
        return signal
    parts, dim = GROUPS[branching]
    axis = axis_of(dim, signal)
    if axis is None or signal.shape[axis] % parts:
        return None
    return resized(signal, axis, signal.shape[axis] // parts)


def joined(aggregation: str, signals: Sequence[Signal]) -> Signal | None:
    """Return what an aggregation function makes of the branches' signals, None where they do not fit.

    The grid of columns is that of the first branch.
    """
    first, *others = signals
    columns = first.grid is not None
    for other in others:
        if (other.grid is not None) != columns:
            return None
    if aggregation == ADD:
        return first if all(other.shape == first.shape for other in others) else None
    if aggregation in CONCATS:
        axis = axis_of(CONCATS[aggregation][1], first)
        if axis is None:
            return None
        total = own = first.shape[axis]
        for other in others:
            if other.shape != first.shape and resized(other, axis, own).shape != first.shape:
                return None
            total += other.shape[axis]
        return resized(first, axis, total)
    (channels, height, inner), (other_channels, other_inner, width) = first.shape, others[0].shape
    if (channels, inner) != (other_channels, other_inner):
        return None
    return Signal((channels, height, width), first.grid)


def join_work(aggregation: str, signals: Sequence[Signal], result: Signal) -> Work:
    """Return the work of an aggregation function: products of matrices."""
    macs = 0 if aggregation == ADD or aggregation in CONCATS else signals[0].size * signals[1].shape[2]
    return Work(macs, 0, result.size, 1)
