"""The measured stages of a run: a latency table per device at its start, the finalists on each device at its end."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from latency.build import anchor_models, build_table, drift, extend_table
from latency.certificate import Certificate, beside
from latency.device import Device
from latency.fit import FittedTable
from latency.host import fingerprint
from latency.table import LatencyTable
from nas.config import SearchConfig
from nas.delivery.choice import Finalist
from nas.delivery.finalists import Trained
from nas.delivery.front import Candidate, DeviceFront, select
from nas.delivery.measured import Measurement, measure_kept
from nas.delivery.value import Comparison, Point, compare
from nas.devices import Progress, on_each
from nas.folder import RunFolder
from nas.search.baselines import LARGEST
from nas.search.target import TableTarget, Target
from search_spaces.errors import InputError
from search_spaces.extremes import lowest
from search_spaces.space import SearchSpace

# A prediction further off than this is pointed out.
ACCURATE = 0.05


class Console(Protocol):
    """What a run tells its user while it works."""

    def say(self, text: str) -> None:
        """Show a line."""
        ...

    def table(self, title: str, columns: list[str], rows: Iterable[list[str]]) -> None:
        """Show a table."""
        ...

    def progress(self, title: str) -> AbstractContextManager[Progress]:
        """Show a bar as long as the context is open."""
        ...


def names(devices: Iterable[Device]) -> str:
    """Return the devices as words."""
    return ", ".join(device.name for device in devices)


def make_targets(
    config: SearchConfig, folder: RunFolder, console: Console, space: SearchSpace, devices: list[Device]
) -> list[TableTarget]:
    """Return what to search for on each device; tables that are missing are measured.

    Raises:
        InputError: a table does not belong to its device, is too far off, or no network meets the budget.
    """
    missing = [device for device in devices if config.table is None and not folder.table(device).exists()]
    bar = console.progress(f"measuring blocks on {names(missing)}" if missing else "reading the latency tables")
    tables = on_each(devices, bar, lambda device, told: _table(config, folder, space, device, told))
    targets = []
    for table in tables:
        folder.record["report"][_title(table.device)] = table.lines()
        host = "" if not table.session.noisy else " (measured on a noisy host)"
        console.say(f"latency table of {table.device}: {table.quality.text()}{host}")
        require_good(table, config)
        target = TableTarget(space, table, config.budget_ms)
        require_reachable(target, space, target.predict_ms(lowest(space, target.predict_ms, config.seed)))
        targets.append(target)
    return targets


def require_good(table: LatencyTable | FittedTable, config: SearchConfig) -> None:
    """Raise ``InputError`` if a table is too far off for a search, unless --accept-table takes it."""
    good = table.holds(table.quality) if isinstance(table, LatencyTable) else table.quality.good
    if not good and not config.accept_table:
        raise InputError(
            f"the latency table of {table.device} is too far off for a search ({table.quality.text()}); measure "
            "again on a quieter machine, or search all the same with --accept-table"
        )


def _table(
    config: SearchConfig, folder: RunFolder, space: SearchSpace, device: Device, progress: Progress
) -> LatencyTable:
    """Return the run's own table; the one of --table becomes it, so that the run stays whole by itself."""
    path, given = folder.table(device), config.table
    own = LatencyTable.load(path) if path.exists() else None
    table = own if given is None else LatencyTable.load(given)
    if table is None:
        return build_table(space, device, path, progress=progress)
    if own is not None and not own.extends(table):
        raise InputError(f"{folder.path} was begun with another table than {given}; leave --table out")
    table.require(device, space.name, space.input_shape, space.classes)
    if own is None:
        table.save(path)
    return extend_table(own or table, space, device, path, space.distinct_blocks(), progress=progress)


def require_reachable(target: Target, space: SearchSpace, limit_ms: float) -> None:
    """Raise ``InputError`` if not even the fastest network of the space, which takes ``limit_ms``, keeps the budget."""
    if target.budget_ms is not None and limit_ms > target.budget_ms:
        known = "known " if space.endless else ""
        raise InputError(
            f"--budget-ms {target.budget_ms:g} is below the fastest network {known}of {space.name} on "
            f"{target.device}: {limit_ms:.3g} ms {target.kind}"
        )


def _title(device: str) -> str:
    return f"latency table of {device}, on unseen networks"


