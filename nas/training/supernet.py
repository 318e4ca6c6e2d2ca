"""The weight-sliced supernet: one maximal weight per layer, of which every candidate uses a part.

Candidates of a layer share parameters of the same name, each using its part of the largest
(``Block.shared_part``). Which paths a step trains is said in ``paths.py``. Separate weights per candidate barely train
where a layer changes its shape: each candidate then emits features of its own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nas.training.data import Dataset
from nas.training.hardware import device, precision
from nas.training.mixing import Mixture
from nas.training.paths import PathKind, path_loss
from nas.training.train import Progress, Recipe, fit
from search_spaces.architecture import Architecture
from search_spaces.block import Block
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace


def require_positions(space: SearchSpace) -> list[list[Block]]:
    """Return the blocks that may stand at each position.

    Raises:
        InputError: the space's networks have no positions in common.
    """
    positions = space.positions()
    if not positions:
        raise InputError(f"networks of {space.name} have no layers in common to share weights: give --oracle train")
    return positions


class Supernet:
    """Shared weights for every architecture of a space.

    ``parameters`` maps the names of ``space.build``'s parameters to the maximal ones. It holds no running
    batch-norm statistics: those of one path are wrong for every other.

    Raises:
        InputError: the space's networks have no positions in common.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        positions = require_positions(space)
        self._space = space
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._modules = [{block.key: block.build() for block in row} for row in positions]
        self.parameters: dict[str, nn.Parameter] = {}
        for position, candidates in enumerate(self._modules):
            for name, owners in _by_name(candidates).items():
                self.parameters[f"layers.{position}.{name}"] = nn.Parameter(_maximal(owners).to(device()))
        for candidates in self._modules:
            for module in candidates.values():
                # The modules lend their structure only: gradients and memory belong to the shared weights.
                module.to(device(), memory_format=torch.channels_last).train().requires_grad_(False)  # type: ignore[call-overload]

    def _parts(self, architecture: Architecture, network: nn.Module) -> dict[str, Tensor]:
        """Return what each parameter of ``network`` uses of the shared ones."""
        blocks = self._space.blocks(architecture)
        parts: dict[str, Tensor] = {}
        for name, own in network.named_parameters():
            _, position, inner = name.split(".", 2)
            parts[name] = self._part(int(position), blocks[int(position)], inner, own)
        return parts

    def _part(
        self, position: int, block: Block, name: str, own: Tensor, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        shared = self.parameters if weights is None else weights
        return block.shared_part(name, own.shape, shared[f"layers.{position}.{name}"])

    def forward(self, architecture: Architecture, images: Tensor) -> Tensor:
        """Return the class scores (N, classes) of one path, batch norm on the batch's own statistics."""
        blocks = self._space.blocks(architecture)
        layers = (row[block.key] for row, block in zip(self._modules, blocks, strict=True))
        path = self._space.wire(architecture, layers)
        with precision():
            return functional_call(path, self._parts(architecture, path), (images,)).float()

    def run(
        self, start: int, blocks: Sequence[Block], x: Tensor, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return what ``blocks``, which stand behind one another from position ``start`` on, make of ``x`` (NCHW).

        Batch norm works on the batch's own statistics. ``weights`` take the place of the shared ones of their names.
        """
        for position, block in enumerate(blocks, start):
            module = self._modules[position][block.key]
            named = module.named_parameters()
            parts = {name: self._part(position, block, name, own, weights) for name, own in named}
            with precision():
                x = functional_call(module, parts, (x,))
        return x.float()

    def mixture(self) -> Mixture:
        """Return this network with the candidates of every position mixed, its weights held fixed.

        For spaces whose blocks follow one another.
        """
        chain = self._space.chain()
        assert chain is not None
        return Mixture(chain, self._modules, self._part)

    def fit(
        self,
        data: Dataset,
        recipe: Recipe,
        seed: int,
        checkpoint: Path,
        progress: Progress,
        paths: PathKind = "single",
    ) -> "Supernet":
        """Train the ``paths`` of each step; resumable through ``checkpoint``.

        Raises:
            InputError: the space has no such paths.
            TrainingDiverged, InputError: see ``train.fit``.
        """
        loss = path_loss(paths, self._space, self.forward, list(self.parameters.values()))
        fit(self.parameters, loss, data, recipe, seed, checkpoint, progress, also=paths)
        return self

    @torch.no_grad()
    def inherit(self, architecture: Architecture) -> nn.Module:
        """Return a network of its own with a copy of the shared weights; its batch norm needs recalibration."""
        network = self._space.build(architecture).to(device())
        parts = self._parts(architecture, network)
        for name, own in network.named_parameters():
            own.copy_(parts[name])
        return network


def _by_name(candidates: dict[str, nn.Module]) -> dict[str, list[Tensor]]:
    owners: dict[str, list[Tensor]] = {}
    for module in candidates.values():
        for name, parameter in module.named_parameters():
            owners.setdefault(name, []).append(parameter.detach())
    return owners


def _maximal(owners: list[Tensor]) -> Tensor:
    """Return a copy of the largest: it is at least as large as every other in every direction."""
    sides = [max(sizes) for sizes in zip(*(owner.shape for owner in owners), strict=True)]
    largest = max(owners, key=lambda tensor: tensor.numel())
    if list(largest.shape) != sides:
        raise ValueError(f"no candidate has the largest parameter {sides} that the others share")
    return largest.clone()
