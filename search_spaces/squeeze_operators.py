"""The operators that FBNetV2 adds, each defined once: squeeze-excite, h-swish, its pooled head, another resolution.

Source: FBNetV2: Differentiable Neural Architecture Search for Spatial and Channel Dimensions (CVPR 2020, arXiv
2004.05565), and its authors' code; h-swish and the hard sigmoid: Searching for MobileNetV3 (ICCV 2019), section 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.block import Block, Shape
from search_spaces.operators import ConvNormReLU, MBConv, MBConvModule, Weightless, conv_norm, round_channels


class SqueezeExcite(nn.Module):
    """Scale each channel by what two layers make of all channels' means (Squeeze-and-Excitation, CVPR 2018)."""

    def __init__(self, channels: int, squeezed: int, act: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = act
        self.excite = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to NCHW."""
        means = F.avg_pool2d(x, x.shape[-2:])
        return x * self.gate(self.excite(self.act(self.reduce(means))))


@dataclass(frozen=True)
class SqueezeMBConv(MBConv):
    """Inverted residual with squeeze-excite behind the depthwise convolution, h-swish instead of ReLU, both or neither.

    The squeeze-excite works on a quarter of the depthwise convolution's channels, rounded to a multiple of 8.
    """

    squeeze: bool = False
    hswish: bool = False

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"{super().spec}{'_se' if self.squeeze else ''}{'_hswish' if self.hswish else ''}"

    @property
    def squeezed_channels(self) -> int:
        """Channels between the two layers of the squeeze-excite."""
        return round_channels(self.mid_channels // 4)

    @property
    def widths(self) -> Mapping[str, int]:
        """Those of the inverted residual and, within the squeeze-excite, its squeezed channels."""
        squeezed = {"depthwise.squeeze.act": self.squeezed_channels} if self.squeeze else {}
        return {**super().widths, **squeezed}

    def _squeeze_weights(self) -> int:
        return 2 * self.mid_channels * self.squeezed_channels if self.squeeze else 0

    @property
    def params(self) -> int:
        """Number of weights."""
        return super().params + self._squeeze_weights()

    @property
    def macs(self) -> int:
        """Multiply-accumulates at batch 1; the squeeze-excite pools globally."""
        _, height, width = self.out_shape
        pooled = self.mid_channels * height * width if self.squeeze else 0
        return super().macs + self._squeeze_weights() + pooled

    def build(self) -> nn.Module:
        """Return the module."""
        module = MBConvModule(self)
        act = nn.Hardswish if self.hswish else nn.ReLU
        module.depthwise.act = act()
        if self.expands:
            module.expand.act = act()
        if self.squeeze:
            module.depthwise.squeeze = SqueezeExcite(self.mid_channels, self.squeezed_channels, act(), nn.Hardsigmoid())
        return module


@dataclass(frozen=True)
class ConvNormHSwish(ConvNormReLU):
    """Convolution, batch norm, h-swish."""

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"{super().spec}_hswish"

    def build(self) -> nn.Module:
        """Return the module."""
        module = conv_norm(self.in_shape[0], self.out_channels, self.kernel, self.stride, 1, relu=False)
        module.add_module("act", nn.Hardswish())
        return module


class PooledHiddenLinear(nn.Module):
    """The torch module of ``PooledHead``."""

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, hidden)
        self.act = nn.Hardswish()
        self.linear = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to (N, classes)."""
        return self.linear(self.act(self.hidden(F.avg_pool2d(x, x.shape[-2:]).flatten(1))))


@dataclass(frozen=True)
class PooledHead(Block):
    """Global average pooling, a layer of ``hidden`` features with h-swish, and a linear layer to the class scores."""

    hidden: int
    classes: int

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"pooled_head_h{self.hidden}_o{self.classes}"

    @property
    def out_shape(self) -> Shape:
        """Class scores as a feature map of one pixel."""
        return self.classes, 1, 1

    @property
    def params(self) -> int:
        """Number of weights."""
        return self.hidden * (self.in_shape[0] + self.classes)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of both layers plus the pooled elements.

        The authors pool once more before the last layer: its ``hidden`` elements, a pixel each, count.
        """
        channels, height, width = self.in_shape
        return self.params + channels * height * width + self.hidden

    def build(self) -> nn.Module:
        """Return the module."""
        return PooledHiddenLinear(self.in_shape[0], self.hidden, self.classes)


class Interpolated(nn.Module):
    """The torch module of ``Resize``."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to the other height and width."""
        return F.interpolate(x, self.size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Resize(Weightless):
    """Bring an image to another height and width (px), bilinearly, as a loader of images would."""

    height: int
    width: int

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"resize_{self.height}x{self.width}"

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        return self.in_shape[0], self.height, self.width

    def build(self) -> nn.Module:
        """Return the module."""
        return Interpolated((self.height, self.width))
