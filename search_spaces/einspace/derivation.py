"""Derivation trees as frozen values, and the same as a list of tokens in pre-order."""

from collections.abc import Iterator
from dataclasses import dataclass

from search_spaces.einspace.grammar import BRANCH, OP, ROUTE, SEQ, factor


@dataclass(frozen=True)
class Op:
    """A computation module: one function."""

    function: str


@dataclass(frozen=True)
class Seq:
    """A sequential module: one module after another."""

    first: "Module"
    second: "Module"


@dataclass(frozen=True)
class Route:
    """A routing module: a module between a pre-routing and a post-routing function."""

    pre: str
    inner: "Module"
    post: str


@dataclass(frozen=True)
class Branch:
    """A branching module: branches between a branching and an aggregation function.

    ``inners`` are two, or one that stands for four or eight branches of equal structure and weights of their own.
    """

    branching: str
    aggregation: str
    inners: tuple["Module", ...]

    @property
    def copies(self) -> int:
        """How many branches each of ``inners`` stands for."""
        return factor(self.branching) // len(self.inners)


Module = Op | Seq | Route | Branch


def sequence(*modules: Module) -> Module:
    """Return the modules one after another, the first by itself."""
    first, *others = modules
    return Seq(first, sequence(*others)) if others else first


def tokens(module: Module) -> Iterator[str]:
    """Yield rules and functions in pre-order; a branching's aggregation comes before its branches."""
    match module:
        case Op(function):
            yield from (OP, function)
        case Seq(first, second):
            yield SEQ
            yield from tokens(first)
            yield from tokens(second)
        case Route(pre, inner, post):
            yield from (ROUTE, pre)
            yield from tokens(inner)
            yield post
        case Branch(branching, aggregation, inners):
            yield from (BRANCH, branching, aggregation)
            for inner in inners:
                yield from tokens(inner)


def from_tokens(found: Iterator[str]) -> Module:
    """Return the module whose tokens come next."""
    kind = next(found)
    if kind == OP:
        return Op(next(found))
    if kind == SEQ:
        return Seq(from_tokens(found), from_tokens(found))
    if kind == ROUTE:
        return Route(next(found), from_tokens(found), next(found))
    branching, aggregation = next(found), next(found)
    return Branch(branching, aggregation, tuple(from_tokens(found) for _ in range(branches(branching))))


def branches(branching: str) -> int:
    """Return how many modules are derived for a branching function: two branches, or one to be copied."""
    return 2 if factor(branching) == 2 else 1


def count(module: Module) -> tuple[int, int]:
    """Return the numbers of terminals and of modules, with every copy of a branch."""
    match module:
        case Op():
            return 1, 1
        case Seq(first, second):
            parts, terminals = [count(first), count(second)], 0
        case Route(_, inner, _):
            parts, terminals = [count(inner)], 2
        case Branch(_, _, inners):
            parts, terminals = [count(inner) for inner in inners] * module.copies, 2
    return terminals + sum(found for found, _ in parts), 1 + sum(found for _, found in parts)
