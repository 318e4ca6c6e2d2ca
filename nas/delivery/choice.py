"""Which networks a run trains to the end, and where each comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.delivery.finalists import choose_finalists, finished
from nas.search.baselines import LARGEST, family_within, keeps, largest_per_bin, latency_range, spread_family
from nas.search.record import Evaluated
from nas.search.target import Target
from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace


@dataclass(frozen=True)
class Finalist:
    """A network to train to the end: its origin, and the latency (ms) that each device's table predicts.

    ``accuracy`` in [0, 1] is what the search rated it with, None where it did not; ``score`` the same of a search
    whose ratings are no accuracies.
    """

    architecture: Architecture
    origin: str
    accuracy: float | None
    ms: tuple[float, ...]
    score: float | None = None


def choose(
    folder: Path, space: SearchSpace, targets: Sequence[Target], rated: Sequence[Evaluated], short: Sequence[Evaluated],
    finalists: int, family: int,
) -> list[Finalist]:  # fmt: skip
    """Return the best ``finalists`` of the shortlist on each device, and ``family`` members of the hand-made family.

    What of ``rated`` an earlier session trained in ``folder`` stays, also if fewer are wanted now.
    """
    chosen = [trial for device in range(len(targets)) for trial in choose_finalists(short, finalists, device)]
    chosen += [trial for trial in rated if finished(folder, trial.architecture)]
    found = [Finalist(t.architecture, t.origin, t.accuracy, t.ms) for t in chosen]
    ratings = {trial.architecture.id: trial.accuracy for trial in rated}
    return _with_family(found, folder, space, targets, ratings, family)


def choose_unsearched(
    folder: Path, space: SearchSpace, targets: Sequence[Target], seed: int, bins: int, family: int
) -> list[Finalist]:
    """Return what is worth training where a search is not: the largest network per latency bin, and the family.

    Bins are those of the first device, from its fastest network to its budget or its slowest network.
    """
    low_ms, high_ms = latency_range(space, targets, seed)
    largest = largest_per_bin(space, targets[0].predict_ms, low_ms, high_ms, bins, seed)
    found = [Finalist(a, LARGEST, None, _ms(a, targets)) for a in largest if keeps(a, targets)]
    return _with_family(found, folder, space, targets, {}, family)


def _with_family(
    found: Sequence[Finalist], folder: Path, space: SearchSpace, targets: Sequence[Target],
    ratings: Mapping[str, float], count: int,
) -> list[Finalist]:  # fmt: skip
    """Return ``found`` and members of the family beside them; members are the family's whoever found them too."""
    networks = {finalist.architecture.id: finalist for finalist in found}
    wanted = {a.id for a in spread_family(space, targets, count)} | networks.keys()
    members = [a for a in family_within(space, targets) if a.id in wanted or finished(folder, a)]
    family = {a.id: Finalist(a, "baseline", ratings.get(a.id), _ms(a, targets)) for a in members}
    return list((networks | family).values())


def _ms(architecture: Architecture, targets: Sequence[Target]) -> tuple[float, ...]:
    return tuple(target.predict_ms(architecture) for target in targets)
