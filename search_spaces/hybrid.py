"""The hybrid space: convolution or attention in every layer, where the resolution halves, depth and widths.

Sources: the blocks of SHViT (CVPR 2024), LowFormer (WACV 2025), HyTra (BossNAS, ICCV 2021) and Castling-ViT (CVPR 2023)
in one space. AsCAN (NeurIPS 2024, arXiv 2411.04967) puts more convolution into early and more attention into late
stages; such networks are points of this space, as are all others.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from search_spaces.architecture import Architecture
from search_spaces.attention import Attends
from search_spaces.block import Block, Shape
from search_spaces.chain import Candidate, Position
from search_spaces.fabric import START, Fabric
from search_spaces.frame import PooledNormHead
from search_spaces.grid import Grid, grid_positions, skips_last
from search_spaces.hybrid_options import SKIP, ByHand, block_of, describe, operator_of
from search_spaces.macros import MacroSpace
from search_spaces.space import Choose, ask
from search_spaces.squeeze_operators import ConvNormHSwish

KEEP, DOWN = "keep", "down"
"""Whether a layer that may run at two scales stays at that of the layer before."""

# What a network that is made by hand has at a scale, the first that is offered.
INVERTED = ("mb_k3_e3", "resconv_r4", "dw_k3_e2")
DEPTHWISE = ("dw_k7_e2", "dw_k3_e2", "resconv_r4")
ATTENDING = ("shsa_k3_e2", "resatt_r4", *DEPTHWISE)


class _Choice(NamedTuple):
    """What a layer is: its scale, and the option of a block that leads there (``enters``) or stays."""

    scale: int
    enters: bool
    option: str


class _Step(NamedTuple):
    """What may stand at a layer: the decisions that take it, the scale that it ends at, its block behind an input."""

    taken: dict[str, str]
    scale: int
    block: Callable[[Shape], Block]


def _move(scale: int, reached: int) -> str:
    """Return whether a layer goes down; in front of the first scale the resolution is that scale's."""
    return DOWN if reached > max(scale, 0) else KEEP


def _stride(scale: int, reached: int) -> int:
    return 2 if _move(scale, reached) == DOWN else 1


def _asked(name: str, option: str, options: Sequence[str]) -> dict[str, str]:
    """Return what ``ask`` has to be told to come to ``option``."""
    return {name: option} if len(options) > 1 else {}


