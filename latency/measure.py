"""Measuring ONNX models on a device: interleaved rounds, resumable, with an interval for every number."""

import json
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency.device import Device
from latency.emit import to_onnx
from latency.files import sha256, write_text
from latency.host import Connection, ConnectionLost, MeasuringFailed, fingerprint
from latency.models import seeded
from latency.runner import QUANTITIES
from search_spaces.block import Block, Network
from search_spaces.errors import InputError
from search_spaces.operators import Classifier, ConvNormReLU, MBConv

Progress = Callable[[int, int], None]
"""Told how much is done, and of how much."""
Samples = dict[str, dict[str, NDArray]]
"""Quantity (``cold_cpu_ms``, ...) -> name of a model -> one sample (ms) per round."""

# Swept in every round: with it the same model gives the same number among a dozen others and among a hundred.
SWEEP_BYTES = 256 * 2**20
# Below a dozen models, the sweep before each call grows so large that it displaces the interpreter too.
FEWEST_MODELS = 12
# Where a process keeps a model's data and the engine's code changes its latency by several percent, for as long as the
# process lives: every so many rounds the program is started anew.
ROUNDS_PER_START = 5
# A call of a busy machine may be held up for long: half of the samples are beyond the estimate's reach.
_KEPT = 0.5
_RESAMPLES = 200
_HELD_UP_PERCENT = 20.0
# Pauses before another try: a board takes about half a minute to start.
_RECONNECT_S = (2.0, 8.0, 30.0)


@dataclass(frozen=True)
class Protocol:
    """How often and in which order models are timed.

    At least ``rounds`` are measured, and more, up to ``most_rounds``, until half of the models have a 90 % interval
    that is no wider than +- ``interval_percent``.
    """

    rounds: int = 20
    calls: int = 2
    seed: int = 0
    most_rounds: int = 60
    interval_percent: float = 5.0

    def record(self) -> dict[str, int | float]:
        """Return everything that a number of this protocol depends on."""
        return {**asdict(self), "sweep_bytes": SWEEP_BYTES, "rounds_per_start": ROUNDS_PER_START}


@dataclass(frozen=True)
class Measured:
    """A latency (ms) and its 90 % bootstrap interval: the mean of the faster half of the samples.

    What disturbs a measurement only ever makes it slower. Of the estimates that look at the faster samples alone, this
    one repeats better than the 20th percentile and the minimum, which hang on one or two samples.
    """

    ms: float
    low: float
    high: float

    @classmethod
    def of(cls, samples_ms: NDArray) -> "Measured":
        """Estimate from one sample per round."""
        low, high = intervals(samples_ms[:, None])
        return cls(float(estimates(samples_ms)), float(low[0]), float(high[0]))


def estimates(samples_ms: NDArray) -> NDArray:
    """Return the mean of the faster half of samples along the first axis, which is the rounds."""
    kept = max(1, int(_KEPT * len(samples_ms)))
    return np.asarray(np.sort(samples_ms, axis=0)[:kept].mean(axis=0))


def latency_of(samples: Samples, quantity: str, name: str) -> tuple[Measured, float]:
    """Return the cold latency by ``quantity`` of the model called ``name``, and its steady state (ms, same clock)."""
    steady = samples[quantity.replace("cold", "steady")][name]
    return Measured.of(samples[quantity][name]), float(estimates(steady))


def intervals(samples_ms: NDArray) -> tuple[NDArray, NDArray]:
    """Return the bounds of the 90 % bootstrap intervals of samples (rounds, models)."""
    rng = np.random.default_rng(0)
    rounds = len(samples_ms)
    draws = np.array([estimates(samples_ms[rng.integers(rounds, size=rounds)]) for _ in range(_RESAMPLES)])
    low, high = np.percentile(draws, [5, 95], axis=0)
    return low, high


def spread_percent(samples_ms: NDArray) -> float:
    """Return half the width of the 90 % interval, in percent of the estimate: the median over models."""
    low, high = intervals(samples_ms)
    return float(100 * np.median((high - low) / 2 / estimates(samples_ms)))


