"""The rank report: whether the oracle orders architectures better than estimates that cost nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from latency.files import read_sealed, write_sealed
from nas.training.data import to_tensor
from nas.training.oracle import Task
from predictors.quality import kendall_tau
from predictors.zero_cost import naswot
from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace

NASWOT_IMAGES = 64


@dataclass(frozen=True)
class RankReport:
    """Kendall tau with the accuracy after training from scratch, of each way to rate ``networks`` architectures."""

    networks: int
    taus: dict[str, float]

    def lines(self) -> dict[str, str]:
        """Return the report as label and text."""
        labels = {f"Kendall tau of {name}": f"{tau:+.2f}" for name, tau in self.taus.items()}
        return {"networks trained from scratch": str(self.networks), **labels}


def free_scores(task: Task, architectures: Sequence[Architecture], kept: Path | None = None) -> dict[str, list[float]]:
    """Return MACs, parameters and naswot of each architecture, by the name of the score.

    Each naswot takes a forward pass of an untrained network: those that the file ``kept`` holds are not computed again.
    """
    found: dict[str, float] = read_sealed(kept, 1, "naswot scores")["naswot"] if kept and kept.exists() else {}
    data = task.dataset
    images: torch.Tensor = to_tensor(data.train.images[:NASWOT_IMAGES], data.mean, data.std)
    for architecture in architectures:
        if architecture.id not in found:
            found[architecture.id] = naswot(task.fresh(architecture), images)
    if kept:
        write_sealed(kept, 1, {"naswot": found})
    return {**counts(task.space, architectures), "naswot": [found[a.id] for a in architectures]}


def counts(space: SearchSpace, architectures: Sequence[Architecture]) -> dict[str, list[float]]:
    """Return the scores that need no network: MACs and parameters of each architecture."""
    return {
        "MACs": [float(space.macs(a)) for a in architectures],
        "parameters": [float(space.params(a)) for a in architectures],
    }


def rank_report(
    task: Task, architectures: Sequence[Architecture], rated: Sequence[float], trained: Sequence[float]
) -> RankReport:
    """Compare the oracle's ratings, and the free scores, with accuracies after training from scratch."""
    scores = {"inherited accuracy": list(rated), **free_scores(task, architectures)}
    taus = {name: kendall_tau(values, list(trained)) for name, values in scores.items()}
    return RankReport(len(architectures), taus)
