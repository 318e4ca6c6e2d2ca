"""The FBNetV2 space: operator, expansion and channels of every layer, and the resolution of the images.

Source: FBNetV2: Differentiable Neural Architecture Search for Spatial and Channel Dimensions (CVPR 2020, arXiv
2004.05565), section 3 and the tables of its search spaces.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from search_spaces.architecture import Architecture
from search_spaces.block import Block, Shape
from search_spaces.chain import Candidate
from search_spaces.macros import MacroSpace
from search_spaces.operators import ConvNormReLU, Identity, round_channels
from search_spaces.space import Choose, ask
from search_spaces.squeeze_operators import ConvNormHSwish, PooledHead, Resize, SqueezeMBConv

SKIP = "skip"
CONV1 = "conv1"
"""A 1x1 convolution; every other operator is an inverted residual: k3 or k5, s for squeeze-excite, h for h-swish."""


class _Choice(NamedTuple):
    """What a layer is; zero stands for what its operator does not ask for."""

    operator: str
    expansion: float = 0.0
    channels: int = 0

    @classmethod
    def of(cls, text: str) -> "_Choice":
        """Read an operator and its ``e`` and ``c`` options: ``k5s e3.5 c32``, ``conv1 c80`` or ``skip``."""
        operator, *rest = text.split()
        numbers = {option[0]: option[1:] for option in rest}
        return cls(operator, float(numbers.get("e", 0)), int(numbers.get("c", 0)))


@dataclass(frozen=True)
class _Layer:
    """A searchable position: its stride and its options."""

    stride: int
    operators: tuple[str, ...]
    expansions: tuple[float, ...]
    channels: tuple[int, ...]
    always_expand: bool

    def choices(self) -> list[_Choice]:
        found: list[_Choice] = []
        for operator in self.operators:
            if operator == SKIP:
                found.append(_Choice(SKIP))
            else:
                expansions = (0.0,) if operator == CONV1 else self.expansions
                found += [_Choice(operator, e, c) for e in expansions for c in self.channels]
        return found

    def decide(self, name: str, choose: Choose) -> _Choice:
        operator = choose(name, self.operators)
        if operator == SKIP:
            return _Choice(SKIP)
        expansion = "e0"
        if operator != CONV1:
            expansion = ask(choose, f"{name}_expansion", [f"e{e:g}" for e in self.expansions])
        channels = ask(choose, f"{name}_channels", [f"c{c}" for c in self.channels])
        return _Choice(operator, float(expansion[1:]), int(channels[1:]))

    def decisions(self, name: str, choice: _Choice) -> list[tuple[str, str]]:
        """Return what ``decide`` has to be told to come to ``choice``."""
        values = {name: choice.operator}
        options = {f"{name}_expansion": f"e{choice.expansion:g}", f"{name}_channels": f"c{choice.channels}"}
        self.decide(name, lambda asked, _: values.setdefault(asked, options.get(asked, "")))
        return list(values.items())

    def same(self, choice: _Choice, channels_in: int, stride: int) -> _Choice | None:
        """Return this layer's first choice that computes what ``choice`` does at ``stride``, None without any."""
        if stride != self.stride or choice.operator not in self.operators or choice.channels not in self.channels:
            return None
        if choice.operator == CONV1:
            return choice
        mid = round_channels(channels_in * choice.expansion)
        equal = (e for e in self.expansions if round_channels(channels_in * e) == mid)
        return next((choice._replace(expansion=e) for e in equal), None)

    def block(self, choice: _Choice, in_shape: Shape) -> Block:
        operator, expansion, channels = choice
        if operator == SKIP:
            return Identity(in_shape)
        if operator == CONV1:
            return ConvNormReLU(in_shape, channels, kernel=1, stride=self.stride)
        # By what rounding leaves of it, expansions that come to the same are the same.
        rounded = round_channels(in_shape[0] * expansion) / in_shape[0]
        return SqueezeMBConv(
            in_shape, channels, int(operator[1]), self.stride, rounded,
            always_expand=self.always_expand, squeeze="s" in operator, hswish="h" in operator,
        )  # fmt: skip


