"""The search space: one method that takes decisions, and everything that follows from it."""

from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np
from torch import nn

from search_spaces.architecture import Architecture
from search_spaces.block import Block, Network, Shape
from search_spaces.chain import Position
from search_spaces.errors import InputError, unknown
from search_spaces.grid import Grid

# A derivation may have a thousand characters, of which the ends tell which one it is.
_SHOWN = 60
Graph = tuple[Sequence[str], Sequence[tuple[int, int]]]
"""The labels of nodes, and edges from one node's number to that of a node that it feeds."""
Choose = Callable[[str, Sequence[str]], str]
"""Take the decision ``name`` among ``options`` and return one of them."""


def ask(choose: Choose, name: str, options: Sequence[str]) -> str:
    """Take a decision, unless there is nothing to decide."""
    return choose(name, options) if len(options) > 1 else options[0]


class SearchSpace(ABC):
    """A set of networks for one input shape and number of classes, written as a define-by-run program.

    ``decide`` is all that sampling, replay, mutation, crossover and enumeration need: they differ only in
    the ``choose`` that they pass, as Optuna's ``trial.suggest_categorical`` does.
    """

    name: str
    searchable: int
    """Number of decisions of a network, or the most where they depend on each other."""
    endless = False
    """Whether there is no end of blocks, so that no table can hold them all; networks have no positions then."""
    fragile = False
    """Whether some networks let no image through to the scores: what is to be trained is tried before."""
    words: frozenset[str] = frozenset()
    """All options that there are, where what is on offer depends on what fits."""
    tournament: int | None = None
    """Entrants of a tournament, won by accuracy alone, in the evolution that was published for the space."""

    def __init__(self, input_shape: Shape, classes: int, macro: str | None = None) -> None:
        self.input_shape = input_shape
        self.classes = classes

    @classmethod
    def macros(cls) -> Sequence[str | None]:
        """Return the names of the macro-architectures; None stands for the only one."""
        return [None]

    @classmethod
    def default_shape(cls, macro: str | None = None) -> Shape:
        """Return the input shape (C, H, W) at which a macro-architecture is shown."""
        return 3, 32, 32

    @classmethod
    def home_of(cls, text: str) -> str | None:
        """Return the macro-architecture that a named architecture or an architecture's text belongs to."""
        return None

    @abstractmethod
    def decide(self, choose: Choose) -> Architecture:
        """Take every decision through ``choose`` and return the canonical architecture."""

    @abstractmethod
    def blocks(self, architecture: Architecture) -> list[Block]:
        """Lower the architecture to its blocks, from the image to the class scores."""

    @abstractmethod
    def positions(self) -> list[list[Block]]:
        """Return the blocks that may stand at each position of a network, one where nothing is searched.

        None at all where networks have no positions in common.
        """

    def chain(self) -> list[Position] | None:
        """Return the positions of a network whose blocks follow one another, None where they do not."""
        return None

    def distinct_blocks(self) -> list[Block]:
        """Return every block that some architecture uses, each once: the rows of a latency table.

        Where there is no end of them, those that are used most.
        """
        return list({block.key: block for row in self.positions() for block in row}.values())

    def chances(self, options: Sequence[str]) -> Sequence[float] | None:
        """Return the probability of each of a decision's options, None where they are equally probable."""
        return None

    def mutate(self, parent: Architecture, rng: np.random.Generator) -> Architecture:
        """Change one decision of ``parent``; decisions that then no longer apply are drawn anew."""
        recorded = dict(parent.decisions)
        changed = list(recorded)[int(rng.integers(len(recorded)))]

        def choose(name: str, options: Sequence[str]) -> str:
            others = [option for option in options if option != recorded.get(name)]
            if name == changed and others:
                return pick(self, others, rng)
            if recorded.get(name) in options:
                return recorded[name]
            return pick(self, options, rng)

        return self.decide(choose)

    def crossover(self, mother: Architecture, father: Architecture, rng: np.random.Generator) -> Architecture:
        """Take each decision from one of two parents (uniform crossover)."""
        parents = (dict(mother.decisions), dict(father.decisions))

        def choose(name: str, options: Sequence[str]) -> str:
            first = int(rng.integers(2))
            for parent in (parents[first], parents[1 - first]):
                if parent.get(name) in options:
                    return parent[name]
            return pick(self, options, rng)

        return self.decide(choose)

    @abstractmethod
    def descriptors(self, architecture: Architecture) -> list[float]:
        """Describe the decisions by numbers, as many for every architecture (for predictors)."""

    def graph(self, architecture: Architecture) -> Graph:
        """Return the network as a graph of its blocks: a chain, unless a space connects them otherwise."""
        labels = [block.spec for block in self.blocks(architecture) if not block.free]
        return labels, list(pairwise(range(len(labels))))

    def drawing(self, architecture: Architecture) -> list[str]:
        """Return the lines of a drawing of the network, none where the list of its blocks shows all."""
        return []

    def grid(self) -> Grid | None:
        """Return the space as rows of option numbers, None where decisions depend on each other."""
        return None

    @abstractmethod
    def baseline_family(self) -> list[Architecture]:
        """Return the hand-made family: what an engineer would scale by hand, without any search."""

    @abstractmethod
    def named(self) -> dict[str, Architecture]:
        """Return the published or otherwise known architectures of this space by name."""

    def named_elsewhere(self) -> dict[str, str]:
        """Return why named architectures of the family are not ``named`` here, by name, to follow the name."""
        return {}

    def called(self, decision: str) -> str:
        """Return what a decision is called where people are told of it."""
        return decision

    def build(self, architecture: Architecture) -> nn.Module:
        """Return the freshly initialised network: images (NCHW) to class scores (N, classes)."""
        return self.wire(architecture, (block.build() for block in self.blocks(architecture)))

    def wire(self, architecture: Architecture, layers: Iterable[nn.Module]) -> nn.Module:
        """Return the network that runs ``layers``, the modules of its blocks in their order.

        The names of its parameters start with ``layers.<position>.``.
        """
        return Network(layers)

    def macs(self, architecture: Architecture) -> int:
        """Return the multiply-accumulates at batch 1."""
        return sum(block.macs for block in self.blocks(architecture))

    def params(self, architecture: Architecture) -> int:
        """Return the number of convolution and linear weights."""
        return sum(block.params for block in self.blocks(architecture))

    def parse(self, text: str) -> Architecture:
        """Return the architecture of a name or of ``Architecture.text`` (the ``space:`` part may be left out).

        Raises:
            InputError: another space's text, an unknown option, too few or too many of them.
        """
        return replay(self, dict(self.as_written(text).decisions))

    def as_written(self, text: str) -> Architecture:
        """Return the decisions of a text as they stand there, not in canonical form.

        What somebody else timed ran as it was written, perhaps with parts that canonical networks do without.

        Raises:
            InputError: another space's text, an unknown option, too few or too many of them.
        """
        if not {":", ","} & set(text):
            if text in (named := self.named()):
                return named[text]
            if text in (elsewhere := self.named_elsewhere()):
                raise InputError(f"architecture {text!r} {elsewhere[text]}")
        of, _, listed = text.rpartition(":")
        if of and of != self.name:
            raise InputError(f"architecture {_short(text)!r} belongs to the space {of!r}, not to {self.name!r}")
        options = listed.split(",")
        taken: list[tuple[str, str]] = []

        def choose(name: str, offered: Sequence[str]) -> str:
            if len(options) == 1 and options[0] not in offered and options[0] not in self.words:
                raise _unknown(self, text)
            if len(taken) == len(options):
                raise InputError(f"architecture {_short(text)!r} ends early: {self.called(name)} is missing behind it")
            option = options[len(taken)]
            if option not in offered:
                place = f"option {len(taken) + 1}, {self.called(name)}:"
                if option in self.words:
                    raise InputError(f"{place} {option!r} does not fit there; what does: {', '.join(offered)}")
                raise unknown(place, option, offered)
            taken.append((name, option))
            return option

        self.decide(choose)
        if len(taken) < len(options):
            raise InputError(f"architecture {_short(text)!r} has {len(options)} options, {len(taken)} make a network")
        return Architecture(self.name, tuple(taken))

    def as_recorded(self) -> "SearchSpace":
        """Return the space whose architectures are what tables of others list: networks as they are written."""
        return self

    def canonical(self, architecture: Architecture) -> Architecture:
        """Return the canonical architecture of an equal network: in all but a recorded space, the same."""
        return architecture

    def pruned(self, architecture: Architecture) -> Architecture:
        """Return an architecture that is as written without the parts whose result nothing uses.

        Compiled graphs run no more than that, frameworks that run eagerly do.
        """
        return architecture


