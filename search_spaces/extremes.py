"""The ends of a space: its lowest architecture by any value, and its largest and smallest networks."""

from collections.abc import Callable, Sequence

import numpy as np

from search_spaces.architecture import Architecture
from search_spaces.space import Graph, SearchSpace, sample_spread

_DRAWS = 200


def lowest(space: SearchSpace, value: Callable[[Architecture], float], seed: int) -> Architecture:
    """Return the architecture with the lowest ``value``, as far as is found.

    The best of many draws is improved one decision at a time. Where decisions are independent and their values add up,
    as latencies in tables of layers do, this is exact.
    """
    rng = np.random.default_rng(seed)
    best = min((sample_spread(space, rng) for _ in range(_DRAWS)), key=value)
    while True:
        better = min(_neighbours(space, best), key=value)
        if value(better) >= value(best):
            return best
        best = better


def _neighbours(space: SearchSpace, architecture: Architecture) -> list[Architecture]:
    recorded = dict(architecture.decisions)
    options: dict[str, tuple[str, ...]] = {}

    def remember(name: str, known: Sequence[str]) -> str:
        options[name] = tuple(known)
        return recorded[name]

    space.decide(remember)

    def changed(to: dict[str, str]) -> Architecture:
        return space.decide(lambda name, known: to[name] if to.get(name) in known else known[0])

    return [changed({**recorded, name: option}) for name, known in options.items() for option in known]


def largest(space: SearchSpace) -> Architecture:
    """Return the network with the most MACs."""
    return lowest(space, lambda architecture: -space.macs(architecture), seed=0)


def smallest(space: SearchSpace) -> Architecture:
    """Return the network with the fewest MACs, of those whose output depends on the image.

    Cells without a way from their input to their output need the fewest, and nothing can be learned from them.
    """

    def macs(architecture: Architecture) -> float:
        return space.macs(architecture) if leads_through(space.graph(architecture)) else float("inf")

    return lowest(space, macs, seed=0)


def leads_through(graph: Graph) -> bool:
    """Tell whether there is a way from a graph's first node to its last; its edges come in the order of their nodes."""
    labels, edges = graph
    reached = {0}
    for source, target in sorted(edges):
        if source in reached:
            reached.add(target)
    return len(labels) - 1 in reached
