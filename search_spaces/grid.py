"""Spaces of independent decisions: architectures as rows of option numbers, tens of thousands at once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Architecture
from search_spaces.block import Block


@dataclass(frozen=True)
class Grid:
    """The decisions of a space in which every architecture takes all of them, and what follows from each.

    Rows (n, D) hold one option number per decision, in the order of ``options``.

    Args:
        options: decision -> options.
        positions: the blocks of a network in order: the decision that chooses one, None where there is but one, and
            the block of each of its options.
        descriptors: what ``SearchSpace.descriptors`` says of each option, (options, numbers) per decision.
        canonical: maps rows to those of the equal canonical architectures.
    """

    options: Mapping[str, tuple[str, ...]]
    positions: Sequence[tuple[int | None, Sequence[Block]]]
    descriptors: Sequence[NDArray]
    canonical: Callable[[NDArray], NDArray]

    def encode(self, architectures: Iterable[Architecture]) -> NDArray:
        """Return the row of each architecture."""
        numbers = {(name, o): i for name, options in self.options.items() for i, o in enumerate(options)}
        rows = [[numbers[decision] for decision in architecture.decisions] for architecture in architectures]
        return np.array(rows, np.int16).reshape(-1, len(self.options))

    def decisions(self, row: NDArray) -> dict[str, str]:
        """Return the decisions of a row."""
        return {name: options[i] for (name, options), i in zip(self.options.items(), row, strict=True)}

    def sample_spread(self, count: int, rng: np.random.Generator) -> NDArray:
        """Draw rows that lean towards one option by a random degree, as ``space.sample_spread`` does."""
        sizes = np.array([len(options) for options in self.options.values()])
        groups = list(dict.fromkeys(self.options.values()))
        group_of = np.array([groups.index(options) for options in self.options.values()])
        favourites = np.stack([rng.integers(len(group), size=count) for group in groups], axis=1)[:, group_of]
        drawn = rng.integers(sizes, size=(count, len(sizes)))
        leaning = rng.random(drawn.shape) < rng.random((count, 1))
        return self.canonical(np.where(leaning, favourites, drawn).astype(np.int16))

    def mutate(self, rows: NDArray, rng: np.random.Generator) -> NDArray:
        """Change one decision of each row, and each further one with a chance of one in D."""
        sizes = np.array([len(options) for options in self.options.values()])
        changed = rng.random(rows.shape) < 1 / len(sizes)
        changed[np.arange(len(rows)), rng.integers(len(sizes), size=len(rows))] = True
        others = (rows + rng.integers(1, np.maximum(sizes, 2), size=rows.shape)) % sizes
        return self.canonical(np.where(changed, others, rows).astype(np.int16))

    def crossover(self, mothers: NDArray, fathers: NDArray, rng: np.random.Generator) -> NDArray:
        """Take each decision from one of two parents (uniform crossover)."""
        return self.canonical(np.where(rng.random(mothers.shape) < 0.5, mothers, fathers))

    def chosen(self, rows: NDArray, position: int, of_block: Callable[[Block], float]) -> NDArray:
        """Return what ``of_block`` says of the block at a position of each network (n,)."""
        decision, blocks = self.positions[position]
        values = np.array([of_block(block) for block in blocks])
        return np.full(len(rows), values[0]) if decision is None else values[rows[:, decision]]

    def total(self, rows: NDArray, of_block: Callable[[Block], float]) -> NDArray:
        """Return the sum of ``of_block`` over the blocks of each network (n,)."""
        return np.sum([self.chosen(rows, i, of_block) for i in range(len(self.positions))], axis=0)

    def describe(self, rows: NDArray) -> NDArray:
        """Return the descriptors of each architecture."""
        return np.hstack([table[rows[:, i]] for i, table in enumerate(self.descriptors)])