def _unknown(space: SearchSpace, text: str) -> InputError:
    names = [*space.named(), *space.named_elsewhere()]
    if names:
        return unknown(f"architecture of {space.name}:", text, names)
    return InputError(f"unknown architecture of {space.name}: {text!r}; none has a name: give an architecture's text")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}...{text[-_SHOWN // 2 :]}"


def pick(space: SearchSpace, options: Sequence[str], rng: np.random.Generator) -> str:
    """Draw one of a decision's options with the space's probabilities."""
    chances = space.chances(options)
    if chances is None:
        return options[int(rng.integers(len(options)))]
    ends = list(accumulate(chances))
    return options[bisect(ends[:-1], rng.random() * ends[-1])]


def sample(space: SearchSpace, rng: np.random.Generator) -> Architecture:
    """Draw every decision with the space's probabilities."""
    return space.decide(lambda _, options: pick(space, options, rng))


def sample_spread(space: SearchSpace, rng: np.random.Generator) -> Architecture:
    """Draw an architecture that leans towards one option by a random degree.

    Uniform draws are all much alike, in size and in latency; leaning draws reach both ends of the space. Decisions
    for whose options a space has probabilities are drawn with them.
    """
    lean = rng.random()
    favourites: dict[tuple[str, ...], str] = {}

    def choose(_: str, options: Sequence[str]) -> str:
        if space.chances(options) is not None:
            return pick(space, options, rng)
        favourite = favourites.setdefault(tuple(options), pick(space, options, rng))
        return favourite if rng.random() < lean else pick(space, options, rng)

    return space.decide(choose)


def replay(space: SearchSpace, decisions: dict[str, str]) -> Architecture:
    """Take the recorded ``decisions`` again."""
    return space.decide(lambda name, _: decisions[name])


def enumerate_architectures(space: SearchSpace) -> Iterator[Architecture]:
    """Yield every distinct architecture once, in lexicographic order of the options."""
    path: list[int] = []
    while True:
        counts: list[int] = []
        raw: list[tuple[str, str]] = []

        def choose(
            name: str,
            options: Sequence[str],
            counts: list[int] = counts,
            raw: list[tuple[str, str]] = raw,
        ) -> str:
            if len(counts) == len(path):
                path.append(0)
            option = options[path[len(counts)]]
            counts.append(len(options))
            raw.append((name, option))
            return option

        architecture = space.decide(choose)
        # Of the decisions that lead to equal networks only the canonical ones are kept.
        if architecture.decisions == tuple(raw):
            yield architecture
        while path and path[-1] + 1 == counts[len(path) - 1]:
            path.pop()
        if not path:
            return
        path[-1] += 1
