"""The block: the unit that is counted, measured, trained and shared."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

Shape = tuple[int, int, int]
"""Channels, height, width of one feature map (batch left out)."""


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as users read and write it, as in ``3x32x32``."""
    return "x".join(map(str, shape))


@dataclass(frozen=True)
class Block(ABC):
    """An operator with its hyper-parameters and input shape: a frozen value that builds its torch module.

    ``key`` is the canonical text: equal keys mean equal computations, so it names the block's row in a
    latency table. MACs and parameters follow the convention of the FBNet authors' published figures:
    MACs count convolutions, linear layers and the input elements of a global pooling; parameters count
    convolution and linear weights, without biases and the affine terms of norms. In attention, the products
    of two feature maps are MACs as well.
    """

    in_shape: Shape

    @property
    def kind(self) -> str:
        """What it has in common with blocks that engines compute in the same way, whatever their sizes."""
        return type(self).__name__

    @property
    @abstractmethod
    def spec(self) -> str:
        """Operator and hyper-parameters as text, without the input shape."""

    @cached_property
    def key(self) -> str:
        """Canonical text of operator, hyper-parameters and input shape."""
        channels, height, width = self.in_shape
        return f"{self.spec}_{channels}x{height}x{width}"

    @property
    @abstractmethod
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""

    @property
    @abstractmethod
    def macs(self) -> int:
        """Multiply-accumulates of one inference at batch 1."""

    @property
    @abstractmethod
    def params(self) -> int:
        """Number of convolution and linear weights."""

    @property
    def moved(self) -> int:
        """Number of elements read and written at batch 1, weights left out."""
        return math.prod(self.in_shape) + math.prod(self.out_shape)

    @cached_property
    def counts(self) -> tuple[int, int]:
        """MACs and parameters, kept: predictors ask for them thousands of times."""
        return self.macs, self.params

    @property
    def free(self) -> bool:
        """Whether it runs nothing, so that it is neither measured nor counted."""
        return False

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        return False

    @property
    def widths(self) -> Mapping[str, int]:
        """Channels behind those submodules at which alternatives may be narrower: what a mask leaves of a wider one."""
        return {}

    @property
    def maskable(self) -> bool:
        """Whether masks at ``widths`` make of a wider alternative what this block computes.

        Norms over all channels, and heads or halves of them, stand against it.
        """
        return True

    @abstractmethod
    def build(self) -> nn.Module:
        """Return a freshly initialised torch module that maps NCHW ``in_shape`` to ``out_shape``."""

    def shared_part(self, name: str, shape: Sequence[int], whole: Tensor) -> Tensor:
        """Return what this block's parameter ``name`` of ``shape`` uses of the largest one that shares its name.

        Leading channels and the central kernel window, so that alternatives of one layer see and emit the
        same features (Once-for-All, ICLR 2020, section 3).
        """
        window = []
        for axis, (size, most) in enumerate(zip(shape, whole.shape, strict=True)):
            start = (most - size) // 2 if axis >= 2 else 0
            window.append(slice(start, start + size))
        return whole[tuple(window)]


class Network(nn.Module):
    """The modules of blocks one after another. Parameter names start with ``layers.<position>.``."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (NCHW) to class scores (N, classes)."""
        for layer in self.layers:
            x = layer(x)
        return x
