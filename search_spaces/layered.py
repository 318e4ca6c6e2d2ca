"""Blocks of several layers, counted layer by layer, and what their modules are made of."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from search_spaces.block import Block, Shape
from search_spaces.operators import after_stride


def strided(shape: Shape, channels: int, stride: int) -> Shape:
    """Return the shape behind a convolution with "same" padding."""
    return channels, after_stride(shape[1], stride), after_stride(shape[2], stride)


def pixels(shape: Shape) -> int:
    """Return the number of pixels of a feature map."""
    return shape[1] * shape[2]


class Residual(nn.Sequential):
    """Layers whose result is added to their input."""

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to NCHW."""
        return x + super().forward(x)


@dataclass(frozen=True)
class Layered(Block):
    """A block of several layers, which lists what each weighs and where it runs, and is counted by that."""

    @abstractmethod
    def layers(self) -> list[tuple[int, int]]:
        """Return the number of weights of each layer and the number of pixels that it is used at."""

    @property
    def products(self) -> int:
        """Multiply-accumulates without weights: of two feature maps, and of elements that are pooled globally."""
        return 0

    @property
    def params(self) -> int:
        """Number of weights."""
        return sum(weights for weights, _ in self.layers())

    @property
    def macs(self) -> int:
        """Multiply-accumulates at batch 1."""
        return sum(weights * count for weights, count in self.layers()) + self.products
