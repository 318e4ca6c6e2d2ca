"""Networks that are chosen without a search: within the budget, spread over latency, the largest of what is found."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from fakes import made_up_table
from toy_space import ToySpace

from nas.search.baselines import (
    family_within,
    keeps,
    largest_per_bin,
    latency_range,
    random_per_bin,
    spread_family,
)
from nas.search.target import RecordedTarget, TableTarget
from nas.training.recorded import Recorded
from search_spaces.fbnet import FBNetSpace
from search_spaces.space import enumerate_architectures

SPACE, TOY = FBNetSpace((1, 8, 8), 10), ToySpace()


def target(space: FBNetSpace | ToySpace, budget_ms: float | None = None) -> TableTarget:
    return TableTarget(space, made_up_table(space), budget_ms)


def test_family_is_spread_over_log_latency() -> None:
    one = target(SPACE)
    members = family_within(SPACE, [one])
    logs = [np.log(one.predict_ms(a)) for a in members]
    assert logs == sorted(logs) and {a.id for a in members} == {a.id for a in SPACE.baseline_family()}
    assert spread_family(SPACE, [one], 2) == [members[0], members[-1]]
    (middle,) = spread_family(SPACE, [one], 1)
    ways = [abs(log - (logs[0] + logs[-1]) / 2) for log in logs]
    assert members.index(middle) == int(np.argmin(ways))
    assert spread_family(SPACE, [one], 3) == [members[0], middle, members[-1]]
    for count in range(len(members) + 3):
        assert len(spread_family(SPACE, [one], count)) == min(count, len(members))


def test_family_is_spread_where_some_take_no_time() -> None:
    free = target(TOY)
    fastest = min(free.predict_ms(a) for a in TOY.baseline_family())
    latencies = {a: max(0.0, free.predict_ms(a) - fastest) for a in enumerate_architectures(TOY)}
    members = family_within(TOY, [recorded := RecordedTarget("phone", Recorded(Path("t.csv"), latencies), None)])
    assert latencies[members[0]] == 0 < latencies[members[-1]]
    assert spread_family(TOY, [recorded], 2) == [members[0], members[-1]]


def test_family_keeps_every_budget() -> None:
    free = target(SPACE)
    tight = target(SPACE, float(np.median([free.predict_ms(a) for a in SPACE.baseline_family()])))
    kept = family_within(SPACE, [free, tight])
    assert 0 < len(kept) < len(SPACE.baseline_family())
    assert all(keeps(a, [free, tight]) for a in kept)
    assert spread_family(SPACE, [free, tight], 3)[-1] == kept[-1]
    assert spread_family(SPACE, [target(SPACE, 1e-6)], 3) == []


@pytest.mark.parametrize("per_bin", [largest_per_bin, random_per_bin])
def test_one_network_per_bin(per_bin) -> None:
    one = target(SPACE)
    low, high = latency_range(SPACE, [one], 0)
    found = per_bin(SPACE, one.predict_ms, low, high, 6, 0)
    edges = np.geomspace(low, high, 7)
    ms = [one.predict_ms(a) for a in found]
    assert len(found) == 6 and all(a <= m <= b for m, (a, b) in zip(ms, itertools.pairwise(edges), strict=True))
    assert found == per_bin(SPACE, one.predict_ms, low, high, 6, 0)
    assert found != per_bin(SPACE, one.predict_ms, low, high, 6, 1) or per_bin is largest_per_bin


def test_largest_of_a_small_space_are_the_largest_of_all() -> None:
    one, every = target(TOY), list(enumerate_architectures(TOY))
    low, high = min(map(one.predict_ms, every)), max(map(one.predict_ms, every))
    expected = []
    for a, b in itertools.pairwise(np.geomspace(low, high, 4)):
        within = [TOY.macs(x) for x in every if a <= one.predict_ms(x) <= b]
        expected += [max(within)] if within else []
    assert [TOY.macs(a) for a in largest_per_bin(TOY, one.predict_ms, low, high, 3, 0)] == expected


def test_largest_are_larger_than_random_ones() -> None:
    one = target(SPACE)
    low, high = latency_range(SPACE, [one], 0)
    large = largest_per_bin(SPACE, one.predict_ms, low, high, 4, 0)
    for seed in range(3):
        small = random_per_bin(SPACE, one.predict_ms, low, high, 4, seed)
        assert all(SPACE.macs(a) >= SPACE.macs(b) for a, b in zip(large, small, strict=True))


def test_empty_bins_have_none() -> None:
    one = target(SPACE)
    low, high = latency_range(SPACE, [one], 0)
    assert random_per_bin(SPACE, one.predict_ms, high * 2, high * 4, 3, 0) == []
    assert largest_per_bin(SPACE, one.predict_ms, high * 2, high * 4, 3, 0) == []
    assert latency_range(SPACE, [target(SPACE, (low + high) / 2)], 0) == (low, (low + high) / 2)
