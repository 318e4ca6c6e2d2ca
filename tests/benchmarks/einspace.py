"""Random derivations of einspace: how fast they come, how large they are, and how many do anything with an image.

Run: .venv/bin/python -P tests/benchmarks/einspace.py [--networks 1000] [--input 3x32x32] [--seed 0]
A network is kept if its scores on 64 random images are finite and differ from image to image by more than
1e-3 (standard deviation over the images, mean over the classes), freshly initialised, batch norm on the batch.
"""

import argparse
import time
from collections import Counter

import numpy as np
import torch

from nas.config import parse_shape
from nas.search.executor import one_thread
from search_spaces.architecture import Architecture
from search_spaces.einspace.derivation import tokens
from search_spaces.einspace.grammar import KINDS
from search_spaces.einspace.space import EinSpace
from search_spaces.space import sample

IMAGES = 64
LEAST_STD = 1e-3
# What is not run here is too large to be told about in a moment; it is counted as what it is.
MOST_MACS = 200_000_000
CLASSES = 10


def verdict(space: EinSpace, architecture: Architecture) -> str:
    """Tell what a fresh network does with random images."""
    if space.macs(architecture) > MOST_MACS:
        return "not run"
    network = space.build(architecture).train()
    with torch.no_grad():
        scores = network(torch.randn(IMAGES, *space.input_shape))
    if not torch.isfinite(scores).all():
        return "not finite"
    return "kept" if scores.std(0).mean() > LEAST_STD else "the same for every image"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", type=int, default=1000)
    parser.add_argument("--input", default="3x32x32")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    one_thread()
    torch.manual_seed(arguments.seed)
    space = EinSpace(parse_shape(arguments.input), CLASSES)
    rng = np.random.default_rng(arguments.seed)
    began, began_cpu = time.perf_counter(), time.process_time()
    networks = [sample(space, rng) for _ in range(arguments.networks)]
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    count = len(networks)
    print(f"{count / wall_s:.0f} derivations/s ({count / cpu_s:.0f} per CPU second), {len(set(networks))} different")
    rows = {
        "modules": [sum(token in KINDS for token in tokens(space.tree(each))) for each in networks],
        "blocks": [len(space.blocks(each)) for each in networks],
        "MMACs": [space.macs(each) / 1e6 for each in networks],
        "params (thousands)": [space.params(each) / 1e3 for each in networks],
    }
    for name, values in rows.items():
        low, middle, high, most = np.quantile(values, [0.1, 0.5, 0.9, 1])
        print(f"{name}: 10 % below {low:.4g}, half below {middle:.4g}, 90 % below {high:.4g}, at most {most:.4g}")
    found = Counter(verdict(space, each) for each in networks)
    print(", ".join(f"{name} {100 * number / count:.1f} %" for name, number in found.most_common()))


if __name__ == "__main__":
    main()
