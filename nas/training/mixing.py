"""All candidates of a chain in one forward pass: operators are mixed, widths are masks over the widest.

FBNetV2 (CVPR 2020, arXiv 2004.05565, sections 3.1 and 3.2): outputs of different widths, filled up with zeros, whose
weights are shared are one output at the widest times a mask, the weighted sum of as many ones as each width has
channels. Time and memory therefore do not grow with the number of widths.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from nas.training.hardware import device
from search_spaces.block import Block
from search_spaces.chain import Position

Part = Callable[[int, Block, str, Tensor], Tensor]
"""Position, block, and one of its parameters' name and value to what the block uses of the shared ones."""


@dataclass(frozen=True)
class _Family:
    """Blocks of one position that differ in their widths alone, run together as the widest of them.

    ``members`` are their places among all (shape, candidate) pairs. ``masks`` has the channels (members, channels)
    that each has behind a submodule, ``added`` those to which it adds its input; neither where that is none. An input
    of several widths is taken for their mean there, as convolutions do.
    """

    members: Tensor
    widest: Block
    module: nn.Module
    masks: dict[str, Tensor]
    added: Tensor | None

    def run(self, pairs: Tensor, x: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the output, weighted by the family's share of the weights of all ``pairs``."""
        weights = pairs[self.members]
        share = weights.sum()
        with ExitStack() as stack:
            for name, channels in self.masks.items():
                mask = weights / share @ channels
                stack.enter_context(_masked(self.module.get_submodule(name), mask))
            found = functional_call(self.module, dict(parts), (x[:, : self.widest.in_shape[0]],))
        if self.added is None:
            return share * found
        kept = weights @ self.added
        return share * found + widened(x[:, : len(kept)] * kept.view(-1, 1, 1), found.shape[1])


@contextmanager
def _masked(module: nn.Module, mask: Tensor) -> Iterator[None]:
    """Multiply what ``module`` returns (N, C, H, W) by ``mask`` (C,)."""
    handle = module.register_forward_hook(lambda _module, _inputs, output: output * mask.view(-1, 1, 1))
    try:
        yield
    finally:
        handle.remove()


def widened(x: Tensor, channels: int) -> Tensor:
    """Fill up the channels of ``x`` (N, C, ...) with zeros."""
    missing = channels - x.shape[1]
    return F.pad(x, (*[0] * 2 * (x.dim() - 2), 0, missing)) if missing else x


def _first(counts: Sequence[int]) -> Tensor:
    """Return one row per count, that many ones and then zeros."""
    return (torch.arange(max(counts)) < torch.tensor(counts)[:, None]).float().to(device())


def _family(members: list[int], blocks: list[Block]) -> _Family:
    """Return the family of ``blocks``.

    Raises:
        ValueError: no block is the widest everywhere.
    """
    widest = max(blocks, key=lambda block: (block.params, block.in_shape))
    widths = {name: [block.widths[name] for block in blocks] for name in widest.widths}
    inputs = max(block.in_shape[0] for block in blocks)
    if inputs > widest.in_shape[0] or any(max(counts) > widest.widths[name] for name, counts in widths.items()):
        raise ValueError(f"no block like {widest.key} has all the channels of the others")
    module = widest.build().to(device(), memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
    added = [block.residual * block.in_shape[0] for block in blocks]
    if widest.residual:
        module.residual = False  # not all members have one: see ``added``
    return _Family(
        torch.tensor(members).to(device()), widest, module,
        {name: _first(counts) for name, counts in widths.items() if len(set(counts)) > 1},
        _first(added) if any(added) else None,
    )  # fmt: skip


def _families(position: Position, modules: Mapping[str, nn.Module]) -> list[_Family]:
    """Group a position's blocks by operator and by which parameters they have; no mask, no company."""
    width = len(position.candidates)
    groups: dict[tuple[str, frozenset[str], str], dict[int, Block]] = {}
    for i, row in enumerate(position.blocks):
        for k, block in enumerate(row):
            parameters = frozenset(name for name, _ in modules[block.key].named_parameters())
            operator = position.candidates[k].get(position.operator or "", "")
            alone = "" if block.maskable else block.key
            groups.setdefault((operator, parameters, alone), {})[i * width + k] = block
    return [_family(list(found), list(found.values())) for found in groups.values()]


class Mixture:
    """A chain whose every position is the weighted sum of its candidates.

    Weights of one decision add up to one. A candidate that nothing weighs is not run.

    Args:
        chain: the positions.
        modules: the module of each block at each position, by its key.
        part: what a block uses of the shared parameters.
    """

    def __init__(self, chain: Sequence[Position], modules: Sequence[Mapping[str, nn.Module]], part: Part) -> None:
        self._chain = chain
        self._families = [_families(*each) for each in zip(chain, modules, strict=True)]
        self._part = part

    def __call__(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Return the class scores (N, classes) of the weights (options,) of each decision."""
        x, shares = images, torch.ones(1, device=images.device)
        for index, position in enumerate(self._chain):
            # A layer's width has a distribution too: that of what comes in and of what is decided.
            pairs = (shares[:, None] * position.chances(weights).to(shares)).flatten()
            outputs = [
                family.run(pairs, x, self._parts(index, family))
                for family in self._families[index]
                if pairs.detach()[family.members].sum() > 0
            ]
            channels = max(shape[0] for shape in position.out_shapes)
            x = reduce(torch.add, (widened(output, channels) for output in outputs))
            after = torch.zeros(len(position.out_shapes), device=images.device)
            shares = after.index_add(0, position.leads_to.flatten().to(images.device), pairs)
        return x

    def _parts(self, index: int, family: _Family) -> dict[str, Tensor]:
        named = family.module.named_parameters()
        return {name: self._part(index, family.widest, name, own).detach() for name, own in named}
