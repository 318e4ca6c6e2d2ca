"""The honesty report: how ratings order networks beside their training from scratch, and what is known for free."""

import csv
import io
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from latency.files import read_sealed, write_sealed, write_text
from nas.config import SearchConfig
from nas.folder import RunFolder
from nas.jobs import run_jobs
from nas.measuring import Console
from nas.run import prepare
from nas.search.stratified import stratified
from nas.training.data import batches
from nas.training.oracle import (
    BLOCKWISE,
    INHERITED,
    MACS,
    NASWOT,
    PARAMETERS,
    BlockwiseOracle,
    SupernetOracle,
    Task,
    counts,
)
from nas.training.report import COMBINATION, choose_rating
from nas.training.supernet import Supernet
from nas.training.train import EVALUATION_BATCH, Recipe, accuracy, device, train
from predictors.agreement import CLEARLY, Agreement, Ceiling, like_sized_groups, share_ahead
from predictors.zero_cost import synflow
from search_spaces.architecture import Architecture

SCHEMA_VERSION = 1
BY_BATCH, SYNFLOW = "inherited, batch statistics", "synflow"
FREE_RANKS = f"mean rank: {MACS}, {NASWOT}"
RATED_BY = (INHERITED, BLOCKWISE)
"""The score of a network that a search with ``--oracle supernet`` or ``blockwise`` begins from."""
FREE = (MACS, PARAMETERS, NASWOT, SYNFLOW, FREE_RANKS)
"""What costs no training."""
# Fewer networks of like latency hardly have an order.
_GROUP = 6

Job = tuple[Architecture, int]
"""An architecture and the number of its training: each has other weights and another order of the images."""


@dataclass(frozen=True)
class Network:
    """A network with its predicted latency (ms), its scores by name, and the accuracy in [0, 1] of each training."""

    architecture: str
    id: str
    ms: float
    scores: dict[str, float]
    trained: list[float]


@dataclass(frozen=True)
class Row:
    """How a rating agrees with the mean accuracy after training: overall, and among networks of like latency."""

    overall: Agreement
    within: Agreement


@dataclass(frozen=True)
class SupernetReport:
    """The rows by the name of the rating; ``ceiling`` is None where each network was trained once."""

    networks: list[Network]
    epochs: int
    groups: int
    rows: dict[str, Row]
    ceiling: Ceiling | None
    verdict: str

    @classmethod
    def of(cls, networks: Sequence[Network], epochs: int) -> "SupernetReport":
        """Compare the scores of networks, and what is made of them, with their accuracies after ``epochs``."""
        accuracies = np.array([network.trained for network in networks])
        truth = accuracies.mean(1)
        ratings: dict[str, Sequence[float]] = {
            name: [network.scores[name] for network in networks] for name in networks[0].scores
        }
        own = next(name for name in RATED_BY if name in ratings)
        used = own
        ratings[FREE_RANKS] = _mean_rank(ratings[MACS], ratings[NASWOT])
        ratings[all_ranks(own)] = _mean_rank(ratings[own], ratings[MACS], ratings[NASWOT])
        if own == INHERITED:
            names = (INHERITED, MACS, PARAMETERS, NASWOT)
            choice = choose_rating({name: ratings[name] for name in names}, list(truth), epochs)
            used = choice.text
            if choice.combined is not None:
                ratings[COMBINATION] = choice.combined
        groups = like_sized_groups([network.ms for network in networks], _GROUP)
        rows = {
            name: Row(Agreement.of(values, truth), Agreement.of(values, truth, groups))
            for name, values in ratings.items()
        }
        verdict = f"{_verdict(ratings, rows, truth)}; a search rates by {used}"
        return cls(list(networks), epochs, int(groups.max()) + 1, rows, Ceiling.of(accuracies), verdict)

    def save(self, folder: Path) -> list[Path]:
        """Write ``supernet_report.json`` with everything and ``.csv`` with the table; return their paths."""
        paths = [folder / f"supernet_report.{ending}" for ending in ("json", "csv")]
        write_sealed(paths[0], SCHEMA_VERSION, asdict(self))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = [f"{part}{name}{end}" for part in ("", "within_latency_") for name in ("spearman", "kendall")
                   for end in ("", "_low", "_high")]  # fmt: skip
        writer.writerow(["rating", *columns])
        for name, row in self.rows.items():
            estimates = (e for a in (row.overall, row.within) for e in (a.spearman, a.kendall))
            writer.writerow([name, *(f"{value:.4f}" for e in estimates for value in (e.value, e.low, e.high))])
        write_text(paths[1], text.getvalue())
        return paths

    def show(self, console: Console) -> None:
        """Print the table, what limits it, and the verdict."""
        ms = [network.ms for network in self.networks]
        seeds = len(self.networks[0].trained)
        title = (
            f"Rank correlation with the accuracy after {self.epochs} epochs from scratch, mean of {seeds} training(s): "
            f"{len(ms)} networks of {min(ms):.3g} to {max(ms):.3g} ms; 90 % intervals over networks"
        )
        within = f"in {self.groups} latency groups: Spearman"
        rows = [
            [name, *(e.text() for a in (row.overall, row.within) for e in (a.spearman, a.kendall))]
            for name, row in self.rows.items()
        ]
        console.table(title, ["rating", "Spearman", "Kendall", within, "Kendall"], rows)
        console.say(self.ceiling.text() if self.ceiling else "how far seeds agree is not known: give --seeds 2 or more")
        console.say(self.verdict)


