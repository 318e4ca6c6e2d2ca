"""What a learned distribution is worth: networks derived at three budgets, beside draws of one that has not learned.

Run: .venv/bin/python -P tests/benchmarks/dnas.py --data fashion_mnist.npz --out DIR [--space fbnetv2]
Prints the training of the supernet, then for each budget and way the inherited accuracy of the networks that
``--sampler dnas`` would propose; then what they take when measured, and the derived network: the most accurate of those
that keep the budget so, as a search shortlists its finalists. The table and the proposals are kept in --out: the same
command measures them again.
"""

import argparse
import math
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nas.search.dnas as dnas
from latency.build import anchor_models, build_table, drift
from latency.device import Device
from latency.files import read_sealed, write_sealed
from latency.measure import Measured, Protocol, measure
from latency.models import network_models
from latency.table import LatencyTable
from nas.config import make_space
from nas.search.distribution import MEAN_USED, Probabilities, draw
from nas.search.expected import expected_latency
from nas.search.samplers.learned import next_draw
from nas.search.target import TableTarget
from nas.training.data import Dataset, Split, load_dataset
from nas.training.oracle import SupernetOracle, Task
from nas.training.train import Recipe
from search_spaces.architecture import Architecture
from search_spaces.extremes import lowest
from search_spaces.space import SearchSpace, replay, sample