@dataclass(frozen=True)
class Noise:
    """How quiet the machine was: the typical 90 % interval, how much longer calls took than they computed, rounds."""

    interval_percent: float
    held_up_percent: float
    rounds: int

    @classmethod
    def of(cls, samples: Samples, quantity: str) -> "Noise":
        """Describe a measurement by its ``quantity``."""
        cpu, wall = (np.stack(list(samples[q].values()), axis=1) for q in ("cold_cpu_ms", "cold_wall_ms"))
        interval = spread_percent(np.stack(list(samples[quantity].values()), axis=1))
        return cls(interval, float(100 * (wall.sum() / cpu.sum() - 1)) if "cpu" in quantity else 0.0, len(cpu))

    def noisy(self, protocol: Protocol) -> bool:
        """Tell whether the host was too busy for the protocol."""
        return self.interval_percent > protocol.interval_percent or self.held_up_percent > _HELD_UP_PERCENT

    def text(self, protocol: Protocol) -> str:
        """Return the noise in one line; a noisy host is called so."""
        held = f", calls held up by {self.held_up_percent:.0f} %" if self.held_up_percent >= 1 else ""
        state = "a noisy host" if self.noisy(protocol) else "a quiet host"
        return f"{state}: typical 90 % interval +-{self.interval_percent:.1f} % after {self.rounds} rounds{held}"


def _small_network(channels: int, hidden: int, kernel: int) -> bytes:
    blocks: list[Block] = [ConvNormReLU((64, 7, 7), channels, kernel=1, stride=1)]
    shape = blocks[0].out_shape
    blocks += [MBConv(shape, channels, kernel, 1, 3), MBConv(shape, channels, 3, 1, 2)]
    blocks += [ConvNormReLU(shape, hidden, kernel=1, stride=1), Classifier((hidden, 7, 7), 1000)]
    return to_onnx(Network(block.build() for block in blocks), blocks[0].in_shape)


@cache
def company() -> tuple[bytes, ...]:
    """Return a dozen small networks (0.5 to 4 MB) of the common operators, the same on every machine.

    The largest runs before each cold call; the others are measured beside models that are too few to be alone.
    """
    with seeded(0):
        widths = np.linspace(64, 224, FEWEST_MODELS).astype(int) // 8 * 8
        return tuple(_small_network(int(c), 2 * int(c), 3 + 2 * (i % 2)) for i, c in enumerate(widths))


class _Journal:
    """Finished rounds of one measuring job on disk, so that an interrupted job goes on where it was."""

    def __init__(self, path: Path, job: dict[str, Any]) -> None:
        self._path = path
        self._header = json.dumps(job, sort_keys=True)

    def read(self) -> list[dict[str, Any]]:
        """Return the finished rounds, or start anew where the file is absent or of another job."""
        # What follows the last line feed was cut off.
        lines = self._path.read_text(errors="replace").split("\n")[:-1] if self._path.exists() else []
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


def measure(
    device: Device,
    models: Mapping[str, bytes],
    protocol: Protocol,
    journal: Path | None = None,
    progress: Progress = lambda done, total: None,
    cold_only: Collection[str] = (),
) -> Samples:
    """Time ``models`` (name -> ONNX file content) together, one interleaved session in a process of its own.

    Args:
        device: where to measure.
        models: what to measure, with random inputs.
        protocol: rounds, calls in a row per round, seed of the order.
        journal: where finished rounds are kept until ``forget``; the same call then resumes.
        progress: told after every round.
        cold_only: names of which the steady state is of no interest, to save time.

    Returns:
        quantity -> name -> one sample (ms) per round.

    Raises:
        InputError: the device cannot be reached, or refuses a model.
        MeasuringFailed: the measuring program died, or the connection broke again and again.
    """
    beside = company()[: max(0, FEWEST_MODELS - len(models))]
    every = (*models.values(), *beside)
    names = [_file(content) for content in (*every, company()[-1])]
    files = dict(zip(names, (*every, company()[-1]), strict=True))
    job = {
        "models": names[:-1],
        "calls": [1 if name in cold_only else protocol.calls for name in models] + [1] * len(beside),
        "company": names[-1],
        "fingerprint": fingerprint(device),
        "engine": device.engine,
        "provider": device.provider,
        "precision": device.precision,
        "threads": device.threads,
        "seed": protocol.seed,
        "sweep_bytes": SWEEP_BYTES,
    }
    kept = _Journal(journal, job) if journal else None
    rows = kept.read() if kept else []
    session = _Session(
        device, job, files, kept, rows, protocol.most_rounds,
        lambda: _enough(rows, device.quantity, list(models), protocol),
    )  # fmt: skip
    try:
        session.run(lambda: progress(min(len(rows), protocol.rounds), protocol.rounds))
    except InputError as error:
        raise InputError(_with_names(str(error), models)) from None
    return _samples(rows, list(models))


