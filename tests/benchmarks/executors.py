"""Overhead per trial of the executors: a whole study whose oracle costs nothing.

Run: .venv/bin/python -P tests/benchmarks/executors.py [trials]
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from latency.build import build_table
from latency.device import Device
from latency.measure import Protocol
from latency.table import LatencyTable
from nas.search.executor import Executor, InProcess, RayWorkers, Work
from nas.search.samplers import SamplerKind, make_sampler
from nas.search.study import Driver, open_study
from nas.search.target import TableTarget
from search_spaces.fbnet import FBNetSpace

SPACE = FBNetSpace((3, 28, 28), 10)


def free_work() -> Work:
    """Rate every architecture alike."""
    return lambda architecture: int(architecture.id, 16) / 16**10


def milliseconds(
    table: LatencyTable, sampler: SamplerKind, make: Callable[[], Executor], trials: int
) -> tuple[float, float]:
    """Return the seconds until the first trial is done, and ms per trial from then on."""
    target = TableTarget(SPACE, table, None)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        study = open_study(Path(folder, "study.journal"), ["cpu"])
        study.sampler = make_sampler(sampler, SPACE, [target], 0)
        executor = make()
        Driver(study, SPACE, [target], executor, 1).run()
        first = time.perf_counter()
        Driver(study, SPACE, [target], executor, trials + 1).run()
        executor.close()
        return first - start, (time.perf_counter() - first) / trials * 1e3


def main() -> None:
    """Print the table."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    executors: dict[str, Callable[[], Executor]] = {
        "in-process": lambda: InProcess(free_work),
        "Ray, 1 worker": lambda: RayWorkers(free_work, 1),
        "Ray, 2 workers": lambda: RayWorkers(free_work, 2),
    }
    with tempfile.TemporaryDirectory() as folder:
        table = build_table(SPACE, Device.parse("cpu"), Path(folder, "cpu.json"), Protocol(rounds=4, most_rounds=4))
    print(f"{'sampler':8} {'executor':16} {'first trial s':>14} {'ms per trial':>14}   ({trials} trials)")
    samplers: tuple[SamplerKind, ...] = ("random", "gp")
    for sampler in samplers:
        for name, make in executors.items():
            first, each = milliseconds(table, sampler, make, trials)
            print(f"{sampler:8} {name:16} {first:14.2f} {each:14.1f}", flush=True)


if __name__ == "__main__":
    main()
