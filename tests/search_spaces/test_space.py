"""What follows from ``decide``: sampling, replay, mutation, crossover, enumeration; a fixed and a nested space."""

import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from toy_space import EXPANSIONS, KERNELS, ToySpace

from search_spaces.architecture import Architecture
from search_spaces.fbnet import OPTIONS, FBNetSpace
from search_spaces.space import (
    Choose,
    enumerate_architectures,
    replay,
    sample,
    sample_spread,
)

REPOSITORY = Path(__file__).resolve().parents[2]
TOY = ToySpace()


class Recording(FBNetSpace):
    """Keeps the options as they were taken, before they are put in canonical order."""

    taken: list[str]

    def decide(self, choose: Choose) -> Architecture:
        self.taken = []

        def record(name: str, options: Sequence[str]) -> str:
            self.taken.append(choose(name, options))
            return self.taken[-1]

        return super().decide(record)


@pytest.fixture
def imagenet() -> Recording:
    return Recording((3, 32, 32), 10, "imagenet")


def layers_of(architecture: Architecture) -> list[tuple[str, ...]]:
    """Return the layers of a toy network that are there, each by its options."""
    chosen = dict(architecture.decisions)
    return [
        tuple(chosen[f"{name}{number}"] for name in ("kernel", "expansion") if f"{name}{number}" in chosen)
        for number in (1, 2)
        if chosen[f"use{number}"] == "yes"
    ]


def text_of(layers: Sequence[tuple[str, ...]]) -> str:
    parts = [",".join(("yes", *layer)) for layer in layers]
    return "toy:" + ",".join(parts + ["no"] * (2 - len(layers)))


def test_sample_is_uniform_over_the_options_of_a_decision(imagenet: Recording) -> None:
    rng = np.random.default_rng(0)
    counts: Counter[str] = Counter()
    for _ in range(400):
        sample(imagenet, rng)
        counts.update(imagenet.taken)
    expected = 400 * 22 / 9
    # Chi-squared with 8 degrees of freedom: 26.1 is exceeded once in a thousand.
    assert sum((counts[option] - expected) ** 2 / expected for option in OPTIONS) < 26.1


class Partial(ToySpace):
    """A toy space that prefers small kernels."""

    def chances(self, options: Sequence[str]) -> Sequence[float] | None:
        return (0.9, 0.1) if tuple(options) == KERNELS else None


def test_options_are_drawn_with_the_probabilities_of_the_space() -> None:
    space, rng = Partial(), np.random.default_rng(9)
    for draw in (sample, sample_spread):
        kernels = [option for _ in range(600) for _, option in draw(space, rng).decisions if option in KERNELS]
        assert 0.86 < kernels.count("k3") / len(kernels) < 0.94
    parent = space.parse("yes,k5,e1,yes,k5,e1")
    mutants = [space.mutate(parent, rng) for _ in range(300)]
    assert all(mutant != parent for mutant in mutants)


def test_mutation_changes_exactly_one_decision(imagenet: Recording) -> None:
    rng = np.random.default_rng(1)
    positions: Counter[int] = Counter()
    for _ in range(300):
        parent = sample(imagenet, rng)
        child = imagenet.mutate(parent, rng)
        pairs = list(zip(imagenet.taken, (option for _, option in parent.decisions), strict=True))
        changed = [i for i, (new, old) in enumerate(pairs) if new != old]
        assert len(changed) == 1
        assert child != parent
        positions.update(changed)
    assert len(positions) == 22


def test_mutation_of_nested_decisions_edits_one_layer() -> None:
    rng = np.random.default_rng(2)
    seen: dict[Architecture, set[Architecture]] = {}
    for parent in enumerate_architectures(TOY):
        for _ in range(60):
            child = TOY.mutate(parent, rng)
            assert child != parent
            before, after = layers_of(parent), layers_of(child)
            if len(before) == len(after):
                assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
            else:
                longer, shorter = sorted((before, after), key=len, reverse=True)
                assert len(longer) == len(shorter) + 1
                assert shorter in [[*longer[:i], *longer[i + 1 :]] for i in range(len(longer))]
            seen.setdefault(parent, set()).add(child)
    # Mutations connect the whole space.
    reached, frontier = set(), [TOY.parse("smallest")]
    while frontier:
        reached.add(here := frontier.pop())
        frontier += seen[here] - reached
    assert reached == set(seen)


