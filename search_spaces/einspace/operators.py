"""The operators of einspace's networks as blocks, each defined once; see ``joins`` for those of branches.

Columns (S, D) are feature maps (1, S, D) here; see ``Signal``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.block import Block, Shape
from search_spaces.einspace.signal import window_grid
from search_spaces.operators import Weightless


class Apply(nn.Module):
    """The torch module of what has no weights: a function of its input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to NCHW."""
        return self._function(x)


def _reversed(x: Tensor) -> Tensor:
    """Return (N, A, B, C) as (N, C, B, A), in two steps: engines swap two dimensions many times faster than three.

    The dimension of size 1 keeps them from making one step of it.
    """
    batch, first, second, third = x.shape
    rows = x.transpose(2, 3).reshape(batch, first, 1, third * second)
    return rows.permute(0, 2, 3, 1).reshape(batch, third, second, first)


@dataclass(frozen=True)
class Linear(Block):
    """A linear layer with bias on the last dimension."""

    width: int

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"linear_o{self.width}"

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        return *self.in_shape[:2], self.width

    @property
    def params(self) -> int:
        """Number of weights."""
        return self.in_shape[2] * self.width

    @property
    def macs(self) -> int:
        """Multiply-accumulates at batch 1."""
        return self.params * self.in_shape[0] * self.in_shape[1]

    def build(self) -> nn.Module:
        """Return the module."""
        return nn.Linear(self.in_shape[2], self.width)


@dataclass(frozen=True)
class Convolution(Block):
    """A convolution with bias: what im2col, a linear layer and col2im are together."""

    out_channels: int
    kernel: int
    stride: int
    padding: int

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"conv_bias_k{self.kernel}_s{self.stride}_p{self.padding}_o{self.out_channels}"

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        return self.out_channels, *window_grid(*self.in_shape[1:], self.kernel, self.stride, self.padding)

    @property
    def params(self) -> int:
        """Number of weights."""
        return self.in_shape[0] * self.out_channels * self.kernel**2

    @property
    def macs(self) -> int:
        """Multiply-accumulates at batch 1."""
        return self.params * self.out_shape[1] * self.out_shape[2]

    def build(self) -> nn.Module:
        """Return the module."""
        return nn.Conv2d(self.in_shape[0], self.out_channels, self.kernel, self.stride, self.padding)


@dataclass(frozen=True)
class Columns(Weightless):
    """Windows of a feature map as columns, channel by channel as ``torch.nn.Unfold`` orders them: im2col."""

    kernel: int
    stride: int
    padding: int

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"im2col_k{self.kernel}_s{self.stride}_p{self.padding}"

    @property
    def grid(self) -> tuple[int, int]:
        """Number of windows, vertically and horizontally."""
        return window_grid(*self.in_shape[1:], self.kernel, self.stride, self.padding)

    @property
    def out_shape(self) -> Shape:
        """One channel, a row per window, a number per pixel in it."""
        return 1, math.prod(self.grid), self.in_shape[0] * self.kernel**2

    def build(self) -> nn.Module:
        """Return the module."""
        return Apply(self._columns)

    def _columns(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        (height, width), kernel, stride = self.grid, self.kernel, self.stride
        if kernel == 1:  # engines swap two dimensions many times faster than they reorder six
            x = x if stride == 1 else x[:, :, ::stride, ::stride]
            return x.reshape(batch, channels, height * width).transpose(1, 2).reshape(batch, *self.out_shape)
        if kernel == stride:  # a pixel belongs to one window
            x = x[:, :, : height * kernel, : width * kernel]
            x = x.reshape(batch, channels, height, kernel, width, kernel).permute(0, 2, 4, 1, 3, 5)
            return x.reshape(batch, *self.out_shape)
        x = F.pad(x, (self.padding,) * 4)
        reach = stride * (height - 1) + 1, stride * (width - 1) + 1
        parts = [
            x[:, :, top : top + reach[0] : stride, left : left + reach[1] : stride]
            for top in range(kernel)
            for left in range(kernel)
        ]
        x = torch.cat(parts, 1).reshape(batch, kernel**2, channels, height * width)
        return _reversed(x).reshape(batch, *self.out_shape)


@dataclass(frozen=True)
class FeatureMap(Weightless):
    """Columns, one per pixel, as a feature map of so many pixels: col2im."""

    height: int
    width: int

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"col2im_{self.height}x{self.width}"

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        return self.in_shape[2], self.height, self.width

    def build(self) -> nn.Module:
        """Return the module."""
        return Apply(lambda x: x.transpose(2, 3).reshape(x.shape[0], *self.out_shape))


@dataclass(frozen=True)
class Permute(Weightless):
    """The dimensions (C, H, W) in another order."""

    axes: tuple[int, int, int]

    @property
    def kind(self) -> str:
        """The order: engines compute each in a way of its own."""
        return self.spec

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"permute_{''.join(map(str, self.axes))}"

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        first, second, third = (self.in_shape[axis] for axis in self.axes)
        return first, second, third

    def build(self) -> nn.Module:
        """Return the module."""
        if self.axes == (2, 1, 0):
            return Apply(_reversed)
        order = (0, *(axis + 1 for axis in self.axes))
        return Apply(lambda x: x.permute(order))


@dataclass(frozen=True)
class BatchNorm(Weightless):
    """Batch norm of a feature map."""

    @property
    def spec(self) -> str:
        """Operator."""
        return "batch_norm"

    def build(self) -> nn.Module:
        """Return the module."""
        return nn.BatchNorm2d(self.in_shape[0])


@dataclass(frozen=True)
class LayerNorm(Weightless):
    """Layer norm over the last dimension, of columns."""

    @property
    def spec(self) -> str:
        """Operator."""
        return "layer_norm"

    def build(self) -> nn.Module:
        """Return the module."""
        return nn.LayerNorm(self.in_shape[2])


@dataclass(frozen=True)
class LeakyReLU(Weightless):
    """Leaky ReLU of slope 0.01: what the paper calls ReLU and the authors' code runs."""

    @property
    def spec(self) -> str:
        """Operator."""
        return "leaky_relu"

    def build(self) -> nn.Module:
        """Return the module."""
        return nn.LeakyReLU()


@dataclass(frozen=True)
class Softmax(Weightless):
    """Softmax over the last dimension."""

    @property
    def spec(self) -> str:
        """Operator."""
        return "softmax"

    def build(self) -> nn.Module:
        """Return the module."""
        return nn.Softmax(dim=3)


class AddedPositions(nn.Module):
    """The torch module of ``Positions``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(1, *shape))  # as vision transformers start (ICLR 2021)

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to NCHW."""
        return x + self.positions


@dataclass(frozen=True)
class Positions(Weightless):
    """A learned positional encoding, added. Its numbers count as weights: there may be more of them than of others."""

    @property
    def spec(self) -> str:
        """Operator."""
        return "positions"

    @property
    def params(self) -> int:
        """Number of weights."""
        return math.prod(self.in_shape)

    def build(self) -> nn.Module:
        """Return the module."""
        return AddedPositions(self.in_shape)
