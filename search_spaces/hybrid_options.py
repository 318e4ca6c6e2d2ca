"""The options of the hybrid space as text: an operator and its numbers, each behind its letter, as in ``mb_k5_e3``."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from search_spaces.attention import LinearAngularBlock, SingleHeadBlock
from search_spaces.block import Block, Shape
from search_spaces.bottleneck import ResAtt, ResConv
from search_spaces.frame import ConvStem, MaxPool
from search_spaces.hybrid_operators import DepthwiseFFN, FusedMBConv, PatchMerging
from search_spaces.lowformer import LowFormerBlock
from search_spaces.operators import ConvNormReLU, Identity, MBConv
from search_spaces.squeeze_operators import ConvNormHSwish

SKIP = "skip"


def _numbers(option: str) -> tuple[str, dict[str, int]]:
    """Read an option: the operator, and its numbers by their letters."""
    operator, *rest = option.split("_")
    return operator, {part[0]: int(part[1:]) for part in rest}


def operator_of(option: str) -> str:
    """Return the operator of an option."""
    return _numbers(option)[0]


@cache
def block_of(option: str, shape: Shape, channels: int | None = None, stride: int = 1) -> Block:
    """Return the block that an option means behind an input; it emits as many channels as come in if none are given.

    Equal blocks are one: a search asks for the same few again and again.
    """
    channels = channels or shape[0]
    operator, number = _numbers(option)
    kernel, expansion = number.get("k", 3), number.get("e", 2)
    match operator:
        case "mb":
            return MBConv(shape, channels, kernel, stride, expansion)
        case "fused":
            return FusedMBConv(shape, channels, kernel, stride, expansion)
        case "dw":
            return DepthwiseFFN(shape, kernel, expansion)
        case "shsa":
            return SingleHeadBlock(shape, kernel, expansion)
        case "linear":
            return LinearAngularBlock(shape, kernel, expansion)
        case "low":
            return LowFormerBlock(shape, number["r"])
        case "resconv":
            return ResConv(shape, channels, stride, number["r"])
        case "resatt":
            return ResAtt(shape, channels, stride, number["r"])
        case "merge":
            return PatchMerging(shape, channels)
        case "patches":
            return ConvStem(shape, channels, number["n"])
        case "conv":
            return ConvNormReLU(shape, channels, kernel, stride)
        case "hconv":
            return ConvNormHSwish(shape, channels, kernel, stride)
        case "maxpool":
            return MaxPool(shape)
        case "skip":
            return Identity(shape)
    raise ValueError(f"no operator is called {operator!r}")


# Of an operator: the share of channels whose pixels all attend to one another by softmax; whether they do so by
# linear attention; whether convolutions are dense; the number of feed-forward parts.
_DESCRIBED = {
    "mb": (0, 0, 0, 0),
    "fused": (0, 0, 1, 0),
    "dw": (0, 0, 0, 1),
    "shsa": (3 / 14, 0, 0, 1),
    "linear": (0, 1, 0, 1),
    "low": (1 / 2, 0, 1, 1),
    "resconv": (0, 0, 1, 0),
    "resatt": (1 / 4, 0, 0, 0),
    "merge": (0, 0, 0, 2),
    SKIP: (0, 0, 0, 0),
}


def describe(option: str) -> list[float]:
    """Return kernel, logs of expansion and reduction, share that attends, linear attention, density, number of FFNs."""
    operator, number = _numbers(option)
    kernel = 0 if operator == SKIP else number.get("k", 3)
    return [kernel, math.log(number.get("e", 1)), math.log(number.get("r", 1)), *_DESCRIBED[operator]]


@dataclass
class ByHand:
    """Chooses as an engineer would: so many layers at each scale, all of the kind that is liked best there.

    ``liked`` are the options of each scale, the best first.
    """

    depth: int
    width: int
    liked: Sequence[Sequence[str]]
    layers: Counter[str] = field(default_factory=Counter)

    def __call__(self, name: str, options: Sequence[str]) -> str:
        """Take a decision."""
        if name.endswith("_width"):
            return options[min(self.width, len(options) - 1)]
        if "_at" not in name:  # which block leads to a scale, and whether a layer goes down
            return options[-1] if name.endswith("_scale") else options[0]
        place = name.partition("_at")[2]
        self.layers[place] += 1
        if SKIP in options and self.layers[place] > self.depth:
            return SKIP
        return next((option for option in self.liked[int(place) - 1] if option in options), options[0])
