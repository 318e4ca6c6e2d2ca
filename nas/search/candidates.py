"""What a sampler may propose: many candidates at once, with their features and known latencies.

Small spaces are listed whole, spaces of independent decisions are handled as rows of option numbers, and all others
architecture by architecture.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nas.search.distribution import decisions_of
from predictors.features import feature_matrix, grid_features
from search_spaces.architecture import Architecture
from search_spaces.grid import Grid
from search_spaces.space import SearchSpace, enumerate_architectures, replay, sample_spread

# Up to this many architectures are listed whole.
LISTED = 20_000
# Candidates per draw and per generation, where a thousand cost milliseconds (rows) and where they cost a second.
ROWS, ROW_CHILDREN = 6000, 2500
DRAWN, CHILDREN = 300, 200
# Children of two parents; the others have one.
CROSSED = 0.5


@dataclass(frozen=True)
class Batch:
    """Candidates: what they are (n, ...), keys that equal ones share (n,), features (n, d), latencies in ms (n, k)."""

    rows: NDArray
    keys: NDArray
    X: NDArray
    ms: NDArray

    def __getitem__(self, chosen: NDArray | slice) -> "Batch":
        return Batch(self.rows[chosen], self.keys[chosen], self.X[chosen], self.ms[chosen])

    def __len__(self) -> int:
        return len(self.rows)

    def __add__(self, other: "Batch") -> "Batch":
        if not len(other):  # of nothing, the number of features may not be known
            return self
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Batch(*(np.concatenate(pair) for pair in pairs))


class Source(Protocol):
    """Where candidates come from. The same generator gives the same candidates, in any process."""

    def draw(self, rng: np.random.Generator) -> Batch:
        """Return random candidates."""
        ...

    def vary(self, parents: Batch, rng: np.random.Generator) -> Batch:
        """Return mutations and crossovers of ``parents``."""
        ...


class Architectures(Source, Protocol):
    """A source whose candidates are architectures."""

    def of(self, architectures: Sequence[Architecture]) -> Batch:
        """Return given architectures as candidates."""
        ...

    def architecture(self, batch: Batch) -> Architecture:
        """Return what the first candidate is."""
        ...


Latencies = Callable[[Sequence[Architecture]], NDArray]
"""Architectures to predicted ms (n, devices)."""


class Listed:
    """All architectures of a small space: nothing has to be drawn."""

    def __init__(self, space: SearchSpace, every: Sequence[Architecture], latencies: Latencies) -> None:
        self._every = every
        self._numbers = {architecture.id: i for i, architecture in enumerate(every)}
        numbers = np.arange(len(every))
        self._all = Batch(numbers, numbers, feature_matrix(space, every), latencies(every))

    def of(self, architectures: Sequence[Architecture]) -> Batch:
        """Return given architectures as candidates."""
        return self._all[np.array([self._numbers[a.id] for a in architectures], int)]

    def draw(self, rng: np.random.Generator) -> Batch:
        """Return every candidate, in random order."""
        return self._all[rng.permutation(len(self._all))]

    def vary(self, parents: Batch, rng: np.random.Generator) -> Batch:
        """Return nothing: every candidate is drawn."""
        return self._all[:0]

    def architecture(self, batch: Batch) -> Architecture:
        """Return what the first candidate is."""
        return self._every[int(batch.rows[0])]


class Rows:
    """Architectures of a space of independent decisions, as rows of option numbers."""

    def __init__(self, space: SearchSpace, grid: Grid, latencies: Callable[[NDArray], NDArray]) -> None:
        self._space, self._grid, self._latencies = space, grid, latencies

    def of(self, architectures: Sequence[Architecture]) -> Batch:
        """Return given architectures as candidates."""
        return self.of_rows(self._grid.encode(architectures))

    def draw(self, rng: np.random.Generator) -> Batch:
        """Return random candidates."""
        return self.of_rows(self._grid.sample_spread(ROWS, rng))

    def vary(self, parents: Batch, rng: np.random.Generator) -> Batch:
        """Return mutations and crossovers of ``parents``."""
        mothers, fathers = parents.rows[rng.integers(len(parents), size=(2, ROW_CHILDREN))]
        crossed = rng.random((ROW_CHILDREN, 1)) < CROSSED
        children = np.where(crossed, self._grid.crossover(mothers, fathers, rng), mothers)
        return self.of_rows(self._grid.mutate(children, rng))

    def architecture(self, batch: Batch) -> Architecture:
        """Return what the first candidate is."""
        return replay(self._space, self._grid.decisions(batch.rows[0]))

    def of_rows(self, rows: NDArray) -> Batch:
        """Return rows of option numbers as candidates."""
        keys = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.itemsize * rows.shape[1])))[:, 0]
        return Batch(rows, keys, grid_features(self._grid, rows), self._latencies(rows))


class Drawn:
    """Architectures of any space, one by one."""

    def __init__(self, space: SearchSpace, latencies: Latencies) -> None:
        self._space, self._latencies = space, latencies

    def of(self, architectures: Sequence[Architecture]) -> Batch:
        """Return given architectures as candidates."""
        rows = np.empty(len(architectures), object)
        rows[:] = architectures
        keys = np.array([architecture.id for architecture in architectures], "U10")
        return Batch(rows, keys, feature_matrix(self._space, architectures), self._latencies(architectures))

    def draw(self, rng: np.random.Generator) -> Batch:
        """Return random candidates."""
        return self.of([sample_spread(self._space, rng) for _ in range(DRAWN)])

    def vary(self, parents: Batch, rng: np.random.Generator) -> Batch:
        """Return mutations and crossovers of ``parents``."""
        return self.of([self._child(parents.rows, rng) for _ in range(CHILDREN)])

    def architecture(self, batch: Batch) -> Architecture:
        """Return what the first candidate is."""
        found: Architecture = batch.rows[0]
        return found

    def _child(self, parents: NDArray, rng: np.random.Generator) -> Architecture:
        first, second = (parents[i] for i in rng.integers(len(parents), size=2))
        child = self._space.crossover(first, second, rng) if rng.random() < CROSSED else first
        return self._space.mutate(child, rng)


def source_of(
    space: SearchSpace,
    latencies: Sequence[Callable[[Architecture], float]],
    grid_latencies: Sequence[Callable[[Grid, NDArray], NDArray] | None],
) -> Architectures:
    """Return the fastest source for a space and its latencies (ms), one per device of either kind."""

    def of_each(architectures: Sequence[Architecture]) -> NDArray:
        found = [[latency(architecture) for latency in latencies] for architecture in architectures]
        return np.array(found, float).reshape(len(architectures), len(latencies))

    many = [latency for latency in grid_latencies if latency is not None]
    grid = space.grid()
    # Each decision has two options or more.
    if 2**space.searchable <= LISTED and math.prod(map(len, decisions_of(space).values())) <= LISTED:
        return Listed(space, list(enumerate_architectures(space)), of_each)
    if grid is not None and len(many) == len(latencies):
        return Rows(
            space, grid, lambda rows: np.reshape([latency(grid, rows) for latency in many], (len(many), len(rows))).T
        )
    return Drawn(space, of_each)
