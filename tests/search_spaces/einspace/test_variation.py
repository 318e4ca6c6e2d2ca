"""Mutation and crossover: valid children, one change at a time, in copied branches too."""

from collections import Counter

import numpy as np
import pytest

from search_spaces.architecture import Architecture
from search_spaces.einspace.derivation import Branch, Module, Op, Route, Seq, tokens
from search_spaces.einspace.derive import Derivation
from search_spaces.einspace.place import Whole
from search_spaces.einspace.seeds import convolution
from search_spaces.einspace.signal import Signal
from search_spaces.einspace.space import EinSpace
from search_spaces.einspace.variation import Guide, crossover, mutate, replaced, subtrees
from search_spaces.space import pick, sample

SPACE = EinSpace((3, 16, 16), 10)
A, B, C = Op("norm"), Op("linear16"), Op("relu")
TREE = Seq(Branch("clone4", "add", (Seq(A, B),)), Route("permute231", C, "identity"))


def parents(count: int, seed: int) -> list[Architecture]:
    rng = np.random.default_rng(seed)
    return [sample(SPACE, rng) for _ in range(count)]


def test_subtrees_are_replaced_by_hand() -> None:
    assert list(subtrees(TREE)) == [TREE, TREE.first, Seq(A, B), A, B, TREE.second, C]
    assert replaced(TREE, 4, C) == Seq(Branch("clone4", "add", (Seq(A, C),)), TREE.second)
    assert replaced(TREE, 6, A) == Seq(TREE.first, Route("permute231", A, "identity"))
    assert replaced(TREE, 0, A) == A
    with pytest.raises(ValueError, match="no module"):
        replaced(A, 1, B)


def test_every_module_can_be_replaced_by_itself() -> None:
    for parent in parents(20, 0):
        tree = SPACE.tree(parent)
        for number, part in enumerate(subtrees(tree)):
            assert replaced(tree, number, part) == tree


def refuse(options: object) -> str:
    raise AssertionError(f"drawn among {options}")


def test_a_guide_along_a_network_of_the_space_draws_nothing() -> None:
    for parent in parents(30, 1):
        assert SPACE.decide(Guide(SPACE.tree(parent), refuse)) == parent


@pytest.mark.parametrize("vary", ["mutation", "crossover"])
def test_children_are_networks_of_the_space(vary: str) -> None:
    rng = np.random.default_rng(2)
    population = parents(40, 3)
    for parent in population:
        child = mutate(SPACE, parent, rng) if vary == "mutation" else crossover(SPACE, parent, population[0], rng)
        assert SPACE.parse(child.text) == child
        assert SPACE.macs(child) <= SPACE.limits.macs


def test_a_mutant_is_another_network() -> None:
    rng = np.random.default_rng(4)
    for parent in parents(40, 5):
        assert mutate(SPACE, parent, rng) != parent


def test_a_changed_function_leaves_the_rest_as_it_is() -> None:
    """Of a network in which everything fits everywhere, one token in the derived tree changes, not more."""
    tree: Module = Seq(A, Seq(C, Seq(A, C)))
    rng = np.random.default_rng(6)
    written = list(tokens(tree))
    for number in range(2, len(written)):
        if written[number] in ("op", "seq"):
            continue
        taken: list[str] = []
        guide = Guide(tree, lambda options: str(rng.choice(["norm", "relu", "positions"])), number)

        def choose(name: str, options: object, guide: Guide = guide, taken: list[str] = taken) -> str:
            taken.append(guide(name, options))  # type: ignore[arg-type]
            return taken[-1]

        Derivation(Signal(SPACE.input_shape), Whole(10), SPACE.limits, choose).tree()
        assert [i for i, (new, old) in enumerate(zip(taken, written, strict=True)) if new != old] in ([number], [])


def test_copied_branches_are_mutated_inside() -> None:
    """The authors' code changes the last copy alone, and loses changes that begin in another one."""
    parent = SPACE.canonical_of(Seq(Branch("clone4", "concat4_d1", (convolution(3, 1, 16),)), A))
    rng = np.random.default_rng(7)
    changed = Counter[str]()
    for _ in range(200):
        child = SPACE.tree(mutate(SPACE, parent, rng))
        if isinstance(child, Seq) and isinstance(child.first, Branch) and child.first.branching == "clone4":
            inner = child.first.inners[0]
            changed["inside"] += inner != convolution(3, 1, 16)
            blocks = SPACE.blocks(SPACE.canonical_of(child))
            if child.second == A:
                assert sum(block.spec.startswith("conv_bias_k3") for block in blocks) % 4 == 0
    assert changed["inside"] > 30


def test_a_mutant_of_a_branching_with_other_branches_keeps_the_first() -> None:
    tree = Seq(Branch("clone4", "add", (convolution(3, 1, 16),)), A)
    guide = Guide(tree, lambda options: "clone2" if "clone2" in options else options[0], 2)
    child = SPACE.decide(guide)
    changed = SPACE.tree(child)
    assert isinstance(changed, Seq) and isinstance(changed.first, Branch)
    assert (changed.first.branching, changed.first.aggregation, len(changed.first.inners)) == ("clone2", "add", 2)
    assert [block.spec for block in SPACE.blocks(child)].count("conv_bias_k3_s1_p1_o16") == 1


def test_crossover_brings_modules_of_the_father() -> None:
    mother = SPACE.canonical_of(Seq(A, Seq(A, Seq(A, A))))
    father = SPACE.canonical_of(Seq(convolution(3, 2, 64), C))
    rng = np.random.default_rng(8)
    children = [crossover(SPACE, mother, father, rng) for _ in range(60)]
    assert sum("im2col_k3s2" in child.text and "norm" in child.text for child in children) > 8


def test_variation_is_reproducible() -> None:
    one, other = parents(2, 9)
    found = []
    for _ in range(2):
        rng = np.random.default_rng(10)
        found.append([(mutate(SPACE, one, rng), crossover(SPACE, one, other, rng)) for _ in range(5)])
    assert found[0] == found[1]
    assert pick(SPACE, ("op",), np.random.default_rng(0)) == "op"
