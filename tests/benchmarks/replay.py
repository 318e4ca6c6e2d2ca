"""How many evaluations samplers need: NAS-Bench-201's recorded accuracies against latencies measured on five devices.

Run: .venv/bin/python -P tests/benchmarks/replay.py FOLDER [--seeds 10] [--pairs 3|15] [--jobs 2] [--samplers gp,...]
FOLDER holds nb201_accuracy.csv.gz and nb201_latency_ms.csv.gz. Prints the share of the true front's hypervolume
after so many evaluated networks: median over the seeds, and the lowest. Reference point: 90th percentile of the
error, 1.05 x the largest latency. Latencies are known to every sampler that can use them; optuna-gp is Optuna's
GPSampler, which models both objectives, and gets 50 networks and one seed.
"""

import argparse
import warnings
from collections.abc import Callable
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import cast, get_args

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler

from nas.config import SearchConfig
from nas.replay import Tables, read_tables
from nas.search.executor import InProcess, one_thread
from nas.search.pareto import hypervolume
from nas.search.record import evaluated_trials
from nas.search.samplers import LEARNED, SamplerKind, make_sampler
from nas.search.study import Driver, enqueue, first_candidates
from nas.training.recorded import RecordedOracle

SETS = ("cifar10", "cifar100", "imagenet16_120")
DEVICES = ("gold_6226", "silver_4114", "raspi4", "1080ti_1", "pixel3")
SHOWN = (("cifar10", "gold_6226"), ("cifar100", "raspi4"), ("imagenet16_120", "silver_4114"))
AFTER = (25, 50, 100, 500)
OPTUNA_GP = "optuna-gp"
# The trials of these go on to 500 networks; those of the others cost too much.
LONG = ("random", "nsga2", "evolution")

Job = tuple[Path, str, str, str, int]


@cache
def tables(folder: Path, accuracy: str, device: str) -> Tables:
    """Read the tables of a pair."""
    oracle = f"table:{folder / 'nb201_accuracy.csv.gz'}#{accuracy}_test_acc"
    latency = f"table:{folder / 'nb201_latency_ms.csv.gz'}#{device}"
    return read_tables(SearchConfig.checked(space="nb201", oracle=oracle, device=(latency,), out=Path("unused")))


def shares(job: Job) -> list[float]:
    """Return the shares of the true front's hypervolume after each of ``AFTER``, as far as the sampler goes."""
    folder, accuracy, device, sampler, seed = job
    one_thread()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = tables(folder, accuracy, device)
    (target,) = found.targets
    most = 500 if sampler in LONG else 50 if sampler == OPTUNA_GP else 100
    study = optuna.create_study(directions=["maximize", "minimize"])
    plain: Callable[[], BaseSampler] = partial(GPSampler, seed=seed)
    kind = cast(SamplerKind, sampler)
    study.sampler = plain() if sampler == OPTUNA_GP else make_sampler(kind, found.space, found.targets, seed)
    if sampler in ("gp", "evolution"):  # the samplers of Optuna begin as they do anywhere
        enqueue(study, first_candidates(found.space, found.targets, most, seed))
    oracle, trials = RecordedOracle(found.accuracy), most
    while True:
        Driver(study, found.space, found.targets, InProcess(lambda: oracle.rate), trials).run()
        rated = evaluated_trials(study, found.space)
        if len(rated) >= most:
            break
        trials += most - len(rated)
    every = [(value, target.predict_ms(network)) for network, value in found.accuracy.values.items()]
    floor, ceiling = float(np.percentile([a for a, _ in every], 10)), 1.05 * max(ms for _, ms in every)
    whole = hypervolume(every, floor, ceiling)
    points = [(trial.accuracy, trial.ms[0]) for trial in rated]
    return [hypervolume(points[:count], floor, ceiling) / whole for count in AFTER if count <= most]


def main() -> None:
    """Print the table."""
    kinds = [kind for kind in get_args(SamplerKind) if kind not in LEARNED]
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--pairs", type=int, choices=[3, 15], default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--samplers", default=",".join([*kinds, OPTUNA_GP]))
    options = parser.parse_args()
    pairs = SHOWN if options.pairs == 3 else tuple((a, d) for a in SETS for d in DEVICES)
    print(f"{'pair':28} {'sampler':10} seeds  " + "  ".join(f"{f'after {count}':>11}" for count in AFTER))
    with get_context("spawn").Pool(options.jobs) as pool:
        for accuracy, device in pairs:
            for sampler in options.samplers.split(","):
                seeds = range(1 if sampler == OPTUNA_GP else options.seeds)
                rows = np.array(pool.map(shares, [(options.folder, accuracy, device, sampler, s) for s in seeds]))
                cells = [f"{np.median(column):.3f} ({column.min():.3f})" for column in rows.T]
                name = f"{accuracy} {device}"
                print(
                    f"{name:28} {sampler:10} {len(rows):5}  " + "  ".join(f"{cell:>11}" for cell in cells), flush=True
                )


if __name__ == "__main__":
    main()