def _samples(rows: list[dict[str, Any]], names: list[str]) -> Samples:
    """Return the samples by quantity and name."""
    values = {quantity: np.array([row[quantity] for row in rows]) for quantity in QUANTITIES}
    return {quantity: {name: v[:, i] for i, name in enumerate(names)} for quantity, v in values.items()}


def _file(content: bytes) -> str:
    return f"{sha256(content)}.onnx"


def _with_names(text: str, models: Mapping[str, bytes]) -> str:
    """Return ``text`` with the models' names in place of those of their files on the device."""
    for name, content in models.items():
        text = text.replace(_file(content), name)
    return text


def _enough(rows: list[dict[str, Any]], quantity: str, names: list[str], protocol: Protocol) -> bool:
    """Tell whether the rounds suffice; asked between starts alone, so that a resumed job stops where it would have."""
    count = len(rows)
    if count >= protocol.most_rounds:
        return True
    if count < protocol.rounds or count % ROUNDS_PER_START:
        return False
    values = _samples(rows, names)[quantity].values()
    return spread_percent(np.stack(list(values), axis=1)) <= protocol.interval_percent


@dataclass
class _Session:
    """The rounds of one job, over as many starts of the program as it takes."""

    device: Device
    job: dict[str, Any]
    files: Mapping[str, bytes]
    journal: _Journal | None
    rows: list[dict[str, Any]]
    most_rounds: int
    enough: Callable[[], bool]

    def run(self, progress: Callable[[], None]) -> None:
        progress()
        failures = 0
        with tempfile.TemporaryDirectory(prefix="nas-measure-") as folder:
            while not self.enough():
                before = len(self.rows)
                try:
                    self._start(Path(folder), progress)
                    failures = 0
                except ConnectionLost as error:
                    failures = 1 if len(self.rows) > before else failures + 1
                    self._wait(failures, error)

    def _wait(self, failures: int, error: ConnectionLost) -> None:
        if failures > len(_RECONNECT_S):
            kept = f"; {len(self.rows)} rounds are kept: repeat the command to go on" if self.journal else ""
            raise MeasuringFailed(f"{error}{kept}") from None
        time.sleep(_RECONNECT_S[failures - 1])

    def _start(self, folder: Path, progress: Callable[[], None]) -> None:
        first = len(self.rows)
        end = min(self.most_rounds, (first // ROUNDS_PER_START + 1) * ROUNDS_PER_START)
        with Connection(self.device, folder) as connection:
            connection.send(self.files)
            try:
                for row in connection.rounds({**self.job, "first_round": first, "end_round": end}):
                    self.rows.append(row)
                    if self.journal:
                        self.journal.append(row)
                    progress()
            except InputError:
                connection.remove(self.files)
                raise
            if self.enough():
                connection.remove(self.files)


def forget(journal: Path) -> None:
    """Delete the rounds that ``measure`` kept, once their result is safe elsewhere."""
    with suppress(FileNotFoundError):
        journal.unlink()


__all__ = ["Measured", "MeasuringFailed", "Noise", "Progress", "Protocol", "Samples", "forget", "measure"]
