"""The measuring program: times ONNX files with ONNX Runtime on the machine on which it runs.

It needs numpy and onnxruntime alone, so that this one file can be copied to a board. It reads one job as a
JSON line from standard input and writes one JSON line per round, then ``{"done": 0}``; a missing last line
means that the connection or the program died. It ends at once when its standard input closes, so that it
never outlives the program that asked.
"""

import gc
import json
import mmap
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort


def cpu_model() -> str:
    """Return the processor's name as the operating system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith(("model name", "Model")):
                    return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or "unknown"
    return platform.processor() or "unknown"


def describe() -> dict[str, str]:
    """Return what identifies this machine and runtime: a latency holds for these alone."""
    return {
        "cpu": cpu_model(),
        "cores": str(os.cpu_count()),
        "architecture": platform.machine(),
        "system": platform.system(),
        "runtime": f"onnxruntime {ort.__version__}",
    }


def _session(path: str, threads: int, provider: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return ort.InferenceSession(path, options, providers=[provider])


def _feed(session: ort.InferenceSession, rng: np.random.Generator) -> dict[str, Any]:
    return {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in session.get_inputs()}


def _displacer(job: dict[str, Any]) -> Callable[[], None]:
    """Return what runs before every cold call: memory traffic over small pages, then another network.

    Without it a model's first call would cost the less the fewer others are measured beside it: its data
    stay in the caches, its pages in the TLB, and the branch predictors remember it. With it the same model
    gives the same number alone and among a hundred.
    """
    memory = mmap.mmap(-1, job["displace_bytes"])
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    values = np.frombuffer(memory, np.float64)
    company = _session(job["company"], job["threads"], job["provider"])
    feed = _feed(company, np.random.default_rng(job["seed"]))

    def displace() -> None:
        np.add(values, 1.0, out=values)
        company.run(None, feed)

    return displace


def _timed(session: ort.InferenceSession, feed: dict[str, Any]) -> tuple[float, float]:
    """Run once; return the calling thread's CPU time and the wall time, in ms."""
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    session.run(None, feed)
    return (time.thread_time_ns() - cpu) / 1e6, (time.perf_counter_ns() - wall) / 1e6


def measure(job: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> None:
    """Time every model of ``job`` once per round, in an order shuffled for each round.

    Each round calls ``emit`` with the ``round`` and one list per quantity (ms, in the order of the models):
    ``cold_ms`` (thread CPU time of the first call after ``displace`` put other work into the caches),
    ``cold_wall_ms`` (wall time of the same call) and ``steady_ms`` (thread CPU time of the last of
    ``calls`` calls in a row). A round depends on ``seed`` and its number alone, so ``first_round`` resumes.
    """
    rng = np.random.default_rng(job["seed"])
    sessions = [_session(path, job["threads"], job["provider"]) for path in job["models"]]
    feeds = [_feed(session, rng) for session in sessions]
    for session, feed in zip(sessions, feeds, strict=True):
        session.run(None, feed)
    displace = _displacer(job)
    gc.disable()
    for number in range(job["first_round"], job["rounds"]):
        cold, wall, steady = ([0.0] * len(sessions) for _ in range(3))
        for i in np.random.default_rng([job["seed"], number]).permutation(len(sessions)):
            displace()
            cold[i], wall[i] = _timed(sessions[i], feeds[i])
            steady[i] = cold[i]
            for _ in range(job["calls"] - 1):
                steady[i], _ = _timed(sessions[i], feeds[i])
        emit({"round": number, "cold_ms": cold, "cold_wall_ms": wall, "steady_ms": steady})
        gc.collect()


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(3)


def _emit(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def main() -> None:
    """Read one job from standard input and stream its rounds."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    measure(job, _emit)
    _emit({"done": 0})
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
