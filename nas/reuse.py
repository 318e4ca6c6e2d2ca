"""What a search takes over from an earlier run (``--from``): all that neither the device nor the budget changes.

A predictor of accuracy is built once and serves every device and budget; only latencies are new, and nothing is
trained for the search (ChamNet, Dai et al., CVPR 2019, section 3). What is taken over is copied first, so that the
new run is whole by itself; the earlier run is only read.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from latency.device import Device
from latency.files import produce, read_sealed, write_sealed
from latency.host import fingerprint
from latency.table import LatencyTable
from nas.config import SearchConfig
from nas.delivery.finalists import finished
from nas.folder import RunFolder, read_record, settings
from nas.measuring import Console
from nas.search.baselines import LARGEST
from nas.search.record import REUSED_FROM, Evaluated, describe, evaluated_trials, origin
from nas.search.samplers import LEARNED
from nas.search.study import read_study
from nas.search.target import Target, metric, over_budget
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace

SCHEMA_VERSION = 1
TRIALS = 40
"""How many new candidates are considered unless --trials says otherwise; none where each would be trained."""

# A budget belongs to a device, the others to a command.
_NOT_INHERITED = {"out", "from", "budget_ms", "time", "trials", "start", "table", "accept_table", "workers", "ray"}
# No rating depends on these.
_FINAL = {"final_epochs", "label_smoothing", "mixup", "cutmix", "ema", "distil"}
_MAY_DIFFER = {"from", "budget_ms", "time", "device", "sampler", "start", "halving", *_FINAL}


def inherit(run: Path, given: Mapping[str, object]) -> SearchConfig:
    """Return the settings of a search that goes on from ``run``: those ``given``, for the rest those of the run.

    Raises:
        InputError: there is no such run, it cannot be gone on from, or a setting is given that would make its
            ratings void.
    """
    out = Path(str(given["out"]))
    if out.resolve() == run.resolve():
        raise InputError(f"--from {run} is the folder of --out too; give the new run a folder of its own")
    # What was begun goes on without the earlier run.
    before = settings(read_record(out if (out / "run.json").exists() else run))
    if before["sampler"] in LEARNED:
        raise InputError(
            f"--from {run}: it was searched with --sampler {before['sampler']}, whose supernet leaves images for the "
            "distribution; search without --from, or go on from a run with another sampler"
        )
    inherited = {name: value for name, value in before.items() if name not in _NOT_INHERITED}
    trials = 0 if before["oracle"] == "train" else TRIALS
    config = SearchConfig.checked(**{"trials": trials, **inherited, **given, "from": run})
    for name, value in config.identity().items():
        if name not in _MAY_DIFFER and value != before.get(name):
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} {value}: --from {run} takes over {before.get(name)}; leave {flag} or --from out")
    return config


@dataclass(frozen=True)
class Rating:
    """What a candidate was and got: its decisions, where it came from, and its accuracy in [0, 1]."""

    decisions: dict[str, str]
    origin: str
    accuracy: float


@dataclass(frozen=True)
class Reused:
    """The ratings of an earlier run, in their order, and the digest of the data or the table that they are from."""

    run: str
    digest: str
    ratings: tuple[Rating, ...]

    @classmethod
    def load(cls, folder: RunFolder) -> "Reused":
        """Read what ``take_over`` left in a folder.

        Raises:
            InputError: the file is damaged.
        """
        body = read_sealed(folder.reused, SCHEMA_VERSION, "list of reused candidates")
        return cls(body["run"], body["digest"], tuple(Rating(**values) for values in body["ratings"]))

    def require_same(self, flag: str, digest: str) -> None:
        """Raise ``InputError`` unless ``digest``, of what ``flag`` names, is that of the ratings."""
        if digest != self.digest:
            raise InputError(f"{flag} has changed since {self.run} was begun; search without --from")


def take_over(config: SearchConfig, folder: RunFolder, devices: Sequence[Device]) -> Reused | None:
    """Copy what ``--from`` names into ``folder``, unless that is done already, and return the ratings.

    Those are the ratings alone for a search on recorded tables, else also the supernet, the check of its ranking, the
    decoded images, and the latency tables of those ``devices`` that are the same here. None without ``--from``.

    Raises:
        InputError: the earlier run has rated nothing yet, or is incomplete or damaged.
    """
    if config.from_run is None:
        return None
    if not folder.reused.exists():
        source = RunFolder(config.from_run, read_record(config.from_run))
        found = _read(source)
        if config.oracle == "supernet":
            _take_supernet(source, folder)
        if config.oracle == "blockwise":
            _take_blockwise(source, folder)
        if source.naswot.exists():
            _copy(source.naswot, folder.naswot)
        if source.cache.is_dir():
            shutil.copytree(source.cache, folder.cache, copy_function=_copy, dirs_exist_ok=True)
        for device in devices if config.table is None else ():
            _take_table(source, folder, device)
        write_sealed(folder.reused, SCHEMA_VERSION, asdict(found))  # the last, for it says that the others are there
    return Reused.load(folder)


def _read(source: RunFolder) -> Reused:
    ratings: dict[str, Rating] = {}
    for trial in read_study(source.journal).get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        if trial.user_attrs["evaluated"]:
            ratings.setdefault(trial.user_attrs["id"], Rating(trial.params, origin(trial), trial.values[0]))
    if not ratings:
        raise InputError(f"--from {source.path} has rated no candidate yet; let it come further, or search without it")
    digest = source.record.get("data_digest") or source.record["table_digests"][0]
    return Reused(str(source.path), digest, tuple(ratings.values()))


def _take_supernet(source: RunFolder, folder: RunFolder) -> None:
    if not source.supernet.exists():
        raise InputError(f"--from {source.path} has lost its {source.supernet.name}; search without --from")
    _copy(source.supernet, folder.supernet)
    if source.ranks.exists():
        _copy(source.ranks, folder.ranks)


def _take_blockwise(source: RunFolder, folder: RunFolder) -> None:
    if not source.blockwise.is_dir():
        raise InputError(f"--from {source.path} has lost its {source.blockwise.name}; search without --from")
    shutil.copytree(source.blockwise, folder.blockwise, copy_function=_copy, dirs_exist_ok=True)


def _take_table(source: RunFolder, folder: RunFolder, device: Device) -> None:
    """Copy the table of a device, unless it is that of another machine under the same name."""
    path = source.table(device)
    if path.exists() and LatencyTable.load(path).fingerprint == fingerprint(device):
        _copy(path, folder.table(device))


def _copy(source: str | Path, destination: str | Path) -> None:
    """Make a hard link, or a copy on another file system.

    Files of a run are replaced and never changed in place, so neither run sees what the other does.
    """

    def write(temporary: Path) -> None:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)

    produce(Path(destination), write)


def add_ratings(study: Study, space: SearchSpace, targets: Sequence[Target], reused: Reused) -> list[Evaluated]:
    """Make the ratings the first trials of a study, and return them; latencies and budgets are those of ``targets``."""
    trials = study.get_trials(deepcopy=False)
    present = sum(REUSED_FROM in trial.user_attrs for trial in trials)
    for rating in reused.ratings[present:]:
        study.add_trial(_trial(space, targets, rating, reused.run))
    return evaluated_trials(study, space)[: len(reused.ratings)]


def _trial(space: SearchSpace, targets: Sequence[Target], rating: Rating, run: str) -> FrozenTrial:
    distributions: dict[str, BaseDistribution] = {}

    def choose(name: str, options: Sequence[str]) -> str:
        distributions[name] = CategoricalDistribution(tuple(options))
        return rating.decisions[name]

    architecture = space.decide(choose)
    ms = [target.predict_ms(architecture) for target in targets]
    excess = over_budget(targets, ms)
    feasible = all(value <= 0 for value in excess.values())
    trial = create_trial(
        values=[rating.accuracy, *ms], params=rating.decisions, distributions=distributions, constraints=excess,
        user_attrs={"origin": rating.origin, REUSED_FROM: run, "feasible": feasible, "evaluated": True},
    )  # fmt: skip
    describe(trial, space, architecture, [metric(target.kind, target.device) for target in targets], ms)
    return trial


def lacking(
    candidates: Sequence[tuple[Architecture, str]], known: Sequence[Evaluated], target: Target
) -> list[tuple[Architecture, str]]:
    """Return which of a search's first ``candidates`` are needed beside those that are ``known`` already.

    They are those that are new, but of those drawn from bins only the faster and slower on ``target`` than all known
    ones within the budget.
    """
    ids = {rated.architecture.id for rated in known}
    ms = [target.predict_ms(rated.architecture) for rated in known if rated.feasible]
    low, high = min(ms, default=float("inf")), max(ms, default=0.0)

    def needed(architecture: Architecture, origin: str) -> bool:
        return origin not in ("random", LARGEST) or not low <= target.predict_ms(architecture) <= high

    return [(a, origin) for a, origin in candidates if a.id not in ids and needed(a, origin)]


def tell_reused(folder: RunFolder, console: Console, known: Sequence[Evaluated]) -> None:
    """Tell what was taken over, and what it is worth at this run's budget."""
    run = folder.record["config"]["from"]
    within = sum(rated.feasible for rated in known)
    supernet = ", the supernet" if folder.supernet.exists() or folder.blockwise.exists() else ""
    folder.record["report"]["reused"] = {"run": run, "rated candidates": len(known), "within the budget": within}
    console.say(f"reused from {run}: {len(known)} rated candidates, {within} within the budget{supernet}")