DEVICE = Device.parse("cpu")
DRAWS = 24
FRACTIONS = (0.3, 0.5, 0.7)
"""Budgets between the fastest network and the mean of uniform draws doubled."""
WAYS: dict[str, tuple[dnas.Estimator, int]] = {
    "not learned": ("sampled", 0),
    "dnas, 2 operators per layer": ("mixed", 2),
    "dnas, all operators": ("mixed", 99),
    "fpnas": ("sampled", 2),
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--supernet-seconds", type=float, default=120)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--images", type=int, default=20000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    data = load_dataset(options.data, None, 0)
    space = make_space(options.space, data.input_shape, len(data.classes))
    place, kept = options.out / "cpu.json", options.out / "proposals.json"
    table = LatencyTable.load(place) if place.exists() else build_table(space, DEVICE, place, Protocol())
    print(f"table: {table.quality.text()}")
    if not kept.exists():
        write_sealed(kept, 1, {"proposals": search(options, space, data, table)})
    derive(space, table, read_sealed(kept, 1, "proposals")["proposals"])


def supernet_of(task: Task, part: Dataset, seconds: float, folder: Path) -> Task:
    """Return ``task`` on ``part`` with a supernet of as many epochs as fit into the seconds, told by a first one."""
    task.__dict__["dataset"] = part
    assert task.supernet is not None
    task.supernet.unlink(missing_ok=True)  # of an earlier start
    start = time.process_time()
    task.train_supernet()
    epochs = max(1, int(seconds / (time.process_time() - start)))
    task = replace(task, supernet=folder / f"supernet {epochs}", supernet_recipe=Recipe(epochs))
    task.__dict__["dataset"] = part
    start = time.process_time()
    task.train_supernet()
    oracle, rng = SupernetOracle(task), np.random.default_rng(1)
    uniform = [oracle.rate(sample(task.space, rng)) for _ in range(32)]
    spread = f"{np.mean(uniform):.3f} +- {np.std(uniform):.3f}"
    print(f"supernet: {epochs} epochs, {time.process_time() - start:.0f} CPU-s, 32 uniform paths {spread}", flush=True)
    return task


def learned(task: Task, target: TableTarget, way: str, epochs: int, folder: Path) -> tuple[Probabilities, float]:
    """Return the distribution at the target's budget, and CPU ms per step; without ``MIXED`` nothing is learned."""
    estimator, dnas.MIXED = WAYS[way]
    latency = expected_latency(task.space, target.table, 0)
    search = dnas.Search(task.space, task.train_supernet(), latency, MEAN_USED * (target.budget_ms or 0), estimator)
    if not dnas.MIXED:
        return search.probabilities(), 0.0
    recipe, start = Recipe(epochs, learning_rate=0.03), time.process_time()
    found = dnas.learn(search, task.dataset, recipe, 0, folder / "x", lambda *_: None)
    (folder / "x").unlink()
    steps = recipe.epochs * math.ceil(len(task.supernet_data.train) / recipe.batch_size)
    return found, 1e3 * (time.process_time() - start) / steps


def proposed(target: TableTarget, chances: Probabilities) -> list[Architecture]:
    """Return the first networks that the sampler would propose."""
    found: dict[str, Architecture] = {}
    for number in range(DRAWS):
        one = next_draw(
            target.space,
            chances,
            lambda a: target.predict_ms(a) / (target.budget_ms or 1),
            found,
            np.random.default_rng([0, number]),
        )
        found[one.id] = one
    return list(found.values())


def search(options: argparse.Namespace, space: SearchSpace, data: Dataset, table: LatencyTable) -> list[dict[str, Any]]:
    """Train, search at each budget in each way, and return what was proposed."""
    rows = np.random.default_rng(0).permutation(len(data.train))[: options.images]
    part = replace(data, train=Split(data.train.images[rows], data.train.labels[rows]), digest=f"{data.digest} part")
    folder: Path = options.out
    task = Task(space, options.data, None, folder / "data", 0, folder / "net", Recipe(1), parted=True)
    task = supernet_of(task, part, options.supernet_seconds, folder)
    oracle, rng = SupernetOracle(task), np.random.default_rng(1)

    unbound = TableTarget(space, table, None)
    least = unbound.predict_ms(lowest(space, unbound.predict_ms, 0))
    middle = np.mean([unbound.predict_ms(sample(space, rng)) for _ in range(200)])
    found = []
    titles = ("way", "ms/step", "all draws ms", "proposed ms", "mean acc.", "best acc.")
    print("budget ms  {:28} {:>8} {:>15} {:>15} {:>9} {:>9}".format(*titles))
    for fraction, way in product(FRACTIONS, options.ways):
        budget_ms = float(least + fraction * 2 * (middle - least))
        target = TableTarget(space, table, budget_ms)
        chances, each = learned(task, target, way, options.epochs, folder)
        some = [target.predict_ms(replay(space, draw(space, chances, rng))) for _ in range(200)]
        networks = proposed(target, chances)
        ms, rated = [target.predict_ms(a) for a in networks], [oracle.rate(a) for a in networks]
        accuracies = {a.text: rating for a, rating in zip(networks, rated, strict=True)}
        found.append({"way": way, "budget_ms": budget_ms, "accuracies": accuracies})
        spreads = (f"{np.mean(some):.3f} +- {np.std(some):.3f}", f"{min(ms):.3f} to {max(ms):.3f}")
        print(
            f"{budget_ms:9.3f}  {way:28} {each:8.1f} {spreads[0]:>15} {spreads[1]:>15} "
            f"{np.mean(rated):9.3f} {max(rated):9.3f}",
            flush=True,
        )
    return found


def derive(space: SearchSpace, table: LatencyTable, proposals: list[dict[str, Any]]) -> None:
    """Measure all that was proposed, and print what was derived."""
    every = {text: space.parse(text) for one in proposals for text in one["accuracies"]}
    models, anchors = network_models(space, every.values(), DEVICE), anchor_models(table, space, DEVICE)
    samples = measure(DEVICE, {**models, **anchors}, Protocol(), cold_only=[*models, *anchors])[DEVICE.quantity]
    measured = {name: Measured.of(values) for name, values in samples.items()}
    change = drift(table, measured)
    print(f"measured, with the drift of {change:.3f} taken out: all proposals / budget, the derived network / budget")
    for one in proposals:
        budget_ms, accuracies = one["budget_ms"], one["accuracies"]
        used = {text: measured[text].ms / change / budget_ms for text in accuracies}
        within = [text for text, share in used.items() if share <= 1]
        best = max(within or used, key=lambda text: accuracies[text])
        shares = np.array(list(used.values()))
        print(
            f"{budget_ms:9.3f}  {one['way']:28} {shares.mean():.3f} +- {shares.std():.3f} "
            f"{used[best]:.3f}, accuracy {accuracies[best]:.3f}, of {len(within)} within the budget"
        )


if __name__ == "__main__":
    main()
