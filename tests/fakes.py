"""A device, a latency table and an oracle without any measurement or training."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from measuring_jobs import COMPANY
from optuna.study import Study
from torch import nn

from latency import measure
from latency.calibrate import Calibration, Features
from latency.device import Device
from latency.host import fingerprint
from latency.measure import Progress, Protocol, Samples
from latency.models import measured_blocks, spread_networks
from latency.runner import QUANTITIES
from latency.table import BlockLatency, LatencyTable, NetworkLatency, Quality, Session
from nas.delivery import measured
from nas.search.distribution import decisions_of, uniform
from nas.search.executor import InProcess, Work
from nas.search.samplers import LEARNED, SamplerKind, make_sampler
from nas.search.study import Driver, enqueue, first_candidates, open_study
from nas.search.target import TableTarget
from nas.training.data import load_dataset
from nas.training.oracle import Task
from nas.training.train import Recipe
from search_spaces.architecture import Architecture
from search_spaces.block import Block
from search_spaces.operators import MBConv
from search_spaces.space import SearchSpace

Told = tuple[int, str, dict[str, object], list[float] | None, dict[str, object]]


def made_up_table(space: SearchSpace, device: str = "cpu") -> LatencyTable:
    """Each block costs 0.01 ms, and 0.1 ms per million MACs and per hundred thousand parameters."""
    blocks = {}
    for block in space.distinct_blocks():
        if not block.free:
            ms = 0.012 + 1e-7 * block.macs + 1e-6 * block.params
            blocks[block.key] = BlockLatency(
                cold_ms=ms, cold_ms_low=ms, cold_ms_high=ms, steady_ms=ms, plain_start=False, plain_end=False
            )
    quality = Quality(
        networks=12, mape_percent=1.0, within_5_percent=100, within_10_percent=100, spearman=0.99, kendall=0.95
    )
    session = Session(
        rounds=20, entries_within_3_percent=90, anchor_drift_percent=0, interval_percent=1, held_up_percent=0,
        noisy=False,
    )  # fmt: skip
    anchors = [
        NetworkLatency(architecture=a.text, predicted_ms=0.11, measured_ms=0.11)
        for a in spread_networks(space, 3, seed=0)
    ]
    return LatencyTable(
        device=device, quantity="cold_cpu_ms", fingerprint=fingerprint(Device.parse("cpu")), protocol={"seed": 0},
        space=space.name, input_shape=space.input_shape, classes=space.classes, session_ms=0.002,
        session_steady_ms=0.001,
        border_ms_per_mib=0.0, blocks=blocks, networks=tuple(anchors), quality=quality, session=session,
        calibration=Calibration(slope=1.0, offset_ms=0.01, block_ms=0.0, switch_share=0.0),
    )  # fmt: skip


class MadeUpDevice:
    """Takes the place of ``latency.build.measure``: what a table assumes of a device holds exactly on this one.

    Blocks cost by MACs and parameters, borders by their size, whole networks as ``calibration`` says, and everything
    ``factor`` times that. ``blocks`` are those it knows by their key, ``asked`` the names of what it was asked to
    measure, one list per call; ``called`` are the architectures of models that have a name of their own.
    """

    SESSION_MS = 0.05
    BORDER_MS_PER_MIB: float = 2.0

    def __init__(self, space: SearchSpace, calibration: Calibration | None = None) -> None:
        self._space = space
        self.blocks = {block.key: block for block in measured_blocks(space, (), 0)}
        self.calibration = calibration or Calibration(slope=1, offset_ms=0, block_ms=0, switch_share=0.4)
        self.factor = 1.0
        self.asked: list[list[str]] = []
        self.called: dict[str, Architecture] = {}

    def core_ms(self, block: Block) -> float:
        return 0.01 + 1e-7 * block.macs + 1e-6 * block.params

    def border_ms(self, shape: tuple[int, int, int], batch: int = 1) -> float:
        return self.BORDER_MS_PER_MIB * batch * shape[0] * shape[1] * shape[2] * 4 / 2**20

    def features(self, architecture: Architecture) -> Features:
        body = [block for block in self._space.blocks(architecture) if not block.free]
        switch_ms = sum(self.border_ms(b.in_shape) for a, b in pairwise(body) if _plain_end(a) != _plain_start(b))
        return Features(core_ms=sum(map(self.core_ms, body)), blocks=len(body), switch_ms=switch_ms)

    def network_ms(self, architecture: Architecture) -> float:
        return self.factor * self.calibration.predict_ms(self.features(architecture))

    def ms(self, name: str, batch: int) -> float:
        """Return what the model called ``name`` takes (ms)."""
        if name == "empty session":
            return self.factor * self.SESSION_MS
        if name.startswith("probe "):
            depth, sides = name.split()[1:]
            channels, height, width = map(int, sides.split("x"))
            convolutions = int(depth) * 1e-7 * channels**2 * height * width
            border = self.border_ms((channels, height, width), batch)
            return self.factor * (self.SESSION_MS + border + convolutions)
        if name in self.blocks:
            block = self.blocks[name]
            borders = (self.border_ms(block.in_shape, batch) + self.border_ms(block.out_shape, batch)) / 2
            return self.factor * (self.SESSION_MS + borders + self.core_ms(block))
        return self.network_ms(self.called.get(name) or self._space.parse(name))

    def __call__(
        self,
        device: Device,
        models: Mapping[str, bytes],
        protocol: Protocol,
        journal: Path | None = None,
        progress: Progress = lambda done, total: None,
        cold_only: Collection[str] = (),
    ) -> Samples:
        assert set(cold_only) <= set(models)
        self.asked.append(list(models))
        progress(protocol.rounds, protocol.rounds)
        cold = {name: np.full(protocol.rounds, self.ms(name, device.batch)) for name in models}
        hot = {name: values / 2 for name, values in cold.items()}
        return {quantity: cold if quantity.startswith("cold") else hot for quantity in QUANTITIES}


class Quiet:
    """A console that remembers; the bar called ``stop`` is interrupted after a step."""

    def __init__(self, stop: str = "") -> None:
        self.said: list[str] = []
        self.rows: list[list[str]] = []
        self.bars: dict[str, list[tuple[int, int]]] = {}
        self._stop = stop

    def say(self, text: str) -> None:
        self.said.append(text)

    def table(self, title: str, columns: list[str], rows: Iterable[list[str]]) -> None:
        self.rows = list(rows)
        assert all(len(row) == len(columns) for row in self.rows)

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        steps = self.bars.setdefault(title, [])

        def told(done: int, total: int) -> None:
            steps.append((done, total))
            if title == self._stop and done == 1:
                raise KeyboardInterrupt

        yield told


@contextmanager
def measuring_little() -> Iterator[pytest.MonkeyPatch]:
    """Let everything be measured a few times only; what else is patched on is undone with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "PROTOCOL", Protocol(rounds=3, calls=2, most_rounds=3))
        patch.setattr(measure, "SWEEP_BYTES", 2**20)
        patch.setattr(measure, "company", lambda: COMPANY)
        yield patch


