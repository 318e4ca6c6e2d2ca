"""The rank report: whether the oracle orders architectures better than estimates that cost nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latency.files import read_sealed, write_sealed
from nas.training.oracle import INHERITED, NASWOT, Task, counts
from predictors.agreement import CLEARLY, Agreement, share_ahead
from predictors.stacked import StackedRating, leave_one_out
from search_spaces.architecture import Architecture

SCHEMA_VERSION = 2
FEWEST = 12
"""Of fewer networks nothing can be said about which rating is the better one."""
COMBINATION = "combination"


def free_scores(task: Task, architectures: Sequence[Architecture], kept: Path | None = None) -> dict[str, list[float]]:
    """Return MACs, parameters and naswot of each architecture, by the name of the score.

    Each naswot takes a forward pass of an untrained network: those that the file ``kept`` holds are not computed again.
    """
    # JSON has no minus infinity, the score of networks that tell no images apart: null stands for it.
    found: dict[str, float | None] = read_sealed(kept, 1, "naswot scores")["naswot"] if kept and kept.exists() else {}
    for architecture in architectures:
        if architecture.id not in found:
            score = task.naswot(architecture)
            found[architecture.id] = score if math.isfinite(score) else None
    if kept:
        write_sealed(kept, 1, {"naswot": found})
    scores = [found[architecture.id] for architecture in architectures]
    return {**counts(task.space, architectures), NASWOT: [-math.inf if s is None else s for s in scores]}


@dataclass(frozen=True)
class Choice:
    """What the supernet oracle rates by: ``rating``, or the inherited accuracy where it is None; ``text`` says why.

    ``combined`` is where ``rating``, or the one that was not chosen, places each network among all the others; None
    where the networks are too few.
    """

    rating: StackedRating | None
    text: str
    combined: list[float] | None = None


def choose_rating(scores: Mapping[str, Sequence[float]], trained: Sequence[float], epochs: int) -> Choice:
    """Choose between the inherited accuracy and its combination with MACs, parameters and naswot.

    The combination is taken where, left out one by one, it orders the networks better than chance explains: it is ahead
    in nearly all resamples of them.

    Args:
        scores: of each network (n,), by name; see ``SupernetOracle``.
        trained: the accuracies in [0, 1] after ``epochs`` from scratch (n,).
        epochs: told to the user.
    """
    if len(trained) < FEWEST:
        few = f"{len(trained)} networks are too few to compare it with a combination; give {FEWEST} or more"
        return Choice(None, f"{INHERITED} ({few})")
    combined = leave_one_out(scores, trained)
    ahead = share_ahead(combined, scores[INHERITED], trained)
    resamples = f"ahead of {INHERITED} in {100 * ahead:.0f} % of resamples"
    if ahead < CLEARLY:
        return Choice(None, f"{INHERITED} (the {COMBINATION} is {resamples}, which chance may explain)", list(combined))
    rating = StackedRating.fit(scores, trained)
    weights = ", ".join(f"{weight:+.2f} {name}" for name, weight in rating.weights.items())
    text = f"the {COMBINATION}, which predicts the accuracy after {epochs} epochs from scratch ({resamples}; {weights})"
    return Choice(rating, text, list(combined))


@dataclass(frozen=True)
class RankReport:
    """How ratings of ``networks`` architectures agree with their accuracies after training from scratch.

    ``rating`` is what the oracle rates by from then on; None for the inherited accuracy.
    """

    networks: int
    lines: dict[str, str]
    rating: StackedRating | None

    @classmethod
    def of(cls, task: Task, networks: Sequence[Architecture], rated: Sequence[float], trained: Sequence[float],
           epochs: int) -> "RankReport":  # fmt: skip
        """Compare inherited accuracies, and the free scores, with accuracies after ``epochs`` from scratch."""
        scores = {INHERITED: list(rated), **free_scores(task, networks)}
        choice = choose_rating(scores, trained, epochs)
        rows = scores if choice.combined is None else {**scores, COMBINATION: choice.combined}
        lines = {f"Spearman of {name}": Agreement.of(values, trained).spearman.text() for name, values in rows.items()}
        counted = {"networks trained from scratch": str(len(networks))}
        return cls(len(networks), {**counted, **lines, "candidates are rated by": choice.text}, choice.rating)

    def save(self, path: Path) -> None:
        """Write the report."""
        write_sealed(path, SCHEMA_VERSION, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "RankReport":
        """Read a report.

        Raises:
            InputError: the file is damaged, or of another version.
        """
        body: dict[str, Any] = read_sealed(path, SCHEMA_VERSION, "rank report")
        rating = StackedRating(**body["rating"]) if body["rating"] else None
        return cls(body["networks"], body["lines"], rating)
