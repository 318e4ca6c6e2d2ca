"""LowFormer's block: attention at half the channels and few pixels between convolutions.

Source: LowFormer: Hardware Efficient Design for Convolutional Transformer Backbones (WACV 2025, arXiv 2409.03460),
and its authors' code.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from search_spaces.attention import Attends, attend, of_heads, shared_thirds
from search_spaces.block import Shape
from search_spaces.layered import Residual, pixels, strided
from search_spaces.operators import conv_norm


class SlimmedAttention(nn.Module):
    """Softmax attention at half the channels and, by a strided convolution, at fewer pixels."""

    def __init__(self, channels: int, heads: int, inner: int, stride: int) -> None:
        super().__init__()
        self.heads, self.inner = heads, inner
        kernel, up = (5, 2 * stride) if stride > 1 else (3, 3)
        self.norm = nn.GroupNorm(1, channels)
        self.reduce = conv_norm(channels, channels, kernel, stride, channels, relu=False)
        self.qkv = nn.Conv2d(channels, 3 * inner, 1, bias=False)
        self.restore = nn.ConvTranspose2d(inner, channels, up, stride, (up - stride + 1) // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to NCHW."""
        n, _, height, width = x.shape
        y = self.reduce(self.norm(x))
        seen = attend(*of_heads(self.qkv(y), self.heads)).reshape(n, self.inner, *y.shape[2:])
        return self.restore(seen).narrow(2, 0, height).narrow(3, 0, width)


@dataclass(frozen=True)
class LowFormerBlock(Attends):
    """LowFormer's block: residual attention, MLP and local convolution.

    Attention runs at half the channels, and at pixels that are ``stride`` apart. The local convolution is a fused
    inverted residual, beyond 256 channels one with a depthwise convolution.
    """

    stride: int

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"lowformer_r{self.stride}"

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        return self.in_shape

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return max(1, self.in_shape[0] // 60)

    @property
    def inner_channels(self) -> int:
        """Channels of all heads together."""
        return self.heads * (self.in_shape[0] // self.heads // 2)

    @property
    def tokens(self) -> int:
        """Number of pixels that attend to one another."""
        return pixels(strided(self.in_shape, 1, self.stride))

    @property
    def fused(self) -> bool:
        """Whether the local convolution is dense."""
        return self.in_shape[0] < 256

    def layers(self) -> list[tuple[int, int]]:
        """List the convolutions around the attention, those of the MLP and the local ones."""
        channels, inner, count = self.in_shape[0], self.inner_channels, pixels(self.in_shape)
        kernels = (5, 2 * self.stride) if self.stride > 1 else (3, 3)
        wide = 4 * channels
        local = [(channels * wide * 9, count)] if self.fused else [(channels * wide, count), (wide * 9, count)]
        return [
            (channels * kernels[0] ** 2 + channels * 3 * inner, self.tokens),
            (inner * channels * kernels[1] ** 2, self.tokens),
            (2 * channels * wide, count),
            *local,
            (wide * channels, count),
        ]

    @property
    def products(self) -> int:
        """Queries by keys, weights by values."""
        return 2 * self.tokens**2 * self.inner_channels

    def _local(self) -> OrderedDict[str, nn.Module]:
        channels = self.in_shape[0]
        wide = 4 * channels
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if self.fused:
            layers["spatial"] = nn.Conv2d(channels, wide, 3, padding=1)
            layers["norm"] = nn.BatchNorm2d(wide)
            layers["act"] = nn.Hardswish()
        else:
            layers["expand"] = nn.Sequential(nn.Conv2d(channels, wide, 1), nn.Hardswish())
            layers["depthwise"] = nn.Sequential(nn.Conv2d(wide, wide, 3, padding=1, groups=wide), nn.Hardswish())
        layers["project"] = conv_norm(wide, channels, 1, 1, 1, relu=False)
        return layers

    def build(self) -> nn.Module:
        """Return the module."""
        channels = self.in_shape[0]
        wide = 4 * channels
        mlp = OrderedDict(
            norm=nn.GroupNorm(1, channels), expand=nn.Conv2d(channels, wide, 1), act=nn.GELU(),
            project=nn.Conv2d(wide, channels, 1),
        )  # fmt: skip
        attention = SlimmedAttention(channels, self.heads, self.inner_channels, self.stride)
        return nn.Sequential(
            OrderedDict(
                slimmed=Residual(OrderedDict(heads=attention)), mlp=Residual(mlp), local=Residual(self._local())
            )
        )

    def shared_part(self, name: str, shape: Sequence[int], whole: Tensor) -> Tensor:
        """Return the part of the largest parameter, of queries, keys and values each."""
        return shared_thirds(self, name, shape, whole)
