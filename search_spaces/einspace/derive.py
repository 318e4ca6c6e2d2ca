"""Deriving networks: every choice is offered only where the rest of the derivation can still be completed.

A module may always do nothing: it is a computation, the identity. What is left to check is whether the signal that a
function makes could be the last word of its branch: whether another branch can come out to fit it (``bridge``), and
whether that keeps the limits. What is needed to fit is implied, not chosen: it ends a second branch that does not fit
as it is. Derivations are therefore valid by construction, nothing is rejected or tried again, and the condition on a
function depends on the functions before it alone, not on how modules are nested around them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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
from search_spaces.einspace.place import Place, Whole
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


_NOTHING, _JOIN = Work(0, 0, 0, 0), Work(0, 0, 0, 1)
_BITS = {
    functions: [(1 << i, function) for i, function in enumerate(functions)]
    for functions in (KINDS, COMPUTATIONS, PRE_ROUTINGS, POST_ROUTINGS, BRANCHINGS, AGGREGATIONS)
}


@lru_cache(1000)
def _steps(functions: tuple[str, ...], signal: Signal) -> dict[str, tuple[Signal, Work]]:
    """Return what each function that takes a signal makes of it, and the work."""
    made = {function: applied(function, signal) for function in functions}
    return {function: (out, work(function, signal)) for function, out in made.items() if out}


class Derivation:
    """One derivation, decision by decision.

    Decisions are called by where they are in the tree, what they decide, and, in hexadecimal digits, which of all
    options are offered: one name always has the same options, as Optuna asks of parameters.
    """

    def __init__(self, signal: Signal, place: Whole, limits: Limits, choose: Choose) -> None:
        self._signal = signal
        self._place = place
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

        places = {name: place.first(name, branching, source) for name in AGGREGATIONS if takes(name, number)}
        fitting = [name for name, inner in places.items() if self._fits(source, inner, _NOTHING)]
        aggregation = self._pick(f"{here}.a", AGGREGATIONS, fitting)
        inner, out = self._module(source, places[aggregation], f"{here}-a", 0)
        inners: tuple[Module, ...] = (inner,)
        signals = (out,) * number
        if derived == 2:
            behind = place.second(aggregation, out)
            second, end = self._module(source, behind, f"{here}-b", 0)
            way = behind.way(end)
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