def device_fronts(
    folder: RunFolder,
    console: Console,
    devices: list[Device],
    targets: list[TableTarget],
    finalists: Sequence[Finalist],
    trained: list[Trained],
    test_images: int,
) -> tuple[DeviceFront, ...]:
    """Measure the finalists on every device and return the fronts; a certificate is left beside every file.

    ``test_images`` is the number of images that test accuracies are shares of.
    """

    def work(device: Device, progress: Progress) -> Measurement:
        target = targets[devices.index(device)]
        models = {t.id: (folder.path / t.files[device.form].onnx).read_bytes() for t in trained}
        # The table's own networks tell how the device has changed since.
        anchors = anchor_models(target.table, target.space, device)
        return measure_kept(folder.measured(device), device, {**models, **anchors}, progress)

    bar = console.progress(f"measuring the finalists on {names(devices)}")
    measurements = on_each(devices, bar, work)
    return tuple(
        _device_front(folder, console, number, devices, targets[number], measurement, finalists, trained, test_images)
        for number, measurement in enumerate(measurements)
    )


def _device_front(
    folder: RunFolder, console: Console, number: int, devices: list[Device], target: TableTarget, found: Measurement,
    finalists: Sequence[Finalist], trained: list[Trained], test_images: int,
) -> DeviceFront:  # fmt: skip
    device = devices[number]
    first = device.form not in {other.form for other in devices[:number]}
    change = drift(target.table, {name: latency.measured for name, latency in found.latency.items()})
    folder.record["report"][_title(device.name)]["latency now / when the table was built"] = f"{change:.3f}"
    console.say(f"{device.name} is now at {change:.3f} x the latency of when its table was built; {found.noise}")
    by_id = {f.architecture.id: f for f in finalists}
    candidates, certificates = [], {}
    for one in trained:
        predicted_ms = by_id[one.id].ms[number]
        certificate = _certificate(device, one, found, predicted_ms)
        path = str(beside(Path(one.files[device.form].onnx), device, first))
        certificate.save(folder.path / path)
        certificates[one.id] = certificate
        candidates.append(_candidate(target.space, by_id[one.id], one, device, certificate, path))
    front, rejected = select(candidates, target.budget_ms)
    return DeviceFront(
        device=device.name, fingerprint=fingerprint(device), budget_ms=target.budget_ms, drift=change,
        host=found.noise, certificates=certificates, candidates=front, rejected=rejected,
        comparison=_comparison(candidates, target, test_images),
    )  # fmt: skip


def _comparison(candidates: Sequence[Candidate], target: TableTarget, test_images: int) -> Comparison | None:
    within = [c for c in candidates if target.budget_ms is None or c.measured_ms <= target.budget_ms]
    own, family = ([c for c in within if (c.origin == "baseline") is wanted] for wanted in (False, True))
    unsearched = all(c.origin == LARGEST for c in own)
    way = "taking the largest network per latency bin" if unsearched else "the search"
    return compare(way, _points(own), _points(family), 1 / target.space.classes, test_images)


def _points(candidates: Sequence[Candidate]) -> list[Point]:
    return [Point(c.measured_ms, c.val_accuracy, c.test_accuracy) for c in candidates]


def _certificate(device: Device, trained: Trained, found: Measurement, predicted_ms: float) -> Certificate:
    latency, file = found.latency[trained.id], trained.files[device.form]
    return Certificate(
        model=file.onnx.rpartition("/")[2],
        sha256=file.onnx_sha256,
        device=device.name,
        fingerprint=found.fingerprint,
        quantity=device.quantity,
        predicted_ms=predicted_ms,
        measured_ms=latency.ms,
        measured_ms_low=latency.low,
        measured_ms_high=latency.high,
        steady_ms=latency.steady_ms,
        runs=found.runs,
        protocol=found.protocol,
        measured_at=found.measured_at,
    )


def _candidate(
    space: SearchSpace, finalist: Finalist, trained: Trained, device: Device, certificate: Certificate, path: str
) -> Candidate:
    file, measured_ms, predicted_ms = trained.files[device.form], certificate.measured_ms, certificate.predicted_ms
    assert predicted_ms is not None
    return Candidate(
        id=trained.id,
        architecture=trained.architecture,
        origin=finalist.origin,
        search_accuracy=finalist.accuracy,
        search_score=finalist.score,
        val_accuracy=file.val_accuracy,
        test_accuracy=file.test_accuracy,
        float_val_accuracy=trained.files[""].val_accuracy,
        predicted_ms=predicted_ms,
        accurate_prediction=abs(measured_ms / predicted_ms - 1) <= ACCURATE,
        measured_ms=measured_ms,
        measured_ms_low=certificate.measured_ms_low,
        measured_ms_high=certificate.measured_ms_high,
        macs=space.macs(finalist.architecture),
        params=space.params(finalist.architecture),
        onnx=file.onnx,
        onnx_sha256=file.onnx_sha256,
        max_difference=file.max_difference,
        certificate=path,
    )