def take_finalists(
    config: SearchConfig,
    folder: RunFolder,
    console: Console,
    known: Sequence[Architecture],
    devices: Sequence[Device],
) -> None:
    """Copy those of ``known`` that the earlier run has trained alike, with the files that devices ask for.

    What was copied stays when the earlier run is gone.
    """
    run = config.from_run
    if run is None or not (run / "run.json").exists():
        return
    before, now = settings(read_record(run)), config.identity()
    if all(before.get(name) == now[name] for name in _FINAL):
        forms = {device.form for device in devices}
        each = {architecture.id: architecture for architecture in known}  # the family may be rated as well
        copied = [
            architecture for architecture in each.values() if _take_finalist(run, folder.path, architecture, forms)
        ]
        if copied:
            folder.record["report"]["reused"]["trained finalists"] = len(copied)
            console.say(f"reused from {run}: {len(copied)} finalists that are trained already")


def _take_finalist(run: Path, folder: Path, architecture: Architecture, forms: set[str]) -> bool:
    trained = finished(run, architecture)
    if trained is None or not forms <= trained.files.keys():
        return False
    if finished(folder, architecture) is None:
        for name in (*(file.onnx for file in trained.files.values()), f"finalists/{architecture.id}.json"):
            _copy(run / name, folder / name)  # the record comes last
    return True
