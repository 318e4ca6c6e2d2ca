"""Why candidates share weights: the training loss of supernets with weights of their own per candidate, and shared.

Run: .venv/bin/python -P tests/benchmarks/sharing.py --data fashion_mnist.npz [--steps 600]
Single random paths are trained. Where a layer changes width or stride, candidates with weights of their own emit
features that have nothing to do with each other; where it keeps them, the residual holds them together.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.search.distribution import decisions_of
from nas.training.data import Dataset, load_dataset
from nas.training.supernet import Supernet
from nas.training.train import Recipe, fit
from search_spaces.block import Block
from search_spaces.fbnet import FBNetSpace

FIXED = "k3_e3"


class Separate(Supernet):
    """Every candidate of a layer has weights of its own."""

    def __init__(self, space: FBNetSpace, seed: int) -> None:
        super().__init__(space, seed)
        self.parameters = {
            f"{position} {key} {name}": nn.Parameter(own.detach().clone())
            for position, candidates in enumerate(self._modules)
            for key, module in candidates.items()
            for name, own in module.named_parameters()
        }

    def _part(self, position: int, block: Block, name: str, own: Tensor) -> Tensor:
        return self.parameters[f"{position} {block.key} {name}"]


def changing(space: FBNetSpace) -> set[str]:
    """Return the layers whose output differs in shape from their input."""
    rows = [row for row in space.positions() if len(row) > 1]
    names = decisions_of(space)
    return {name for name, row in zip(names, rows, strict=True) if row[0].in_shape != row[0].out_shape}


def last_loss(supernet: Supernet, space: FBNetSpace, fixed: set[str], data: Dataset, steps: int) -> float:
    """Return the mean training loss of the last 100 steps."""
    losses: list[float] = []

    def loss(images: Tensor, labels: Tensor, rng: np.random.Generator) -> Tensor:
        pick = lambda name, options: FIXED if name in fixed else options[int(rng.integers(len(options)))]  # noqa: E731
        found = F.cross_entropy(supernet.forward(space.decide(pick), images), labels)
        losses.append(float(found.detach()))
        return found

    fit(supernet.parameters, loss, data, Recipe(max(1, round(steps * 64 / len(data.train)))), 0)
    return float(np.mean(losses[-100:]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole = load_dataset(options.data, None, 0)
    count = min(len(whole.train), options.steps * 64 // 2)
    part = type(whole.train)(whole.train.images[:count], whole.train.labels[:count])
    data = Dataset(Path(options.data).name, whole.classes, part, whole.val, whole.test, whole.mean, whole.std, "part")
    space = FBNetSpace(data.input_shape, len(data.classes))
    layers = changing(space)
    print(f"{options.steps} steps of single paths, {space.name}; chance is {np.log(len(data.classes)):.2f}")
    others = set(decisions_of(space)) - layers
    for label, kind, fixed in (
        ("shared, everything searchable", Supernet, set()),
        ("own weights, everything searchable", Separate, set()),
        (f"own weights, {len(layers)} shape-changing layers fixed", Separate, layers),
        (f"own weights, the other {len(others)} layers fixed", Separate, others),
    ):
        supernet = kind(space, 0)
        millions = sum(p.numel() for p in supernet.parameters.values()) / 1e6
        found = last_loss(supernet, space, fixed, data, options.steps)
        print(f"  {label:45} loss {found:.2f}   ({millions:.2f} M weights)", flush=True)


if __name__ == "__main__":
    main()
