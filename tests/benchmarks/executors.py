"""Overhead per trial of the executors: a whole study whose oracle costs nothing.

Run: .venv/bin/python -P tests/benchmarks/executors.py [trials]
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from latency.table import BlockLatency, LatencyTable, Quality
from nas.search.executor import Executor, InProcess, RayWorkers, Work
from nas.search.samplers import SamplerKind, make_sampler
from nas.search.study import Driver, Target, open_study
from search_spaces.fbnet import FBNetSpace
from search_spaces.space import SearchSpace


def free_work() -> Work:
    """Rate every architecture alike."""
    return lambda architecture: int(architecture.id, 16) / 16**10


def made_up_table(space: SearchSpace) -> LatencyTable:
    """Return a table in which a block costs what it has MACs, in units of 1e-6 ms."""
    blocks = {
        block.key: BlockLatency(cold_ms=ms, cold_ms_low=ms, cold_ms_high=ms, steady_ms=ms)
        for block in space.distinct_blocks()
        for ms in [block.macs * 1e-6]
    }
    quality = Quality(
        networks=0, mape_percent=0, within_5_percent=100, within_10_percent=100, spearman=1, kendall=1
    )  # fmt: skip
    return LatencyTable(
        device="cpu", fingerprint={}, protocol={}, space=space.name, input_shape=space.input_shape,
        classes=space.classes, session_ms=0, blocks=blocks, slope=1, offset_ms=0.01, calibration=(), held_out=(),
        quality=quality,
    )  # fmt: skip


def milliseconds(sampler: SamplerKind, make: Callable[[], Executor], trials: int) -> tuple[float, float]:
    """Return the seconds until the first trial is done, and ms per trial from then on."""
    space = FBNetSpace((3, 28, 28), 10)
    target = Target(space, made_up_table(space), None)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        study = open_study(Path(folder, "study.journal"), ["cpu"])
        study.sampler = make_sampler(sampler, space, [target], 0)
        executor = make()
        Driver(study, space, [target], executor, 1).run()
        first = time.perf_counter()
        Driver(study, space, [target], executor, trials + 1).run()
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
    print(f"{'sampler':8} {'executor':16} {'first trial s':>14} {'ms per trial':>14}   ({trials} trials)")
    samplers: tuple[SamplerKind, ...] = ("random", "gp")
    for sampler in samplers:
        for name, make in executors.items():
            first, each = milliseconds(sampler, make, trials)
            print(f"{sampler:8} {name:16} {first:14.2f} {each:14.1f}", flush=True)


if __name__ == "__main__":
    main()
