"""The search space of einspace."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
from torch import nn

from search_spaces.architecture import Architecture
from search_spaces.block import Block, Shape, shape_text
from search_spaces.einspace.canonical import Steps, derived, followed, ordered, steps, without_implied
from search_spaces.einspace.derivation import Module, tokens
from search_spaces.einspace.derive import Derivation, Limits
from search_spaces.einspace.describe import drawing, numbers
from search_spaces.einspace.grammar import (
    AGGREGATIONS,
    BRANCHINGS,
    COMPUTATIONS,
    KINDS,
    POST_ROUTINGS,
    PRE_ROUTINGS,
    rule_chances,
)
from search_spaces.einspace.network import WiredNetwork, Wiring, edges_of, lowered
from search_spaces.einspace.place import NotDerivable, Whole
from search_spaces.einspace.seeds import mlp_mixer, residual_family, resnet18, vit, wrn16_4
from search_spaces.einspace.signal import Signal
from search_spaces.einspace.variation import crossover, mutate, tree_of
from search_spaces.space import Choose, Graph, SearchSpace

# Room for all networks that the authors start from, at 64 px.
MACS_PER_PIXEL, ELEMENTS_PER_PIXEL = 750_000, 600
FEWEST_PIXELS = 32 * 32
MAX_PARAMS = 12_000_000
MAX_FUNCTIONS, MAX_DEPTH = 160, 6

_CALLED = {
    "m": "a module",
    "c": "a computation",
    "p": "what a route begins with",
    "r": "what a route ends with",
    "b": "a branching function",
    "a": "an aggregation function",
}
"""What decisions are about, by the letters that ``Derivation`` gives them."""


def limits_for(shape: Shape, classes: int) -> Limits:
    """Return the limits for images of ``shape``."""
    channels, height, width = shape
    pixels = max(height * width, FEWEST_PIXELS)
    return Limits(
        macs=MACS_PER_PIXEL * pixels,
        params=MAX_PARAMS + max(2048, channels) * classes,
        elements=max(ELEMENTS_PER_PIXEL, channels) * pixels,
        functions=MAX_FUNCTIONS,
        depth=MAX_DEPTH,
    )


class EinSpace(SearchSpace):
    """The space for images of ``input_shape``, of any size; ``limits`` are those of every network.

    A decision is a rule or a function of the grammar at a place in the derivation tree. Weights of a positional
    encoding count as parameters, and products of matrices as multiply-accumulates.
    """

    name = "einspace"
    endless = True
    searchable = 3 * limits_for((3, 64, 64), 10).modules  # a module and what stands beside it are three at most
    fragile = True
    words = frozenset((*KINDS, *COMPUTATIONS, *PRE_ROUTINGS, *POST_ROUTINGS, *BRANCHINGS, *AGGREGATIONS))
    tournament = 10  # [Ericsson2024], section 4

    def __init__(
        self, input_shape: Shape, classes: int, macro: str | None = None, limits: Limits | None = None
    ) -> None:
        super().__init__(input_shape, classes)
        self.limits = limits or limits_for(input_shape, classes)
        self._image = Signal(input_shape)

    @classmethod
    def default_shape(cls, macro: str | None = None) -> Shape:
        """Return the input shape (C, H, W) at which the paper counts parameters."""
        return 3, 64, 64

    def decide(self, choose: Choose) -> Architecture:
        """Derive the network from the start symbol, rule by rule, and return its canonical derivation."""
        taken: list[tuple[str, str]] = []

        def recorded(name: str, options: Sequence[str]) -> str:
            option = choose(name, options)
            taken.append((name, option))
            return option

        place = Whole(self.classes)
        try:
            return self._decided(Derivation(self._image, place, self.limits, recorded).tree(), place, taken)
        finally:
            place.forget()

    def _decided(self, tree: Module, place: Whole, taken: list[tuple[str, str]]) -> Architecture:
        for canonical in self._canonical(tree, place):
            if canonical == tree:
                return Architecture(self.name, tuple(taken))
            try:
                return self._written(canonical, place)
            except NotDerivable:
                continue
        raise AssertionError("a network that was derived has no canonical derivation")

    def _canonical(self, tree: Module, place: Whole) -> Iterator[Module]:
        """Yield derivations of the network of ``tree``, the canonical one first.

        The others are for the few networks with branches of which the second is not known to fit the first in the
        canonical order, or that cannot do without what is implied.
        """
        network = steps(tree)
        whole, _ = followed(network, self._image, place)
        in_order, _ = ordered(whole, self._image)
        for found in (in_order, whole) if in_order != whole else (whole,):
            try:
                shortest, _ = without_implied(found, self._image, place)
            except NotDerivable:
                continue
            yield derived(shortest)
        yield derived(network)

    def _written(self, tree: Module, place: Whole) -> Architecture:
        """Return the decisions that derive ``tree``.

        Raises:
            NotDerivable: there are none.
        """
        written = tokens(tree)
        taken: list[tuple[str, str]] = []

        def choose(name: str, options: Sequence[str]) -> str:
            option = next(written)
            if option not in options:
                raise NotDerivable(f"{option} at {name}")
            taken.append((name, option))
            return option

        Derivation(self._image, place, self.limits, choose).tree()
        return Architecture(self.name, tuple(taken))

    def chances(self, options: Sequence[str]) -> Sequence[float] | None:
        """Return the grammar's probabilities of rules; functions are equally probable."""
        return rule_chances(options) if options[-1] in KINDS else None

    def mutate(self, parent: Architecture, rng: np.random.Generator) -> Architecture:
        """Change one rule or function of the derivation tree."""
        return mutate(self, parent, rng)

    def crossover(self, mother: Architecture, father: Architecture, rng: np.random.Generator) -> Architecture:
        """Put one of the father's modules in the place of one of the mother's."""
        return crossover(self, mother, father, rng)

    def tree(self, architecture: Architecture) -> Module:
        """Return the derivation tree."""
        return tree_of(architecture)

    def _steps(self, architecture: Architecture) -> Steps:
        """Return what the network does, with all that is implied."""
        whole, _ = followed(steps(self.tree(architecture)), self._image, Whole(self.classes))
        return whole

    def _wiring(self, architecture: Architecture) -> Wiring:
        return lowered(self._steps(architecture), self._image, self.classes)

    def blocks(self, architecture: Architecture) -> list[Block]:
        """Lower to blocks, each branch's one after another, then the block that joins them.

        What branches compute alike is there once.
        """
        return [node.block for node in self._wiring(architecture)]

    def positions(self) -> list[list[Block]]:
        """Return none: networks have no fixed positions."""
        return []

    def distinct_blocks(self) -> list[Block]:
        """Return the blocks of the known networks, each once: there is no end of others."""
        known = [*self.named().values(), *self.baseline_family()]
        return list({block.key: block for architecture in known for block in self.blocks(architecture)}.values())

    def descriptors(self, architecture: Architecture) -> list[float]:
        """Return how often each function is there, and where; see ``describe.numbers``."""
        return numbers(self._steps(architecture), self._image)

    def graph(self, architecture: Architecture) -> Graph:
        """Return the network as a graph: the image and its blocks."""
        return edges_of(self._wiring(architecture))

    def drawing(self, architecture: Architecture) -> list[str]:
        """Return the network as a tree, line by line."""
        return drawing(self._steps(architecture), self._image)

    def wire(self, architecture: Architecture, layers: Iterable[nn.Module]) -> nn.Module:
        """Return the network whose branches run ``layers``."""
        return WiredNetwork(layers, self._wiring(architecture))

    def baseline_family(self) -> list[Architecture]:
        """Return residual networks of growing width and depth, those that keep the limits."""
        return list(self._derivable(residual_family(self.input_shape)))

    def named(self) -> dict[str, Architecture]:
        """Return the networks that the authors start searches from, those that keep the limits."""
        return {name: found for name, found in self._known.items() if found}

    def named_elsewhere(self) -> dict[str, str]:
        """Return those of them that this input does not let derive."""
        shape = shape_text(self.input_shape)
        return {name: f"does not fit images of {shape}" for name, found in self._known.items() if not found}

    def called(self, decision: str) -> str:
        """Return what a decision is about: its name says where in the tree it is."""
        return _CALLED[decision.rpartition(".")[2][0]]

    @cached_property
    def _known(self) -> dict[str, Architecture | None]:
        known = {"resnet18": resnet18(), "wrn16_4": wrn16_4(), "vit": vit(), "mlp_mixer": mlp_mixer(self.input_shape)}
        return {name: next(self._derivable([tree]), None) for name, tree in known.items()}

    def _derivable(self, trees: Iterable[Module]) -> Iterator[Architecture]:
        for tree in trees:
            try:
                yield self.canonical_of(tree)
            except NotDerivable:
                continue

    def canonical_of(self, tree: Module) -> Architecture:
        """Return the architecture of a derivation tree.

        Raises:
            NotDerivable: it is none of this space.
        """
        return self.parse(self._written(tree, Whole(self.classes)).text)
