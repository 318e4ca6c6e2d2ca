"""What searching einspace is worth: random search, evolution, and evolution from a residual network, at as many trials.

Run: .venv/bin/python -P tests/benchmarks/einspace_search.py --data fashion_mnist.npz --out DIR [--sums] [--seeds 3]
Every evaluation is a training of ``--epochs``, of a network within ``--budget-ms``; what cannot learn counts as one,
too. Nothing hand-made is among the first candidates but the network that a seeded evolution starts from: the slowest of
the hand-made family within the limit. The best of each way by validation, and that network, are then trained for
``--final-epochs`` and tested. With ``--sums``, images are three of the data as the channels of one, and the class is
the sum of theirs: AddNIST's rule (Geada et al., arXiv 2404.02189) on other pictures.
What was done is kept in --out: the same command goes on where it was stopped.
"""

import argparse
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from optuna.trial import TrialState

from latency.build import build_table
from latency.device import Device
from latency.files import read_sealed, write_sealed
from latency.measure import Protocol
from latency.table import LatencyTable
from nas.config import make_space
from nas.search.baselines import family_within, keeps
from nas.search.executor import InProcess, one_thread
from nas.search.record import UNSOUND, evaluated_trials
from nas.search.samplers import SamplerKind, make_sampler
from nas.search.study import Driver, enqueue, open_study
from nas.search.target import TableTarget
from nas.training.data import Dataset, Split, load_dataset
from nas.training.oracle import Task, TrainOracle
from nas.training.recipe import FINAL, Recipe
from nas.training.train import accuracy, train
from search_spaces.architecture import Architecture
from search_spaces.space import sample

DEVICE = Device.parse("cpu")
RANDOM, EVOLUTION, SEEDED = "random", "evolution", "seeded evolution"
WAYS: dict[str, SamplerKind] = {RANDOM: "random", EVOLUTION: "evolution", SEEDED: "evolution"}
# The first of evolution's candidates are drawn at random, a third of them; those of random search are all drawn so.
DRAWN = 3
# Sums of three classes that are classes of their own, as in AddNIST: larger sums are left out.
SUMS = 20


def summed(split: Split, count: int, seed: int) -> Split:
    """Return ``count`` images of three channels, an image of ``split`` each, labelled by the sum of their labels."""
    rows = np.random.default_rng(seed).integers(len(split), size=(4 * count, 3))
    labels = split.labels[rows].sum(1)
    rows, labels = rows[labels < SUMS][:count], labels[labels < SUMS][:count]
    return Split(np.ascontiguousarray(split.images[rows][..., 0].transpose(0, 2, 3, 1)), labels)


