"""What a learned distribution is worth: networks derived at three budgets, beside random ones of the same latency.

Run: .venv/bin/python -P tests/benchmarks/dnas.py --data fashion_mnist.npz [--supernet-seconds 120] [--epochs 1]
Prints the training of the supernet, then for each budget and way the inherited accuracy of what it draws, the derived
network (the best of its draws), its predicted latency and the measured one.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import nas.search.dnas as dnas
from latency.build import anchor_models, build_table, drift
from latency.device import Device
from latency.measure import Measured, Protocol, measure
from latency.models import network_models
from nas.search.distribution import additive_costs, draw, most_probable
from nas.search.study import fastest
from nas.search.target import TableTarget
from nas.training.data import Split, load_dataset
from nas.training.oracle import SupernetOracle, Task
from nas.training.train import Recipe
from search_spaces.architecture import Architecture
from search_spaces.fbnet import FBNetSpace
from search_spaces.space import replay, sample

DRAWS = 24
FRACTIONS = (0.3, 0.5, 0.7)
"""Budgets between the fastest network and the mean of uniform draws doubled."""
WAYS: dict[str, tuple[dnas.Estimator, int]] = {
    "dnas, 2 candidates per layer": ("mixed", 2),
    "dnas, all 9 candidates": ("mixed", 9),
    "fpnas": ("sampled", 2),
}


def feasible(draws: Iterable[Architecture], target: TableTarget, least_ms: float = 0.0) -> list[Architecture]:
    """Return the first distinct architectures between ``least_ms`` and the budget."""
    found: dict[str, Architecture] = {}
    assert target.budget_ms is not None
    for architecture in draws:
        if least_ms <= target.predict_ms(architecture) <= target.budget_ms:
            found[architecture.id] = architecture
        if len(found) == DRAWS:
            break
    return list(found.values())


def endless(make: Callable[[], Architecture]) -> Iterable[Architecture]:
    """Yield draws, but not for ever."""
    return (make() for _ in range(20000))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--supernet-seconds", type=float, default=120)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--images", type=int, default=20000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run(options, Path(folder))


def run(options: argparse.Namespace, folder: Path) -> None:
    """Train, search at each budget in each way, measure."""
    data = load_dataset(options.data, None, 0)
    space, device = FBNetSpace(data.input_shape, len(data.classes)), Device.parse("cpu")
    table = build_table(space, device, folder / "cpu.json", Protocol())
    print(f"table: {table.quality.text()}")
    rows = np.random.default_rng(0).permutation(len(data.train))[: options.images]
    part = replace(data, train=Split(data.train.images[rows], data.train.labels[rows]), digest=f"{data.digest} part")
    task = Task(space, options.data, None, folder / "data", 0, folder / "net", Recipe(1), parted=True)
    task.__dict__["dataset"] = part

    # As many epochs as fit into the seconds, told by a first one.
    start = time.process_time()
    task.train_supernet()
    epochs = max(1, int(options.supernet_seconds / (time.process_time() - start)))
    task = replace(task, supernet=folder / "supernet", supernet_recipe=Recipe(epochs))
    task.__dict__["dataset"] = part
    start = time.process_time()
    task.train_supernet()
    seconds = time.process_time() - start
    oracle, rng = SupernetOracle(task), np.random.default_rng(1)
    uniform = [oracle.rate(sample(space, rng)) for _ in range(32)]
    spread = f"{np.mean(uniform):.3f} +- {np.std(uniform):.3f}"
    print(f"supernet: {epochs} epochs, {seconds:.0f} CPU-s, 32 uniform paths {spread}", flush=True)

    lowest = TableTarget(space, table, None).predict_ms(fastest(space, TableTarget(space, table, None).predict_ms, 0))
    middle = np.mean([TableTarget(space, table, None).predict_ms(sample(space, rng)) for _ in range(200)])
    derived: list[tuple[str, float, Architecture, float]] = []
    titles = ("way", "ms/step", "draws ms", "mean acc.", "derived acc.", "pred. ms")
    print("budget ms  {:30} {:>8} {:>15} {:>9} {:>12} {:>9}".format(*titles))
    for fraction in FRACTIONS:
        target = TableTarget(space, table, lowest + fraction * 2 * (middle - lowest))
        costs = additive_costs(space, target.predict_ms, 0)
        for way in ("random", *WAYS):
            each, drawn = 0.0, ""
            if way == "random":
                networks = feasible(endless(lambda: sample(space, rng)), target, 0.9 * (target.budget_ms or 0))
            else:
                estimator, dnas.MIXED = WAYS[way]
                search = dnas.Search(space, task.train_supernet(), costs, target.budget_ms or 0, estimator)
                recipe, start = Recipe(options.epochs, learning_rate=0.03), time.process_time()
                learned = dnas.learn(search, part, recipe, 0, folder / "x", lambda *_: None)
                (folder / "x").unlink()
                each = 1e3 * (time.process_time() - start) / (recipe.epochs * -(-len(task.supernet_data.train) // 64))
                make = lambda learned=learned: replay(space, draw(space, learned, rng))  # noqa: E731
                some = [target.predict_ms(make()) for _ in range(200)]
                drawn = f"{np.mean(some):.3f} +- {np.std(some):.3f}"
                networks = feasible([most_probable(space, learned), *endless(make)], target)
            rated = [oracle.rate(a) for a in networks]
            best = networks[int(np.argmax(rated))]
            derived.append((way, target.budget_ms or 0, best, max(rated)))
            print(
                f"{target.budget_ms:9.3f}  {way:30} {each:8.1f} {drawn:>15} {np.mean(rated):9.3f} {max(rated):12.3f} "
                f"{target.predict_ms(best):9.3f}",
                flush=True,
            )
    models = network_models(space, {a.id: a for _, _, a, _ in derived}.values(), device)
    anchors = anchor_models(table, space, device)
    samples = measure(device, {**models, **anchors}, Protocol(), cold_only=[*models, *anchors])[device.quantity]
    found = {name: Measured.of(values) for name, values in samples.items()}
    change = drift(table, found)
    print(f"measured, with the drift of {change:.3f} taken out: way, measured ms / budget")
    for way in ("random", *WAYS):
        ratios = [f"{found[a.text].ms / change / budget:.3f}" for name, budget, a, _ in derived if name == way]
        print(f"  {way:30} {'  '.join(ratios)}")


if __name__ == "__main__":
    main()
