"""Where modules follow one another, and what must follow them there: the conditions that keep derivations valid."""

from abc import ABC, abstractmethod
from typing import Any

from search_spaces.einspace.bridge import Bridge, bridge, partner
from search_spaces.einspace.grammar import factor
from search_spaces.einspace.signal import Signal, Work, join_work, joined


class NotDerivable(Exception):
    """A derivation tree is none of the space: it breaks a limit, or something does not fit."""


class Place(ABC):
    """Where modules follow one another: the network itself, or a branch of it. What it has found out it remembers.

    Attributes:
        copies: how many times what stands here is built.
        depth: how many branchings are around it.
    """

    def __init__(self, copies: int, depth: int, branches: dict[Any, Any]) -> None:
        self.copies = copies
        self.depth = depth
        self._branches = branches
        self._known: dict[Signal, Work | None] = {}

    def first(self, aggregation: str, branching: str, source: Signal) -> "Place":
        """Return the first branch of a branching here, or the one that stands for all; it begins with ``source``."""
        number = factor(branching)
        key = id(self), aggregation, number, source
        if key not in self._branches:
            copied = number > 2
            self._branches[key] = Copied(self, aggregation, number) if copied else First(self, aggregation, source)
        found: Place = self._branches[key]
        return found

    def second(self, aggregation: str, first: Signal) -> "Second":
        """Return the second branch of a branching here; the first one has come out as ``first``."""
        key = id(self), aggregation, first
        if key not in self._branches:
            self._branches[key] = Second(self, aggregation, first)
        found: Second = self._branches[key]
        return found

    def rest(self, signal: Signal) -> Work | None:
        """Return the work of all that follows if the modules here end with ``signal``, None where it cannot fit.

        What follows does no more than it must: branches to come are no more than what they need to fit.
        """
        if signal not in self._known:
            self._known[signal] = self._rest(signal)
        return self._known[signal]

    @abstractmethod
    def _rest(self, signal: Signal) -> Work | None:
        """Work it out."""


class Whole(Place):
    """The network itself, which the classifier follows."""

    def __init__(self, classes: int) -> None:
        super().__init__(copies=1, depth=0, branches={})
        self._classes = classes

    def forget(self) -> None:
        """Let go of the branches that are remembered: they hold on to the whole, and it to them."""
        self._branches.clear()

    def _rest(self, signal: Signal) -> Work:
        features = signal.shape[2] if signal.grid else signal.shape[0]
        return Work(features * self._classes + signal.size, features * self._classes, signal.size, 1)


class Inner(Place):
    """A branch; ``outer`` is where the branching stands."""

    def __init__(self, outer: Place, aggregation: str, copies: int) -> None:
        super().__init__(outer.copies * copies, outer.depth + 1, outer._branches)
        self._outer = outer
        self._aggregation = aggregation

    def _joined(self, signals: tuple[Signal, ...]) -> Work | None:
        """Return the work of joining the branches and of what follows."""
        result = joined(self._aggregation, signals)
        rest = self._outer.rest(result) if result else None
        if result is None or rest is None:
            return None
        return rest + join_work(self._aggregation, signals, result).times(self._outer.copies)


class Copied(Inner):
    """One of several equal branches."""

    def __init__(self, outer: Place, aggregation: str, copies: int) -> None:
        super().__init__(outer, aggregation, copies)
        self._number = copies

    def _rest(self, signal: Signal) -> Work | None:
        return self._joined((signal,) * self._number)


class First(Inner):
    """The first of two branches; the second one begins with ``source``."""

    def __init__(self, outer: Place, aggregation: str, source: Signal) -> None:
        super().__init__(outer, aggregation, copies=1)
        self._source = source

    def _rest(self, signal: Signal) -> Work | None:
        return self._outer.second(self._aggregation, signal).rest(self._source)


class Second(Inner):
    """The second of two branches; the first one has come out as ``first``."""

    def __init__(self, outer: Place, aggregation: str, first: Signal) -> None:
        super().__init__(outer, aggregation, copies=1)
        self._first = first
        self._wanted = partner(aggregation, first)
        self._ways: dict[Signal, tuple[Bridge, Work] | None] = {}

    def way(self, signal: Signal) -> Bridge | None:
        """Return what is implied where the modules here end with ``signal``: the way to what fits, None for none.

        A dimension of which any size fits keeps its own, unless that does not fit what follows.
        """
        found = self._way(signal)
        return found[0] if found else None

    def _way(self, signal: Signal) -> tuple[Bridge, Work] | None:
        """Return the way, and the work behind it."""
        if signal not in self._ways:
            self._ways[signal] = self._find(signal)
        return self._ways[signal]

    def _find(self, signal: Signal) -> tuple[Bridge, Work] | None:
        for wanted in self._wanted.alternatives() if self._wanted else ():
            way = bridge(signal, wanted)
            rest = self._joined((self._first, way.signal)) if way else None
            if way and rest:
                return way, rest
        return None

    def _rest(self, signal: Signal) -> Work | None:
        found = self._way(signal)
        return found[1] + found[0].work.times(self.copies) if found else None
