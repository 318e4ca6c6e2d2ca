"""Successive halving beside full training, on digits: epochs that it saves, and how much of the front it keeps.

Both searches train candidates for nine epochs; the one that halves is continued until it has spent as many epochs.

Run: .venv/bin/python -P tests/benchmarks/halving.py [--trials 40] [--seeds 1] [--samplers random evolution gp]
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from latency.build import build_table
from latency.device import Device
from latency.measure import Protocol
from nas.search.executor import InProcess
from nas.search.halving import Halving
from nas.search.pareto import hypervolume
from nas.search.samplers import SamplerKind, make_sampler
from nas.search.study import Driver, enqueue, first_candidates, open_study
from nas.search.target import TableTarget
from nas.training.oracle import RungJob, RungOracle, Task, TrainOracle
from nas.training.train import Recipe
from search_spaces.architecture import Architecture
from search_spaces.fbnet import FBNetSpace

SPACE = FBNetSpace((1, 8, 8), 10)
EPOCHS = 9
Points = list[tuple[float, float]]


class Remembering:
    """The ratings of the oracles, each trained for once; what a search spends is counted from its study."""

    def __init__(self, task: Task, folder: Path) -> None:
        self._full, self._parts = TrainOracle(task, EPOCHS), RungOracle(task, EPOCHS, folder)
        self._known: dict[RungJob, float] = {}

    def rate(self, architecture: Architecture) -> float:
        """Return the accuracy after all epochs."""
        return self._rate((architecture, EPOCHS), lambda: self._full.rate(architecture))

    def rate_rung(self, job: RungJob) -> float:
        """Return the accuracy after the epochs of ``job``."""
        return self._rate(job, lambda: self._parts.rate(job))

    def _rate(self, job: RungJob, train: Callable[[], float]) -> float:
        if job not in self._known:
            self._known[job] = train()
        return self._known[job]


def search(
    target: TableTarget, oracle: Remembering, sampler: SamplerKind, trials: int, seed: int, epochs: int | None
) -> list[tuple[int, float | None, float]]:
    """Return epochs trained, accuracy (None where stopped) and ms of each trial; halving until ``epochs`` are spent."""
    with tempfile.TemporaryDirectory() as folder:
        study = open_study(Path(folder, "study.journal"), ["cpu"])
        study.sampler = make_sampler(sampler, SPACE, [target], seed)
        enqueue(study, first_candidates(SPACE, [target], trials, seed))
        halving = Halving(study, EPOCHS, Path(folder)) if epochs else None
        executor = InProcess(lambda: oracle.rate_rung if epochs else oracle.rate)
        spent: list[tuple[int, float | None, float]] = []
        while len(spent) < trials or (epochs and sum(trial[0] for trial in spent) < epochs):
            Driver(study, SPACE, [target], executor, max(trials, len(spent) + 1), halving=halving).run()
            spent = [
                (
                    trial.user_attrs.get("epochs", 0) if epochs else EPOCHS,
                    trial.values[0] if trial.user_attrs["evaluated"] else None,
                    trial.user_attrs["predicted_ms cpu"],
                )
                for trial in study.get_trials(deepcopy=False)
                if trial.state.is_finished()
            ]
        return spent


def rated(trials: list[tuple[int, float | None, float]]) -> Points:
    """Return (accuracy, ms) of the trials that were trained to the end."""
    return [(accuracy, ms) for _, accuracy, ms in trials if accuracy is not None]


def compare(target: TableTarget, oracle: Remembering, sampler: SamplerKind, trials: int, seed: int) -> None:
    """Print one row per search. The share is that of the hypervolume which full training of ``trials`` reaches."""
    full = search(target, oracle, sampler, trials, seed, None)
    budget = sum(epochs for epochs, *_ in full)
    halved = search(target, oracle, sampler, trials, seed, budget)
    floor = float(np.quantile([accuracy for accuracy, _ in rated(full)], 0.1))
    ceiling = 1.05 * max(ms for *_, ms in full)
    whole = hypervolume(rated(full), floor, ceiling)
    rows = {"all epochs": full, "halving, as many trials": halved[:trials], "halving, as many epochs": halved}
    for name, found in rows.items():
        points = rated(found)
        stopped, spent = len(found) - len(points), sum(epochs for epochs, *_ in found)
        share, best = hypervolume(points, floor, ceiling) / whole, max(accuracy for accuracy, _ in points)
        print(
            f"{sampler:10} {seed:4} {name:24} {len(found):7} {stopped:8} {spent:7} {best:6.3f} {share:6.3f}", flush=True
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--samplers", nargs="+", default=["random", "evolution", "gp"])
    asked = parser.parse_args()
    columns = ["trials", "stopped", "epochs", "best", "share"]
    print(
        f"{'sampler':10} seed {'':24} {columns[0]:>7} {columns[1]:>8} {columns[2]:>7} {columns[3]:>6} {columns[4]:>6}"
    )
    with tempfile.TemporaryDirectory() as folder:
        table = build_table(SPACE, Device.parse("cpu"), Path(folder, "cpu.json"), Protocol(rounds=4, most_rounds=4))
        for seed in range(asked.seeds):
            task = Task(SPACE, "digits", None, Path(folder, "data"), seed, None, Recipe(1))
            oracle = Remembering(task, Path(folder, f"rungs{seed}"))
            for sampler in asked.samplers:
                compare(TableTarget(SPACE, table, None), oracle, sampler, asked.trials, seed)


if __name__ == "__main__":
    main()
