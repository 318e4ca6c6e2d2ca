"""Mutation and crossover of derivation trees.

Both write a new tree down and derive along it: what fits is taken as it is written, what does not fit any more is drawn
from the grammar. Nothing is rejected, so that every child is valid. Copies of a branch are one subtree in the tree:
what changes in it changes in all of them.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from search_spaces.architecture import Architecture
from search_spaces.einspace.derivation import Branch, Module, Op, Route, Seq, branches, from_tokens, tokens
from search_spaces.einspace.grammar import BRANCH, OP, ROUTE, SEQ
from search_spaces.space import SearchSpace, pick

# A change may cancel out in the canonical derivation; then another one is tried.
TRIES = 20

_Draw = Callable[[Sequence[str]], str]


class Guide:
    """Takes the decisions of a tree as far as they are on offer, and draws all others.

    Args:
        tree: what is followed.
        draw: draws one of several options.
        changed: the number of a decision, in pre-order, that must come out otherwise than it is written. What is
            written below it is left out where it does not belong to the new rule.
    """

    def __init__(self, tree: Module, draw: _Draw, changed: int | None = None) -> None:
        # What the next decisions should come to, the last one first: modules, functions, or anything.
        self._expected: list[Module | str | None] = [tree]
        self._draw = draw
        self._changed = changed
        self._taken = 0

    def __call__(self, name: str, options: Sequence[str]) -> str:
        """Take the decision ``name``."""
        expected = self._expected.pop()
        wanted: str | None
        if isinstance(expected, Op | Seq | Route | Branch):
            wanted = next(tokens(expected))
        else:
            wanted = expected
        if self._taken == self._changed:
            others = [option for option in options if option != wanted]
            option = self._draw(others or options)
        else:
            option = wanted if wanted is not None and wanted in options else self._draw(options)
        self._taken += 1
        if option in (OP, SEQ, ROUTE, BRANCH):
            parts = _parts(expected) if option == wanted else ()
            self._expected += reversed(parts or [None] * {OP: 1, SEQ: 2, ROUTE: 3, BRANCH: 4}[option])
        elif name.rpartition(".")[2].startswith("b"):
            # Behind the aggregation come as many branches as are derived for this function.
            aggregation, first, second = (self._expected.pop() for _ in range(3))
            self._expected += [second, first][2 - branches(option) :]
            self._expected.append(aggregation)
        return option


def _parts(module: Module | str | None) -> Sequence[Module | str | None]:
    """Return what the decisions below a module's rule come to, in their order."""
    match module:
        case Op(function):
            return [function]
        case Seq(first, second):
            return [first, second]
        case Route(pre, inner, post):
            return [pre, inner, post]
        case Branch(branching, aggregation, inners):
            return [branching, aggregation, inners[0], inners[1] if len(inners) == 2 else None]
    return []


def tree_of(architecture: Architecture) -> Module:
    """Return the derivation tree of an architecture."""
    return from_tokens(option for _, option in architecture.decisions)


def subtrees(module: Module) -> Iterator[Module]:
    """Yield every module of a tree in pre-order, itself first."""
    yield module
    for part in _parts(module):
        if isinstance(part, Op | Seq | Route | Branch):
            yield from subtrees(part)


def replaced(module: Module, number: int, new: Module) -> Module:
    """Return the tree with another module in the place of the one of this number in pre-order."""
    if number == 0:
        return new
    number -= 1
    parts = list(_parts(module))
    for place, part in enumerate(parts):
        if isinstance(part, Op | Seq | Route | Branch):
            size = sum(1 for _ in subtrees(part))
            if number < size:
                parts[place] = replaced(part, number, new)
                break
            number -= size
    match module:
        case Seq():
            return Seq(*parts)  # type: ignore[arg-type]
        case Route():
            return Route(*parts)  # type: ignore[arg-type]
        case Branch(branching, aggregation, inners):
            return Branch(branching, aggregation, tuple(parts[2 : 2 + len(inners)]))  # type: ignore[arg-type]
    raise ValueError(f"the tree has no module of number {number + 1}")


def mutate(space: SearchSpace, parent: Architecture, rng: np.random.Generator) -> Architecture:
    """Return the parent with one rule or function changed: a new rule's subtree is drawn from the grammar.

    [Ericsson2024], section 4. If all tries come out as the parent, it is returned.
    """
    tree = tree_of(parent)
    for _ in range(TRIES):
        changed = int(rng.integers(len(parent.decisions)))
        child = space.decide(Guide(tree, lambda options: pick(space, options, rng), changed))
        if child != parent:
            return child
    return parent


def crossover(space: SearchSpace, mother: Architecture, father: Architecture, rng: np.random.Generator) -> Architecture:
    """Return the mother with one of the father's modules in the place of one of hers."""
    tree, donors = tree_of(mother), list(subtrees(tree_of(father)))
    place = int(rng.integers(sum(1 for _ in subtrees(tree))))
    child = replaced(tree, place, donors[int(rng.integers(len(donors)))])
    return space.decide(Guide(child, lambda options: pick(space, options, rng)))
