"""The operators of convolutional spaces, each defined once."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.block import Block, Shape


def after_stride(side: int, stride: int) -> int:
    """Return the side (px) behind a convolution with "same" padding."""
    return -(-side // stride)


def round_channels(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of ``divisor``, never below 95 % of the value (FBNet authors' reference code)."""
    rounded = max(divisor, int(channels / divisor + 0.5) * divisor)
    return rounded + divisor if rounded < 0.95 * channels else rounded


def conv_norm(c_in: int, c_out: int, kernel: int, stride: int, groups: int, relu: bool) -> nn.Sequential:
    """Return convolution ("same" padding, no bias), batch norm and, if asked, ReLU."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, norm=nn.BatchNorm2d(c_out))
    if relu:
        layers["act"] = nn.ReLU()
    return nn.Sequential(layers)


@dataclass(frozen=True)
class ConvNormReLU(Block):
    """Convolution, batch norm, ReLU: stems, heads and the projecting skip."""

    out_channels: int
    kernel: int
    stride: int

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"conv_k{self.kernel}_s{self.stride}_o{self.out_channels}"

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        _, height, width = self.in_shape
        return self.out_channels, after_stride(height, self.stride), after_stride(width, self.stride)

    @property
    def params(self) -> int:
        """Number of weights."""
        return self.in_shape[0] * self.out_channels * self.kernel**2

    @property
    def macs(self) -> int:
        """Multiply-accumulates at batch 1."""
        _, height, width = self.out_shape
        return self.params * height * width

    @property
    def widths(self) -> Mapping[str, int]:
        """The output's channels, behind the activation."""
        return {"act": self.out_channels}

    def build(self) -> nn.Module:
        """Return the module."""
        return conv_norm(self.in_shape[0], self.out_channels, self.kernel, self.stride, 1, relu=True)


