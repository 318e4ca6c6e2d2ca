"""Networks of the grammar by numbers and as a drawing."""

import math
from collections import defaultdict
from collections.abc import Iterator

from search_spaces.block import shape_text
from search_spaces.einspace.canonical import Fork, Steps
from search_spaces.einspace.grammar import (
    AGGREGATIONS,
    BRANCHINGS,
    COL2IM,
    COMPUTATIONS,
    IDENTITY,
    LINEAR,
    MAP_PERMUTES,
    SWAP,
    WINDOWS,
)
from search_spaces.einspace.signal import Signal, applied, branched, joined

_FUNCTIONS = (*COMPUTATIONS[1:], SWAP, *MAP_PERMUTES, *WINDOWS, COL2IM, *BRANCHINGS, *AGGREGATIONS)


def numbers(found: Steps, signal: Signal) -> list[float]:
    """Return what describes a network, whose steps say all that is implied.

    Of each function how often it is there, copies counted, and where on average, from 0 at the image to 1 at the
    scores; how deep branchings are inside one another; the logarithms of the sizes of what comes out.
    """
    *walked, (_, _, end) = walk(found, signal)
    places: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for number, (function, copies, _) in enumerate(walked):
        places[function].append(((number + 1) / (len(walked) + 1), copies))
    values: list[float] = []
    for function in _FUNCTIONS:
        copies = sum(copies for _, copies in places[function])
        values += [math.log1p(copies), sum(place for place, _ in places[function]) / max(1, len(places[function]))]
    return [*values, float(_depth(found)), float(end.grid is not None), *map(math.log, end.shape)]


def walk(found: Steps, signal: Signal, copies: int = 1) -> Iterator[tuple[str, int, Signal]]:
    """Yield each function, how many times it is built, and the signal behind it; last an identity."""
    for step in found:
        if isinstance(step, str):
            signal = _made(step, signal)
            yield step, copies, signal
            continue
        source = branched(step.branching, signal)
        assert source is not None
        yield step.branching, copies, source
        outs = []
        for inner in step.inners:
            *walked, (_, _, out) = walk(inner, source, copies * step.copies)
            yield from walked
            outs += [out] * step.copies
        after = joined(step.aggregation, outs)
        assert after is not None
        signal = after
        yield step.aggregation, copies, signal
    yield IDENTITY, copies, signal


def _made(function: str, signal: Signal) -> Signal:
    after = applied(function, signal)
    assert after is not None
    return after


def _depth(found: Steps) -> int:
    return max((1 + max(map(_depth, step.inners)) for step in found if isinstance(step, Fork)), default=0)


def drawing(found: Steps, signal: Signal) -> list[str]:
    """Return the lines of a drawing of a network as a tree, whose steps say all that is implied.

    Each line is a function and what comes out of it: C x H x W of a feature map, S x D of columns. A branch is headed
    by what goes into it. Routings around a linear layer that are one convolution are one line.
    """
    lines, _ = _lines(found, signal)
    return [f"image  {_sizes(signal)}", *_hung(lines)]


def _lines(found: Steps, signal: Signal) -> tuple[list[list[str]], Signal]:
    """Return the lines of each step, and the signal that comes out."""
    parts: list[list[str]] = []
    place = 0
    while place < len(found):
        step = found[place]
        if isinstance(step, Fork):
            lines, signal = _fork_lines(step, signal)
            place += 1
        elif step in WINDOWS and found[place + 2 : place + 3] == (COL2IM,) and found[place + 1] in LINEAR:
            kernel, stride, _ = WINDOWS[step]
            for function in (step, str(found[place + 1]), COL2IM):
                signal = _made(function, signal)
            lines = [f"conv {kernel}x{kernel}{f', stride {stride}' if stride > 1 else ''}  {_sizes(signal)}"]
            place += 3
        else:
            signal = _made(step, signal)
            lines = [f"{step}  {_sizes(signal)}"]
            place += 1
        parts.append(lines)
    return parts, signal


def _fork_lines(fork: Fork, signal: Signal) -> tuple[list[str], Signal]:
    source = branched(fork.branching, signal)
    assert source is not None
    branches: list[list[str]] = []
    outs: list[Signal] = []
    for inner in fork.inners:
        lines, out = _lines(inner, source)
        times = f"{fork.copies} times " if fork.copies > 1 else ""
        branches.append([f"{times}from {_sizes(source)}", *_hung(lines or [["identity"]])])
        outs += [out] * fork.copies
    after = joined(fork.aggregation, outs)
    assert after is not None
    return [f"{fork.branching}, {fork.aggregation}  {_sizes(after)}", *_hung(branches)], after


def _hung(parts: list[list[str]]) -> list[str]:
    """Return the lines of parts, hung on a common stem."""
    lines = []
    for number, (head, *tail) in enumerate(parts, start=1):
        last = number == len(parts)
        lines.append(f"{'└─' if last else '├─'} {head}")
        lines += [f"{'   ' if last else '│  '}{line}" for line in tail]
    return lines


def _sizes(signal: Signal) -> str:
    shape = signal.shape[1:] if signal.grid else signal.shape
    return shape_text(shape)
