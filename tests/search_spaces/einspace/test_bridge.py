"""What is within reach of a signal is what the functions really lead to, and what a plain search finds."""

from collections.abc import Iterable

import numpy as np
import pytest

from search_spaces.einspace.bridge import Wanted, bridge, partner
from search_spaces.einspace.grammar import AGGREGATIONS, LINEAR, MAP_PERMUTES, PRE_ROUTINGS, WINDOWS, takes
from search_spaces.einspace.signal import Signal, applied, joined, work

MAP, COLUMNS = Signal((12, 20, 16)), Signal((1, 80, 9), (10, 8))
FUNCTIONS = (*PRE_ROUTINGS, "col2im", *LINEAR)


def random_signal(rng: np.random.Generator, start: Signal, length: int) -> Signal:
    signal = start
    for _ in range(length):
        after = applied(FUNCTIONS[int(rng.integers(len(FUNCTIONS)))], signal)
        signal = signal if after is None or after.size > 10**6 else after
    return signal


@pytest.mark.parametrize("aggregation", [name for name in AGGREGATIONS if takes(name, 2)])
def test_a_bridge_leads_to_what_the_aggregation_takes(aggregation: str) -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(300):
        start = (MAP, COLUMNS)[int(rng.integers(2))]
        first, source = (random_signal(rng, start, int(length)) for length in rng.integers(4, size=2))
        wanted = partner(aggregation, first)
        way = bridge(source, wanted) if wanted else None
        if way is None:
            continue
        found += 1
        signal, total = source, 0
        for function in way.functions:
            total += work(function, signal).macs
            after = applied(function, signal)
            assert after is not None
            signal = after
        assert (signal, total, len(way.functions)) == (way.signal, way.work.macs, way.work.functions)
        assert joined(aggregation, (first, signal)) is not None
    assert found > 60


def behind(signals: set[Signal], functions: Iterable[str]) -> set[Signal]:
    return {after for signal in signals for name in functions if (after := applied(name, signal)) is not None}


@pytest.mark.parametrize("start", [MAP, COLUMNS], ids=["map", "columns"])
def test_all_signals_of_a_routing_and_of_two_convolutions_are_in_reach(start: Signal) -> None:
    """What residual branches consist of: whatever one of two branches has come to, the other one can follow."""
    arranged = behind({start}, (*PRE_ROUTINGS, "col2im"))
    projected = behind(arranged, LINEAR)
    made = behind(behind(projected, ("identity", "col2im")), ("identity", "permute21", *MAP_PERMUTES))
    maps = behind(behind(behind({start}, WINDOWS), LINEAR), ("col2im",))
    columns = behind(maps, WINDOWS)
    reached = {start} | arranged | projected | made | maps | columns
    assert len(reached) > 30 * (1 + 10 * (start == MAP))
    assert {
        signal for signal in reached if bridge(start, Wanted(signal.grid is not None, signal.shape)) is None
    } == set()


def test_nothing_is_done_where_nothing_is_needed() -> None:
    for signal in (MAP, COLUMNS):
        way = bridge(signal, Wanted(signal.grid is not None, signal.shape))
        assert way is not None and way.functions == () and way.work.macs == 0


@pytest.mark.parametrize(
    ("source", "wanted", "functions"),
    [
        ((64, 32, 32), (128, 16, 16), ("im2col_k1s2", "linear128", "col2im")),  # ResNet's projecting shortcut
        ((64, 32, 32), (128, 32, 32), ("im2col_k1s1", "linear128", "col2im")),
        ((3, 28, 20), (16, 7, 5), ("im2col_k4s4", "linear16", "col2im")),
        ((3, 28, 20), (28, 20, 3), ("permute231",)),
        ((3, 28, 20), (3, 28, 64), ("linear64",)),
        ((3, 28, 20), (3, 27, 20), None),
    ],
)
def test_ways_by_hand(
    source: tuple[int, int, int], wanted: tuple[int, int, int], functions: tuple[str, ...] | None
) -> None:
    way = bridge(Signal(source), Wanted(False, wanted))
    assert (way and way.functions) == functions
