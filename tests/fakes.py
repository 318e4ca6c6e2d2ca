"""A latency table and an oracle without any measurement or training, for tests of the search."""

from collections.abc import Callable
from pathlib import Path

from optuna.study import Study

from latency.build import spread_networks
from latency.device import DEVICES
from latency.table import BlockLatency, LatencyTable, NetworkLatency, Quality
from nas.search.executor import InProcess, Work
from nas.search.samplers import SamplerKind, make_sampler
from nas.search.study import Driver, Target, enqueue, first_candidates, open_study
from nas.training.oracle import Task
from nas.training.train import Recipe
from search_spaces.architecture import Architecture
from search_spaces.operators import Identity
from search_spaces.space import SearchSpace

Told = tuple[int, str, dict[str, object], list[float] | None, dict[str, object]]


def made_up_table(space: SearchSpace, device: str = "cpu") -> LatencyTable:
    """Each block costs 0.01 ms, and 0.1 ms per million MACs and per hundred thousand parameters."""
    blocks = {}
    for block in space.distinct_blocks():
        if not isinstance(block, Identity):
            ms = 0.012 + 1e-7 * block.macs + 1e-6 * block.params
            blocks[block.key] = BlockLatency(cold_ms=ms, cold_ms_low=ms, cold_ms_high=ms, steady_ms=ms)
    quality = Quality(
        networks=12, mape_percent=1.0, within_5_percent=100, within_10_percent=100, spearman=0.99, kendall=0.95
    )
    anchors = [
        NetworkLatency(architecture=a.text, sum_ms=0.1, predicted_ms=0.11, measured_ms=0.11)
        for a in spread_networks(space, 3, seed=0)
    ]
    return LatencyTable(
        device=device, fingerprint=DEVICES["cpu"].fingerprint(), protocol={"rounds": 3, "calls": 3, "seed": 0},
        space=space.name, input_shape=space.input_shape, classes=space.classes, session_ms=0.002, blocks=blocks,
        slope=1.0, offset_ms=0.01, calibration=tuple(anchors), held_out=(), quality=quality,
    )  # fmt: skip


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
    targets = [Target(space, made_up_table(space), budget_ms)]
    study = open_study(journal, ["cpu"])
    study.sampler = make_sampler(kind, space, targets, seed)
    enqueue(study, first_candidates(space, targets, trials, seed))
    Driver(study, space, targets, InProcess(factory), trials).run()
    return _told(study)


def told(journal: Path) -> list[Told]:
    """Return what the study in ``journal`` holds: number, state, parameters, values, user attributes."""
    return _told(open_study(journal, ["cpu"]))


def _told(study: Study) -> list[Told]:
    trials = study.get_trials(deepcopy=False)
    return [(t.number, t.state.name, t.params, t.values, t.user_attrs) for t in trials]


def digits_task(space: SearchSpace, folder: Path, supernet_epochs: int) -> Task:
    """Return a task on digits in ``folder`` whose supernet is trained."""
    task = Task(space, "digits", None, folder / "data", 0, folder / "supernet.safetensors", Recipe(supernet_epochs))
    task.load_supernet()
    return task
