"""Spaces of independent decisions: architectures as rows of option numbers, tens of thousands at once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Architecture
from search_spaces.block import Block
from search_spaces.chain import Position


@dataclass(frozen=True)
class Grid:
    """The decisions of a space in which every architecture takes all of them, and what follows from each.

    Rows (n, D) hold one option number per decision, in the order of ``options``.

    Args:
        options: decision -> options.
        positions: the blocks of a network in order: the decisions that choose one, and the block of each combination
            of their options, those of the last decision next to one another.
        descriptors: what ``SearchSpace.descriptors`` says, part by part: the decision that it is about, and its
            numbers (options, numbers) for each option; None and a single row where nothing is decided.
        canonical: maps rows to those of the equal canonical architectures.
    """

    options: Mapping[str, tuple[str, ...]]
    positions: Sequence[tuple[tuple[int, ...], Sequence[Block]]]
    descriptors: Sequence[tuple[int | None, NDArray]]
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
        decisions, blocks = self.positions[position]
        sizes = [len(options) for options in self.options.values()]
        place = np.zeros(len(rows), int)
        for decision in decisions:
            place = place * sizes[decision] + rows[:, decision]
        return np.array([of_block(block) for block in blocks])[place]

    def total(self, rows: NDArray, of_block: Callable[[Block], float]) -> NDArray:
        """Return the sum of ``of_block`` over the blocks of each network (n,)."""
        return np.sum([self.chosen(rows, i, of_block) for i in range(len(self.positions))], axis=0)

    def describe(self, rows: NDArray) -> NDArray:
        """Return the descriptors of each architecture."""
        nothing = np.zeros(len(rows), int)
        return np.hstack([table[nothing if i is None else rows[:, i]] for i, table in self.descriptors])


def grid_positions(
    chain: Sequence[Position], options: Mapping[str, Sequence[str]]
) -> list[tuple[tuple[int, ...], list[Block]]]:
    """Return the ``positions`` of a grid from those of a chain in which every network takes all decisions.

    Which block stands at a position follows from its own decisions and, where they change the shape that comes in,
    from earlier ones.
    """
    found: list[tuple[tuple[int, ...], list[Block]]] = []
    known: tuple[int, ...] = ()
    shape = np.zeros((), int)  # what comes in, by the options of the decisions that are known to matter
    for position in chain:
        own = tuple(list(options).index(name) for name in position.options)
        candidate = np.zeros([len(every) for every in position.options.values()], int)
        for number, taken in enumerate(position.candidates):
            candidate[tuple(every.index(taken[name]) for name, every in position.options.items())] = number
        known += own
        shape, candidate = np.broadcast_arrays(shape.reshape(shape.shape + (1,) * len(own)), candidate)
        found.append((known, [position.blocks[i][k] for i, k in zip(shape.flat, candidate.flat, strict=True)]))
        shape = position.leads_to.numpy()[shape, candidate]
        for axis in reversed(range(len(known))):
            if (shape == shape.take([0], axis)).all():
                shape = shape.take(0, axis)
                known = known[:axis] + known[axis + 1 :]
    return found


def skips_last(rows: NDArray, runs: Sequence[tuple[Sequence[int], int]]) -> NDArray:
    """Return rows in which skips come after everything else, within each run of decisions.

    Args:
        rows: option numbers (n, D).
        runs: the decisions of layers among which it does not matter where a skip stands, and the skip's number.
    """
    ordered = rows.copy()
    for columns, skip in runs:
        part = rows[:, columns]
        places = np.argsort(part == skip, axis=1, kind="stable")
        ordered[:, columns] = np.take_along_axis(part, places, axis=1)
    return ordered
