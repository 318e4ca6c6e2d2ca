"""Deriving networks: every choice is offered only where the rest of the derivation can still be completed.

A module may always do nothing: it is a computation, the identity. What is left to check is whether the signal that a
function makes could be the last word of its branch: whether another branch can come out to fit it (``bridge``), and
whether that keeps the limits. What is needed to fit is implied, not chosen: it ends a second branch that does not fit
as it is. Derivations are therefore valid by construction, nothing is rejected or tried again, and the condition on a
function depends on the functions before it alone, not on how modules are nested around them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from search_spaces.einspace.bridge import bridge, partner
from search_spaces.einspace.derivation import Branch, Module, Op, Route, Seq, branches
from search_spaces.einspace.grammar import (
    AGGREGATIONS,
    BRANCH,
    BRANCHINGS,
    COMPUTATIONS,
    KINDS,
    OP,
    POST_ROUTINGS,
    PRE_ROUTINGS,
    ROUTE,
    SEQ,
    factor,
    takes,
)
from search_spaces.einspace.signal import Signal, Work, applied, branched, join_work, joined, work
from search_spaces.space import Choose


@dataclass(frozen=True)
class Limits:
    """What no network exceeds.

    MACs, weights and elements of the largest tensor at batch 1, functions that are run, copies counted, and branchings
    inside one another.
    """

    macs: int
    params: int
    elements: int
    functions: int
    depth: int

    @property
    def modules(self) -> int:
        """Modules of a derivation tree: as many as the canonical one may need for so many functions.

        A branching takes part in a sequence and may be around two identities; the tree may need two more for its root.
        """
        return 4 * self.functions + 2


class Place(ABC):
    """Where modules follow one another: the network itself, or a branch of it.

    Attributes:
        copies: how many times what stands here is built.
        depth: how many branchings are around it.
    """

    def __init__(self, copies: int, depth: int) -> None:
        self.copies = copies
        self.depth = depth
        self._known: dict[Signal, Work | None] = {}

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
        super().__init__(copies=1, depth=0)
        self._classes = classes

    def _rest(self, signal: Signal) -> Work:
        features = signal.shape[2] if signal.grid else signal.shape[0]
        return Work(features * self._classes + signal.size, features * self._classes, signal.size, 1)


class Inner(Place):
    """A branch; ``outer`` is where the branching stands."""

    def __init__(self, outer: Place, aggregation: str, copies: int) -> None:
        super().__init__(outer.copies * copies, outer.depth + 1)
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
        return Second(self._outer, self._aggregation, signal).rest(self._source)


class Second(Inner):
    """The second of two branches; the first one has come out as ``first``."""

    def __init__(self, outer: Place, aggregation: str, first: Signal) -> None:
        super().__init__(outer, aggregation, copies=1)
        self._first = first
        self._wanted = partner(aggregation, first)

    def _rest(self, signal: Signal) -> Work | None:
        way = bridge(signal, self._wanted) if self._wanted else None
        rest = self._joined((self._first, way.signal)) if way else None
        return rest + way.work.times(self.copies) if way and rest else None


_NOTHING, _JOIN = Work(0, 0, 0, 0), Work(0, 0, 0, 1)
_BITS = {
    functions: [(1 << i, function) for i, function in enumerate(functions)]
    for functions in (KINDS, COMPUTATIONS, PRE_ROUTINGS, POST_ROUTINGS, BRANCHINGS, AGGREGATIONS)
}


@lru_cache(5000)
def _steps(functions: tuple[str, ...], signal: Signal) -> dict[str, tuple[Signal, Work]]:
    """Return what each function that takes a signal makes of it, and the work."""
    made = {function: applied(function, signal) for function in functions}
    return {function: (out, work(function, signal)) for function, out in made.items() if out}


class Derivation:
    """One derivation, decision by decision.

    Decisions are called by where they are in the tree, what they decide, and, in hexadecimal digits, which of all
    options are offered: one name always has the same options, as Optuna asks of parameters.
    """

    def __init__(self, signal: Signal, classes: int, limits: Limits, choose: Choose) -> None:
        self._signal = signal
        self._place = Whole(classes)
        self._limits = limits
        self._choose = choose
        self._done = Work(0, 0, signal.size, 0)
        self._modules = 1  # those that must come are counted too

    def tree(self) -> Module:
        """Take every decision and return the derivation tree."""
        module, _ = self._module(self._signal, self._place, "", 0, root=True)
        return module

    def _module(
        self, signal: Signal, place: Place, path: str, number: int, root: bool = False
    ) -> tuple[Module, Signal]:
        """Derive the module at ``path`` and ``number``: the second of a sequence has the first one's next number."""
        here = f"{path}{number}"
        kind = self._pick(f"{here}.m", KINDS, self._rules(signal, place, root))
        if kind == OP:
            function, signal = self._step(signal, place, f"{here}.c", COMPUTATIONS)
            return Op(function), signal
        if kind == SEQ:
            self._modules += 2
            first, signal = self._module(signal, place, f"{here}-", 0)
            second, signal = self._module(signal, place, path, number + 1)
            return Seq(first, second), signal
        if kind == ROUTE:
            self._modules += 1
            pre, signal = self._step(signal, place, f"{here}.p", PRE_ROUTINGS)
            inner, signal = self._module(signal, place, f"{here}-", 0)
            post, signal = self._step(signal, place, f"{here}.r", POST_ROUTINGS)
            return Route(pre, inner, post), signal
        return self._branching(signal, place, here)

    def _rules(self, signal: Signal, place: Place, root: bool) -> list[str]:
        room = self._limits.modules - self._modules
        # No more modules where nothing but identities would fit in them.
        useful = root or self._done.functions + place.copies <= self._limits.functions
        # Parts can always be joined as they were split, and clones be added: at no other cost than that of joining.
        branching = room >= 2 and place.depth < self._limits.depth and self._fits(signal, place, _JOIN)
        valid = {OP: not root, SEQ: useful and room >= 2, BRANCH: branching, ROUTE: useful and room >= 1}
        return [kind for kind in KINDS if valid[kind]]

    def _branching(self, signal: Signal, place: Place, here: str) -> tuple[Branch, Signal]:
        options = tuple(function for function in BRANCHINGS if branched(function, signal))
        branching = self._pick(f"{here}.b", BRANCHINGS, options)
        source = branched(branching, signal)
        assert source is not None
        number, derived = factor(branching), branches(branching)
        self._modules += derived

        def first(aggregation: str) -> Place:
            return First(place, aggregation, source) if derived == 2 else Copied(place, aggregation, number)

        places = {name: first(name) for name in AGGREGATIONS if takes(name, number)}
        fitting = [name for name, inner in places.items() if self._fits(source, inner, _NOTHING)]
        aggregation = self._pick(f"{here}.a", AGGREGATIONS, fitting)
        inner, out = self._module(source, places[aggregation], f"{here}-a", 0)
        inners: tuple[Module, ...] = (inner,)
        signals = (out,) * number
        if derived == 2:
            second, end = self._module(source, Second(place, aggregation, out), f"{here}-b", 0)
            wanted = partner(aggregation, out)
            way = bridge(end, wanted) if wanted else None
            assert way is not None
            self._done += way.work.times(place.copies)
            inners, signals = (inner, second), (out, way.signal)
        result = joined(aggregation, signals)
        assert result is not None
        self._done += join_work(aggregation, signals, result).times(place.copies)
        return Branch(branching, aggregation, inners), result

    def _step(self, signal: Signal, place: Place, name: str, functions: tuple[str, ...]) -> tuple[str, Signal]:
        """Take a function that makes something of ``signal``."""
        known = _steps(functions, signal)
        fitting = [function for function, (out, cost) in known.items() if self._fits(out, place, cost)]
        function = self._pick(name, functions, fitting)
        out, cost = known[function]
        self._done += cost.times(place.copies)
        return function, out

    def _fits(self, signal: Signal, place: Place, cost: Work) -> bool:
        rest = place.rest(signal)
        if rest is None:
            return False
        done, limits = self._done, self._limits
        return (
            max(rest.peak, cost.peak) <= limits.elements
            and done.macs + place.copies * cost.macs + rest.macs <= limits.macs
            and done.params + place.copies * cost.params + rest.params <= limits.params
            and done.functions + place.copies * cost.functions + rest.functions <= limits.functions
        )

    def _pick(self, name: str, functions: tuple[str, ...], options: Sequence[str]) -> str:
        offered = sum(bit for bit, function in _BITS[functions] if function in options)
        return self._choose(f"{name}{offered:x}", options)
