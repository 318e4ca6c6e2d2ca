"""The search stage of a run: its study is brought to as many trials as asked for, resumed where it was."""

import shutil
from collections.abc import Callable, Sequence

import numpy as np

from nas.config import SearchConfig
from nas.folder import RunFolder
from nas.measuring import Console
from nas.reuse import Reused, add_ratings, lacking, tell_reused
from nas.search.distribution import Probabilities
from nas.search.executor import Work, make_executor
from nas.search.halving import Halving
from nas.search.record import Evaluated, evaluated_trials, unsound_lines
from nas.search.samplers import make_sampler
from nas.search.starts import starts_within
from nas.search.study import Driver, enqueue, first_candidates, open_study
from nas.search.target import Target, metric
from nas.training.oracle import rating_name
from predictors.features import feature_matrix
from predictors.quality import PredictorQuality
from search_spaces.architecture import Architecture
from search_spaces.space import SearchSpace

# Of fewer candidates nothing can be said about a predictor.
_PREDICTED_FROM = 10


def search_study(
    config: SearchConfig,
    folder: RunFolder,
    console: Console,
    space: SearchSpace,
    targets: Sequence[Target],
    factory: Callable[[], Work],
    *,
    free: Callable[[list[Architecture]], dict[str, list[float]]],
    learned: Probabilities | None = None,
    proposed: Sequence[Architecture] = (),
) -> list[Evaluated]:
    """Bring the study of a run to its trials, which the works of ``factory`` rate; return what was rated within budget.

    ``proposed`` come before all other candidates.

    Raises:
        InputError: the journal is damaged, or what rates candidates was given wrongly.
        SearchFailed: several evaluations in a row failed.
    """
    if not folder.journal.exists():
        shutil.rmtree(folder.rungs, ignore_errors=True)  # of a study that was deleted to search anew
    rating = rating_name(config.oracle)
    study = open_study(folder.journal, [metric(target.kind, target.device) for target in targets], rating)
    study.sampler = make_sampler(config.sampler, space, targets, config.seed, learned)
    first = _first(config, console, space, targets, proposed) if config.trials else []
    if config.from_run is not None:
        known = add_ratings(study, space, targets, Reused.load(folder))
        first = lacking(first, known, targets[0])
        tell_reused(folder, console, known)
    enqueue(study, first)
    halving = Halving(study, config.proxy_epochs, folder.rungs) if config.halving else None
    with console.progress(f"searching ({config.sampler})") as progress:
        executor = make_executor(factory, config.workers, config.ray)
        try:
            Driver(study, space, targets, executor, config.trials, progress, halving).run()
        finally:
            executor.close()
    if halving:
        shutil.rmtree(folder.rungs, ignore_errors=True)
        lines = halving.lines()
        folder.record["report"]["successive halving"] = lines
        console.say("successive halving: " + ", ".join(f"{label} {value}" for label, value in lines.items()))
    if unsound := unsound_lines(study):
        folder.record["report"]["tried before training"] = unsound
        console.say("tried before training: " + ", ".join(f"{label} {value}" for label, value in unsound.items()))
    rated = evaluated_trials(study, space)
    if len(rated) >= _PREDICTED_FROM:
        with console.progress(f"checking the {rating} predictor"):
            _report_predictor(folder, console, space, rating, rated, free([trial.architecture for trial in rated]))
    return [trial for trial in rated if trial.feasible]


def _first(
    config: SearchConfig,
    console: Console,
    space: SearchSpace,
    targets: Sequence[Target],
    proposed: Sequence[Architecture],
) -> list[tuple[Architecture, str]]:
    """Return what is rated first, with its origin: the networks of ``--start``, then what every search starts with."""
    starts = starts_within(space, targets, config.start or (), console.say)
    ids = {architecture.id for architecture, _ in starts}
    largest = config.oracle == "train" and not space.endless  # what a grammar makes large may well learn nothing
    others = first_candidates(space, targets, config.trials, config.seed, proposed, largest)
    return [*starts, *((architecture, origin) for architecture, origin in others if architecture.id not in ids)]


def _report_predictor(
    folder: RunFolder, console: Console, space: SearchSpace, rating: str, rated: list[Evaluated],
    alone: dict[str, list[float]],
) -> None:  # fmt: skip
    X = feature_matrix(space, [t.architecture for t in rated])
    quality = PredictorQuality.of(X, np.array([t.accuracy for t in rated]), alone)
    folder.record["report"][f"{rating} predictor, cross-validated"] = quality.lines()
    console.say(f"{rating} predictor: {quality.text()}")
