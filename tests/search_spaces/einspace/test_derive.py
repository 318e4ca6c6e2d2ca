"""Derivations: valid by construction, within the limits, in the grammar's proportions."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from search_spaces.einspace.canonical import followed, steps, without_implied
from search_spaces.einspace.derivation import Module, tokens
from search_spaces.einspace.derive import Derivation, Limits
from search_spaces.einspace.describe import walk
from search_spaces.einspace.grammar import KINDS, OP
from search_spaces.einspace.place import Whole
from search_spaces.einspace.signal import Signal
from search_spaces.einspace.space import EinSpace, limits_for
from search_spaces.space import pick

IMAGE, CLASSES = Signal((3, 32, 32)), 10
WIDE = limits_for(IMAGE.shape, CLASSES)
SPACE = EinSpace(IMAGE.shape, CLASSES)


def derive(limits: Limits, rng: np.random.Generator, seen: list[tuple[str, tuple[str, ...], str]]) -> Module:
    def choose(name: str, options: Sequence[str]) -> str:
        option = pick(SPACE, options, rng)
        seen.append((name, tuple(options), option))
        return option

    return Derivation(IMAGE, Whole(CLASSES), limits, choose).tree()


def test_rules_come_in_the_published_proportions() -> None:
    rng = np.random.default_rng(0)
    seen: list[tuple[str, tuple[str, ...], str]] = []
    for _ in range(150):
        derive(WIDE, rng, seen)
    chosen = [option for _, options, option in seen if options == KINDS]
    counts = Counter(chosen)
    assert len(chosen) > 0.7 * sum(options[-1] in KINDS for _, options, _ in seen)  # limits leave few out
    expected = {kind: len(chosen) * (0.32 if kind == OP else 0.68 / 3) for kind in KINDS}
    # Chi-squared with 3 degrees of freedom: 16.3 is exceeded once in a thousand.
    assert sum((counts[kind] - expected[kind]) ** 2 / expected[kind] for kind in KINDS) < 16.3


def test_one_name_has_one_list_of_options() -> None:
    rng = np.random.default_rng(1)
    seen: list[tuple[str, tuple[str, ...], str]] = []
    for _ in range(60):
        derive(WIDE, rng, seen)
    lists: dict[str, tuple[str, ...]] = {}
    for name, options, _ in seen:
        assert lists.setdefault(name, options) == options


def test_the_first_option_is_to_do_nothing() -> None:
    """Whoever asks for no more ends: below the root all rules are computations, and those identities."""
    tree = Derivation(IMAGE, Whole(CLASSES), WIDE, lambda name, options: options[0]).tree()
    assert list(tokens(tree)) == ["seq", "op", "identity", "op", "identity"]


@pytest.mark.parametrize(
    "change",
    [
        {"macs": 400_000}, {"params": 3000}, {"elements": 5000}, {"functions": 7}, {"depth": 1}, {"depth": 0},
        {"macs": 2_000_000, "params": 30_000, "elements": 20_000, "functions": 25, "depth": 2},
    ],
    ids=str,
)  # fmt: skip
def test_limits_hold_and_are_used(change: dict[str, int]) -> None:
    limits = dataclasses.replace(WIDE, **change)
    space = EinSpace(IMAGE.shape, CLASSES, limits=limits)
    rng = np.random.default_rng(2)
    most: Counter[str] = Counter()
    for _ in range(80):
        tree = derive(limits, rng, [])
        whole, _ = followed(steps(tree), IMAGE, Whole(CLASSES))
        architecture = space.canonical_of(tree)
        names = list(tokens(tree))
        found = {
            "macs": space.macs(architecture),
            "params": space.params(architecture),
            "elements": max(signal.size for _, _, signal in walk(whole, IMAGE)),
            "functions": 1 + sum(copies for name, copies, _ in walk(whole, IMAGE) if _counts(name)),
            "depth": _depth(tree),
        }
        assert sum(name in KINDS for name in names) <= limits.modules
        for name, value in found.items():
            assert value <= getattr(limits, name), name
            most[name] = max(most[name], value)
    for name in change:
        assert most[name] > 0.5 * change[name] or change[name] == 0


def _counts(name: str) -> bool:
    return name != "identity" and not name.startswith(("clone", "group"))


def _depth(module: Module) -> int:
    parts = [part for part in vars(module).values() if not isinstance(part, str)]
    inner = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
    return (type(module).__name__ == "Branch") + max(map(_depth, inner), default=0)


class Rebel:
    """Takes what makes derivations long, until nothing but the end is on offer."""

    def __init__(self, favourites: Sequence[str]) -> None:
        self._favourites = favourites

    def __call__(self, name: str, options: Sequence[str]) -> str:
        return next((option for option in self._favourites if option in options), options[-1])


@pytest.mark.parametrize("favourites", [["seq"], ["route", "identity"], ["branch"], ["branch", "clone8"]], ids=str)
def test_derivations_end_whatever_is_chosen(favourites: list[str]) -> None:
    limits = dataclasses.replace(WIDE, functions=40)
    tree = Derivation(IMAGE, Whole(CLASSES), limits, Rebel(favourites)).tree()
    assert sum(name in KINDS for name in tokens(tree)) <= limits.modules
    whole, _ = followed(steps(tree), IMAGE, Whole(CLASSES))
    network, _ = without_implied(whole, IMAGE, Whole(CLASSES))
    assert followed(network, IMAGE, Whole(CLASSES))[0] == whole
