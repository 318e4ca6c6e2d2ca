"""Random derivations of einspace: how fast they come, how large they are, and how many do anything with an image.

Run: .venv/bin/python -P tests/benchmarks/einspace.py [--networks 300] [--input 3x32x32] [--seed 0]
A network is kept if it passes the check before a training (nas/training/soundness.py), here on random images.
"""

import argparse
import time
from collections import Counter

import numpy as np
import torch

from nas.config import parse_shape
from nas.search.executor import one_thread
from nas.training.data import Dataset, Split
from nas.training.soundness import IMAGES, Unsound, require_sound
from search_spaces.architecture import Architecture
from search_spaces.block import Shape
from search_spaces.einspace.derivation import tokens
from search_spaces.einspace.grammar import KINDS
from search_spaces.einspace.space import EinSpace
from search_spaces.space import sample

# What is not run here is too large to be told about in a moment; it is counted as what it is.
MOST_MACS = 20_000_000
CLASSES = 10


def verdict(space: EinSpace, architecture: Architecture, data: Dataset) -> str:
    """Tell whether a fresh network can learn, by the check that precedes every training."""
    if space.macs(architecture) > MOST_MACS:
        return "not run"
    try:
        require_sound(space.build(architecture), data, 0)
    except Unsound as error:
        return str(error)
    return "kept"


def noise(shape: Shape) -> Dataset:
    """Return random images of ``shape`` with random labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(IMAGES, *shape[1:], shape[0]), dtype=np.uint8)
    split = Split(images, rng.integers(CLASSES, size=IMAGES))
    mean, std = (0.5,) * shape[0], (0.29,) * shape[0]
    return Dataset("noise", tuple(map(str, range(CLASSES))), split, split, split, mean, std, "")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", type=int, default=300)
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
    data = noise(space.input_shape)
    found = Counter(verdict(space, each, data) for each in networks)
    print(", ".join(f"{name} {100 * number / count:.1f} %" for name, number in found.most_common()))


if __name__ == "__main__":
    main()
