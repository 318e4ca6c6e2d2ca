"""Attention, and the blocks that have it between a depthwise convolution and a feed-forward part.

Sources: SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design (CVPR 2024, arXiv 2401.16456);
Castling-ViT: Compressing Self-Attention via Switching Towards Linear-Angular Attention at Vision Transformer Inference
(CVPR 2023, arXiv 2211.10526); and their authors' code.
"""

import math
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.block import Block
from search_spaces.hybrid_operators import DepthwiseFFN
from search_spaces.layered import Layered, Residual, pixels
from search_spaces.operators import conv_norm

THIRDS = ("qkv.weight", "qkv.norm.weight", "qkv.norm.bias", "qkv.conv.weight")
"""Parameters whose rows are queries, keys and values, as many of each."""


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return softmax attention over all pixels; features (..., d, pixels) of queries and keys, values in any number."""
    scaled = queries * queries.shape[-2] ** -0.5
    weights = (scaled.transpose(-2, -1) @ keys).softmax(dim=-1)
    return values @ weights.transpose(-2, -1)


def of_heads(x: Tensor, heads: int) -> list[Tensor]:
    """Split a map (N, 3 * C, H, W) into queries, keys and values, (N, heads, C / heads, H * W) each."""
    n, rows, h, w = x.shape
    part = rows // 3
    return [x.narrow(1, i * part, part).reshape(n, heads, part // heads, h * w) for i in range(3)]


class Attends(Layered):
    """A block of softmax attention, whose cost grows with the square of the number of pixels that attend."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Number of pixels that attend to one another."""

    @property
    def maskable(self) -> bool:
        """False: norms are over all channels, or the number of heads depends on it."""
        return False


def shared_thirds(block: Block, name: str, shape: Sequence[int], whole: Tensor) -> Tensor:
    """Return what a block uses of the largest parameter, of queries, keys and values each its leading part."""
    if not name.endswith(THIRDS):
        return Block.shared_part(block, name, shape, whole)
    part = (shape[0] // 3, *shape[1:])
    return torch.cat([Block.shared_part(block, name, part, third) for third in whole.chunk(3)])


class SingleHead(nn.Module):
    """Softmax attention of one head on the leading channels; the others pass by it."""

    def __init__(self, channels: int, attended: int, keys: int) -> None:
        super().__init__()
        self.attended, self.keys = attended, keys
        self.norm = nn.GroupNorm(1, attended)
        self.qkv = conv_norm(attended, 2 * keys + attended, 1, 1, 1, relu=False)
        self.act = nn.ReLU()
        self.project = conv_norm(channels, channels, 1, 1, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to NCHW."""
        n, channels, h, w = x.shape
        y = self.qkv(self.norm(x.narrow(1, 0, self.attended))).flatten(2)
        queries, keys = y.narrow(1, 0, self.keys), y.narrow(1, self.keys, self.keys)
        seen = attend(queries, keys, y.narrow(1, 2 * self.keys, self.attended)).reshape(n, self.attended, h, w)
        rest = x.narrow(1, self.attended, channels - self.attended)
        return self.project(self.act(torch.cat([seen, rest], 1)))


@dataclass(frozen=True)
class SingleHeadBlock(Attends, DepthwiseFFN):
    """SHViT's block: residual depthwise convolution, single-head attention and feed-forward part.

    Attention works on 3 of 14 channels, with queries and keys of 16 features.
    """

    KEYS = 16

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"single_head_k{self.kernel}_e{self.expansion:g}"

    @property
    def attended(self) -> int:
        """Channels that attention works on: the paper's 1 / 4.67, rounded as in all its networks."""
        return 3 * self.in_shape[0] // 14

    @property
    def tokens(self) -> int:
        """Number of pixels that attend to one another."""
        return pixels(self.in_shape)

    def layers(self) -> list[tuple[int, int]]:
        """List those of the depthwise block, and the two convolutions of the attention."""
        attended, count = self.attended, self.tokens
        return [
            *super().layers(),
            (attended * (2 * self.KEYS + attended), count),
            (self.in_shape[0] ** 2, count),
        ]

    @property
    def products(self) -> int:
        """Queries by keys, weights by values."""
        return self.tokens**2 * (self.KEYS + self.attended)

    def build(self) -> nn.Module:
        """Return the module."""
        branches = self.branches()
        branches["single"] = Residual(OrderedDict(head=SingleHead(self.in_shape[0], self.attended, self.KEYS)))
        branches.move_to_end("ffn")
        return nn.Sequential(branches)


class LinearAngular(nn.Module):
    """Attention by the angle between queries and keys, taken to first order: linear in the number of pixels."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = conv_norm(channels, 3 * channels, 1, 1, 1, relu=False)
        self.near = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.project = conv_norm(channels, channels, 1, 1, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to NCHW."""
        queries, keys, values = of_heads(self.qkv(x), self.heads)
        queries, keys = F.normalize(queries, dim=2), F.normalize(keys, dim=2)
        seen = values * 0.5 + (values @ keys.transpose(2, 3)) @ queries * (1 / math.pi)
        far = F.normalize(seen, dim=2).reshape(x.shape)
        return self.project(far + self.near(values.reshape(x.shape)))


@dataclass(frozen=True)
class LinearAngularBlock(DepthwiseFFN):
    """The block of SHViT with linear-angular attention over all channels instead of a single softmax head.

    Castling-ViT: the similarity of two unit vectors is 1/2 + q k / pi, the rest of the angular kernel a
    depthwise convolution of the values. As in the authors' code, 1/2 weighs a pixel's own value and the result has
    length 1 in each head; the convolution works on 3 x 3 pixels of the map. The auxiliary softmax attention, which
    their training fades out, is left out.
    """

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"linear_angular_k{self.kernel}_e{self.expansion:g}"

    @property
    def maskable(self) -> bool:
        """False: queries, keys and values share a convolution."""
        return False

    @property
    def head_channels(self) -> int:
        """Channels of a head: 16, or the largest power of two below that fits."""
        return math.gcd(self.in_shape[0], 16)

    def layers(self) -> list[tuple[int, int]]:
        """List those of the depthwise block, and the three convolutions of the attention."""
        channels, count = self.in_shape[0], pixels(self.in_shape)
        return [*super().layers(), (4 * channels**2, count), (9 * channels, count)]

    @property
    def products(self) -> int:
        """Values by keys, that by queries."""
        return 2 * pixels(self.in_shape) * self.in_shape[0] * self.head_channels

    def build(self) -> nn.Module:
        """Return the module."""
        channels = self.in_shape[0]
        branches = self.branches()
        branches["linear"] = Residual(OrderedDict(heads=LinearAngular(channels, channels // self.head_channels)))
        branches.move_to_end("ffn")
        return nn.Sequential(branches)

    def shared_part(self, name: str, shape: Sequence[int], whole: Tensor) -> Tensor:
        """Return the part of the largest parameter: the leading heads, of queries, keys and values each."""
        return shared_thirds(self, name, shape, whole)