class HybridSpace(MacroSpace):
    """The hybrid space for images of ``input_shape``, in the macro-architecture ``macro`` (data in hybrid.toml).

    Each layer runs at one of the scales, whose resolution halves from one to the next. Decisions are, for each scale,
    the block that leads to it and its width, and for each layer a block of its scale; where a layer may run at several
    scales, whether it goes down. Softmax attention is offered where few enough pixels attend.
    """

    family = "hybrid"
    shown = "large"

    def __init__(self, input_shape: Shape, classes: int, macro: str | None = None) -> None:
        super().__init__(input_shape, classes, macro)
        self._scales: list[dict[str, Any]] = self._definition["scales"]
        own = self._definition.get("stem_channels")
        self._fabric = Fabric.of(self._definition["layers"], START if own else 0)
        self._stem_widths: list[int] = [own] if own else self._scales[0]["widths"]
        self._names = [f"layer{i:02d}" for i in range(1, len(self._fabric.bounds) + 1)]
        self._entries, self._kinds = self._offered()
        self.searchable = self._most_decisions()

    def _offered(self) -> tuple[list[list[str]], list[list[str]]]:
        """Return the options that lead to each scale and those that stay there: attention where it is not too dear."""
        shape = self._stem(self._stem_widths[0])[-1].out_shape
        entries, kinds = [], []
        for index, scale in enumerate(self._scales):
            leading = {o: block_of(o, shape, scale["widths"][0], _stride(index - 1, index)) for o in scale["down"]}
            shape = next((block.out_shape for block in leading.values()), shape)
            staying = {o: block_of(o, shape) for o in self._wanted(index, scale["blocks"])}
            entries.append([option for option, block in leading.items() if self._affordable(block)])
            kinds.append([option for option, block in staying.items() if self._affordable(block)])
        return entries, kinds

    def _wanted(self, scale: int, options: Sequence[str]) -> list[str]:
        """Return the options of the operators that a sub-space keeps at a scale, and ``skip``."""
        if "operators" not in self._definition:
            return list(options)
        kept = {SKIP, *self._definition["operators"][scale]}
        return [option for option in options if operator_of(option) in kept]

    def _affordable(self, block: Block) -> bool:
        return not isinstance(block, Attends) or block.tokens <= self._definition["tokens"]

    def _most_decisions(self) -> int:
        scales = range(START, len(self._scales))
        most = dict.fromkeys(scales, 0)
        for layer in reversed(range(len(self._names))):
            steps = {scale: list(self._steps(layer, scale)) for scale in scales}
            most = {
                scale: max(len(step.taken) + most[step.scale] for step in found)
                for scale, found in steps.items()
                if found
            }
        return most[self._fabric.start] + (len(self._stem_widths) > 1)

    def _stem(self, width: int) -> list[Block]:
        found: list[Block] = []
        for option in self._definition["stem"]:
            found.append(block_of(option, found[-1].out_shape if found else self.input_shape, width, 2))
        return found

    def _head(self) -> list[Callable[[Shape], Block]]:
        expanded, hidden = self._definition.get("head", (0, 0))
        last = partial(PooledNormHead, classes=self.classes, hidden=hidden)
        return [partial(ConvNormHSwish, out_channels=expanded, kernel=1, stride=1), last] if expanded else [last]

    def _chosen(self, choose: Choose) -> tuple[dict[int, int], list[_Choice]]:
        """Take all decisions: the width of each scale that is reached, and each layer's choice."""
        scale, widths, choices = self._fabric.start, {}, []
        if scale != START:
            widths[scale] = self._ask_width(scale, choose)
        for layer, name in enumerate(self._names):
            following = self._fabric.following(layer, scale)
            reached = following[0]
            if len(following) > 1 and choose(f"{name}_scale", (KEEP, DOWN)) == DOWN:
                reached = following[1]
            if reached == scale:
                option = ask(choose, f"{name}_at{scale + 1}", self._kinds[scale])
            else:
                option = ask(choose, f"scale{reached + 1}", self._entries[reached])
                widths[reached] = self._ask_width(reached, choose)
            choices.append(_Choice(reached, reached != scale, option))
            scale = reached
        return widths, choices

    def _ask_width(self, scale: int, choose: Choose) -> int:
        options = [f"c{width}" for width in self._scales[scale]["widths"]]
        return int(ask(choose, f"scale{scale + 1}_width", options)[1:])

    def _recorded(self, architecture: Architecture) -> tuple[dict[int, int], list[_Choice]]:
        recorded = dict(architecture.decisions)
        return self._chosen(lambda name, _: recorded[name])

    def decide(self, choose: Choose) -> Architecture:
        """Choose the width of the first scale; then of each layer its scale, where that is open, and its block."""
        return self._canonical(*self._chosen(choose))

    def _canonical(self, widths: dict[int, int], choices: list[_Choice]) -> Architecture:
        # Where a skip stands among layers of one scale does not matter, nor on which side of a change of scale: every
        # other layer comes as early as it may run at its scale.
        placed: list[_Choice | None] = [None] * len(choices)
        free = 0
        for index, choice in enumerate(choices):
            if choice.option != SKIP:
                place = next(i for i in range(free, index + 1) if self._fabric.holds(i, choice.scale))
                placed[place] = choice
                free = place + 1
        values = {f"scale{scale + 1}_width": f"c{width}" for scale, width in widths.items()}
        scale = self._fabric.start
        for name, found in zip(self._names, placed, strict=True):
            choice = found or _Choice(scale, False, SKIP)
            values[f"{name}_scale"] = _move(scale, choice.scale)
            values[f"scale{choice.scale + 1}" if choice.enters else f"{name}_at{choice.scale + 1}"] = choice.option
            scale = choice.scale
        return self._decided(lambda name, _: values[name])

    def _decided(self, choose: Choose) -> Architecture:
        """Return the architecture of the decisions as they are taken."""
        taken: list[tuple[str, str]] = []

        def noted(name: str, options: Sequence[str]) -> str:
            taken.append((name, choose(name, options)))
            return taken[-1][1]

        self._chosen(noted)
        return Architecture(self.name, tuple(taken))

    def blocks(self, architecture: Architecture) -> list[Block]:
        """Lower to the stem, one block per layer, and the head."""
        widths, choices = self._recorded(architecture)
        scale = self._fabric.start
        found = self._stem(self._stem_widths[0] if scale == START else widths[scale])
        for choice in choices:
            width = widths[choice.scale] if choice.enters else None
            found.append(block_of(choice.option, found[-1].out_shape, width, _stride(scale, choice.scale)))
            scale = choice.scale
        for block in self._head():
            found.append(block(found[-1].out_shape))
        return found

    def _steps(self, layer: int, scale: int) -> Iterator[_Step]:
        """Yield what may stand at a layer behind one at ``scale``."""
        following = self._fabric.following(layer, scale)
        for reached in following:
            moved = {f"{self._names[layer]}_scale": _move(scale, reached)} if len(following) > 1 else {}
            if reached == scale:
                for option in self._kinds[scale]:
                    taken = _asked(f"{self._names[layer]}_at{scale + 1}", option, self._kinds[scale])
                    yield _Step({**moved, **taken}, reached, partial(block_of, option))
                continue
            for option in self._entries[reached]:
                taken = moved | _asked(f"scale{reached + 1}", option, self._entries[reached])
                for decided, width in self._widths(reached):
                    block = partial(block_of, option, channels=width, stride=_stride(scale, reached))
                    yield _Step({**taken, **decided}, reached, block)

    def _widths(self, scale: int) -> list[tuple[dict[str, str], int]]:
        """Return the widths of a scale, each with the decision that takes it."""
        widths = self._scales[scale]["widths"]
        return [(_asked(f"scale{scale + 1}_width", f"c{width}", widths), width) for width in widths]

    def positions(self) -> list[list[Block]]:
        """Return what may stand at each position, behind every scale and shape that may come before."""
        found = [list(row) for row in zip(*map(self._stem, self._stem_widths), strict=True)]
        states = dict.fromkeys((self._fabric.start, block.out_shape) for block in found[-1])
        for layer in range(len(self._names)):
            reached = [(step.scale, step.block(shape)) for scale, shape in states for step in self._steps(layer, scale)]
            found.append(list(dict.fromkeys(block for _, block in reached)))
            states = dict.fromkeys((scale, block.out_shape) for scale, block in reached)
        shapes = dict.fromkeys(shape for _, shape in states)
        for block in self._head():
            found.append([block(shape) for shape in shapes])
            shapes = dict.fromkeys(each.out_shape for each in found[-1])
        return found

    def chain(self) -> list[Position] | None:
        """Return the positions of a network, None where layers may run at several scales."""
        return super().chain() if self._fabric.fixed else None

    def candidates(self) -> list[list[Candidate]]:
        """Return the candidates of each position, where each layer runs at one scale."""
        found: list[list[Candidate]] = [
            [(decided, partial(block_of, option, channels=width, stride=2)) for decided, width in self._widths(0)]
            for option in self._definition["stem"]
        ]
        scale = self._fabric.start
        for layer in range(len(self._names)):
            steps = list(self._steps(layer, scale))
            found.append([(step.taken, step.block) for step in steps])
            scale = steps[0].scale
        for block in self._head():
            found.append([({}, block)])
        return found

    def grid(self) -> Grid | None:
        """Return the space as rows of option numbers, None where layers may run at several scales."""
        chain = self.chain()
        if chain is None:
            return None
        options = {name: every for position in chain for name, every in position.options.items()}
        place = {name: i for i, name in enumerate(options)}
        described = [
            (place.get(f"scale{s}_width"), [[math.log(width)] for width in scale["widths"]])
            for s, scale in enumerate(self._scales, 1)
        ]
        runs: dict[int, list[int]] = {}
        before = self._fabric.start
        for name, (scale, _) in zip(self._names, self._fabric.bounds, strict=True):
            stays = scale == before
            decision = place.get(f"{name}_at{scale + 1}" if stays else f"scale{scale + 1}")
            offered = self._kinds[scale] if stays else self._entries[scale]
            described.append((decision, [[scale, *describe(option)] for option in offered]))
            if stays and decision is not None and SKIP in offered:
                runs.setdefault(scale, []).append(decision)
            before = scale
        return Grid(
            options=options,
            positions=grid_positions(chain, options),
            descriptors=[(decision, np.array(numbers)) for decision, numbers in described],
            canonical=partial(skips_last, runs=[(run, self._kinds[s].index(SKIP)) for s, run in runs.items()]),
        )

    def descriptors(self, architecture: Architecture) -> list[float]:
        """Log width of each scale; of each layer the scale and what ``describe`` says of its option."""
        widths, choices = self._recorded(architecture)
        values = [math.log(widths.get(scale, 1)) for scale in range(len(self._scales))]
        for choice in choices:
            values += [choice.scale, *describe(choice.option)]
        return values

    def baseline_family(self) -> list[Architecture]:
        """Nets of one kind of block at each scale, scaled by hand in depth and width; they go down as early as may be.

        The kinds are inverted residuals; large-kernel depthwise convolutions; and these with single-head attention at
        the last scale or the last two, where it is offered (as in SHViT and AsCAN).
        """
        scales = len(self._scales)
        kinds: list[list[tuple[str, ...]]] = [[INVERTED] * scales]
        kinds += [[DEPTHWISE] * (scales - late) + [ATTENDING] * late for late in (0, 1, 2)]
        deepest = max(sum(low <= scale <= high for low, high in self._fabric.bounds) for scale in range(scales))
        family = [
            self.decide(ByHand(depth, width, liked))
            for liked in kinds
            for depth in range(deepest)
            for width in range(max(len(scale["widths"]) for scale in self._scales))
        ]
        return list(dict.fromkeys(family))

    def named(self) -> dict[str, Architecture]:
        """Return the published architectures of this macro-architecture."""
        return {
            name: self.parse(f"{self.name}:{','.join(layers.replace('|', ' ').split())}")
            for name, layers in self._named_layers().items()
        }
