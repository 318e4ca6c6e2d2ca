"""The two blocks of HyTra, convolution and attention in one frame, each defined once.

Source: BossNAS: Exploring Hybrid CNN-transformers with Block-wisely Self-supervised Neural Architecture Search (ICCV
2021, arXiv 2103.12424), and the authors' code of the networks that they train in the end.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from search_spaces.attention import Attends, attend, of_heads, shared_thirds
from search_spaces.block import Shape
from search_spaces.layered import Layered, pixels, strided
from search_spaces.operators import conv_norm


class MultiHead(nn.Module):
    """Softmax attention of several heads over all pixels. What brings them their positions came before."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to NCHW."""
        return self.act(self.norm(attend(*of_heads(self.qkv(x), self.heads)).reshape(x.shape)))


class BottleneckModule(nn.Module):
    """The torch module of ``ResConv`` and ``ResAtt``: ``inner`` works between two 1x1 convolutions."""

    def __init__(self, block: "ResConv", inner: OrderedDict[str, nn.Module]) -> None:
        super().__init__()
        c_in, planes, stride = block.in_shape[0], block.planes, block.stride
        self.reduce = nn.Conv2d(c_in, planes, 1, bias=False)
        # Zero padding tells a depthwise convolution where the border is, and every pixel behind it where it is.
        self.position = nn.Conv2d(planes, planes, 3, stride, 1, groups=planes)
        self.norm = nn.BatchNorm2d(planes)
        self.act = nn.ReLU()
        self.inner = nn.Sequential(inner)
        self.restore = conv_norm(planes, block.out_channels, 1, 1, 1, relu=False)
        self.shortcut = nn.Sequential() if block.in_shape == block.out_shape else _shortcut(block)

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to NCHW."""
        y = self.inner(self.act(self.norm(self.position(self.reduce(x)))))
        return self.act(self.restore(y) + self.shortcut(x))


def _shortcut(block: "ResConv") -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if block.stride == 2:
        beyond = (block.in_shape[1] % 2, block.in_shape[2] % 2)  # a last row or column of its own
        layers["pool"] = nn.AvgPool2d(2, stride=2, padding=beyond, count_include_pad=False)
    layers["project"] = conv_norm(block.in_shape[0], block.out_channels, 1, 1, 1, relu=False)
    return nn.Sequential(layers)


@dataclass(frozen=True)
class ResConv(Layered):
    """Bottleneck: 1x1 reduction, a depthwise 3x3 convolution that generates positions, 3x3, 1x1, and the shortcut.

    The depthwise convolution takes the stride. Shortcuts that change the shape pool 2 x 2 pixels and project.
    """

    out_channels: int
    stride: int
    reduction: int

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"res_conv_s{self.stride}_r{self.reduction}_o{self.out_channels}"

    @property
    def planes(self) -> int:
        """Channels between the 1x1 convolutions."""
        return self.out_channels // self.reduction

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        return strided(self.in_shape, self.out_channels, self.stride)

    @property
    def maskable(self) -> bool:
        """False: the shortcut is added inside, before an activation."""
        return False

    @property
    def _inner_weights(self) -> int:
        return 9 * self.planes**2

    def layers(self) -> list[tuple[int, int]]:
        """List the convolutions, that of the shortcut the last."""
        c_in, planes, count = self.in_shape[0], self.planes, pixels(self.out_shape)
        shortcut = [] if self.in_shape == self.out_shape else [(c_in * self.out_channels, count)]
        return [
            (c_in * planes, pixels(self.in_shape)),
            (9 * planes + self._inner_weights + planes * self.out_channels, count),
            *shortcut,
        ]

    def build(self) -> nn.Module:
        """Return the module."""
        dense = conv_norm(self.planes, self.planes, 3, 1, 1, relu=True)
        return BottleneckModule(self, OrderedDict(dense=dense))


@dataclass(frozen=True)
class ResAtt(Attends, ResConv):
    """The same bottleneck with multi-head attention over all pixels in the place of the 3x3 convolution."""

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"res_att_s{self.stride}_r{self.reduction}_o{self.out_channels}"

    @property
    def heads(self) -> int:
        """Number of attention heads: of 64 channels, or as few more as divide the channels."""
        return max(heads for heads in range(1, max(1, self.planes // 64) + 1) if self.planes % heads == 0)

    @property
    def tokens(self) -> int:
        """Number of pixels that attend to one another."""
        return pixels(self.out_shape)

    @property
    def _inner_weights(self) -> int:
        return 3 * self.planes**2

    @property
    def products(self) -> int:
        """Queries by keys, weights by values."""
        return 2 * self.tokens**2 * self.planes

    def build(self) -> nn.Module:
        """Return the module."""
        return BottleneckModule(self, OrderedDict(heads=MultiHead(self.planes, self.heads)))

    def shared_part(self, name: str, shape: Sequence[int], whole: Tensor) -> Tensor:
        """Return the part of the largest parameter, of queries, keys and values each."""
        return shared_thirds(self, name, shape, whole)