def test_crossover_takes_every_option_from_a_parent(imagenet: Recording) -> None:
    rng = np.random.default_rng(3)
    from_mother = 0
    for _ in range(100):
        mother, father = sample(imagenet, rng), sample(imagenet, rng)
        imagenet.crossover(mother, father, rng)
        options = [[option for _, option in parent.decisions] for parent in (mother, father)]
        for taken, of_mother, of_father in zip(imagenet.taken, *options, strict=True):
            assert taken in (of_mother, of_father)
            from_mother += taken == of_mother != of_father
    assert 850 < from_mother < 1110  # of about 1955 options on which the parents differ


def test_crossover_of_equal_parents_is_the_parent(imagenet: Recording) -> None:
    rng = np.random.default_rng(4)
    for space in (imagenet, TOY):
        for _ in range(20):
            parent = sample(space, rng)
            assert space.crossover(parent, parent, rng) == parent


def test_crossover_of_nested_decisions_stays_in_the_space() -> None:
    rng = np.random.default_rng(5)
    everything = set(enumerate_architectures(TOY))
    for mother, father in itertools.product(sorted(everything, key=str), repeat=2):
        child = TOY.crossover(mother, father, rng)
        assert child in everything
        known = {option for parent in (mother, father) for _, option in parent.decisions}
        assert {option for _, option in child.decisions} <= known


def test_enumeration_yields_every_network_once() -> None:
    layers = [("k3",), *[("k5", expansion) for expansion in EXPANSIONS]]
    expected = {text_of(chosen) for length in range(3) for chosen in itertools.product(layers, repeat=length)}
    found = [architecture.text for architecture in enumerate_architectures(TOY)]
    assert len(expected) == 21
    assert len(found) == len(set(found)) and set(found) == expected


def test_enumeration_is_in_the_order_of_the_options() -> None:
    order = ["yes", "no", "k3", "k5", *EXPANSIONS]
    ranks = [
        [order.index(option) for _, option in architecture.decisions] for architecture in enumerate_architectures(TOY)
    ]
    assert ranks == sorted(ranks)


class Narrow(FBNetSpace):
    """The first nine FBNet layers, each there or left out; the rest is fixed."""

    def decide(self, choose: Choose) -> Architecture:
        names = [f"layer{i:02d}" for i in range(1, 23)]
        options = [choose(name, ("k3_e1", "skip")) for name in names[:9]]
        whole = self._canonical(options + ["k3_e1"] * 13)
        return Architecture(whole.space, whole.decisions[:9])


def test_enumeration_where_several_texts_are_one_network() -> None:
    space = Narrow((3, 32, 32), 10, "imagenet")
    every = {space.parse(",".join(options)) for options in itertools.product(("k3_e1", "skip"), repeat=9)}
    # Layer 1 and the first of each stage of four are there or not; of the other three, up to three are.
    assert len(every) == 2 * (2 * 4) * (2 * 4)
    found = list(enumerate_architectures(space))
    assert len(found) == len(every) and set(found) == every


def test_spread_samples_reach_further(imagenet: Recording) -> None:
    ranges = []
    for draw in (sample, sample_spread):
        rng = np.random.default_rng(6)
        macs = np.log([imagenet.macs(draw(imagenet, rng)) for _ in range(200)])
        ranges.append(np.percentile(macs, 95) - np.percentile(macs, 5))
    assert ranges[1] > 2 * ranges[0]


def test_replay_takes_the_decisions_again(imagenet: Recording) -> None:
    rng = np.random.default_rng(7)
    for space in (imagenet, TOY):
        for _ in range(20):
            architecture = sample(space, rng)
            assert replay(space, dict(architecture.decisions)) == architecture


def test_replay_wants_all_decisions() -> None:
    with pytest.raises(KeyError):
        replay(TOY, {"use1": "yes"})


DRAWS = """
import numpy as np
from search_spaces.fbnet import FBNetSpace
from search_spaces.space import sample, sample_spread
space, rng, found = FBNetSpace((3, 32, 32), 10), np.random.default_rng(8), []
for _ in range(5):
    one, other = sample(space, rng), sample_spread(space, rng)
    found += [one, other, space.mutate(one, rng), space.crossover(one, other, rng)]
"""


def test_same_seed_same_draws_in_another_process() -> None:
    here: dict[str, list[Architecture]] = {}
    exec(DRAWS, here)
    again: dict[str, list[Architecture]] = {}
    exec(DRAWS, again)
    assert here["found"] == again["found"]
    command = [sys.executable, "-c", DRAWS + "print(*(a.text for a in found), sep='\\n')"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "1"}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert output.split() == [a.text for a in here["found"]]
