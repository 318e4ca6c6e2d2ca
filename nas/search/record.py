"""What a trial of the study records about its candidate, and how it is read back."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import pandas as pd
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from nas.training.oracle import ACCURACY
from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace

REUSED_FROM = "reused_from"
"""The attribute of a trial that an earlier run has rated: the folder of that run."""
UNSOUND = "unsound"
"""The attribute of a trial whose network cannot learn: why."""


@dataclass(frozen=True)
class Evaluated:
    """A candidate that the oracle has rated: accuracy, or a score, in [0, 1], known latency (ms) per device.

    One that an earlier run has rated may be over the budget of this one, which ``feasible`` tells.
    """

    number: int
    architecture: Architecture
    origin: str
    accuracy: float
    ms: tuple[float, ...]
    feasible: bool = True


def describe(
    trial: Trial | FrozenTrial,
    space: SearchSpace,
    architecture: Architecture,
    latencies: Sequence[str],
    ms: Sequence[float],
) -> None:
    """Write what is known of a candidate before it is evaluated; ``ms`` are its ``latencies``, by name."""
    known = {
        "architecture": architecture.text,
        "id": architecture.id,
        "macs": space.macs(architecture),
        "params": space.params(architecture),
        **dict(zip(latencies, ms, strict=True)),
    }
    for name, value in known.items():
        trial.set_user_attr(name, value)


def latencies(trial: Trial | FrozenTrial) -> tuple[float, ...]:
    """Return the latency (ms), predicted or recorded, on each device (see ``target.metric``)."""
    attrs = trial.user_attrs.items()
    return tuple(value for name, value in attrs if name.partition(" ")[0].endswith("_ms"))


def origin(trial: Trial | FrozenTrial) -> str:
    """Return where a candidate comes from: ``start``, ``random``, ``baseline`` or ``search``."""
    return str(trial.user_attrs.get("origin", "search"))


def evaluated_trials(study: Study, space: SearchSpace) -> list[Evaluated]:
    """Return the rated candidates, each architecture once, in the order of their numbers."""
    found: dict[str, Evaluated] = {}
    for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        attrs = trial.user_attrs
        if attrs["evaluated"] and attrs["id"] not in found:
            architecture = _parsed(space, attrs["architecture"])
            accuracy, *ms = trial.values
            feasible = bool(attrs.get("feasible", True))
            found[attrs["id"]] = Evaluated(trial.number, architecture, origin(trial), accuracy, tuple(ms), feasible)
    return list(found.values())


def pending_architectures(study: Study, space: SearchSpace, number: int) -> list[Architecture]:
    """Return the architectures, each once, that trials before ``number`` are evaluating at this moment."""
    return _architectures(space, _before(study, number, TrialState.RUNNING))


def stopped_architectures(study: Study, space: SearchSpace, number: int) -> list[Architecture]:
    """Return the architectures, each once, that trials before ``number`` gave up early."""
    return _architectures(space, _before(study, number, TrialState.PRUNED))


def unsound_architectures(study: Study, space: SearchSpace, number: int) -> list[Architecture]:
    """Return the architectures, each once, of which trials before ``number`` found that they cannot learn."""
    found = _before(study, number, TrialState.PRUNED)
    return _architectures(space, [trial for trial in found if UNSOUND in trial.user_attrs])


def unsound_lines(study: Study) -> dict[str, str]:
    """Return, as label and text, how many candidates cannot learn, and why; nothing where all can."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get("feasible")]
    reasons = {t.user_attrs["id"]: t.user_attrs[UNSOUND] for t in trials if UNSOUND in t.user_attrs}
    if not reasons:
        return {}
    candidates = len({trial.user_attrs["id"] for trial in trials})
    counts = {reason: f"{number}" for reason, number in Counter(reasons.values()).most_common()}
    return {"candidates that cannot learn": f"{len(reasons)} of {candidates}", **counts}


def _architectures(space: SearchSpace, trials: Sequence[FrozenTrial]) -> list[Architecture]:
    texts = {trial.user_attrs["id"]: trial.user_attrs["architecture"] for trial in trials}
    return [_parsed(space, text) for text in texts.values()]


@lru_cache(10_000)
def _parsed(space: SearchSpace, text: str) -> Architecture:
    """Return the architecture of a text: every proposal asks for all of them, and a grammar takes milliseconds."""
    return space.parse(text)


def unrated_ids(study: Study, number: int) -> set[str]:
    """Return the ids of architectures that trial ``number`` need not propose although they have no rating.

    Trials before it are evaluating them at this moment, or stopped early as they would not have reached the front.
    """
    return {trial.user_attrs["id"] for trial in _before(study, number, TrialState.RUNNING, TrialState.PRUNED)}


def _before(study: Study, number: int, *states: TrialState) -> list[FrozenTrial]:
    trials = study.get_trials(deepcopy=False, states=states)
    return [trial for trial in trials if trial.number < number and "id" in trial.user_attrs]


def trials_table(study: Study, latency: str) -> pd.DataFrame:
    """Return one row per finished trial; ``ms`` is the ``latency`` of that name, accuracy NaN where not rated.

    Of a study whose ratings are no accuracies, ``score`` has them, and accuracy is NaN.
    """
    rated_by = (study.metric_names or [ACCURACY])[0]
    rows = []
    for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        attrs = trial.user_attrs
        rating = trial.values[0] if attrs["evaluated"] else float("nan")
        rows.append({
            "trial": trial.number,
            "id": attrs["id"],
            "architecture": attrs["architecture"],
            "origin": origin(trial),
            "evaluated": attrs["evaluated"],
            "feasible": attrs["feasible"],
            "accuracy": rating if rated_by == ACCURACY else float("nan"),
            "score": float("nan") if rated_by == ACCURACY else rating,
            "ms": attrs[latency],
            "macs": attrs["macs"],
            "params": attrs["params"],
        })  # fmt: skip
    columns = ["trial", "id", "architecture", "origin", "evaluated", "feasible", "accuracy", "score", "ms"]
    return pd.DataFrame(rows, columns=[*columns, "macs", "params"])
