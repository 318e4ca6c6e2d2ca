"""Time and memory of one step of each way to search differentiably, as the space grows.

Run: .venv/bin/python -P tests/benchmarks/dnas_steps.py [--steps 12]
Every row is a process of its own: CPU milliseconds per step (the median), and the peak of its memory above that of the
loaded supernet. A step of a distribution comes on top of one of the weights, which trains a single path. The widths
of the FBNetV2 space are made more by putting others below its widest.
"""

import argparse
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import nas.search.dnas as dnas
from nas.search.distribution import decisions_of, draw, uniform
from nas.search.expected import of_options
from nas.training.supernet import Supernet
from search_spaces.fbnet import FBNetSpace
from search_spaces.fbnetv2 import FBNetV2Space
from search_spaces.space import SearchSpace, replay

WAYS: dict[str, tuple[dnas.Estimator | None, int]] = {
    "one path (weights)": (None, 1),
    "dnas, 2 operators per layer": ("mixed", 2),
    "dnas, 4 operators per layer": ("mixed", 4),
    "dnas, all operators": ("mixed", 99),
    "fpnas": ("sampled", 1),
}


class Wider(FBNetV2Space):
    """The FBNetV2 space with ``WIDTHS`` output channels per layer, of which the largest stays."""

    WIDTHS = 2

    @classmethod
    def _macro(cls, name: str) -> dict[str, Any]:
        found = super()._macro(name)
        found["stages"] = [
            {**stage, "channels": [max(stage["channels"]) - 4 * i for i in reversed(range(cls.WIDTHS))]}
            if len(stage["channels"]) > 1
            else stage
            for stage in found["stages"]
        ]
        return found


class Wider4(Wider):
    """Four widths per layer."""

    WIDTHS = 4


class Wider6(Wider):
    """Six widths per layer."""

    WIDTHS = 6


SPACES: dict[str, tuple[type[FBNetSpace] | type[FBNetV2Space], str, int]] = {
    "fbnet, 8 layers, 28 px": (FBNetSpace, "small-28", 28),
    "fbnet, 22 layers, 32 px": (FBNetSpace, "cifar", 32),
    "fbnetv2, 2 widths": (Wider, "small-28", 28),
    "fbnetv2, 4 widths": (Wider4, "small-28", 28),
    "fbnetv2, 6 widths": (Wider6, "small-28", 28),
}


def searching(space: SearchSpace, supernet: Supernet, estimator: dnas.Estimator | None) -> dnas.Search:
    """Return a search whose options cost 1, 2, 3, ... ms, at the middle of what they cost together."""
    costs = {name: torch.arange(1.0, len(every) + 1).double() for name, every in decisions_of(space).items()}
    middle = float(sum(cost.mean() for cost in costs.values()))
    return dnas.Search(space, supernet, of_options(costs), middle, estimator or "sampled")


def child(space_name: str, way: str, steps: int) -> None:
    """Print CPU ms per step and MiB of one way."""
    torch.set_num_threads(1)
    kind, macro, side = SPACES[space_name]
    space = kind((1, side, side), 10, macro)
    estimator, dnas.MIXED = WAYS[way]
    supernet, rng = Supernet(space, 0), np.random.default_rng(0)
    search = searching(space, supernet, estimator)
    everything = uniform(search.options)
    images, labels = torch.randn(64, 1, side, side), torch.randint(10, (64,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for i in range(steps):
        start = time.process_time()
        if estimator is None:
            path = replay(space, draw(space, everything, rng))
            F.cross_entropy(supernet.forward(path, images), labels).backward()
        else:
            search.step(images, labels, rng, i / steps)
        times.append(1e3 * (time.process_time() - start))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{np.median(times[1:])} {grown}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child, options.steps)
        return
    print(f"{'space':24} {'way':28} {'CPU ms':>8} {'x one path':>10} {'MiB':>7}")
    for space in SPACES:
        alone = 0.0
        for way in WAYS:
            command = [sys.executable, "-P", __file__, "--steps", str(options.steps), "--child", space, way]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            ms, grown = map(float, out.split())
            alone = alone or ms
            print(f"{space:24} {way:28} {ms:8.1f} {ms / alone:10.2f} {grown:7.0f}", flush=True)


if __name__ == "__main__":
    main()
