"""A search on recorded tables: accuracy and latency are looked up, the search itself is the usual one.

Nothing is trained or measured, so there are no finalists, no ONNX files and no certificates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from latency.files import sha256
from latency.fit import FittedTable, load_table
from latency.table import LatencyTable
from nas.config import SearchConfig, make_space, require_space
from nas.delivery.front import RecordedDevice, RecordedFront, recorded_candidates
from nas.folder import RunFolder
from nas.jobs import RunFailed
from nas.measuring import Console, require_good, require_reachable
from nas.reuse import take_over
from nas.search.executor import Work, one_thread
from nas.search.pareto import hypervolume
from nas.search.record import Evaluated
from nas.search.target import FittedTarget, RecordedTarget, TableTarget, Target
from nas.searching import search_study
from nas.training.oracle import counts
from nas.training.recorded import Recorded, RecordedOracle, Rows, Source, accuracies, latencies, read_rows
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace

# What MACs and parameters are counted for; tables do not say.
CLASSES = 10

Table = LatencyTable | FittedTable


@dataclass(frozen=True)
class Tables:
    """The files of a search on recorded tables, read and joined; ``digests`` are the files', the oracle's first."""

    space: SearchSpace
    accuracy: Recorded
    targets: list[Target]
    digests: list[str]


def run_replay(config: SearchConfig, folder: RunFolder, console: Console) -> RecordedFront:
    """Carry a search on recorded tables to its front; the same call again resumes it.

    Raises:
        InputError: something given is wrong; nothing is damaged.
        RunFailed: no candidate within the budget was rated.
    """
    one_thread()
    with folder.stage("tables"):
        reused = take_over(config, folder, ())
        tables = read_tables(config)
        if reused is not None:
            reused.require_same(f"--oracle {config.oracle}", tables.digests[0])
        _require_unchanged(config, folder, tables.digests)
        folder.record["devices"] = [{"device": target.device, "latency": target.kind} for target in tables.targets]
        known = len(tables.accuracy.values)
        console.say(f"{known:,} networks of {tables.space.name} are recorded; nothing is trained or measured")
    with folder.stage("search"):
        factory = partial(_look_up, tables.accuracy)
        rated = search_study(
            config, folder, console, tables.space, tables.targets, factory, free=partial(counts, tables.space)
        )
        if not rated:
            raise RunFailed("no candidate within the budget was rated; give more --trials")
        _report_found(folder, console, tables, rated)
    with folder.stage("front"):
        front = _front(config, tables, rated)
        front.save(folder.path)
    return front


def read_tables(config: SearchConfig) -> Tables:
    """Read every table of ``--oracle`` and ``--device``.

    Raises:
        InputError: a table is missing, damaged or does not belong to the others, or no network meets the budget.
    """
    require_space(config.space)
    oracle = read_rows(Source.parse(config.oracle))
    if not oracle.named:
        raise InputError(f"--oracle {config.oracle}: the file has no column architecture or arch")
    sources = [Source.parse(device) for device in config.device]
    predicting = {source: load_table(source.path) for source in sources if source.column is None}
    space = _space(config, oracle, predicting)
    networks = oracle.by_network(space)
    targets: list[Target] = []
    digests = [oracle.sha256]
    for source in sources:
        if source in predicting:
            targets.append(_predicted(config, space, predicting[source]))
            digests.append(sha256(source.path.read_bytes()))
        else:
            rows = read_rows(source)
            targets.append(RecordedTarget(source.name, latencies(rows, space, oracle, networks), config.budget_ms))
            digests.append(rows.sha256)
        require_reachable(targets[-1], space, min(map(targets[-1].predict_ms, networks)))
    names = [target.device for target in targets]
    if len(set(names)) < len(names):
        raise InputError(f"two devices are called {max(names, key=names.count)!r}; search for one after the other")
    return Tables(space, accuracies(oracle, networks), targets, digests)


def _space(config: SearchConfig, oracle: Rows, predicting: Mapping[Source, Table]) -> SearchSpace:
    """Return the space of the tables that predict, at their input and classes, or that of the oracle's networks.

    Where equal networks were recorded several times, written differently, each is a candidate of its own.
    """
    if not predicting:
        space = make_space(config.space, None, CLASSES, oracle.rows[0].architecture)
        return space.as_recorded() if oracle.repeats(space) else space
    first = next(iter(predicting.values()))
    found = (first.space, first.input_shape, first.classes)
    for source, table in predicting.items():
        if config.space not in (table.space, table.space.partition("/")[0]):
            raise InputError(f"{source.path} is for the space {table.space}, not for {config.space}")
        if (table.space, table.input_shape, table.classes) != found:
            raise InputError(f"{source.path} is for another input or other classes than the tables before")
    return make_space(config.space, first.input_shape, first.classes, f"{first.space}:")


def _predicted(config: SearchConfig, space: SearchSpace, table: Table) -> Target:
    require_good(table, config)
    if isinstance(table, FittedTable):
        return FittedTarget(space, table, config.budget_ms)
    return TableTarget(space, table, config.budget_ms)


def _require_unchanged(config: SearchConfig, folder: RunFolder, digests: list[str]) -> None:
    for place, (before, now) in enumerate(
        zip(folder.record.setdefault("table_digests", digests), digests, strict=True)
    ):
        if before != now:
            given = f"--oracle {config.oracle}" if place == 0 else f"--device {config.device[place - 1]}"
            raise InputError(f"{given} has changed since {folder.path} was begun; use another --out")


def _look_up(recorded: Recorded) -> Work:
    return RecordedOracle(recorded).rate


def _report_found(folder: RunFolder, console: Console, tables: Tables, rated: list[Evaluated]) -> None:
    """Tell, for each device, how the candidates compare with all networks of the tables."""
    within = [
        (accuracy, [target.predict_ms(network) for target in tables.targets])
        for network, accuracy in tables.accuracy.values.items()
    ]
    for number, target in enumerate(tables.targets):
        points = [
            (accuracy, ms[number])
            for accuracy, ms in within
            if all(t.budget_ms is None or one <= t.budget_ms for t, one in zip(tables.targets, ms, strict=True))
        ]
        # The reference point: 90th percentile of the error, 1.05 times the largest latency.
        floor = float(np.percentile([accuracy for accuracy, _ in points], 10))
        ceiling = 1.05 * max(ms for _, ms in points)
        found = [(trial.accuracy, trial.ms[number]) for trial in rated]
        whole = hypervolume(points, floor, ceiling)
        share = hypervolume(found, floor, ceiling) / whole if whole else 1.0
        lines = {
            "candidates evaluated": f"{len(rated):,} of {len(points):,} within the budget",
            "best accuracy, of all": f"{100 * max(found)[0]:.2f} %, {100 * max(points)[0]:.2f} %",
            "hypervolume": f"{100 * share:.2f} % of that of all",
        }
        folder.record["report"][f"found on {target.device}"] = lines
        console.say(f"found on {target.device}: " + ", ".join(f"{label} {value}" for label, value in lines.items()))


def _front(config: SearchConfig, tables: Tables, rated: list[Evaluated]) -> RecordedFront:
    space, (oracle_digest, *digests) = tables.space, tables.digests
    devices = tuple(
        RecordedDevice(
            device=target.device, source=source, source_sha256=digest, ms_is=target.kind, budget_ms=target.budget_ms,
            candidates=recorded_candidates(space, rated, target.kind, number),
        )
        for number, (target, source, digest) in enumerate(zip(tables.targets, config.device, digests, strict=True))
    )  # fmt: skip
    return RecordedFront(
        space=space.name, input_shape=space.input_shape, classes=space.classes, source=config.oracle,
        source_sha256=oracle_digest, devices=devices,
    )  # fmt: skip