def data_of(asked: argparse.Namespace) -> Dataset:
    """Return the data, or the sums made of them: some images of each part."""
    whole = load_dataset(asked.data, asked.input, 0, asked.out / "cache")
    counts = {"train": asked.images, "val": asked.images // 2, "test": 10_000}
    if asked.sums:
        parts = {name: summed(getattr(whole, name), count, seed) for seed, (name, count) in enumerate(counts.items())}
        classes = tuple(map(str, range(SUMS)))
        return replace(whole, **parts, classes=classes, mean=whole.mean * 3, std=whole.std * 3, digest="sums")  # type: ignore[arg-type]
    parts = {}
    for name, count in counts.items():
        rows = np.random.default_rng(0).permutation(len(getattr(whole, name)))[:count]
        parts[name] = Split(np.asarray(getattr(whole, name).images[rows]), getattr(whole, name).labels[rows])
    return replace(whole, **parts, digest=f"{whole.digest} {asked.images}")  # type: ignore[arg-type]


def tested(task: Task, architecture: Architecture, epochs: int, kept: Path) -> float:
    """Return the test accuracy of a network trained for ``epochs``."""
    if not kept.exists():
        network = train(task.fresh(architecture), task.dataset, replace(FINAL, epochs=epochs), task.seed)
        write_sealed(kept, 1, {"test": accuracy(network, task.dataset.test, task.dataset)})
    return float(read_sealed(kept, 1, "training")["test"])


def search(way: str, task: Task, target: TableTarget, start: Architecture, asked: argparse.Namespace) -> list[float]:
    """Return the test accuracy of what a way finds; print how it went."""
    space, folder, count = task.space, asked.out / f"seed {task.seed}", asked.evaluations
    folder.mkdir(exist_ok=True)
    study = open_study(folder / f"{way}.journal", [f"predicted_ms {DEVICE.name}"])
    study.sampler = make_sampler(WAYS[way], space, [target], task.seed)
    rng = np.random.default_rng(task.seed)
    first = [(start, "start")] if way == SEEDED else []
    while len(first) < {RANDOM: count, EVOLUTION: count // DRAWN}.get(way, 0):
        drawn = sample(space, rng)
        if keeps(drawn, [target]) and drawn not in dict(first):
            first.append((drawn, "random"))
    enqueue(study, first)
    began = time.process_time()
    Driver(study, space, [target], InProcess(lambda: TrainOracle(task, asked.epochs).rate), count).run()
    seconds = time.process_time() - began
    rated = evaluated_trials(study, space)
    best = [
        max((t.accuracy for t in rated if t.number < until), default=0.0) for until in (count // 4, count // 2, count)
    ]
    unsound = sum(UNSOUND in t.user_attrs for t in study.get_trials(deepcopy=False, states=[TrialState.PRUNED]))
    winner = max(rated, key=lambda trial: trial.accuracy)
    found = tested(task, winner.architecture, asked.final_epochs, folder / f"{way}.json")
    print(
        f"seed {task.seed}  {way:17} rated {len(rated):3}, unsound {unsound:2}; best so far "
        f"{' '.join(f'{value:.3f}' for value in best)}; tested {found:.3f} at {winner.ms[0]:.2f} ms; "
        f"{seconds:.0f} CPU-s",
        flush=True,
    )
    return [*best, found]


def main() -> None:
    """Search in every way with every seed, and print the means."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--input", type=int, help="px; the images' own by itself")
    parser.add_argument("--sums", action="store_true")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--final-epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--budget-ms", type=float, default=1.5)
    asked = parser.parse_args()
    one_thread()
    asked.out.mkdir(parents=True, exist_ok=True)
    data = data_of(asked)
    space = make_space("einspace", data.input_shape, len(data.classes))
    place = asked.out / "cpu.json"
    began = time.monotonic()
    table = LatencyTable.load(place) if place.exists() else build_table(space, DEVICE, place, Protocol())
    print(f"table: {time.monotonic() - began:.0f} s, {table.quality.text()}")
    target = TableTarget(space, table, asked.budget_ms)
    start = family_within(space, [target])[-1]
    print(f"the seed: {space.macs(start) / 1e6:.1f} M MACs, {target.predict_ms(start):.2f} ms predicted", flush=True)
    results: dict[str, list[list[float]]] = {way: [] for way in asked.ways}
    known = []
    for seed, way in product(range(asked.seeds), asked.ways):
        task = Task(space, asked.data, None, asked.out / "cache", seed, None, Recipe(1))
        task.__dict__["dataset"] = data
        results[way].append(search(way, task, target, start, asked))
        if way == asked.ways[-1]:
            known.append(tested(task, start, asked.final_epochs, asked.out / f"seed {seed}" / "start.json"))
    print(f"best rated after a quarter, half and all of {asked.evaluations} evaluations, and tested; mean +- deviation")
    print(f"{'the seed':17} tested {np.mean(known):.3f} +- {np.std(known):.3f}")
    for way, rows in results.items():
        print(f"{way:17} " + ", ".join(f"{np.mean(v):.3f} +- {np.std(v):.3f}" for v in zip(*rows, strict=True)))


if __name__ == "__main__":
    main()
