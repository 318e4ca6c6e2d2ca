"""Networks whose blocks follow one another, laid out: at every position what may come in, and what may stand there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces.block import Block, Shape

Candidate = tuple[Mapping[str, str], Callable[[Shape], Block]]
"""The decisions that take a candidate, the operator's first, and its block behind an input shape."""


@dataclass(frozen=True)
class Position:
    """A position of a chain: ``blocks[i][k]`` stands there if ``shapes[i]`` comes in and ``candidates[k]`` is decided.

    Candidates are the decisions that take them: none where nothing is searched, else that of the operator and
    then, as the operator has them, those of its widths.
    """

    shapes: tuple[Shape, ...]
    candidates: tuple[Mapping[str, str], ...]
    blocks: tuple[tuple[Block, ...], ...]

    @property
    def operator(self) -> str | None:
        """The decision of the operator, None where nothing is searched."""
        return next(iter(self.candidates[0]), None)

    @cached_property
    def options(self) -> dict[str, tuple[str, ...]]:
        """The decisions of this position with their options, as the space lists them."""
        found: dict[str, dict[str, None]] = {}
        for taken in self.candidates:
            for name, option in taken.items():
                found.setdefault(name, {})[option] = None
        return {name: tuple(every) for name, every in found.items()}

    @cached_property
    def out_shapes(self) -> tuple[Shape, ...]:
        """What may come out, each shape once."""
        return tuple(dict.fromkeys(block.out_shape for row in self.blocks for block in row))

    @cached_property
    def leads_to(self) -> Tensor:
        """The position among ``out_shapes`` of what each block emits (shapes, candidates)."""
        return torch.tensor([[self.out_shapes.index(block.out_shape) for block in row] for row in self.blocks])

    @cached_property
    def resizes(self) -> bool:
        """Whether candidates behind one input differ in the height or width that they emit."""
        return any(len({block.out_shape[1:] for block in row}) > 1 for row in self.blocks)

    @cached_property
    def _factors(self) -> dict[str, Tensor]:
        # What a candidate does not decide counts as 1: the entry that ``chances`` puts behind the options.
        return {
            name: torch.tensor([every.index(taken[name]) if name in taken else len(every) for taken in self.candidates])
            for name, every in self.options.items()
        }

    def chances(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the weights of candidates (..., candidates) from those of each decision's options (..., options)."""
        factors = [F.pad(weights[name], (0, 1), value=1.0)[..., index] for name, index in self._factors.items()]
        return reduce(torch.mul, factors) if factors else torch.ones(len(self.candidates))


def laid_out(shape: Shape, candidates: Sequence[Sequence[Candidate]]) -> list[Position]:
    """Return the positions of a chain that begins with an input of ``shape``."""
    found: list[Position] = []
    shapes: tuple[Shape, ...] = (shape,)
    for row in candidates:
        blocks = tuple(tuple(block(each) for _, block in row) for each in shapes)
        found.append(Position(shapes, tuple(taken for taken, _ in row), blocks))
        shapes = found[-1].out_shapes
    return found
