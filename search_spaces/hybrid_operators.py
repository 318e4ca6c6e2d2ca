"""The convolutional operators of hybrid networks, each defined once.

Sources: SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design (CVPR 2024, arXiv 2401.16456) and
LowFormer: Hardware Efficient Design for Convolutional Transformer Backbones (WACV 2025, arXiv 2409.03460), with their
authors' code. Batch norms that end a residual branch start at 1, not at 0 as some of the authors': comparisons of an
exported block with its module would see nothing of the branch.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from search_spaces.block import Shape
from search_spaces.layered import Layered, Residual, pixels, strided
from search_spaces.operators import conv_norm, round_channels
from search_spaces.squeeze_operators import SqueezeExcite


class FusedMBConvModule(nn.Module):
    """The torch module of ``FusedMBConv``."""

    def __init__(self, block: "FusedMBConv") -> None:
        super().__init__()
        self.spatial = conv_norm(block.in_shape[0], block.mid_channels, block.kernel, block.stride, 1, relu=False)
        self.spatial.add_module("act", nn.Hardswish())
        self.point = conv_norm(block.mid_channels, block.out_channels, 1, 1, 1, relu=False)
        self.residual = block.residual

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to NCHW."""
        y = self.point(self.spatial(x))
        return x + y if self.residual else y


@dataclass(frozen=True)
class FusedMBConv(Layered):
    """k x k expansion, h-swish, 1x1 projection; residual where shapes agree (LowFormer)."""

    out_channels: int
    kernel: int
    stride: int
    expansion: float

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"fused_mbconv_k{self.kernel}_s{self.stride}_e{self.expansion:g}_o{self.out_channels}"

    @property
    def mid_channels(self) -> int:
        """Channels between the two convolutions."""
        return round(self.in_shape[0] * self.expansion)

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        return strided(self.in_shape, self.out_channels, self.stride)

    @property
    def residual(self) -> bool:
        """Whether input and output agree in shape."""
        return self.in_shape == self.out_shape

    @property
    def widths(self) -> Mapping[str, int]:
        """The channels between the two convolutions, and those of the output."""
        return {"spatial.act": self.mid_channels, "point": self.out_channels}

    def layers(self) -> list[tuple[int, int]]:
        """List both convolutions."""
        count, mid = pixels(self.out_shape), self.mid_channels
        return [(self.in_shape[0] * mid * self.kernel**2, count), (mid * self.out_channels, count)]

    def build(self) -> nn.Module:
        """Return the module."""
        return FusedMBConvModule(self)


@dataclass(frozen=True)
class DepthwiseFFN(Layered):
    """Residual depthwise k x k convolution, then a residual feed-forward part of two 1x1 convolutions.

    With a kernel of 3 it is the block of SHViT's first stage; larger ones see more pixels, as in ConvNeXt
    (CVPR 2022, section 2.5).
    """

    kernel: int
    expansion: float

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"depthwise_ffn_k{self.kernel}_e{self.expansion:g}"

    @property
    def mid_channels(self) -> int:
        """Channels between the two 1x1 convolutions."""
        return round(self.in_shape[0] * self.expansion)

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        return self.in_shape

    @property
    def widths(self) -> Mapping[str, int]:
        """The channels of each branch, before it is added, and those between the two 1x1 convolutions."""
        channels = self.in_shape[0]
        return {"conv.norm": channels, "ffn.expand.act": self.mid_channels, "ffn.project": channels}

    def layers(self) -> list[tuple[int, int]]:
        """List the depthwise convolution and, as one, the two others."""
        channels, count = self.in_shape[0], pixels(self.in_shape)
        return [(channels * self.kernel**2, count), (2 * channels * self.mid_channels, count)]

    def branches(self) -> OrderedDict[str, nn.Module]:
        """Return the modules by name, in order."""
        channels, mid = self.in_shape[0], self.mid_channels
        expand = conv_norm(channels, mid, 1, 1, 1, relu=True)
        project = conv_norm(mid, channels, 1, 1, 1, relu=False)
        depthwise = conv_norm(channels, channels, self.kernel, 1, channels, relu=False)
        return OrderedDict(
            conv=Residual(OrderedDict(depthwise.named_children())),
            ffn=Residual(OrderedDict(expand=expand, project=project)),
        )

    def build(self) -> nn.Module:
        """Return the module."""
        return nn.Sequential(self.branches())


@dataclass(frozen=True)
class PatchMerging(Layered):
    """SHViT's way to half the resolution: a depthwise block, merging, and another.

    Merging is a 1x1 expansion by 4, a depthwise 3x3 convolution of stride 2, squeeze-excite and a 1x1 projection.
    """

    out_channels: int

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"patch_merging_o{self.out_channels}"

    @property
    def mid_channels(self) -> int:
        """Channels of the depthwise convolution."""
        return 4 * self.in_shape[0]

    @property
    def squeezed_channels(self) -> int:
        """Channels between the two layers of the squeeze-excite."""
        return round_channels(self.mid_channels / 4)

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        return strided(self.in_shape, self.out_channels, 2)

    @property
    def maskable(self) -> bool:
        """False: it is several blocks."""
        return False

    def _around(self) -> tuple[DepthwiseFFN, DepthwiseFFN]:
        return DepthwiseFFN(self.in_shape, 3, 2), DepthwiseFFN(self.out_shape, 3, 2)

    def layers(self) -> list[tuple[int, int]]:
        """List the layers of both blocks, and between them those of the merging."""
        before, after = self._around()
        mid, count = self.mid_channels, pixels(self.out_shape)
        merging = [
            (self.in_shape[0] * mid, pixels(self.in_shape)),
            (mid * 9, count),
            (2 * mid * self.squeezed_channels, 1),
            (mid * self.out_channels, count),
        ]
        return [*before.layers(), *merging, *after.layers()]

    @property
    def products(self) -> int:
        """The elements that the squeeze-excite pools."""
        return self.mid_channels * pixels(self.out_shape)

    def build(self) -> nn.Module:
        """Return the module."""
        before, after = self._around()
        mid = self.mid_channels
        merge = OrderedDict(
            expand=conv_norm(self.in_shape[0], mid, 1, 1, 1, relu=True),
            depthwise=conv_norm(mid, mid, 3, 2, mid, relu=True),
            squeeze=SqueezeExcite(mid, self.squeezed_channels, nn.ReLU(), nn.Sigmoid()),
            project=conv_norm(mid, self.out_channels, 1, 1, 1, relu=False),
        )
        return nn.Sequential(OrderedDict(before=before.build(), merge=nn.Sequential(merge), after=after.build()))
