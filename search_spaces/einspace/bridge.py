"""Which shapes are within reach of a signal, in closed form, and by which functions.

Two branches are derived one after the other, and must come out with shapes that can be joined. Within reach of a signal
is every arrangement of its dimensions, or of those of windows over it, perhaps of windows over windows, in which each
dimension keeps its size or is projected to one of the published widths: as the shortcut of a residual network does.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from math import prod
from typing import NamedTuple

from search_spaces.block import Shape
from search_spaces.einspace.grammar import ADD, COL2IM, CONCATS, LINEAR, MAP_PERMUTES, SWAP, WINDOWS
from search_spaces.einspace.signal import Signal, Work, applied, axis_of, window_grid, work

_WIDTHS = {width: function for function, width in LINEAR.items()}
_MIDDLE_WIDTH = 64
# Windows on top of one another that a way may hold.
_ROUNDS = 2

Functions = tuple[str, ...]


class Wanted(NamedTuple):
    """What an aggregation asks of the second branch: the sizes of the dimensions, None for any."""

    columns: bool
    shape: tuple[int | None, int | None, int | None]

    def alternatives(self) -> Iterator["Wanted"]:
        """Yield what is wanted; where any size will do, also with a width whose small multiples are widths too."""
        yield self
        if None in self.shape:
            first, second, third = (_MIDDLE_WIDTH if size is None else size for size in self.shape)
            yield Wanted(self.columns, (first, second, third))


class Bridge(NamedTuple):
    """Functions that lead from a signal to what is wanted, where they lead, and their work."""

    functions: Functions
    signal: Signal
    work: Work


class _Way(NamedTuple):
    """Functions to a signal of ``shape``, in parts, with a place for one projection.

    A linear layer of width w between ``before`` and ``after`` makes the size along ``axis`` w times ``times``; there
    is no place for one where ``axis`` is None.
    """

    before: tuple[Functions, ...]
    after: Functions
    shape: Shape
    axis: int | None = None
    times: int = 1

    def effort(self, wanted: Wanted) -> int | None:
        """Return how many functions lead to what is wanted, None where a size is no published width.

        A projection that has no place counts one more than it is, so that convolutions are preferred.
        """
        found = sum(map(len, self.before)) + len(self.after)
        for axis, size in enumerate(wanted.shape):
            if size is not None and size != self.shape[axis]:
                if axis == self.axis and size % self.times == 0 and size // self.times in _WIDTHS:
                    found += 1
                elif size in _WIDTHS:
                    found += 1 if axis == 2 else 4
                else:
                    return None
        return found

    def functions(self, wanted: Wanted) -> Functions:
        """Return all functions that lead to what is wanted."""
        between: Functions = ()
        behind: Functions = ()
        for axis, size in enumerate(wanted.shape):
            if size is None or size == self.shape[axis]:
                continue
            width, left_over = divmod(size, self.times)
            if axis == self.axis and left_over == 0 and width in _WIDTHS:
                between = (_WIDTHS[width],)
            else:
                behind += _projection(axis, _WIDTHS[size], wanted.columns)
        return (*chain.from_iterable(self.before), *between, *self.after, *behind)


def partner(aggregation: str, first: Signal) -> Wanted | None:
    """Return what an aggregation of two branches asks of the second one, None where it does not take the first."""
    columns = first.grid is not None
    channels, height, width = first.shape
    if aggregation == ADD:
        return Wanted(columns, first.shape)
    if aggregation not in CONCATS:
        return Wanted(columns, (channels, width, None))
    axis = axis_of(CONCATS[aggregation][1], first)
    if axis is None:
        return None
    return Wanted(
        columns, (None if axis == 0 else channels, None if axis == 1 else height, None if axis == 2 else width)
    )


@lru_cache(3000)
def bridge(source: Signal, wanted: Wanted) -> Bridge | None:
    """Return a way from ``source`` to what is ``wanted``, None where none is known.

    It is one of few functions, and none at all where the source fits as it is.
    """
    best: _Way | None = None
    least = 0
    for way in _column_ways(source, wanted) if wanted.columns else _map_ways(source, wanted):
        effort = way.effort(wanted)
        if effort is not None and (best is None or effort < least):
            best, least = way, effort
            if effort <= 3:  # no more than a convolution
                break
    if best is None:
        return None
    functions = best.functions(wanted)
    signal, done = source, Work(0, 0, source.size, 0)
    for function in functions:
        done += work(function, signal)
        after = applied(function, signal)
        assert after is not None
        signal = after
    return Bridge(functions, signal, done)


def _projection(axis: int, linear: str, columns: bool) -> Functions:
    if axis == 2:
        return (linear,)
    if columns:
        return SWAP, linear, SWAP
    permute = "permute132" if axis == 1 else "permute321"  # each its own inverse
    return permute, linear, permute


def _as_maps(source: Signal) -> list[tuple[Functions, Shape]]:
    """Return the feature map that a signal is, or those that its columns are, of either order."""
    if source.grid is None:
        return [((), source.shape)]
    _, rows, numbers = source.shape
    pixels = prod(source.grid)
    found: list[tuple[Functions, Shape]] = []
    if rows == pixels:
        found.append(((COL2IM,), (numbers, *source.grid)))
    if numbers == pixels:
        found.append(((SWAP, COL2IM), (rows, *source.grid)))
    return found


def _map_ways(source: Signal, wanted: Wanted) -> Iterator[_Way]:
    """Yield ways to feature maps; of windows only to such as have the sides that are wanted."""
    _, height_wanted, width_wanted = wanted.shape
    for start, shape in _as_maps(source):
        yield _Way((start[:-1],), (COL2IM,), shape, axis=0) if start else _Way((), (), shape)
        orders = list(_arranged(shape))
        yield from (_Way((start, order), (), arranged) for order, arranged in orders if order)
        for order, (channels, *sides) in orders:
            for windows, times, height, width in _windowed(*sides):
                if height_wanted in (None, height) and width_wanted in (None, width):
                    yield _Way((start, order, windows), (COL2IM,), (times * channels, height, width), axis=0)
                if not order and height in wanted.shape and width in wanted.shape:
                    yield from _rearranged((start, windows), (times * channels, height, width), wanted)


def _rearranged(before: tuple[Functions, ...], shape: Shape, wanted: Wanted) -> Iterator[_Way]:
    """Yield the other orders of what windows have made a feature map of."""
    for permute, axes in MAP_PERMUTES.items():
        first, second, third = (shape[axis] for axis in axes)
        new, channels = (first, second, third), axes.index(0)
        if all(wanted.shape[axis] in (None, new[axis]) for axis in range(3) if axis != channels):
            yield _Way(before, (COL2IM, permute), new, axis=channels)


def _column_ways(source: Signal, wanted: Wanted) -> Iterator[_Way]:
    """Yield ways to columns; of windows over windows only to as many as are wanted."""
    if source.grid:
        channels, rows, numbers = source.shape
        yield _Way((), (), source.shape)
        yield _Way((), (SWAP,), (channels, numbers, rows))
    _, rows_wanted, numbers_wanted = wanted.shape
    for start, shape in _as_maps(source):
        for order, arranged in _arranged(shape):
            channels, *sides = arranged
            ways = _columned(*sides)
            for windows, window, factor, rows, times in (*ways[None], *ways.get(rows_wanted or 0, ())):
                axis = 2 if windows else None
                yield _Way((start, order, windows), window, (1, rows, factor * channels), axis, times)
            for windows, window, factor, rows, times in (*ways[None], *ways.get(numbers_wanted or 0, ())):
                axis = 1 if windows else None
                yield _Way((start, order, windows), (*window, SWAP), (1, factor * channels, rows), axis, times)


def _arranged(shape: Shape) -> Iterator[tuple[Functions, Shape]]:
    """Yield the orders of the dimensions that differ in shape."""
    found: dict[Shape, Functions] = {shape: ()}
    for permute, (first, second, third) in MAP_PERMUTES.items():
        found.setdefault((shape[first], shape[second], shape[third]), (permute,))
    for arranged, order in found.items():
        yield order, arranged


@lru_cache(1000)
def _windowed(height: int, width: int) -> tuple[tuple[Functions, int, int, int], ...]:
    """Return, for each size of feature map that rounds of windows lead to, the shortest way to it.

    That is the functions but for the last col2im, how many times as many channels there are, the height and the width.
    """
    found: dict[tuple[int, int], tuple[Functions, int, int, int]] = {}
    last: list[tuple[Functions, int, int, int]] = [((), 1, height, width)]
    for _ in range(_ROUNDS):
        following = []
        for functions, times, rows, columns in last:
            for window, (kernel, stride, padding) in WINDOWS.items():
                if kernel <= min(rows, columns) + 2 * padding:
                    grid = window_grid(rows, columns, kernel, stride, padding)
                    joint = (COL2IM,) if functions else ()
                    following.append(((*functions, *joint, window), times * kernel**2, *grid))
        for new in following:
            found.setdefault(new[2:], new)
        last = following
    return tuple(found.values())


@lru_cache(500)
def _columned(height: int, width: int) -> dict[int | None, list[tuple[Functions, Functions, int, int, int]]]:
    """Return the ways to columns of windows over a feature map, and over those that windows have made of it.

    The former by None, the latter by their number of windows. A way is the functions to the feature map but for its
    col2im, those from there, how many times as many numbers as channels there are, the number of windows, and what
    of the numbers comes of the last windows.
    """
    found: dict[int | None, list[tuple[Functions, Functions, int, int, int]]] = {None: []}
    itself: tuple[Functions, int, int, int] = ((), 1, height, width)
    for functions, times, rows, columns in (itself, *_windowed(height, width)):
        joint: Functions = (COL2IM,) if functions else ()
        for window, (kernel, stride, padding) in WINDOWS.items():
            if kernel <= min(rows, columns) + 2 * padding:
                number = prod(window_grid(rows, columns, kernel, stride, padding))
                way = (functions, (*joint, window), times * kernel**2, number, kernel**2)
                found.setdefault(number if functions else None, []).append(way)
    return found
