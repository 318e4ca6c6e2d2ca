"""Which paths to train: supernets of the three kinds, each for the same CPU time, beside training from scratch.

Run: nas supernet report --data DATA --out FOLDER, then
.venv/bin/python -P tests/benchmarks/supernet.py FOLDER [--seconds 60] [--kinds single fair sandwich]
The networks and their accuracies from scratch are those of the report. Prints how many updates the time is enough for,
the mean inherited accuracy of 32 uniform paths, and how inherited accuracies order the networks of the report.
"""

import argparse
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from latency.files import read_sealed
from nas.config import SearchConfig, make_space, parse_input
from nas.folder import RunFolder, read_record
from nas.supernet_report import SCHEMA_VERSION
from nas.training.data import Dataset, Split, load_dataset
from nas.training.oracle import SupernetOracle, Task
from nas.training.paths import PathKind
from nas.training.supernet import Supernet
from nas.training.train import Recipe
from predictors.agreement import Agreement, like_sized_groups
from search_spaces.space import sample

UNIFORM = 32
# Updates that tell what one costs.
TRIED = 12


def task_of(path: Path) -> Task:
    """Return the task of a report's folder."""
    folder = RunFolder(path, read_record(path))
    config = SearchConfig.checked(**folder.record["config"])
    size = parse_input(config.input)
    data = load_dataset(config.data, size, config.seed, folder.cache)
    space = make_space(config.space, data.input_shape, len(data.classes))
    return Task(space, config.data, size, folder.cache, config.seed, None, Recipe(1))


def seconds_of(task: Task, kind: PathKind, data: Dataset, recipe: Recipe, checkpoint: Path) -> float:
    """Train a supernet and return the CPU seconds that it took."""
    supernet = Supernet(task.space, task.seed)
    start = time.process_time()
    supernet.fit(data, recipe, task.seed, checkpoint, lambda *_: None, kind)
    return time.process_time() - start


def trained(task: Task, kind: PathKind, seconds: float, folder: Path) -> tuple[Task, int, float]:
    """Train a supernet for about ``seconds`` of CPU time, in whole epochs; return also its updates and ms of each."""
    data = task.dataset
    few = replace(data, train=Split(data.train.images[: TRIED * 64], data.train.labels[: TRIED * 64]))
    seconds_of(task, kind, few, Recipe(1), folder / "first")  # kernels are prepared at their first call
    each = seconds_of(task, kind, few, Recipe(1), folder / "second") / TRIED
    per_epoch = math.ceil(len(data.train) / 64)
    recipe = Recipe(max(1, round(seconds / (each * per_epoch))))
    taken = seconds_of(task, kind, data, recipe, folder / "supernet")
    updates = recipe.epochs * per_epoch
    whole = replace(task, supernet=folder / "supernet", supernet_paths=kind, supernet_recipe=recipe)
    return whole, updates, 1000 * taken / updates


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kinds", nargs="+", default=get_args(PathKind))
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = task_of(options.folder)
    report = read_sealed(options.folder / "supernet_report.json", SCHEMA_VERSION, "report")
    networks = [task.space.parse(network["architecture"]) for network in report["networks"]]
    truth = [float(np.mean(network["trained"])) for network in report["networks"]]
    groups = like_sized_groups([network["ms"] for network in report["networks"]], 6)
    print(f"{'paths':10} updates  ms each  CPU s  mean of {UNIFORM}  Spearman             Kendall              within")
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as folder:
            whole, updates, ms = trained(task, kind, options.seconds, Path(folder))
            oracle, rng = SupernetOracle(whole), np.random.default_rng(0)
            mean = np.mean([oracle.rate(sample(task.space, rng)) for _ in range(UNIFORM)])
            rated = [oracle.rate(architecture) for architecture in networks]
        found, within = Agreement.of(rated, truth), Agreement.of(rated, truth, groups)
        print(
            f"{kind:10} {updates:7} {ms:8.1f} {updates * ms / 1000:6.0f} {mean:11.3f}  {found.spearman.text():20} "
            f"{found.kendall.text():20} {within.spearman.text()}",
            flush=True,
        )


if __name__ == "__main__":
    main()
