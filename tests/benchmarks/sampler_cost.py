"""What asking for the next candidate costs, in a space of 22 decisions with 9 options each, beside Optuna's samplers.

Run: .venv/bin/python -P tests/benchmarks/sampler_cost.py [--trials 100,1000] [--asks 20]
Accuracies and latencies are made up. Per number of finished trials: seconds per ask, mean and most (hyper-parameters
are fitted anew on a schedule), and CPU seconds; Optuna's GPSampler has the latency budget as a constraint, and one ask.
At last, the time to score 100,000 candidates: features, latencies, prediction and expected gain.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study

from nas.search.candidates import Batch, Rows, source_of
from nas.search.executor import one_thread
from nas.search.proposal import Proposer
from nas.search.samplers import make_sampler
from nas.search.samplers.gp import GPSampler
from nas.search.target import metric
from search_spaces.architecture import Architecture
from search_spaces.fbnet import FBNetSpace
from search_spaces.grid import Grid
from search_spaces.space import sample_spread

SPACE = FBNetSpace((3, 32, 32), 10, "cifar")
BUDGET_MS = 3.0
SCORED = 100_000


class MadeUp:
    """A device whose latencies grow with MACs."""

    device, budget_ms, kind = "made up", BUDGET_MS, "predicted"

    def predict_ms(self, architecture: Architecture) -> float:
        """Return a latency (ms)."""
        return 0.5 + 4e-8 * SPACE.macs(architecture)

    def predict_grid_ms(self, grid: Grid, rows: NDArray) -> NDArray:
        """Return the same of each row."""
        return 0.5 + 4e-8 * grid.total(rows, lambda block: block.macs)


def accuracy(architecture: Architecture) -> float:
    """Return an accuracy that grows with MACs and depends on details."""
    digest = int(architecture.id, 16) / 16**10
    return float(1 - 0.6 * np.exp(-SPACE.macs(architecture) / 2e7) + 0.02 * digest)


def study_with(trials: int) -> Study:
    """Return a study of rated random architectures within the budget."""
    device, rng = MadeUp(), np.random.default_rng(0)
    study = optuna.create_study(directions=["maximize", "minimize"])
    added = 0
    while added < trials:
        one = sample_spread(SPACE, rng)
        ms = device.predict_ms(one)
        if ms > BUDGET_MS:
            continue
        distributions: dict[str, BaseDistribution] = {}
        for name, options in SPACE.grid().options.items():
            distributions[name] = CategoricalDistribution(options)
        attrs = {"architecture": one.text, "id": one.id, "evaluated": True, metric("predicted", "made up"): ms}
        trial = optuna.create_trial(
            params=dict(one.decisions), distributions=distributions, values=[accuracy(one), ms], user_attrs=attrs,
            system_attrs={"constraints": (ms - BUDGET_MS,)},
        )  # fmt: skip
        study.add_trial(trial)
        added += 1
    return study


def ask(study: Study, asks: int) -> tuple[float, float, float]:
    """Return mean and most seconds per ask, and mean CPU seconds; every candidate is rated before the next."""
    walls, cpus = [], []
    for _ in range(asks):
        wall, cpu = time.perf_counter(), time.process_time()
        trial = study.ask()
        one = SPACE.decide(lambda name, options, t=trial: str(t.suggest_categorical(name, options)))  # type: ignore[misc]
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        for name, value in (("architecture", one.text), ("id", one.id), ("evaluated", True)):
            trial.set_user_attr(name, value)
        study.tell(trial, [accuracy(one), MadeUp().predict_ms(one)])
    return float(np.mean(walls)), max(walls), float(np.mean(cpus))


def score(trials: int) -> tuple[float, float]:
    """Return seconds and CPU seconds to score ``SCORED`` candidates after so many trials."""
    device, rng = MadeUp(), np.random.default_rng(0)
    source = source_of(SPACE, [device.predict_ms], [device.predict_grid_ms])
    assert isinstance(source, Rows)
    seen = [sample_spread(SPACE, rng) for _ in range(trials)]
    observed = source.of(seen)
    scorer = Proposer(source, [BUDGET_MS]).scorer(observed, np.array([accuracy(a) for a in seen]), observed[:0])
    rows = SPACE.grid().sample_spread(SCORED, rng)
    wall, cpu = time.perf_counter(), time.process_time()
    batch: Batch = source.of_rows(rows)
    scorer(batch)
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", default="100,1000")
    parser.add_argument("--asks", type=int, default=20)
    options = parser.parse_args()
    one_thread()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    device = MadeUp()
    source = source_of(SPACE, [device.predict_ms], [device.predict_grid_ms])
    ours: Callable[[], BaseSampler] = partial(GPSampler, SPACE, [device.predict_ms], [BUDGET_MS], 0, source)
    samplers: dict[str, tuple[Callable[[], BaseSampler], int]] = {
        "gp": (ours, options.asks),
        "evolution": (partial(make_sampler, "evolution", SPACE, [MadeUp()], 0), options.asks),
        "tpe": (partial(make_sampler, "tpe", SPACE, [MadeUp()], 0), options.asks),
        "optuna's GPSampler": (partial(optuna.samplers.GPSampler, seed=0, constraints_func=lambda _: (0.0,)), 1),
    }
    print(f"{'trials':>6}  {'sampler':20} {'s per ask':>10} {'most':>8} {'CPU s':>8}")
    counts = [int(count) for count in options.trials.split(",")]
    for count in counts:
        for name, (make, asks) in samplers.items():
            study = study_with(count)
            study.sampler = make()
            mean, most, cpu = ask(study, asks)
            print(f"{count:6}  {name:20} {mean:10.3f} {most:8.3f} {cpu:8.3f}", flush=True)
    for count in counts:
        wall, cpu = score(count)
        print(f"{SCORED:,} candidates scored after {count} trials: {wall:.2f} s, {cpu:.2f} CPU-s", flush=True)


if __name__ == "__main__":
    main()
