"""What each addition to the plain recipe is worth: paired trainings of the same networks, from the same seeds.

Run: .venv/bin/python -P tests/benchmarks/recipe.py --data fashion_mnist.npz [--epochs 12] [--networks 6] [--seeds 2]
Each way is compared with the plain recipe from inherited weights. Settings are chosen by the validation images alone;
the gain on the test images is what is claimed.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nas.config import make_space
from nas.training.data import Dataset, Split, load_dataset
from nas.training.oracle import SupernetOracle, Task
from nas.training.recipe import Recipe
from nas.training.supernet import Supernet
from nas.training.train import accuracy, recalibrate, train
from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace, sample, sample_spread

CANDIDATES = 100


@dataclass(frozen=True)
class Way:
    """Additions to the plain recipe, the weights to start from, and which path of the supernet teaches."""

    additions: dict[str, float] = field(default_factory=dict)
    inherited: bool = True
    teacher: str = "largest"


PLAIN = "plain"
WAYS = {
    PLAIN: Way(),
    "from scratch": Way(inherited=False),
    "label smoothing .1": Way({"label_smoothing": 0.1}),
    "mixup .2": Way({"mixup": 0.2}),
    "cutmix 1": Way({"cutmix": 1.0}),
    "ema .99": Way({"ema": 0.99}),
    "ema .998": Way({"ema": 0.998}),
    "distil .3, largest path": Way({"distil": 0.3}),
    "distil .3, best path": Way({"distil": 0.3}, teacher="best"),
    "smoothing .1, ema .998": Way({"label_smoothing": 0.1, "ema": 0.998}),
    "smoothing .1, distil .3": Way({"label_smoothing": 0.1, "distil": 0.3}),
    "distil .3, ema .998": Way({"distil": 0.3, "ema": 0.998}),
    "smoothing, distil, ema": Way({"label_smoothing": 0.1, "distil": 0.3, "ema": 0.998}),
}


def some(split: Split, count: int, seed: int) -> Split:
    """Return ``count`` images of a split at random."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(split))[:count])
    return Split(split.images[rows], split.labels[rows])


def part_of(data: Dataset, images: int, seed: int) -> Dataset:
    """Return the data with fewer images to train on, others for each seed; at most 5,000 for each of the rest."""
    return replace(
        data, train=some(data.train, images, seed), val=some(data.val, 5000, 0), test=some(data.test, 5000, 0),
        digest=f"{data.digest} {images} {seed}",
    )  # fmt: skip


def networks_of(space: SearchSpace, count: int) -> list[Architecture]:
    """Return architectures from small to large, in equal steps of the logarithm of their MACs."""
    rng = np.random.default_rng(0)
    drawn = sorted((sample_spread(space, rng) for _ in range(CANDIDATES)), key=space.macs)
    logs = np.log([space.macs(architecture) for architecture in drawn])
    wanted = np.linspace(np.quantile(logs, 0.05), np.quantile(logs, 0.95), count)
    return [drawn[int(np.abs(logs - value).argmin())] for value in wanted]


def teachers_of(task: Task, supernet: Supernet) -> dict[str, nn.Module]:
    """Return the supernet's largest path, and the best of some by inherited accuracy, as networks that can teach."""
    oracle, rng, space = SupernetOracle(task), np.random.default_rng(1), task.space
    paths = [*space.baseline_family(), *(sample(space, rng) for _ in range(16))]
    rated = {path: oracle.rate(path) for path in paths}
    found = {"largest": max(space.baseline_family(), key=space.macs), "best": max(rated, key=lambda path: rated[path])}
    for name, path in found.items():
        print(f"  the {name} path has {space.macs(path) / 1e6:.1f} M MACs and inherits {100 * rated[path]:.2f} %")
    return {name: recalibrate(supernet.inherit(path), task.dataset) for name, path in found.items()}


def trained(
    task: Task, supernet: Supernet, teachers: dict[str, nn.Module], architecture: Architecture, way: Way, epochs: int
) -> tuple[float, float, float]:
    """Return accuracy on validation and test images in %, and the CPU seconds of the training."""
    data, start = task.dataset, time.process_time()
    network = supernet.inherit(architecture) if way.inherited else task.fresh(architecture)
    recipe = Recipe(epochs, **way.additions)  # type: ignore[arg-type]
    train(network, data, recipe, task.seed, teacher=teachers[way.teacher] if recipe.distil else None)
    seconds = time.process_time() - start
    return 100 * accuracy(network, data.val, data), 100 * accuracy(network, data.test, data), seconds


def show(name: str, found: np.ndarray, plain: np.ndarray) -> None:
    """Print a row: mean accuracies of a way (trainings, 3), and its gains over ``plain`` with standard errors."""
    gains = (found - plain)[:, :2]
    errors = gains.std(0, ddof=1) / np.sqrt(len(gains))
    texts = [f"{gain:+6.2f} +- {error:.2f}" for gain, error in zip(gains.mean(0), errors, strict=True)]
    mean = found.mean(0)
    print(f"{name:26} {mean[0]:7.2f} {mean[1]:7.2f} {texts[0]:>16} {texts[1]:>16} {mean[2]:7.1f}", flush=True)


def run(options: argparse.Namespace, folder: Path) -> None:
    """Train every network in every way and print the table."""
    whole = load_dataset(options.data, None, 0, options.cache)
    space = make_space("fbnet", whole.input_shape, len(whole.classes))
    networks = networks_of(space, options.networks)
    print(f"{whole.source}: {options.images} images, {options.epochs} epochs, {space.name},", end=" ")
    print("networks of " + ", ".join(f"{space.macs(a) / 1e6:.2f}" for a in networks) + " M MACs", flush=True)
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in options.ways}
    for seed in range(options.seeds):
        recipe = Recipe(options.supernet_epochs)
        task = Task(space, options.data, None, folder, seed, folder / f"supernet {seed}", recipe)
        task.__dict__["dataset"] = part_of(whole, options.images, seed)
        start = time.process_time()
        supernet = task.train_supernet()
        print(f"seed {seed}: supernet of {recipe.epochs} epochs, {time.process_time() - start:.0f} CPU-s", flush=True)
        teachers = teachers_of(task, supernet)
        for name in options.ways:
            way = WAYS[name]
            results[name] += [trained(task, supernet, teachers, a, way, options.epochs) for a in networks]
            if seed < options.seeds - 1:
                show(f"  {name}", np.array(results[name]), np.array(results[PLAIN]))
    titles = ("val %", "test %", "val gain", "test gain", "CPU-s")
    print("{:26} {:>7} {:>7} {:>16} {:>16} {:>7}".format("way", *titles))
    for name, found in results.items():
        show(name, np.array(found), np.array(results[PLAIN]))


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--supernet-epochs", type=int, default=25)
    parser.add_argument("--networks", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    options = parser.parse_args()
    options.ways = [PLAIN, *(name for name in options.ways if name != PLAIN)]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run(options, Path(folder))


if __name__ == "__main__":
    main()