def all_ranks(own: str) -> str:
    """Return the name of the mean rank of a rating and of what is known for free."""
    return f"mean rank: {own.removesuffix(' accuracy')}, {MACS}, {NASWOT}"


def _mean_rank(*scores: Sequence[float]) -> list[float]:
    return list(np.mean([rankdata(values) for values in scores], axis=0))


def _verdict(ratings: Mapping[str, Sequence[float]], rows: Mapping[str, Row], truth: Sequence[float]) -> str:
    """Return which rating orders the networks best, and whether that is more than what is known for free."""

    def named(name: str) -> str:
        return f"{name} (Spearman {rows[name].overall.spearman.value:+.2f})"

    best = max(rows, key=lambda name: rows[name].overall.spearman.value)
    free = max(FREE, key=lambda name: rows[name].overall.spearman.value)
    if best == free:
        return f"{named(best)} orders best, and costs nothing"
    ahead = share_ahead(ratings[best], ratings[free], truth)
    beyond = "beyond" if ahead >= CLEARLY else "not beyond"
    return (
        f"{named(best)} orders best, {beyond} chance ahead of the best that costs nothing, {named(free)}: in "
        f"{100 * ahead:.0f} % of resamples"
    )


class Scores:
    """Every rating of a network that takes no training of its own."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._oracle: BlockwiseOracle | SupernetOracle = (
            BlockwiseOracle(task) if task.blockwise else SupernetOracle(task)
        )

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        """Return the scores by name."""
        task = self._task
        free = {name: values[0] for name, values in counts(task.space, [architecture]).items()}
        return {
            **self._rated(architecture),
            **free,
            NASWOT: task.naswot(architecture),
            SYNFLOW: synflow(task.fresh(architecture), task.space.input_shape),
        }

    def _rated(self, architecture: Architecture) -> dict[str, float]:
        rating = self._oracle.rate(architecture)
        if isinstance(self._oracle, BlockwiseOracle):
            return {BLOCKWISE: rating}
        return {INHERITED: rating, BY_BATCH: accuracy_by_batch(self._oracle.supernet, architecture, self._task)}


@torch.no_grad()
def accuracy_by_batch(supernet: Supernet, architecture: Architecture, task: Task) -> float:
    """Return the inherited accuracy in [0, 1], batch norm on the statistics of each rated batch."""
    split, data, right = task.rating_split, task.dataset, 0
    for images, labels in batches(split, data.mean, data.std, EVALUATION_BATCH):
        scores = supernet.forward(architecture, images.to(device()))
        right += int((scores.argmax(1).cpu() == labels).sum())
    return right / len(split)


@dataclass(frozen=True)
class Training:
    """Training from scratch; accuracy on test images, which no rating has seen, as none is chosen by it."""

    task: Task
    epochs: int

    def __call__(self, job: Job) -> float:
        """Return the accuracy in [0, 1]."""
        (architecture, repeat), task = job, self.task
        data = task.dataset
        network = train(task.fresh(architecture, repeat), data, Recipe(self.epochs), task.seed + repeat)
        return accuracy(network, task.sampled(data.test), data)


def report_supernet(
    config: SearchConfig, networks: int, seeds: int, epochs: int, folder: RunFolder, console: Console
) -> SupernetReport:
    """Train a supernet, and ``networks`` networks from scratch ``seeds`` times each; resumes what the folder holds.

    Raises:
        InputError: something given is wrong.
        RunFailed: a training failed.
    """
    task, target = prepare(config, folder, console)
    chosen = {a.id: a for a in stratified(task.space, target, networks, config.seed + 1)}
    with folder.stage("scores"):
        scores = run_jobs(config, console, "rating networks", partial(Scores, task), chosen)
    with folder.stage("trainings"):
        jobs = {f"{a.id} {repeat}": (a, repeat) for repeat in range(seeds) for a in chosen.values()}
        trained = _trainings(config, task, epochs, jobs, folder.path / f"trained_{epochs}_epochs.json", console)
    found = [
        Network(a.text, i, target.predict_ms(a), scores[i], [trained[f"{i} {repeat}"] for repeat in range(seeds)])
        for i, a in chosen.items()
    ]
    report = SupernetReport.of(found, epochs)
    folder.record["report"]["supernet"] = {"networks": str(len(found)), "verdict": report.verdict}
    return report


def _trainings(
    config: SearchConfig, task: Task, epochs: int, jobs: Mapping[str, Job], path: Path, console: Console
) -> dict[str, float]:
    """Return the accuracy of each job; those that the file ``path`` holds are not trained again."""
    kept: dict[str, float] = read_sealed(path, SCHEMA_VERSION, "list of trainings")["accuracy"] if path.exists() else {}

    def keep(key: Hashable, value: Any) -> None:
        kept[str(key)] = value
        write_sealed(path, SCHEMA_VERSION, {"accuracy": kept})

    missing = {key: job for key, job in jobs.items() if key not in kept}
    run_jobs(config, console, "training networks from scratch", partial(Training, task, epochs), missing, keep)
    return kept
