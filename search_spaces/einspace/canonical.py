"""The canonical derivation of a network: equal networks, however derived, have one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from search_spaces.einspace.bridge import Bridge
from search_spaces.einspace.derivation import Branch, Module, Op, Route, Seq, sequence
from search_spaces.einspace.grammar import (
    ADD,
    CLONES,
    COL2IM,
    CONCATS,
    GROUPS,
    IDENTITY,
    MAP_PERMUTES,
    PIXELS,
    SWAP,
    WINDOWS,
)
from search_spaces.einspace.place import NotDerivable, Place, Second
from search_spaces.einspace.signal import Signal, applied, branched, joined


@dataclass(frozen=True)
class Fork:
    """A branching as a step of a network; ``inners`` are as in ``Branch``."""

    branching: str
    aggregation: str
    inners: tuple["Steps", ...]

    @property
    def copies(self) -> int:
        """How many branches each of ``inners`` stands for."""
        return Branch(self.branching, self.aggregation, (Op(IDENTITY),) * len(self.inners)).copies


Steps = tuple[str | Fork, ...]
"""What a network does, one after another: functions that do something, and branchings."""

_PERMUTES = {(0, 1, 2): IDENTITY, **{axes: name for name, axes in MAP_PERMUTES.items()}}


def steps(module: Module) -> Steps:
    """Return what a module does: sequences flattened, identities dropped, what cancels out left out."""
    match module:
        case Op(function):
            return simplified([function])
        case Seq(first, second):
            return simplified([*steps(first), *steps(second)])
        case Route(pre, inner, post):
            return simplified([pre, *steps(inner), post])
        case Branch(branching, aggregation, inners):
            return simplified([Fork(branching, aggregation, tuple(steps(inner) for inner in inners))])


def simplified(found: Sequence[str | Fork]) -> Steps:
    """Return the same steps without identities and what cancels out; permutes in a row become one."""
    done: list[str | Fork] = []
    for step in found:
        while done and (merged := _merged(done[-1], step)) is not None:
            done.pop()
            step = merged
        if step != IDENTITY and not _joins_as_split(step):
            done.append(step)
    return tuple(done)


def _merged(first: str | Fork, second: str | Fork) -> str | None:
    """Return the one function that two in a row are, None where they are none."""
    if isinstance(first, Fork) or isinstance(second, Fork):
        return None
    if first in MAP_PERMUTES and second in MAP_PERMUTES:
        before, after = MAP_PERMUTES[first], MAP_PERMUTES[second]
        return _PERMUTES[before[after[0]], before[after[1]], before[after[2]]]
    nothing = ((SWAP, SWAP), (PIXELS, COL2IM), (COL2IM, PIXELS))
    return IDENTITY if (first, second) in nothing else None


def _joins_as_split(step: str | Fork) -> bool:
    if isinstance(step, str) or step.branching not in GROUPS or any(step.inners):
        return False
    return CONCATS.get(step.aggregation) == GROUPS[step.branching]


def followed(found: Steps, signal: Signal, place: Place) -> tuple[Steps, Signal]:
    """Return the steps at a place with all that is implied, and the signal that comes out.

    Implied is what makes a second branch fit the first.

    Raises:
        NotDerivable: no way is known to make it fit.
    """
    return _walked(found, signal, place, lambda second, way, *_: simplified((*second, *way.functions)))


def without_implied(found: Steps, signal: Signal, place: Place) -> tuple[Steps, Signal]:
    """Return the steps, which say all that is implied, without the ends of second branches, and what comes out.

    Raises:
        NotDerivable: no way is known to make a second branch fit both the first and what follows.
    """
    return _walked(found, signal, place, _shortened)


# What to make of a second branch: of its steps, what is implied behind them, the branch's input and its place.
_Finish = Callable[[Steps, Bridge, Signal, Second], Steps]


def _walked(found: Steps, signal: Signal, place: Place, finish: _Finish) -> tuple[Steps, Signal]:
    done: list[str | Fork] = []
    for step in found:
        if isinstance(step, str):
            after = applied(step, signal)
        else:
            step, after = _walked_fork(step, signal, place, finish)
        assert after is not None
        signal = after
        done.append(step)
    return simplified(done), signal


def _walked_fork(fork: Fork, signal: Signal, place: Place, finish: _Finish) -> tuple[Fork, Signal | None]:
    source = branched(fork.branching, signal)
    assert source is not None
    first, out = _walked(fork.inners[0], source, place.first(fork.aggregation, fork.branching, source), finish)
    if fork.copies > 1:
        return replace(fork, inners=(first,)), joined(fork.aggregation, (out,) * fork.copies)
    behind = place.second(fork.aggregation, out)
    second, end = _walked(fork.inners[1], source, behind, finish)
    way = behind.way(end)
    if way is None:
        raise NotDerivable(f"{fork.aggregation} of {out} and {end}")
    return replace(fork, inners=(first, finish(second, way, source, behind))), joined(
        fork.aggregation, (out, way.signal)
    )


def _shortened(second: Steps, way: Bridge, source: Signal, behind: Second) -> Steps:
    """Return the shortest beginning of a second branch, which says all that is implied, that implies the rest of it."""
    if way.functions:  # in this order of branches, no way is known from what it ends with through what follows
        raise NotDerivable(f"{way.functions} behind a whole branch")
    whole = simplified(second)
    functions = next((n for n, step in enumerate(reversed(whole)) if isinstance(step, Fork)), len(whole))
    for length in range(len(whole) - functions, len(whole)):
        _, here = followed(whole[:length], source, behind)
        implied = behind.way(here)
        if implied is not None and simplified((*whole[:length], *implied.functions)) == whole:
            return whole[:length]
    return whole


def ordered(found: Steps, signal: Signal) -> tuple[Steps, Signal]:
    """Return the steps, which say all that is implied, with summands in order: the longest first."""
    done: list[str | Fork] = []
    for step in found:
        if isinstance(step, str):
            after = applied(step, signal)
        else:
            source = branched(step.branching, signal)
            assert source is not None
            inners, outs = zip(*(ordered(inner, source) for inner in step.inners), strict=True)
            # The sum of columns has the grid of the first.
            if step.aggregation == ADD and step.branching in CLONES and len(set(outs)) == 1:
                inners = tuple(sorted(inners, key=lambda inner: (-len(inner), repr(inner))))
            step = replace(step, inners=inners)
            after = joined(step.aggregation, outs * step.copies)
        assert after is not None
        signal = after
        done.append(step)
    return tuple(done), signal


def derived(found: Steps) -> Module:
    """Return the canonical derivation of a whole network: of few modules, sequences nested to the right."""
    module = _nested(found)
    return Route(IDENTITY, module, IDENTITY) if isinstance(module, Op) else module


def _nested(found: Steps) -> Module:
    parts: list[Module] = []
    place = 0
    ends = _routed(found)
    while place < len(found):
        step = found[place]
        last = place + 1 == len(found) and place not in ends and _routes(step) and step not in WINDOWS
        if step == COL2IM or last:  # nothing is open before it, or nothing follows: it ends a routing around the last
            parts.append(Route(IDENTITY, parts.pop() if parts else Op(IDENTITY), str(step)))
            place += 1
        else:
            part, place = _part(found, place, ends)
            parts.append(part)
    return sequence(*parts) if parts else Op(IDENTITY)


def _part(found: Steps, place: int, ends: dict[int, int]) -> tuple[Module, int]:
    """Return the module that begins with a step, and the place behind it."""
    step = found[place]
    if isinstance(step, Fork):
        return Branch(step.branching, step.aggregation, tuple(_nested(inner) for inner in step.inners)), place + 1
    if not _routes(step):
        return Op(step), place + 1
    if place in ends:
        return Route(step, _nested(found[place + 1 : ends[place]]), str(found[ends[place]])), ends[place] + 1
    if place + 1 == len(found):
        return Route(step, Op(IDENTITY), IDENTITY), place + 1
    inner, behind = _part(found, place + 1, ends)
    return Route(step, inner, IDENTITY), behind


def _routed(found: Steps) -> dict[int, int]:
    """Return where routings begin and end: what can end one ends the last that is open."""
    ends: dict[int, int] = {}
    opened: list[int] = []
    for place, step in enumerate(found):
        if _routes(step) and step not in WINDOWS and opened:
            ends[opened.pop()] = place
        elif _routes(step) and step != COL2IM:
            opened.append(place)
    return ends


def _routes(step: str | Fork) -> bool:
    return step in MAP_PERMUTES or step in WINDOWS or step in (SWAP, COL2IM)
