"""The FBNet space: nine inverted-residual candidates per layer of a fixed macro-architecture.

Source: FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable Neural Architecture Search
(CVPR 2019, arXiv 1812.03443), section 3.1 and tables 1 and 2.
"""

import itertools
import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from search_spaces.architecture import Architecture
from search_spaces.block import Block, Shape
from search_spaces.chain import Candidate, laid_out
from search_spaces.grid import Grid, grid_positions, skips_last
from search_spaces.macros import MacroSpace
from search_spaces.operators import Classifier, ConvNormReLU, Identity, MBConv
from search_spaces.space import Choose

# Kernel, expansion and groups of the candidates (table 2); "skip" is the ninth.
CANDIDATES = {
    "k3_e1": (3, 1, 1),
    "k3_e1_g2": (3, 1, 2),
    "k3_e3": (3, 3, 1),
    "k3_e6": (3, 6, 1),
    "k5_e1": (5, 1, 1),
    "k5_e1_g2": (5, 1, 2),
    "k5_e3": (5, 3, 1),
    "k5_e6": (5, 6, 1),
}
SKIP = "skip"
OPTIONS = (*CANDIDATES, SKIP)


@dataclass(frozen=True)
class _Layer:
    """A searchable position: its input shape, output channels, stride and stage."""

    in_shape: Shape
    channels: int
    stride: int
    stage: int
    always_expand: bool

    def block(self, option: str) -> Block:
        if option != SKIP:
            kernel, expansion, groups = CANDIDATES[option]
            return MBConv(self.in_shape, self.channels, kernel, self.stride, expansion, groups, self.always_expand)
        if self.keeps_shape:
            return Identity(self.in_shape)
        return ConvNormReLU(self.in_shape, self.channels, kernel=1, stride=self.stride)

    @property
    def keeps_shape(self) -> bool:
        return self.stride == 1 and self.in_shape[0] == self.channels


def _describe(option: str) -> list[float]:
    kernel, expansion, groups = CANDIDATES.get(option, (0, 1, 0))
    return [kernel, math.log(expansion), groups, float(option == SKIP)]


class FBNetSpace(MacroSpace):
    """The FBNet space for images of ``input_shape``, in the macro-architecture ``macro`` (data in fbnet.toml)."""

    family = "fbnet"
    shown = "imagenet"

    def __init__(self, input_shape: Shape, classes: int, macro: str | None = None) -> None:
        super().__init__(input_shape, classes, macro)
        definition = self._definition
        stem_channels, stem_stride = definition["stem"]
        self._stem = ConvNormReLU(input_shape, stem_channels, kernel=3, stride=stem_stride)
        self._layers: list[_Layer] = []
        shape = self._stem.out_shape
        for stage, (channels, layers, stride) in enumerate(definition["stages"]):
            for position in range(layers):
                first = stride if position == 0 else 1
                layer = _Layer(shape, channels, first, stage, definition.get("always_expand", False))
                self._layers.append(layer)
                shape = layer.block("k3_e1").out_shape
        head = ConvNormReLU(shape, definition["head"], kernel=1, stride=1)
        self._tail: list[Block] = [head, Classifier(head.out_shape, classes)]
        self.searchable = len(self._layers)
        self._names = [f"layer{i:02d}" for i in range(1, len(self._layers) + 1)]
        self._lowered = [{option: layer.block(option) for option in OPTIONS} for layer in self._layers]

    def decide(self, choose: Choose) -> Architecture:
        """Choose one of nine candidates per layer."""
        return self._canonical([choose(name, OPTIONS) for name in self._names])

    def _canonical(self, options: list[str]) -> Architecture:
        # Layers that keep their shape follow each other in a stage: where an identity stands among them
        # does not matter, so identities come last.
        ordered: list[str] = []
        numbered = enumerate(zip(self._layers, options, strict=True))
        for _, group in itertools.groupby(numbered, key=lambda item: self._run_of(item[0])):
            ordered += sorted((option for _, (_, option) in group), key=lambda option: option == SKIP)
        return Architecture(self.name, tuple(zip(self._names, ordered, strict=True)))

    def grid(self) -> Grid:
        """Return the space as rows of candidate numbers, one per layer."""
        options = dict.fromkeys(self._names, OPTIONS)
        described = np.array([_describe(option) for option in OPTIONS])
        runs = itertools.groupby(range(len(self._layers)), key=self._run_of)
        return Grid(
            options=options,
            positions=grid_positions(laid_out(self.input_shape, self.candidates()), options),
            descriptors=[(i, described) for i in range(len(self._names))],
            canonical=partial(skips_last, runs=[(list(run), OPTIONS.index(SKIP)) for _, run in runs]),
        )

    def _run_of(self, index: int) -> tuple[int, int]:
        layer = self._layers[index]
        return layer.stage, -1 if layer.keeps_shape else index

    def blocks(self, architecture: Architecture) -> list[Block]:
        """Lower to stem, one block per layer, head and classifier."""
        body = [row[option] for row, (_, option) in zip(self._lowered, architecture.decisions, strict=True)]
        return [self._stem, *body, *self._tail]

    def candidates(self) -> list[list[Candidate]]:
        """Return the stem, the nine candidates of each layer, the head and the classifier."""

        def candidate(block: Block, taken: dict[str, str]) -> Candidate:
            return taken, lambda _: block  # one shape comes in at every position

        layers = [
            [candidate(block, {name: option}) for option, block in row.items()]
            for name, row in zip(self._names, self._lowered, strict=True)
        ]
        return [[candidate(self._stem, {})], *layers, *([candidate(block, {})] for block in self._tail)]

    def descriptors(self, architecture: Architecture) -> list[float]:
        """Kernel, logarithm of the expansion, groups and skip of each layer."""
        return [value for _, option in architecture.decisions for value in _describe(option)]

    def baseline_family(self) -> list[Architecture]:
        """MobileNet-like nets of one candidate throughout, scaled in kernel, expansion and depth."""
        deepest = max(sum(layer.stage == s for layer in self._layers) for s in {x.stage for x in self._layers})
        family: list[Architecture] = []
        for depth in range(1, deepest + 1):
            for option in ("k3_e1", "k3_e3", "k3_e6", "k5_e3", "k5_e6"):
                family.append(
                    self._canonical(
                        [option if self._position_in_stage(i) < depth else SKIP for i in range(len(self._layers))]
                    )
                )
        return family

    def _position_in_stage(self, index: int) -> int:
        return sum(layer.stage == self._layers[index].stage for layer in self._layers[:index])

    def named(self) -> dict[str, Architecture]:
        """Return the published architectures of this macro-architecture."""
        return {
            name: self._canonical(layers.replace("|", " ").split()) for name, layers in self._named_layers().items()
        }
