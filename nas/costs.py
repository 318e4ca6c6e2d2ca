"""What the parts of a run cost on this machine: each is done a few times and timed."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from latency.device import Device
from latency.models import measured_blocks
from nas.config import SearchConfig
from nas.delivery import measured
from nas.delivery.export import export, file_metadata
from nas.delivery.finalists import COMPARED_IMAGES
from nas.plan import Costs
from nas.search.baselines import keeps
from nas.search.executor import InProcess, all_cores
from nas.search.samplers import make_sampler
from nas.search.study import Driver, enqueue, open_study
from nas.search.target import Target, metric
from nas.training.data import Dataset, Split, to_tensor
from nas.training.oracle import Task
from nas.training.recipe import Recipe
from nas.training.supernet import Supernet
from nas.training.train import Progress, accuracy, recalibrate, train
from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace, sample, sample_spread

# Networks are drawn to know which MACs are common; the timed ones are at these percentiles of theirs.
_DRAWS, _PERCENTILES = 64, (10, 50, 90)
# Batches per timed epoch: after each one a supernet writes its checkpoint, which real epochs do seldom.
_BATCHES = 2
# The first epoch warms up. Of the others most are timed, unless they take longer than this, but two at least.
_EPOCHS, _ENOUGH_S = 8, 3.0
# A sampler is timed with as many ratings as a short search has in the middle.
_RATED, _PROPOSED = 30, 4
# A block or network of a table took .13 to .4 s on busy machines with two cores, networks at the end .4 to .7 s.
TABLE_S, FRONT_S = 0.2, 0.5


def predicted_table_s(space: SearchSpace, devices: int) -> float:
    """Return about how long measuring the blocks of a space takes on each of ``devices``, in s."""
    return devices * TABLE_S * len(measured_blocks(space, (), 0))


def measure_costs(config: SearchConfig, task: Task, targets: Sequence[Target], devices: Sequence[Device]) -> Costs:
    """Do a little of everything that a run is made of and time it: some seconds, or some steps where these are long."""
    space = task.space
    drawn = _drawn(space, targets, task.seed)
    networks = _spread(space, drawn)
    step_s, step_s_per_mac = time_steps(task, networks, config.final)
    middle = networks[len(networks) // 2]
    batches = len(task.dataset.train) / Recipe(1).batch_size
    with tempfile.TemporaryDirectory() as folder:
        shared = config.oracle != "train" and not space.endless
        start_s, supernet_step_s = _supernet(task, Path(folder)) if shared else (0.0, 0.0)
        return Costs(
            step_s=step_s,
            step_s_per_mac=step_s_per_mac,
            macs=float(np.mean([space.macs(a) for a in networks])),
            rating_s=_timed(lambda: _rate(task, middle)),
            proposal_s=_proposal_s(config, space, targets, drawn, Path(folder)),
            supernet_step_s=supernet_step_s,
            supernet_start_s=start_s,
            delivery_s=_delivery_s(task, middle, Path(folder), len({device.form for device in devices} | {""})),
            measuring_s=sum(_measuring_s(target.predict_ms(middle)) for target in targets),
            steps=int(np.ceil(batches)),
            layers=_decisions(space, task.seed),
            workers=config.workers,
            devices=len(devices),
        )


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _drawn(space: SearchSpace, targets: Sequence[Target], seed: int) -> list[Architecture]:
    """Return the random networks that keep the budget."""
    rng = np.random.default_rng(seed)
    return [a for a in (sample_spread(space, rng) for _ in range(_DRAWS)) if keeps(a, targets)]


def _spread(space: SearchSpace, drawn: Sequence[Architecture]) -> list[Architecture]:
    """Return some of the networks, or of the hand-made family where there are none, spread over MACs."""
    ordered = sorted(drawn or space.baseline_family(), key=space.macs)
    return [ordered[int(p / 100 * (len(ordered) - 1))] for p in _PERCENTILES]


def _decisions(space: SearchSpace, seed: int) -> int:
    """Return how many decisions a network takes, on average over draws."""
    rng = np.random.default_rng(seed)
    return round(float(np.mean([len(sample(space, rng).decisions) for _ in range(_DRAWS)])))


def time_steps(task: Task, networks: Sequence[Architecture], recipe: Recipe) -> tuple[float, float]:
    """Return what a training step takes: s, and s per MAC, fitted to a few steps of each network by least squares."""
    data, short = _few(task.dataset), replace(recipe, epochs=_EPOCHS)
    # An untrained teacher takes as long as a trained one.
    teacher = task.fresh(max(task.space.baseline_family(), key=task.space.macs)) if recipe.distil else None
    seconds = []
    for architecture in networks:
        seconds.append(_step_s(partial(train, task.fresh(architecture), data, short, task.seed, teacher=teacher)))
    macs = np.array([task.space.macs(a) for a in networks], dtype=float)
    slope, base = np.polyfit(macs, seconds, 1) if np.ptp(macs) > 0 else (0.0, float(np.mean(seconds)))
    if slope < 0 or base < 0:  # noise, or networks that are much alike: one of the two explains it
        slope, base = (0.0, float(np.mean(seconds))) if slope < 0 else (float(np.mean(seconds) / macs.mean()), 0.0)
    return float(base), float(slope)


def _few(data: Dataset) -> Dataset:
    """Return the data with a few batches of its training split."""
    count = _BATCHES * Recipe(1).batch_size
    rows = np.arange(count) % len(data.train)
    return replace(data, train=Split(data.train.images[rows], data.train.labels[rows]))


class _Enough(Exception):
    """Ends a training that has been timed."""


def _step_s(run: Callable[..., object]) -> float:
    """Return the median seconds of a step of a training on ``_few``, the first epoch left out."""
    ends: list[float] = []

    def told(done: int, total: int) -> None:
        ends.append(time.perf_counter())
        if len(ends) > 3 and ends[-1] - ends[0] > _ENOUGH_S:
            raise _Enough

    with suppress(_Enough):
        run(progress=told)
    return float(np.median(np.diff(ends)[1:])) / _BATCHES


def _rate(task: Task, architecture: Architecture) -> float:
    network = recalibrate(task.fresh(architecture), task.dataset)
    return accuracy(network, task.rating_split, task.dataset)


def _supernet(task: Task, folder: Path) -> tuple[float, float]:
    """Return what making a supernet takes, and a training step of it, with all cores as it is trained (s)."""
    start = time.perf_counter()
    supernet = Supernet(task.space, task.seed)
    made_s = time.perf_counter() - start

    def run(progress: Progress) -> None:
        data, checkpoint = _few(task.dataset), folder / "supernet.safetensors"
        supernet.fit(data, Recipe(_EPOCHS), task.seed, checkpoint, progress, task.supernet_paths)

    with all_cores():
        return made_s, _step_s(run)


def _proposal_s(
    config: SearchConfig, space: SearchSpace, targets: Sequence[Target], drawn: Sequence[Architecture], folder: Path
) -> float:
    """Return what the sampler takes for a candidate in the middle of a short search, its bookkeeping included (s)."""
    study = open_study(folder / "study.journal", [metric(target.kind, target.device) for target in targets])
    study.sampler = make_sampler(config.sampler, space, targets, config.seed)
    # Where networks are derived the sampler takes seconds for each that it proposes: what is there before is drawn.
    enqueue(study, [(architecture, "random") for architecture in [*dict.fromkeys(drawn)][:_RATED]])
    # Any accuracies will do that tell networks apart.
    executor = InProcess(lambda: lambda architecture: int(architecture.id, 16) % 1000 / 1000)
    Driver(study, space, targets, executor, _RATED).run()
    seconds = _timed(Driver(study, space, targets, executor, _RATED + _PROPOSED).run)
    return seconds / _PROPOSED


def _delivery_s(task: Task, architecture: Architecture, folder: Path, forms: int) -> float:
    """Return what exporting a finalist in each form and testing it takes (s)."""
    data, network = task.dataset, task.fresh(architecture)
    images = to_tensor(np.asarray(data.val.images[:COMPARED_IMAGES]), data.mean, data.std)
    metadata = file_metadata(architecture.text, data)
    seconds = _timed(lambda: export(network, data.input_shape, folder / "network.onnx", metadata, images))
    return forms * seconds + _timed(lambda: (accuracy(network, data.val, data), accuracy(network, data.test, data)))


def _measuring_s(ms: float) -> float:
    protocol = measured.PROTOCOL
    return FRONT_S + protocol.most_rounds * (1 + protocol.calls) * ms / 1000