def _plain_end(block: Block) -> bool:
    return isinstance(block, MBConv) and block.groups > 1


def _plain_start(block: Block) -> bool:
    return isinstance(block, MBConv) and block.groups > 1 and block.expands


def made_up_accuracy(architecture: Architecture) -> float:
    """Larger expansions help, less and less; 5 x 5 kernels help in the second half; order matters a little."""
    options = [option for _, option in architecture.decisions]
    expansion = sum(0.5 ** (6 / max(1, int(o.split("_e")[1][0]))) for o in options if "_e" in o)
    kernels = sum(o.startswith("k5") for o in options[len(options) // 2 :])
    noise = int(architecture.id[:4], 16) / 0xFFFF
    return 0.4 + 0.4 * expansion / len(options) + 0.1 * kernels / len(options) + 0.01 * noise


def run_study(
    journal: Path,
    kind: SamplerKind,
    space: SearchSpace,
    budget_ms: float | None,
    trials: int,
    seed: int = 0,
    factory: Callable[[], Work] = lambda: made_up_accuracy,
) -> list[Told]:
    """Open or create the study in ``journal``, bring it to ``trials`` trials and return what it holds."""
    targets = [TableTarget(space, made_up_table(space), budget_ms)]
    study = open_study(journal, ["predicted_ms cpu"])
    learned = uniform(decisions_of(space)) if kind in LEARNED else None
    study.sampler = make_sampler(kind, space, targets, seed, learned)
    enqueue(study, first_candidates(space, targets, trials, seed))
    Driver(study, space, targets, InProcess(factory), trials).run()
    return _told(study)


def told(journal: Path) -> list[Told]:
    """Return what the study in ``journal`` holds: number, state, parameters, values, user attributes."""
    return _told(open_study(journal, ["predicted_ms cpu"]))


def _told(study: Study) -> list[Told]:
    trials = study.get_trials(deepcopy=False)
    return [(t.number, t.state.name, t.params, t.values, t.user_attrs) for t in trials]


def few_digits(path: Path) -> Path:
    """Write 150 digits of 8 x 8 px and 50 to test on to an .npz file: an epoch is two steps."""
    train, test = load_dataset("digits", None, 0).train, load_dataset("digits", None, 0).test
    np.savez(
        path, x_train=train.images[:150], y_train=train.labels[:150], x_test=test.images[:50], y_test=test.labels[:50]
    )
    return path


def digits_task(space: SearchSpace, folder: Path, supernet_epochs: int) -> Task:
    """Return a task on digits in ``folder`` whose supernet is trained."""
    task = Task(space, "digits", None, folder / "data", 0, folder / "supernet.safetensors", Recipe(supernet_epochs))
    task.train_supernet()
    return task


class Cancelling(nn.Module):
    """Scores that are small differences of sums a few ten thousand times as large: float32 gives two digits of them."""

    def __init__(self, features: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        half = 2e4 * torch.randn(8, features, generator=random)
        self.linear = nn.Linear(2 * features, 8, bias=False)
        self.linear.weight.data = torch.cat([half, -half], 1) + torch.randn(8, 2 * features, generator=random)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        return self.linear(torch.cat([flat, flat], 1))
