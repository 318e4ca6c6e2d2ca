"""Successive halving that is aware of the front: a candidate is trained on only as long as it may reach it.

Source: ASHA (Li et al., MLSys 2020) in its stopping form, with candidates ordered by non-dominated rank as in
multi-objective ASHA (Schmucker et al., arXiv 2106.12639). Optuna's pruners refuse a study of several objectives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from nas.search.pareto import non_dominated
from nas.search.record import latencies, origin
from nas.training.oracle import RungJob, rung_checkpoint
from search_spaces.architecture import Architecture

REDUCTION = 3
"""The reduction factor: each rung is this many times as long as the one before and sends on this share."""

_ACCURACY = "accuracy at epoch "


def rungs(epochs: int) -> list[int]:
    """Return after how many epochs a candidate is judged: a ninth and a third of ``epochs``, and at the end."""
    return sorted({max(1, epochs // REDUCTION**2), max(1, epochs // REDUCTION), epochs})


def may_reach_front(candidate: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    """Tell whether a candidate belongs to the best third of those that were trained as long, by non-dominated rank.

    The front has rank 0, the front of the rest rank 1, and so on; those alone count that are at most as slow. So who
    leads at its latency goes on, however many slower ones are more accurate, and what is clearly behind needs no
    threshold in accuracy, whose scale and noise differ from rung to rung.

    Args:
        candidate: its accuracy at the rung and latency (ms).
        others: those of the other candidates at the rung.
    """
    rest, ahead = [*others, candidate], 0
    while ahead < (len(others) + 1) / REDUCTION:
        keep = non_dominated(rest)
        if keep[-1]:
            return True
        ahead += sum(keep)
        rest = [point for point, kept in zip(rest, keep, strict=True) if not kept]
    return False


@dataclass(frozen=True)
class Halving:
    """What is trained next of a candidate, and whether anything is: a function of what the trials record.

    Args:
        study: its trials hold ``accuracy at epoch N`` for every rung, and ``epochs``, how long they were trained.
        epochs: of a candidate that goes all the way.
        folder: where unfinished networks are kept.
    """

    study: Study
    epochs: int
    folder: Path

    def job(self, trial: Trial, architecture: Architecture) -> RungJob | None:
        """Return the training to the next rung, or None if the candidate has passed the last or is stopped here."""
        missing = [rung for rung in rungs(self.epochs) if rung not in _reached(trial)]
        return (architecture, missing[0]) if missing and not self.stops(trial) else None

    def stops(self, trial: Trial) -> bool:
        """Tell whether a candidate is stopped at the rung that it has reached: it would not reach any device's front.

        The first candidates never are: the predictor learns from them, and the hand-made family is the baseline.
        """
        reached = _reached(trial)
        if not reached or self.epochs in reached or origin(trial) != "search":
            return False
        rung = max(reached)
        there = [t for t in self.study.get_trials(deepcopy=False) if rung in _reached(t) and t.number != trial.number]
        return not any(
            may_reach_front((reached[rung], ms), [(_reached(t)[rung], latencies(t)[device]) for t in there])
            for device, ms in enumerate(latencies(trial))
        )

    def record(self, trial: Trial, accuracy: float) -> None:
        """Record the accuracy at the end of the training that ``job`` last named."""
        rung = next(rung for rung in rungs(self.epochs) if rung not in _reached(trial))
        # In this order, for a rung that is killed in between is trained and recorded again.
        trial.set_user_attr("epochs", rung)
        trial.set_user_attr(f"{_ACCURACY}{rung}", accuracy)

    def accuracy(self, trial: Trial) -> float | None:
        """Return the accuracy after all epochs; None for a candidate that was stopped."""
        return _reached(trial).get(self.epochs)

    def forget(self, architecture: Architecture) -> None:
        """Delete the unfinished network of a candidate that is settled."""
        rung_checkpoint(self.folder, architecture).unlink(missing_ok=True)

    def lines(self) -> dict[str, str]:
        """Return, as label and text, what halving has saved."""
        reached = [_reached(trial) for trial in self.study.get_trials(deepcopy=False)]
        trained = [max(epochs) for epochs in reached if epochs]
        stopped = sum(epochs < self.epochs for epochs in trained)
        return {
            "candidates stopped early": f"{stopped} of {len(trained)}",
            "epochs trained": f"{sum(trained)} of {len(trained) * self.epochs}",
        }


def _reached(trial: Trial | FrozenTrial) -> dict[int, float]:
    """Return the accuracy at each rung that a candidate has reached."""
    attrs = trial.user_attrs.items()
    return {int(name.removeprefix(_ACCURACY)): value for name, value in attrs if name.startswith(_ACCURACY)}
