"""Chains cut into stages: layers of one resolution and width, and the paths through them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from search_spaces.architecture import Architecture
from search_spaces.block import Block, Shape
from search_spaces.chain import Position
from search_spaces.space import SearchSpace, sample_spread

Path = tuple[int, ...]
"""The number of the candidate that is taken at each position of a stage."""

# Draws for each path that is wanted, most of them different: short of paths only where there are hardly more.
_DRAWS = 50


@dataclass(frozen=True)
class Stage:
    """Positions of a chain that follow one another; ``start`` is the number of the first."""

    start: int
    positions: tuple[Position, ...]

    @property
    def stop(self) -> int:
        """The number of the position behind the last one."""
        return self.start + len(self.positions)

    @property
    def combinations(self) -> int:
        """The number of ways to take a candidate at each position, which may be equal networks."""
        return math.prod(len(position.candidates) for position in self.positions)

    def path(self, architecture: Architecture) -> Path:
        """Return the path that an architecture takes."""
        decided = dict(architecture.decisions).items()
        return tuple(
            next(k for k, taken in enumerate(position.candidates) if taken.items() <= decided)
            for position in self.positions
        )

    def decisions(self, path: Path) -> dict[str, str]:
        """Return the decisions that take a path."""
        taken = (position.candidates[k] for position, k in zip(self.positions, path, strict=True))
        return {name: option for each in taken for name, option in each.items()}

    def blocks(self, path: Path, shape: Shape) -> list[Block]:
        """Return the blocks of a path behind an input of ``shape``."""
        found = []
        for position, k in zip(self.positions, path, strict=True):
            found.append(position.blocks[position.shapes.index(shape)][k])
            shape = found[-1].out_shape
        return found


def cut(chain: Sequence[Position]) -> tuple[list[Stage], Stage]:
    """Return the stages of a chain in their order, and its head: what stands behind the last searched position.

    A stage begins with the layer that changes the shapes that may come in. What stands before the first searched
    position belongs to the first stage.
    """
    searched = [i for i, position in enumerate(chain) if position.operator is not None]
    starts = [0, *(i for i in searched[1:] if set(chain[i].out_shapes) != set(chain[i].shapes))]
    stops = [*starts[1:], searched[-1] + 1]
    found = [Stage(start, tuple(chain[start:stop])) for start, stop in zip(starts, stops, strict=True)]
    return found, Stage(stops[-1], tuple(chain[stops[-1] :]))


def paths(space: SearchSpace, stage: Stage, most: int, seed: int) -> list[Path]:
    """Return the paths of canonical architectures through a stage, each once: all, or ``most`` that are drawn.

    Where there are more combinations than ``most``, paths of draws that lean towards one option are taken: uniform
    ones hardly ever have many skips.
    """
    found: dict[Path, None] = {}
    for path in _paths(space, stage, most, seed):
        found[path] = None
        if len(found) == most:
            break
    return list(found)


def _paths(space: SearchSpace, stage: Stage, most: int, seed: int) -> Iterator[Path]:
    if stage.combinations > most:
        rng = np.random.default_rng(seed)
        for _ in range(_DRAWS * most):
            yield stage.path(sample_spread(space, rng))
        return
    for path in product(*(range(len(position.candidates)) for position in stage.positions)):
        yield stage.path(space.decide(partial(_decided, stage.decisions(path))))


def _decided(own: dict[str, str], name: str, options: Sequence[str]) -> str:
    """Take a decision of a path, or any that is no part of it."""
    return own.get(name, options[0])
