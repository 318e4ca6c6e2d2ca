"""Where hybrid networks begin and end: stems and heads, each defined once.

Sources: SHViT (CVPR 2024, arXiv 2401.16456), LowFormer (WACV 2025, arXiv 2409.03460), BossNAS (ICCV 2021, arXiv
2103.12424), and their authors' code.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.block import Shape
from search_spaces.layered import Layered, pixels, strided
from search_spaces.operators import Weightless, conv_norm


@dataclass(frozen=True)
class ConvStem(Layered):
    """Patches by ``steps`` 3x3 convolutions of stride 2, ReLU between them; each doubles the channels (SHViT)."""

    out_channels: int
    steps: int

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"conv_stem_n{self.steps}_o{self.out_channels}"

    def _shapes(self) -> list[Shape]:
        found = [self.in_shape]
        for step in reversed(range(self.steps)):
            found.append(strided(found[-1], self.out_channels // 2**step, 2))
        return found

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        return self._shapes()[-1]

    @property
    def widths(self) -> Mapping[str, int]:
        """The channels behind each convolution."""
        return {str(i): shape[0] for i, shape in enumerate(self._shapes()[1:])}

    def layers(self) -> list[tuple[int, int]]:
        """List the convolutions."""
        shapes = self._shapes()
        return [(9 * one[0] * other[0], pixels(other)) for one, other in pairwise(shapes)]

    def build(self) -> nn.Module:
        """Return the module."""
        channels = [shape[0] for shape in self._shapes()]
        last = self.steps - 1
        return nn.Sequential(
            *(conv_norm(channels[i], channels[i + 1], 3, 2, 1, relu=i < last) for i in range(self.steps))
        )


@dataclass(frozen=True)
class MaxPool(Weightless):
    """Maximum of 3 x 3 pixels at stride 2."""

    @property
    def spec(self) -> str:
        """Operator."""
        return "max_pool_k3_s2"

    @property
    def out_shape(self) -> Shape:
        """Shape of the output feature map."""
        return strided(self.in_shape, self.in_shape[0], 2)

    def build(self) -> nn.Module:
        """Return the module."""
        return nn.MaxPool2d(3, stride=2, padding=1)


class PooledLayers(nn.Sequential):
    """Layers behind a global average pooling."""

    def forward(self, x: Tensor) -> Tensor:
        """Map NCHW to (N, classes)."""
        return super().forward(F.avg_pool2d(x, x.shape[-2:]).flatten(1))


@dataclass(frozen=True)
class PooledNormHead(Layered):
    """Global average pooling and what brings its features to class scores.

    Batch norm and a linear layer (SHViT), or, with ``hidden`` features, a linear layer, layer norm and h-swish before
    the linear layer to the scores (LowFormer).
    """

    classes: int
    hidden: int = 0

    @property
    def spec(self) -> str:
        """Operator and hyper-parameters."""
        return f"pooled_norm_head{f'_h{self.hidden}' if self.hidden else ''}_o{self.classes}"

    @property
    def out_shape(self) -> Shape:
        """Class scores as a feature map of one pixel."""
        return self.classes, 1, 1

    @property
    def maskable(self) -> bool:
        """Whether a linear layer comes first: batch norm would shift what a mask hides."""
        return bool(self.hidden)

    def layers(self) -> list[tuple[int, int]]:
        """List the linear layers."""
        if self.hidden:
            return [(self.in_shape[0] * self.hidden, 1), (self.hidden * self.classes, 1)]
        return [(self.in_shape[0] * self.classes, 1)]

    @property
    def products(self) -> int:
        """The pooled elements."""
        return self.in_shape[0] * pixels(self.in_shape)

    def build(self) -> nn.Module:
        """Return the module."""
        channels, hidden = self.in_shape[0], self.hidden
        if not hidden:
            return PooledLayers(OrderedDict(norm=nn.BatchNorm1d(channels), linear=nn.Linear(channels, self.classes)))
        first = nn.Linear(channels, hidden, bias=False)
        return PooledLayers(
            OrderedDict(
                hidden=first, norm=nn.LayerNorm(hidden), act=nn.Hardswish(), linear=nn.Linear(hidden, self.classes)
            )
        )
