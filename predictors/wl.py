"""The Weisfeiler-Lehman graph kernel, as features: for architectures that have no fixed list of decisions.

Shervashidze et al., Weisfeiler-Lehman Graph Kernels (JMLR 2011): every node's label is joined with those of the nodes
that feed it, again and again; two graphs are alike as far as the same labels occur in both. Ru et al., Interpretable
Neural Architecture Search via Bayesian Optimisation with Weisfeiler-Lehman Kernels (ICLR 2021), use it for cells.
"""

import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Graph

ROUNDS = 2
# Labels are hashed to this many columns; a few thousand distinct ones seldom meet.
COLUMNS = 1024


def wl_labels(graph: Graph, rounds: int = ROUNDS) -> list[str]:
    """Return the labels of all nodes, at first and after each of ``rounds`` of joining."""
    labels, edges = graph
    current, found = list(labels), list(labels)
    for _ in range(rounds):
        feeding: list[list[str]] = [[] for _ in current]
        for source, target in edges:
            feeding[target].append(current[source])
        current = [f"{label}({','.join(sorted(fed))})" for label, fed in zip(current, feeding, strict=True)]
        found += current
    return found


def wl_features(graphs: Iterable[Graph]) -> NDArray:
    """Return the square root of how often each label occurs, in hashed columns, one row per graph.

    Meant for ``AccuracyGP(together=COLUMNS)``.
    """
    rows = []
    for graph in graphs:
        columns = [zlib.crc32(label.encode()) % COLUMNS for label in wl_labels(graph)]
        rows.append(np.sqrt(np.bincount(columns, minlength=COLUMNS)))
    return np.array(rows)