class FBNetV2Space(MacroSpace):
    """The FBNetV2 space for images of ``input_shape``, in the macro-architecture ``macro`` (data in fbnetv2.toml).

    Networks take images of ``input_shape`` and begin by bringing them to the resolution that was chosen.
    """

    family = "fbnetv2"
    shown = "f4"

    def __init__(self, input_shape: Shape, classes: int, macro: str | None = None) -> None:
        super().__init__(input_shape, classes, macro)
        _, height, width = input_shape
        sizes = [(round(height * part), round(width * part)) for part in self._definition.get("resolutions", [1])]
        self._sizes = {f"{h}x{w}": (h, w) for h, w in sizes}
        self._layers = [
            _Layer(
                stride,
                tuple(o for o in self._definition["operators"] if stride == 1 or o != SKIP),
                tuple(stage["expansions"]),
                tuple(stage["channels"]),
                self._definition.get("always_expand", False),
            )
            for stage in self._definition["stages"]
            for stride in (stage["stride"], *[1] * (stage["layers"] - 1))
        ]
        self._names = [f"layer{i:02d}" for i in range(1, len(self._layers) + 1)]
        asked = [1 + (len(layer.expansions) > 1) + (len(layer.channels) > 1) for layer in self._layers]
        self.searchable = sum(asked) + (len(self._sizes) > 1)

    def _chosen(self, choose: Choose) -> tuple[str, list[_Choice]]:
        resolution = ask(choose, "resolution", list(self._sizes))
        return resolution, [layer.decide(name, choose) for name, layer in zip(self._names, self._layers, strict=True)]

    def _choices(self, architecture: Architecture) -> tuple[str, list[_Choice]]:
        recorded = dict(architecture.decisions)
        return self._chosen(lambda name, _: recorded[name])

    def decide(self, choose: Choose) -> Architecture:
        """Choose the resolution, and of each layer the operator, then as that has them expansion and channels."""
        return self._canonical(*self._chosen(choose))

    def _canonical(self, resolution: str, choices: Iterable[_Choice]) -> Architecture:
        # Where a skip stands among layers that keep the resolution does not matter: every other layer comes as
        # early as it may stand, and has the first of the expansions that round to the same.
        placed = [_Choice(SKIP)] * len(self._layers)
        free, channels = 0, self._definition["stem"][0]
        for index, choice in enumerate(choices):
            if choice.operator == SKIP:
                continue
            stride = self._layers[index].stride
            found = ((i, self._layers[i].same(choice, channels, stride)) for i in range(free, index + 1))
            place, same = next((i, same) for i, same in found if same is not None)
            placed[place] = same
            free, channels = place + 1, same.channels
        decisions = [("resolution", resolution)] if len(self._sizes) > 1 else []
        for name, layer, choice in zip(self._names, self._layers, placed, strict=True):
            decisions += layer.decisions(name, choice)
        return Architecture(self.name, tuple(decisions))

    def _resize(self, resolution: str, shape: Shape) -> Block:
        size = self._sizes[resolution]
        return Identity(shape) if size == shape[1:] else Resize(shape, *size)

    def _stem(self, shape: Shape) -> Block:
        channels, stride = self._definition["stem"]
        return ConvNormHSwish(shape, channels, kernel=3, stride=stride)

    def _expand(self, shape: Shape) -> Block:
        return ConvNormHSwish(shape, round_channels(shape[0] * self._definition["head"][0]), kernel=1, stride=1)

    def _classify(self, shape: Shape) -> Block:
        return PooledHead(shape, self._definition["head"][1], self.classes)

    def blocks(self, architecture: Architecture) -> list[Block]:
        """Lower to the resizing, the stem, one block per layer, and the two blocks of the head."""
        resolution, choices = self._choices(architecture)
        layers = (partial(layer.block, choice) for layer, choice in zip(self._layers, choices, strict=True))
        steps: list[Callable[[Shape], Block]] = [partial(self._resize, resolution), self._stem, *layers]
        found: list[Block] = []
        shape = self.input_shape
        for block in (*steps, self._expand, self._classify):
            found.append(block(shape))
            shape = found[-1].out_shape
        return found

    def candidates(self) -> list[list[Candidate]]:
        """Return the resolutions, the stem, what each layer may be, and the two blocks of the head."""
        several = len(self._sizes) > 1
        resized: list[Candidate] = [
            ({"resolution": r} if several else {}, partial(self._resize, r)) for r in self._sizes
        ]
        layers: list[list[Candidate]] = [
            [(dict(layer.decisions(name, choice)), partial(layer.block, choice)) for choice in layer.choices()]
            for name, layer in zip(self._names, self._layers, strict=True)
        ]
        return [resized, [({}, self._stem)], *layers, [({}, self._expand)], [({}, self._classify)]]

    def descriptors(self, architecture: Architecture) -> list[float]:
        """Share of the input's height; of each layer kernel, log expansion, log channels, squeeze, h-swish."""
        resolution, choices = self._choices(architecture)
        values = [self._sizes[resolution][0] / self.input_shape[1]]
        channels = self._definition["stem"][0]
        for operator, expansion, wanted in choices:
            channels = wanted or channels
            kernel, kind = (int(operator[1]), operator[2:]) if expansion else (int(operator == CONV1), "")
            values += [kernel, math.log(expansion or 1), math.log(channels), "s" in kind, "h" in kind]
        return values

    def baseline_family(self) -> list[Architecture]:
        """MobileNet-like nets of one operator throughout, scaled in expansion, channels and resolution."""
        operators = [o for o in self._layers[0].operators if o not in (SKIP, CONV1)]
        return [
            self._canonical(r, [_Choice(operator, layer.expansions[e], layer.channels[c]) for layer in self._layers])
            for r in self._sizes
            for operator in (operators[0], operators[-1])
            for e in (0, -1)
            for c in (0, -1)
        ]

    def named(self) -> dict[str, Architecture]:
        """Return the published architectures of this macro-architecture."""
        resolution = list(self._sizes)[-1]
        return {
            name: self._canonical(resolution, map(_Choice.of, layers.split("|")))
            for name, layers in self._named_layers().items()
        }
