"""How branches begin and end, as blocks: parts of their common input, and what makes one of their outputs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search_spaces.block import Shape, shape_text
from search_spaces.einspace.operators import Apply
from search_spaces.operators import Weightless


@dataclass(frozen=True)
class Part(Weightless):
    """One of several equal parts along an axis of (C, H, W)."""

    axis: int
    parts: int
    number: int

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"part{self.number}_of{self.parts}_a{self.axis}"

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        channels, height, width = (
            size // self.parts if axis == self.axis else size for axis, size in enumerate(self.in_shape)
        )
        return channels, height, width

    def build(self) -> nn.Module:
        """Return the module."""
        size = self.in_shape[self.axis] // self.parts
        return Apply(lambda x: x.narrow(self.axis + 1, self.number * size, size))


class Joined(nn.Module):
    """The torch module of ``Join``."""

    def __init__(self, others: tuple[Shape, ...], function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._others = others
        self._function = function

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Map NCHW of each branch to NCHW. Alone, as latency tables measure a block, it joins its input with ones."""
        return self._function(first, *(others or (torch.ones(first.shape[0], *shape) for shape in self._others)))


@dataclass(frozen=True)
class Join(Weightless):
    """What makes one of the outputs of several branches; ``in_shape`` is the first one's, ``others`` the others'."""

    others: tuple[Shape, ...]

    @property
    def moved(self) -> int:
        """Number of elements read and written at batch 1."""
        return super().moved + sum(map(math.prod, self.others))

    @property
    def _others(self) -> str:
        return "_".join(map(shape_text, self.others))


@dataclass(frozen=True)
class Add(Join):
    """The sum."""

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"add{1 + len(self.others)}_{self._others}"

    def build(self) -> nn.Module:
        """Return the module."""
        return Joined(self.others, lambda *tensors: sum(tensors[1:], tensors[0]))


@dataclass(frozen=True)
class Concat(Join):
    """One behind the other along an axis of (C, H, W)."""

    axis: int

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"concat_a{self.axis}_{self._others}"

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        more = sum(shape[self.axis] for shape in self.others)
        channels, height, width = (size + more * (axis == self.axis) for axis, size in enumerate(self.in_shape))
        return channels, height, width

    def build(self) -> nn.Module:
        """Return the module."""
        return Joined(self.others, lambda *tensors: torch.cat(tensors, self.axis + 1))


@dataclass(frozen=True)
class Product(Join):
    """The matrix product of two, scaled or not by the root of its number of summands."""

    scaled: bool

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"{'scaled_' if self.scaled else ''}dot_{self._others}"

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        return *self.in_shape[:2], self.others[0][2]

    @property
    def macs(self) -> int:
        """Multiply-accumulates at batch 1."""
        return math.prod(self.in_shape) * self.others[0][2]

    def build(self) -> nn.Module:
        """Return the module."""
        scale = self.in_shape[2] ** -0.5
        if not self.scaled:
            return Joined(self.others, lambda first, second: first @ second)
        return Joined(self.others, lambda first, second: (first @ second) * scale)
