"""The operators of NAS-Bench-201's cells and of the macro-architecture around them, each defined once.

Source: NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search (ICLR 2020, arXiv
2001.00326), section 2, and its authors' code.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.block import Block, Shape
from search_spaces.operators import Classifier, PooledLinear, Weightless, conv_norm


@dataclass(frozen=True)
class ReLUConvNorm(Block):
    """ReLU, convolution of stride 1, batch norm; the stem does without the ReLU."""

    out_channels: int
    kernel: int
    relu: bool = True

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"{'relu_' if self.relu else ''}conv_norm_k{self.kernel}_o{self.out_channels}"

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        return self.out_channels, *self.in_shape[1:]

    @property
    def params(self) -> int:
        """Number of weights."""
        return self.in_shape[0] * self.out_channels * self.kernel**2

    @property
    def macs(self) -> int:
        """Multiply-accumulates at batch 1."""
        return self.params * self.in_shape[1] * self.in_shape[2]

    def build(self) -> nn.Module:
        """Return the module."""
        convolution = conv_norm(self.in_shape[0], self.out_channels, self.kernel, 1, 1, relu=False)
        if not self.relu:
            return convolution
        return nn.Sequential(OrderedDict(act=nn.ReLU(), **dict(convolution.named_children())))


@dataclass(frozen=True)
class AveragePool(Weightless):
    """Average over 3 x 3 pixels at stride 1; at the border over those that are there."""

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return "avg_pool_k3"

    def build(self) -> nn.Module:
        """Return the module."""
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


class Zeros(nn.Module):
    """The torch module of ``Zero``."""

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to zeros of the same shape, with gradients (zeros too) for what came before."""
        return x * 0.0


@dataclass(frozen=True)
class Zero(Weightless):
    """No signal: an edge that the cell leaves out. Networks run it only where nothing else would reach a cell's end."""

    @property
    def spec(self) -> str:
        """Operator."""
        return "zero"

    @property
    def free(self) -> bool:
        """True."""
        return True

    def build(self) -> nn.Module:
        """Return the module."""
        return Zeros()


class ResidualModule(nn.Module):
    """The torch module of ``ResidualDown``."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.first = conv_norm(c_in, c_out, 3, 2, 1, relu=False)
        self.second = conv_norm(c_out, c_out, 3, 1, 1, relu=False)
        self.pool = nn.AvgPool2d(2, stride=2)
        self.shortcut = nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to half the height and width."""
        y = self.second(F.relu(self.first(F.relu(x))))
        return y + self.shortcut(self.pool(x))


@dataclass(frozen=True)
class ResidualDown(Block):
    """Basic residual block of stride 2, ReLU first; its shortcut pools 2 x 2 pixels and projects."""

    out_channels: int

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"residual_s2_o{self.out_channels}"

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        _, height, width = self.in_shape
        return self.out_channels, height // 2, width // 2

    @property
    def params(self) -> int:
        """Number of weights."""
        return self.out_channels * (10 * self.in_shape[0] + 9 * self.out_channels)

    @property
    def macs(self) -> int:
        """Multiply-accumulates at batch 1."""
        return self.params * self.out_shape[1] * self.out_shape[2]

    def build(self) -> nn.Module:
        """Return the module."""
        return ResidualModule(self.in_shape[0], self.out_channels)


@dataclass(frozen=True)
class NormClassifier(Classifier):
    """Batch norm, ReLU, global average pooling and a linear layer to the class scores."""

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"norm_classifier_o{self.classes}"

    def build(self) -> nn.Module:
        """Return the module."""
        channels = self.in_shape[0]
        return nn.Sequential(
            OrderedDict(norm=nn.BatchNorm2d(channels), act=nn.ReLU(), classifier=PooledLinear(channels, self.classes))
        )