class ChannelShuffle(nn.Module):
    """Interleave the channels of ``groups`` groups (ShuffleNet, CVPR 2018, section 3.1)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to NCHW."""
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class MBConvModule(nn.Module):
    """The torch module of ``MBConv``."""

    def __init__(self, block: "MBConv") -> None:
        super().__init__()
        c_in, mid, groups = block.in_shape[0], block.mid_channels, block.groups
        if block.expands:
            self.expand = conv_norm(c_in, mid, 1, 1, groups, relu=True)
        else:
            self.expand = nn.Sequential()
        self.shuffle = ChannelShuffle(groups) if groups > 1 else nn.Identity()
        self.depthwise = conv_norm(mid, mid, block.kernel, block.stride, mid, relu=True)
        self.project = conv_norm(mid, block.out_channels, 1, 1, groups, relu=False)
        self.residual = block.residual

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to NCHW."""
        y = self.project(self.depthwise(self.shuffle(self.expand(x))))
        return x + y if self.residual else y


@dataclass(frozen=True)
class MBConv(Block):
    """Inverted residual: 1x1 expansion, k x k depthwise, 1x1 projection; residual where shapes agree.

    With groups the channels are shuffled before the depthwise convolution (FBNet, CVPR 2019, section 3.1).
    Where the expansion keeps the number of channels, the FBNet authors' code leaves the first 1x1 convolution
    out, while the paper's own counts suggest that it stays: ``always_expand`` keeps it.
    """

    out_channels: int
    kernel: int
    stride: int
    expansion: float
    groups: int = 1
    always_expand: bool = False

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        shape = f"k{self.kernel}_s{self.stride}_e{self.expansion:g}_g{self.groups}"
        first = "" if self.expands else "_direct"
        return f"mbconv_{shape}{first}_o{self.out_channels}"

    @property
    def expands(self) -> bool:
        """Whether there is a first 1x1 convolution."""
        return self.always_expand or self.mid_channels != self.in_shape[0]

    @property
    def mid_channels(self) -> int:
        """Channels of the depthwise convolution."""
        return round_channels(self.in_shape[0] * self.expansion)

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        _, height, width = self.in_shape
        return self.out_channels, after_stride(height, self.stride), after_stride(width, self.stride)

    @property
    def residual(self) -> bool:
        """Whether input and output agree in shape."""
        return self.in_shape == self.out_shape

    @property
    def widths(self) -> Mapping[str, int]:
        """The channels of the depthwise convolution and of the output.

        A mask behind the depthwise convolution's batch norm serves the expansion too: channels do not mix
        between them, and a mask before it would be normalised away or leave what the norm's shift adds.
        """
        return {"depthwise.act": self.mid_channels, "project": self.out_channels}

    def _weights(self) -> tuple[int, int, int]:
        c_in, mid = self.in_shape[0], self.mid_channels
        expand = c_in * mid // self.groups if self.expands else 0
        return expand, mid * self.kernel**2, mid * self.out_channels // self.groups

    @property
    def params(self) -> int:
        """Number of weights."""
        return sum(self._weights())

    @property
    def macs(self) -> int:
        """Multiply-accumulates at batch 1."""
        expand, depthwise, project = self._weights()
        pixels_in = self.in_shape[1] * self.in_shape[2]
        pixels_out = self.out_shape[1] * self.out_shape[2]
        return expand * pixels_in + (depthwise + project) * pixels_out

    def build(self) -> nn.Module:
        """Return the module."""
        return MBConvModule(self)

    def shared_part(self, name: str, shape: Sequence[int], whole: Tensor) -> Tensor:
        """Return the part of the largest parameter; grouped convolutions use its diagonal blocks.

        Behind the shuffle, channels are looked up where the ungrouped alternatives have them.
        """
        if self.groups == 1:
            return super().shared_part(name, shape, whole)
        mid, per_group = self.mid_channels, self.mid_channels // self.groups
        shuffled = torch.arange(mid).view(self.groups, per_group).T.flatten()
        if name.startswith("depthwise."):
            return super().shared_part(name, shape, whole)[shuffled]
        if name == "expand.conv.weight":
            return _diagonal_blocks(whole[:mid, : self.in_shape[0]], self.groups)
        if name == "project.conv.weight":
            return _diagonal_blocks(whole[:, :mid][:, shuffled], self.groups)
        return super().shared_part(name, shape, whole)


def _diagonal_blocks(weight: Tensor, groups: int) -> Tensor:
    """Return the weight (out, in / groups, 1, 1) of the grouped convolution inside a dense one."""
    rows = weight.chunk(groups)
    return torch.cat([row.chunk(groups, dim=1)[group] for group, row in enumerate(rows)])


@dataclass(frozen=True)
class Weightless(Block):
    """What has no weights, and keeps the shape if it does not say otherwise.

    It has no MACs: of pooling, by convention only the global one counts.
    """

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        return self.in_shape

    @property
    def params(self) -> int:
        """Zero."""
        return 0

    @property
    def macs(self) -> int:
        """Zero."""
        return 0


@dataclass(frozen=True)
class Identity(Weightless):
    """Nothing at all: a layer that the architecture leaves out."""

    @property
    def spec(self) -> str:
        """Operator."""
        return "identity"

    @property
    def free(self) -> bool:
        """True."""
        return True

    def build(self) -> nn.Module:
        """Return the module."""
        return nn.Identity()


class PooledLinear(nn.Module):
    """The torch module of ``Classifier``."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to (N, classes)."""
        return self.linear(F.avg_pool2d(x, x.shape[-2:]).flatten(1))


@dataclass(frozen=True)
class Classifier(Block):
    """Global average pooling and a linear layer to the class scores."""

    classes: int

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"classifier_o{self.classes}"

    @property
    def out_shape(self) -> Shape:
        """Class scores as a feature map of one pixel."""
        return self.classes, 1, 1

    @property
    def params(self) -> int:
        """Number of weights."""
        return self.in_shape[0] * self.classes

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the linear layer plus the pooled elements."""
        channels, height, width = self.in_shape
        return self.params + channels * height * width

    def build(self) -> nn.Module:
        """Return the module."""
        return PooledLinear(self.in_shape[0], self.classes)
