"""Time and memory of one step of each way to search differentiably, as the space grows.

Run: .venv/bin/python -P tests/benchmarks/dnas_steps.py [--steps 12]
Every row is a process of its own: CPU milliseconds per step (the median), and the peak of its memory above that of the
loaded supernet. A step of a distribution comes on top of one of the weights, which trains a single path.
"""

import argparse
import resource
import subprocess
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

import nas.search.dnas as dnas
from nas.search.distribution import decisions_of, draw, uniform
from nas.training.supernet import Supernet
from search_spaces.fbnet import FBNetSpace
from search_spaces.space import replay

SPACES = {"8 layers, 28 px": ("small-28", 28), "22 layers, 32 px": ("cifar", 32)}
WAYS: dict[str, tuple[dnas.Estimator | None, int]] = {
    "one path (weights)": (None, 1),
    "dnas, 2 candidates per layer": ("mixed", 2),
    "dnas, 4 candidates per layer": ("mixed", 4),
    "dnas, all 9 candidates": ("mixed", 9),
    "fpnas": ("sampled", 1),
}


def child(space_name: str, way: str, steps: int) -> None:
    """Print CPU ms per step and MiB of one way."""
    torch.set_num_threads(1)
    macro, side = SPACES[space_name]
    space = FBNetSpace((1, side, side), 10, macro)
    estimator, dnas.MIXED = WAYS[way]
    supernet, rng = Supernet(space, 0), np.random.default_rng(0)
    options = decisions_of(space)
    costs = {name: np.arange(1.0, len(every) + 1) for name, every in options.items()}
    middle = float(sum(cost.mean() for cost in costs.values()))
    search = dnas.Search(space, supernet, costs, middle, estimator or "sampled")
    images, labels = torch.randn(64, 1, side, side), torch.randint(10, (64,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for i in range(steps):
        start = time.process_time()
        if estimator is None:
            F.cross_entropy(
                supernet.forward(replay(space, draw(space, uniform(options), rng)), images), labels
            ).backward()
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
    print(f"{'space':18} {'way':30} {'CPU ms':>8} {'x one path':>10} {'MiB':>7}")
    for space in SPACES:
        alone = 0.0
        for way in WAYS:
            command = [sys.executable, "-P", __file__, "--steps", str(options.steps), "--child", space, way]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            ms, grown = map(float, out.split())
            alone = alone or ms
            print(f"{space:18} {way:30} {ms:8.1f} {ms / alone:10.2f} {grown:7.0f}", flush=True)


if __name__ == "__main__":
    main()
