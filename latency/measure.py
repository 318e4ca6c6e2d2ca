"""Measuring ONNX models on a device: interleaved rounds, resumable, with an interval for every number."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency import runner
from latency.device import Device
from latency.emit import to_onnx
from latency.files import sha256, write_text
from search_spaces.block import Block, Network
from search_spaces.operators import Classifier, ConvNormReLU, MBConv

Progress = Callable[[int, int], None]
"""Told how much is done, and of how much."""

# Touched before each cold call: larger than a core's own caches and than what its TLB covers in small pages.
DISPLACE_BYTES = 8 * 2**20
QUANTITIES = ("cold_ms", "cold_wall_ms", "steady_ms")


class MeasuringFailed(RuntimeError):
    """The measuring program died or its connection broke."""


@dataclass(frozen=True)
class Protocol:
    """How often and in which order models are timed."""

    rounds: int = 20
    calls: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """The 20th percentile over rounds (ms) and its 90 % bootstrap interval.

    The low percentile discards rounds that other programs disturbed; the mean and the median do not.
    """

    ms: float
    low: float
    high: float

    @classmethod
    def of(cls, samples_ms: NDArray) -> "Measured":
        """Estimate from one sample per round."""
        rng = np.random.default_rng(0)
        draws = rng.choice(samples_ms, (200, len(samples_ms)))
        low, high = np.percentile(np.percentile(draws, 20, axis=1), [5, 95])
        return cls(float(np.percentile(samples_ms, 20)), float(low), float(high))


@cache
def _company() -> bytes:
    """Return the network that runs before each cold call: 16 MB of weights, the common operators."""
    blocks: list[Block] = [ConvNormReLU((64, 7, 7), 512, kernel=1, stride=1)]
    blocks += [MBConv((512, 7, 7), 512, 5, 1, 3), MBConv((512, 7, 7), 512, 3, 1, 2)]
    blocks += [ConvNormReLU((512, 7, 7), 1024, kernel=1, stride=1), Classifier((1024, 7, 7), 1000)]
    return to_onnx(Network(block.build() for block in blocks), blocks[0].in_shape)


class _Journal:
    """Finished rounds of one measuring job on disk, so that an interrupted job goes on where it was."""

    def __init__(self, path: Path, job: dict[str, Any]) -> None:
        self._path = path
        self._header = json.dumps(job, sort_keys=True)

    def read(self) -> list[dict[str, Any]]:
        """Return the finished rounds, or start anew where the file is absent or of another job."""
        # What follows the last line feed was cut off.
        lines = self._path.read_text().split("\n")[:-1] if self._path.exists() else []
        rounds: list[dict[str, Any]] = []
        if lines and lines[0] == self._header:
            for line in lines[1:]:
                try:
                    rounds.append(json.loads(line))
                except ValueError:
                    break  # cut off when the writer died
        write_text(self._path, "".join(f"{x}\n" for x in [self._header, *map(json.dumps, rounds)]))
        return rounds

    def append(self, row: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def measure(
    device: Device,
    models: Mapping[str, bytes],
    protocol: Protocol,
    journal: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[str, dict[str, NDArray]]:
    """Time ``models`` (name -> ONNX file content) together, one interleaved session in a process of its own.

    Args:
        device: where to measure.
        models: what to measure, at batch 1 with random inputs.
        protocol: rounds, calls in a row per round, seed of the order.
        journal: where finished rounds are kept until ``measure`` returns; the same call then resumes.
        progress: told after every round.

    Returns:
        quantity (``cold_ms``, ``cold_wall_ms``, ``steady_ms``) -> name -> one sample (ms) per round.

    Raises:
        MeasuringFailed: the measuring program died.
    """
    job = {
        "models": [sha256(content) for content in models.values()],
        "names": list(models),
        "fingerprint": device.fingerprint(),
        "rounds": protocol.rounds,
        "calls": protocol.calls,
        "seed": protocol.seed,
        "displace_bytes": DISPLACE_BYTES,
    }
    kept = _Journal(journal, job) if journal else None
    rows = kept.read() if kept else []
    progress(len(rows), protocol.rounds)
    if len(rows) < protocol.rounds:
        with tempfile.TemporaryDirectory(prefix="nas-measure-") as folder:
            paths = []
            for number, content in enumerate(models.values()):
                paths.append(str(Path(folder, f"{number}.onnx")))
                Path(paths[-1]).write_bytes(content)
            company = Path(folder, "company.onnx")
            company.write_bytes(_company())
            order = {**job, "models": paths, "company": str(company), "first_round": len(rows)}
            order |= {"threads": device.threads, "provider": device.provider}
            for row in _run(order):
                rows.append(row)
                if kept:
                    kept.append(row)
                progress(len(rows), protocol.rounds)
    return {
        quantity: {name: np.array([row[quantity][i] for row in rows]) for i, name in enumerate(models)}
        for quantity in QUANTITIES
    }


def forget(journal: Path) -> None:
    """Delete the rounds that ``measure`` kept, once their result is safe elsewhere."""
    journal.unlink(missing_ok=True)


def _run(order: dict[str, Any]) -> Any:
    """Yield the rounds of the measuring program, which runs apart from this process and its threads."""
    with tempfile.TemporaryFile("w+") as errors:
        program = subprocess.Popen(
            [sys.executable, runner.__file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True,  # an interrupt from the keyboard is this process's to handle
        )  # fmt: skip
        assert program.stdin and program.stdout
        try:
            with contextlib.suppress(BrokenPipeError):  # it died at once; its last words follow below
                program.stdin.write(json.dumps(order) + "\n")
                program.stdin.flush()
            for line in program.stdout:
                if not line.endswith("\n"):
                    break  # it died in the middle of a line
                row = json.loads(line)
                if "done" in row:
                    return
                yield row
            program.wait()
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
            raise MeasuringFailed(f"the measuring program ended early: {last}")
        finally:
            with contextlib.suppress(BrokenPipeError):
                program.stdin.close()  # it ends when its input closes
            program.wait()
            program.stdout.close()
